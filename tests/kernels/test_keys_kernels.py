"""Keys: the hash of texts against its published values, tables merged as dicts would be."""

from __future__ import annotations

import numpy as np
import pytest

from streamlr.kernels.keys import count_union, hash_texts, merge_tables

# FNV-1a of 64 bits, from the test vectors that its authors publish.
KNOWN = {"": 0xCBF29CE484222325, "a": 0xAF63DC4C8601EC8C, "foobar": 0x85944171F73967E8}


@pytest.mark.parametrize("order", [1, -1])
def test_hashes_are_those_published(order: int) -> None:
    texts = list(KNOWN)[::order]
    ends = np.cumsum([3, *(len(text) for text in texts)])  # texts need not begin at the first letter
    letters = np.frombuffer(("xyz" + "".join(texts)).encode(), dtype=np.uint8)
    found = np.zeros(len(texts), dtype=np.uint64)
    with np.errstate(over="ignore"):  # hashes wrap around
        hash_texts(ends, letters, found)
    assert found.tolist() == [KNOWN[text] for text in texts]


@pytest.mark.parametrize("seed", range(30))
def test_tables_are_merged_by_key(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lists = [np.unique(rng.integers(-9, 9, int(rng.integers(0, 12)))) for _ in range(2)]
    tables = [rng.normal(size=(len(keys), int(seed % 4))) for keys in lists]
    wanted = {key: np.zeros(seed % 4) for each in lists for key in each.tolist()}
    for each, table in zip(lists, tables, strict=True):
        for key, row in zip(each.tolist(), table, strict=True):
            wanted[key] = wanted[key] + row
    count = count_union(*lists)
    assert count == len(wanted)
    keys, merged = np.full(count, 99), np.full((count, seed % 4), np.nan)
    merge_tables(lists[0], tables[0], lists[1], tables[1], keys, merged)
    assert keys.tolist() == sorted(wanted)
    for key, row in zip(keys.tolist(), merged, strict=True):
        assert row.tolist() == wanted[key].tolist()
