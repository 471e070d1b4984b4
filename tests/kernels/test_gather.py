"""The hash table of cells against a dict."""

from __future__ import annotations

import numpy as np
import pytest

from streamlr.kernels.cells import EMPTY, gather


def gathered(
    keys: np.ndarray, amounts: np.ndarray, room: int, slots: int = 64
) -> tuple[int, dict[int, float], list[int]]:
    """Rows done, cells, and the keys in the order they came."""
    cell_keys, cell_amounts = np.full(room, 99, dtype=np.int64), np.full(room, np.nan)
    table = np.full(slots, EMPTY, dtype=np.int32)
    with np.errstate(over="ignore"):  # hashes wrap around
        done, count = gather(keys, amounts, 0, cell_keys, cell_amounts, table, 65 - slots.bit_length(), 0)
    order = cell_keys[:count].tolist()
    return done, dict(zip(order, cell_amounts[:count].tolist(), strict=True)), order


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("keys", [[], [5], [0, 0, 0], list(range(30)) * 3, [2**62 - 1, 0, 2**62 - 1]])
def test_amounts_are_added_up_by_key(keys: list[int], weighted: bool) -> None:
    amounts = np.arange(1.0, len(keys) + 1) if weighted else np.empty(0)
    want: dict[int, float] = {}
    for place, key in enumerate(keys):
        want[key] = want.get(key, 0.0) + (place + 1.0 if weighted else 1.0)
    done, found, order = gathered(np.array(keys, dtype=np.int64), amounts, 30)
    assert done == len(keys)
    assert found == want
    assert order == list(dict.fromkeys(keys))


def test_keys_that_meet_in_one_slot_are_told_apart() -> None:
    """A table that is full but for two slots, and keys whose differences are all powers of two."""
    keys = np.array([1 << power for power in range(30)] * 2, dtype=np.int64)
    done, found, _ = gathered(keys, np.empty(0), 30, slots=32)
    assert done == 60
    assert found == {1 << power: 2.0 for power in range(30)}


def test_it_stops_at_the_first_row_without_room() -> None:
    keys = np.array([4, 7, 4, 8, 7, 9], dtype=np.int64)
    done, found, _ = gathered(keys, np.empty(0), 2)
    assert done == 3
    assert found == {4: 2.0, 7: 1.0}
