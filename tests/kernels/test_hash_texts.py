"""The hash of texts against its published values."""

from __future__ import annotations

import numpy as np
import pytest

from streamlr.kernels.keys import hash_texts

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
