"""The passes that prove separation, or that there is none, and what is fitted beside it.

`prove` takes where coefficients go to and returns a direction that every row has been asked about, None
where some rows prove that there is no such direction, and raises where it cannot be settled. `beside` sets
the rows of a direction aside and is the loss of the others: its certified finite maximum proves that no more
rows can be separated. `Separation` remembers what was found on the way and tells it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.aliasing import settle_basis
from streamlr.design.basis import Basis
from streamlr.design.cuts import Cut, together
from streamlr.design.layout import Layout
from streamlr.errors import StreamlrError
from streamlr.kernels.tile import Block
from streamlr.newton import Evaluation
from streamlr.objective import Objective
from streamlr.passes.cache import BlockCache
from streamlr.passes.sides import Sides, outcomes_of
from streamlr.separation import (
    CERTAIN,
    NO_SHARE,
    SHARE,
    TOLERANCES,
    NullSpace,
    against,
    finding_of,
    rounding_unit,
    scaled_to_one,
    separated_terms,
    tidied,
    unmoved,
    widest_direction,
)

Floats = NDArray[np.float64]

# A step of Newton's method moves every separated row by about one, for ever, and rows that overlap by next to
# nothing once it is seen to diverge.
NEAR = 0.1
# Passes that make a projected direction more exact, and those that ask rows about linear programmes.
CORRECTIONS = 3
PROGRAMMES = 25
# Rows that a pass hands over for linear programmes: of each column so many, within bounds.
PICKED_A_COLUMN = 4
PICKED = (64, 1_024)
FEWEST_PICKED = 16
# Directions of a space that rows are asked about in one pass.
AT_ONCE = 8
# Beyond this, columns and working rows are no small programme.
WIDEST_PROGRAMME = 5_000
# Terms and dimensions of the cone up to which signs are looked into, and passes spent on it.
MOST_SIGNS = 40
SIGN_PASSES = 3
# How much of each further direction is added to those before it, in one pass.
SHARES_OF_LATER = (1.0, 1e-1, 1e-2, 1e-3, 1e-5, 1e-7)


@dataclass(frozen=True)
class Proof:
    """A direction (k,) in conditioned columns that all rows agree with, and how many it moves."""

    direction: Floats
    separated: int
    overlapping: int


class UnsettledError(StreamlrError):
    """Coefficients diverge, and neither a direction nor its absence could be proved."""


def prove(
    objective: Objective, suspects: Sequence[Floats], *, is_direction: bool, thorough: bool = True
) -> Proof | None:
    """A direction that separates rows, from the likeliest ones (active,), the steepest first.

    `is_direction`: they still move overlapping rows a little; else they are taken as they are. None where
    rows prove that there is none, or where it is not `thorough` and the likeliest are not. Raises
    `UnsettledError` where it is.
    """
    search = _Search(objective)
    if is_direction:
        found = search.projected(suspects, CORRECTIONS if thorough else 1)
    else:
        found = search.verified([search.conditioned(suspect) for suspect in suspects])
    return found if found is not None or not thorough else search.programmed()


class _Search:
    """Candidates for a direction, and the rows that have spoken against them."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.design, self.basis = objective.design, objective.basis
        self.active = np.flatnonzero(self.basis.active)
        self.unit = unit_of(self.design.layout)
        # A ridge holds the effects back: no direction to infinity has any.
        self.own = objective.own_active if self.design.absorb_l2 else len(self.active)
        low, high = PICKED
        self.most = int(np.clip(PICKED_A_COLUMN * self.own, low, high))
        self.working: list[Block] = []

    def conditioned(self, direction: Floats) -> Floats:
        """(active,) in the basis as (k,) in conditioned columns."""
        held = np.array(direction)
        held[self.own :] = 0.0
        return self.basis.to_conditioned(self.objective.expand(held))

    def projected(self, suspects: Sequence[Floats], corrections: int) -> Proof | None:
        """Projections of the suspects onto what moves no row that looks overlapping, if one is a proof."""
        steepest = self.conditioned(suspects[0])
        gram = self.objective.near(steepest, NEAR)
        held = [np.r_[suspect[: self.own], np.zeros(len(suspect) - self.own)] for suspect in suspects]
        spaces: list[NullSpace] = []
        for tolerance in TOLERANCES:
            space = NullSpace.of(self._without_held(gram), tolerance)
            if space.dimension and space.dimension not in [other.dimension for other in spaces]:
                spaces.append(space)
        candidates: list[tuple[NullSpace, Floats]] = []
        for space in spaces:
            for suspect in held:
                for share in (SHARE, 0.0):
                    direction = space.projected(suspect[: self.own], share)
                    known = [other for same, other in candidates if same is space]
                    if direction.any() and not any(np.array_equal(direction, other) for other in known):
                        candidates.append((space, direction))
        if not candidates:
            self.verified([steepest])
            return None
        for _ in range(corrections):
            found = [scaled_to_one(self.conditioned(self._whole(d))) for _, d in candidates]
            directions = np.array([*found, *(tidied(d) for d in found)])
            sides = self._ask(directions, steepest)
            proof = self._best(directions, sides)
            if proof is not None:
                return proof
            products = sides.products[:, self.design.layout.slot_of_column][:, self.active]
            candidates = [
                (space, space.corrected(self._scaled(direction), product[: self.own]))
                for (space, direction), product in zip(candidates, products, strict=False)
            ]
        return None

    def verified(self, directions: Sequence[Floats]) -> Proof | None:
        """The first of some directions (k,) in conditioned columns that is a proof."""
        asked = np.array([tidied(d, least) for d in directions for least in (SHARE, NO_SHARE, 0.0)])
        return self._best(asked, self._ask(asked, None))

    def programmed(self) -> Proof | None:
        """A direction by linear programmes over the rows that have spoken so far, more after each pass.

        None where the programme separates no row and the rows tell all columns apart: that is the proof that
        they overlap. Raises `UnsettledError`.
        """
        columns = self.active[: self.own]
        if len(columns) > WIDEST_PROGRAMME:
            raise unsettled(f"a linear programme of {len(columns):,} columns is too large to decide it")
        known = 0
        for _ in range(PROGRAMMES):
            block = distinct(together(self.working)) if self.working else None
            if block is not None:
                self.working = [block]
            count = 0 if block is None else block.success.size
            X = np.zeros((0, len(columns)))
            sides = np.zeros(0, dtype=np.int8)
            if block is not None:
                X, sides = matrix_of(block, self.design.layout, self.basis)[:, columns], sides_of(block)
            if count and count == known:
                raise unsettled("the rows at hand contradict each other to rounding")
            known = count
            found = widest_direction(X, sides)
            if found is None:
                raise unsettled("a linear programme over the rows at hand has no solution to rely on")
            direction, separated = found
            if separated.any():
                asked = [direction]
            else:
                asked = list(unmoved(X))
                if not asked:
                    return None
            proof = self._asked_of_all(asked, columns, one_way=bool(separated.any()))
            if proof is not None:
                return proof
        raise unsettled(f"{PROGRAMMES} passes have not settled it")

    def _asked_of_all(
        self, directions: Sequence[Floats], columns: NDArray[np.int64], one_way: bool
    ) -> Proof | None:
        """The best of some directions, each (own,), that all rows agree with."""
        asked = np.zeros((min(len(directions), AT_ONCE), self.design.layout.columns))
        asked[:, columns] = directions[:AT_ONCE]
        # What moves no row at hand may separate others either way.
        ways = (1.0,) if one_way else (1.0, -1.0)
        whole = np.array([tidied(way * d, least) for d in asked for way in ways for least in (NO_SHARE, 0.0)])
        return self._best(whole, self._ask(whole, None))

    def _ask(self, directions: Floats, near: Floats | None) -> Sides:
        most = max(self.most // len(directions), FEWEST_PICKED)
        sides = self.objective.sides(directions, self.unit, near, NEAR, most)
        self.working.extend(picked.block for picked in sides.picked if picked.block is not None)
        return sides

    def _best(self, directions: Floats, sides: Sides) -> Proof | None:
        """Of the directions that no row speaks against the one that separates most, with the fewest terms."""
        proofs = [
            Proof(direction, int(separated), int(overlapping))
            for direction, separated, overlapping, wrong in zip(
                directions, sides.separated, sides.overlapping, sides.wrong, strict=True
            )
            if separated and not wrong
        ]
        return min(proofs, key=lambda p: (-p.separated, np.count_nonzero(p.direction)), default=None)

    def _without_held(self, gram: Any) -> Any:
        return gram.dense if self.own < len(self.active) else gram

    def _whole(self, direction: Floats) -> Floats:
        return np.r_[direction, np.zeros(len(self.active) - len(direction))]

    def _scaled(self, direction: Floats) -> Floats:
        """As it was scaled when rows were asked."""
        largest = np.abs(self.conditioned(self._whole(direction))).max(initial=0.0)
        return direction / largest if largest > 0 else direction


def unsettled(why: str) -> UnsettledError:
    """What to say where neither a direction nor its absence could be proved."""
    return UnsettledError(
        f"the coefficients diverge, but it cannot be settled whether the data are separated: {why}. The "
        "information matrix is singular to rounding. Leave out a column that nearly repeats others, or use "
        "Firth's penalised likelihood with --firth."
    )


def not_separated() -> StreamlrError:
    """What to say where coefficients diverge although rows prove that a finite maximum exists."""
    return StreamlrError(
        "the coefficients diverge, but the rows prove that the data are not separated: the information "
        "matrix is singular to rounding. Leave out a column that nearly repeats others."
    )


def unit_of(layout: Layout) -> float:
    """Unit of rounding of x'd in a layout."""
    return rounding_unit(layout.dense + len(layout.levels))


def plain(basis: Basis) -> Basis:
    """The basis with no column taken out of another."""
    return replace(basis, reduced=(), gamma=(), stretch=())


def in_users_units(basis: Basis, direction: Floats) -> Floats:
    """(k,) a direction in conditioned columns as one in the user's; what centring leaves of an intercept by
    its own rounding is zero."""
    size = replace(basis, centre=-np.abs(basis.centre)).to_raw(np.abs(direction))
    raw = basis.to_raw(direction)
    return np.where(np.abs(raw) <= CERTAIN * unit_of(basis.layout) * np.abs(size), 0.0, raw)


def sides_of(block: Block) -> NDArray[np.int8]:
    """(n,) 1 for rows of successes, -1 of failures, 0 of both."""
    up, down = outcomes_of(block)
    return (up.astype(np.int8) - down.astype(np.int8)).astype(np.int8)


def matrix_of(block: Block, layout: Layout, basis: Basis) -> Floats:
    """(n, k) the conditioned columns of a few rows."""
    n = block.success.size
    inputs = [
        (column.astype(np.float64) - centre) * scale
        for column, centre, scale in zip(block.numeric, basis.centre, basis.scale, strict=True)
    ]
    slots = np.zeros((n, layout.slots))
    if layout.intercept:
        slots[:, 0] = 1.0
    for j in range(layout.numeric):
        slots[:, layout.intercept + j] = inputs[j]
    for f, start in enumerate(layout.starts):
        scaled = f >= layout.plain
        slots[np.arange(n), start + 1 + block.codes[f]] = (
            inputs[layout.numeric + f - layout.plain] if scaled else 1.0
        )
    return slots[:, layout.slot_of_column]


def distinct(block: Block) -> Block:
    """The rows of a block, each once."""
    n = block.success.size
    keys = np.column_stack([*block.numeric, *block.codes, sides_of(block)]).astype(np.float64)
    _, first = np.unique(keys.reshape(n, -1), axis=0, return_index=True)
    return block if first.size == n else block.taken(np.sort(first))


def beside(
    objective: Objective, proof: Proof, coef: Floats, cache: BlockCache | None
) -> tuple[Objective, Floats, Evaluation, list[int]]:
    """The loss of the rows that a direction does not separate: objective, coefficients, evaluation there, and
    model columns that these rows say nothing of.

    `coef` (active,): where the whole loss was left, which is near the maximum of the rest.
    """
    basis = objective.basis
    cut = Cut(basis.centre, basis.scale, proof.direction, CERTAIN * unit_of(basis.layout))
    design = replace(objective.design, cuts=(*objective.design.cuts, cut))
    start = basis.to_conditioned(objective.expand(coef))[basis.active]
    basis = plain(basis)
    while True:
        rest = objective.on(design, basis, cache)
        rest, found, evaluation, aliased = settle_basis(rest, start, rest(start))
        unhosted = rest.basis.unhosted
        if not unhosted.any():
            return rest, found, evaluation, aliased
        basis, start = basis.without_centres(unhosted), np.zeros_like(start)


@dataclass
class Separation:
    """What was found on the way: the loss of all rows, a proof for each direction, and what was left."""

    whole: Objective
    proofs: list[Proof] = field(default_factory=list)
    bases: list[Basis] = field(default_factory=list)
    rest: Objective | None = None  # of the rows that no direction separates
    settled: bool = False  # no more rows can be separated

    @property
    def rows(self) -> int:
        """Rows that are separated."""
        return sum(proof.separated for proof in self.proofs)

    @property
    def overlapping(self) -> int:
        """Rows that are not."""
        return self.proofs[-1].overlapping

    def add(self, proof: Proof, basis: Basis) -> None:
        """A direction in the conditioned columns of a basis."""
        self.proofs.append(proof)
        self.bases.append(basis)

    def finding(self) -> dict[str, Any]:
        """What INTERFACE calls the finding; passes over the rows settle which signs the cone fixes."""
        names = self.whole.design.column_names
        own = self.whole.design.layout.own_columns
        basis = plain(self.whole.basis)
        direction, sides = self._together()
        raw = in_users_units(basis, direction)
        terms = separated_terms(direction[:own], raw[:own], names)
        if sides is None:
            # No one direction could be proved to move all rows: those of later ones are told beside it.
            told = {term["term"] for term in terms}
            for proof, its in zip(self.proofs[1:], self.bases[1:], strict=True):
                later = in_users_units(plain(its), proof.direction)
                for term in separated_terms(proof.direction[:own], later[:own], names):
                    if term["term"] not in told:
                        told.add(term["term"])
                        terms.append(term)
        fixed = self._fixed_signs(direction, sides, [term["term"] for term in terms])
        for term in terms:
            term["sign_fixed"] = fixed.get(term["term"])
        finding = finding_of(terms, self.rows, self.overlapping)
        if self.whole.design.intercept:
            largest = np.abs(direction[:own]).max(initial=0.0)
            place = names.index("Intercept")
            finding["intercept"] = float(raw[place] / largest) if largest > 0 else 0.0
        return finding

    def _together(self) -> tuple[Floats, Sides | None]:
        """One direction (k,) that separates all rows that any does, and the sides of rows beside it."""
        first = self.proofs[0].direction
        alike = all(
            np.array_equal(basis.centre, self.bases[0].centre)
            and np.array_equal(basis.scale, self.bases[0].scale)
            for basis in self.bases
        )
        if not alike:
            return first, None
        shares = SHARES_OF_LATER if len(self.proofs) > 1 else (1.0,)
        directions = np.array(
            [
                tidied(sum((p.direction * share**i for i, p in enumerate(self.proofs)), np.zeros_like(first)))
                for share in shares
            ]
        )
        if len(self.proofs) == 1 and not self._signs_wanted():
            return first, Sides(*(np.zeros(1, dtype=np.int64),) * 3, np.zeros((1, 0)), [])
        sides = self.whole.sides(directions, unit_of(self.whole.design.layout), None, NEAR, PICKED[1])
        for place, direction in enumerate(directions):
            if sides.wrong[place] == 0 and sides.separated[place] == self.rows:
                sides.picked = [sides.picked[place]]
                return direction, sides
        return first, None

    @property
    def _dimension(self) -> int | None:
        """Of the space that the cone spans: columns that only separated rows have a say in."""
        if not self.settled:
            return None
        lost = int(np.count_nonzero(self.whole.basis.active))
        if self.overlapping and self.rest is not None:
            lost -= int(np.count_nonzero(self.rest.basis.active))
        return lost

    def _signs_wanted(self) -> bool:
        """Whether it takes looking at rows to tell which signs are fixed."""
        dimension = self._dimension
        layout = self.whole.design.layout
        return dimension is not None and 1 < dimension <= MOST_SIGNS and not layout.absorbed

    def _fixed_signs(
        self, direction: Floats, sides: Sides | None, terms: Sequence[str]
    ) -> dict[str, bool | None]:
        """Whether every direction of the cone moves a term the way that `direction` (k,) does, if at all."""
        if self._dimension == 1:
            return dict.fromkeys(terms, True)
        if sides is None or not self._signs_wanted() or not 0 < len(terms) <= MOST_SIGNS:
            return {}
        whole, layout = self.whole, self.whole.design.layout
        basis = plain(whole.basis)
        active = np.flatnonzero(basis.active)
        if self.overlapping:
            assert self.rest is not None
            gram = self.rest.with_basis(basis, {}).near(np.zeros(layout.columns), 1.0)
            span = NullSpace.of(gram, TOLERANCES[0]).basis()
        else:
            span = np.eye(len(active))
        if len(span) != self._dimension:
            return {}
        directions = np.zeros((len(span), layout.columns))
        directions[:, active] = span
        raw = basis.to_raw(directions.T).T  # (q, k)
        names = whole.design.column_names
        moved = {name: raw[:, names.index(name)] for name in terms}
        way = {name: float(np.sign(basis.to_raw(direction)[names.index(name)])) for name in terms}
        open_, fixed = list(terms), dict[str, bool | None]()
        blocks = [picked.block for picked in sides.picked if picked.block is not None]
        for turn in range(SIGN_PASSES + 1):
            if not open_ or not blocks:
                break
            block = distinct(together(blocks))
            blocks = [block]
            moves = matrix_of(block, layout, basis) @ directions.T
            tried: dict[str, Floats] = {}
            for name in list(open_):
                column = way[name] * moved[name]
                largest = np.abs(column).max(initial=0.0)
                found = against(moves, sides_of(block), column / largest if largest else column)
                if found is not None and not found.any():
                    fixed[name] = True
                    open_.remove(name)
                elif found is not None:
                    # A little of the direction that is known to hold brings it off the edge of the cone.
                    its, known = found @ directions, basis.to_raw(direction)[names.index(name)]
                    back = 0.1 * abs(float(found @ moved[name])) / max(abs(float(known)), 1e-300)
                    tried[name] = tidied(its + back * direction)
            if turn == SIGN_PASSES or not tried:
                break
            asked = whole.sides(np.array(list(tried.values())), unit_of(layout), None, NEAR, PICKED[0])
            for place, name in enumerate(tried):
                if not asked.wrong[place]:
                    fixed[name] = False
                    open_.remove(name)
            blocks += [picked.block for picked in asked.picked if picked.block is not None]
        return fixed
