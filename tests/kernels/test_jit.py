"""Kernels called from Python: arguments of every kind arrive, results come back, wrong ones are refused."""

from __future__ import annotations

import pickle
import struct
import threading
from typing import Any, NamedTuple

import numpy as np
import pytest

from streamlr.kernels.jit import COMPILED, CompiledKernel, Intrinsic, kernel
from streamlr.kernels.logistic import dot, row_losses

needs_compiler = pytest.mark.skipif(not COMPILED, reason="nothing is compiled")


class Pair(NamedTuple):
    values: Any
    factor: float


@kernel
def weighted_sum(pair, others, flag, shift):
    total = 0.0
    if flag:
        for i in range(pair.values.shape[0]):
            total += pair.factor * pair.values[i]
    for other in others:
        total += other[0, 1]
    return total + shift


@kernel
def several(x, n):
    return n + 1, x[0], n > 2


@kernel
def larger(x, y):
    return x > y


@kernel
def double_in_place(x):
    for i in range(x.size):
        x[i] *= 2


@kernel
def second_of(word, x):
    return x[np.uint64(word)]


@kernel
def refusing(x):
    if x[0] > 1.0:
        raise ValueError("no kernel of the project raises")
    return x[0]


@kernel
def with_default(x, twice=False):
    return 2.0 * x[0] if twice else x[0]


def test_arrays_numbers_and_tuples_of_them_arrive_in_their_places():
    others = (np.arange(4.0).reshape(2, 2), np.full((1, 3), 0.5))
    assert weighted_sum(Pair(np.arange(5.0), 2.0), others, True, 100) == 20.0 + 1.0 + 0.5 + 100.0
    assert weighted_sum(Pair(np.arange(5.0), 2.0), others, False, 0.25) == 1.75
    assert weighted_sum(Pair(np.arange(5), np.float64(2.0)), others, np.bool_(True), np.int8(-3)) == 18.5


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "i8", "u1", "u8", "f4", "f8"])
def test_arrays_of_any_type_and_layout_are_read_where_they_lie(dtype: str) -> None:
    table = np.arange(40, dtype=dtype).reshape(5, 8)
    shifted = np.frombuffer(b"\0" + np.arange(9, dtype=dtype).tobytes(), np.uint8)[1:].view(dtype)
    for values in (table[:, 3], table[2], table[::2, 1], table.T[4], shifted, np.empty(0, dtype)):
        assert weighted_sum(Pair(values, 1.0), (table.astype("f8"),), True, 0) == values.sum() + 1.0
    assert weighted_sum(Pair(values, 1.0), (table.T.astype("f8", order="K"),), True, 0) == 8.0


def test_what_a_kernel_writes_is_in_the_array_that_it_was_given():
    table = np.arange(12).reshape(3, 4)
    double_in_place(table[1])
    double_in_place(table[:, 0])
    assert table.tolist() == [[0, 1, 2, 3], [16, 10, 12, 14], [16, 9, 10, 11]]


def test_arrays_that_must_not_be_written_to_can_be_read():
    values = np.arange(4.0)
    values.flags.writeable = False
    assert dot(values, values, 4) == 14.0


def test_results_keep_their_kinds():
    result = several(np.array([2.5]), 2)
    assert result == (3, 2.5, False)
    assert [type(number) for number in result] == (
        [int, float, bool] if COMPILED else [int, np.float64, bool]
    )
    assert larger(2, 1.5) is True
    assert double_in_place(np.ones(3)) is None


def test_integers_without_a_sign_keep_their_64_bits():
    assert second_of(np.uint64(1), np.array([1, 2**64 - 1], dtype=np.uint64)) in (-1, 2**64 - 1)
    assert larger(np.uint64(2**64 - 1), np.uint64(1)) is True or not COMPILED


def test_an_argument_may_be_left_out_where_there_is_a_default():
    assert (with_default(np.array([3.0])), with_default(np.array([3.0]), True)) == (3.0, 6.0)


@needs_compiler
@pytest.mark.parametrize("wrong", [None, "text", [1.0], 1j, {}])
def test_other_arguments_are_refused_by_name_of_their_type(wrong: Any) -> None:
    with pytest.raises(TypeError, match=f"not {type(wrong).__name__}"):
        double_in_place(wrong)


@needs_compiler
def test_a_number_that_takes_more_than_eight_bytes_is_refused():
    with pytest.raises(struct.error):
        larger(2**63, 1)


@needs_compiler
def test_a_kernel_that_raises_is_told_of():
    assert refusing(np.zeros(1)) == 0.0
    with pytest.raises(RuntimeError, match="refusing failed"):
        refusing(np.full(1, 2.0))


@needs_compiler
def test_kernels_keep_their_names_and_can_be_pickled():
    assert isinstance(dot, CompiledKernel)
    assert dot.__name__ == "dot"
    assert "a[i] b[i]" in (dot.__doc__ or "")
    assert pickle.loads(pickle.dumps(dot)) is dot


@needs_compiler
def test_threads_that_call_a_kernel_at_once_compile_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    @kernel
    def fresh(x):
        return x[0] + 1.0

    compiled: list[Any] = []
    compile_ = CompiledKernel._compile
    monkeypatch.setattr(CompiledKernel, "_compile", lambda *a: (compiled.append(1), compile_(*a))[1])
    results: list[float] = []
    threads = [threading.Thread(target=lambda: results.append(fresh(np.ones(1)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [2.0] * 4
    assert len(compiled) == 1


@needs_compiler
def test_kernels_let_other_threads_run():
    """A thread gets its turns while another one is inside a kernel."""
    n = 4_000_000
    eta, success, failure = np.zeros(n), np.ones(n), np.zeros(n)
    scratch = np.empty((4, n))
    outputs = [np.empty(n) for _ in range(3)]
    row_losses(eta, success, failure, 1, scratch, scratch.view(np.int64), *outputs)
    inside, turns = threading.Event(), 0
    thread = threading.Thread(
        target=lambda: (
            inside.set(),
            row_losses(eta, success, failure, n, scratch, scratch.view(np.int64), *outputs),
            inside.clear(),
        )
    )
    thread.start()
    while thread.is_alive():
        turns += inside.is_set()
    thread.join()
    assert turns > 100


@needs_compiler
def test_operations_are_defined_when_something_is_compiled_and_not_before():
    defined: list[str] = []

    def define(typing_context, x):
        from numba import types

        defined.append("x")
        return types.float64(x), lambda context, builder, signature, arguments: arguments[0]

    same = Intrinsic(define)
    assert defined == []

    @kernel
    def through(x):
        return same(x[0])

    assert through.dispatcher.py_func is through.function
    from streamlr.kernels.compiling import compiled_entry

    compiled_entry(through, ((tuple, 1, np.dtype("f8"), 1 << 9 | 0x101)))
    assert defined
