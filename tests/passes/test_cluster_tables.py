"""Tables of clusters as they are merged: their sums, and the room that they are given."""

from __future__ import annotations

import re

import numpy as np
import pytest

from streamlr.errors import StreamlrError
from streamlr.passes.scores import Clustered, ClusterScores, Room

# Two tables of three clusters with two columns, one of which both have: 3 + 3 + 5 rows of a key and two sums.
BYTES = 8 * (1 + 2) * (3 + 3 + 5)


def half(first: int, room: Room) -> Clustered:
    keys = np.arange(first, first + 3)
    return Clustered([ClusterScores(keys, np.full((3, 2), float(first + 1)))], room, rows=6, observations=6.0)


def test_sums_of_a_cluster_in_both_are_added() -> None:
    room = Room(limit=BYTES, rows=12, threads=2)
    found = half(0, room).merge(half(2, room))
    assert found.ways[0].keys.tolist() == [0, 1, 2, 3, 4]
    assert found.ways[0].table[:, 0].tolist() == [1.0, 1.0, 4.0, 3.0, 3.0]
    assert (found.rows, found.observations) == (12, 12.0)


@pytest.mark.parametrize(("rows", "threads", "needed"), [(12, 2, 1), (24, 2, 2), (24, 1, 1), (1200, 4, 4)])
def test_tables_that_outgrow_their_room_are_refused(rows: int, threads: int, needed: int) -> None:
    """Other threads may merge as much meanwhile, where there are rows left for them."""
    exact = Room(needed * BYTES, rows, threads)
    assert len(half(0, exact).merge(half(2, exact)).ways[0].keys) == 5
    tight = Room(needed * BYTES - 1, rows, threads)
    with pytest.raises(StreamlrError, match=re.escape("the scores of 5 clusters and more with 2 columns")):
        half(0, tight).merge(half(2, tight))
