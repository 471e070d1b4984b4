"""Compiling a kernel by Numba, into machine code that needs neither Numba nor Python to run.

What is compiled is an entry around the kernel: a function of two addresses, which takes the arguments out of
words of eight bytes, calls the kernel and puts what it returns into words. The word of an array is the
address of the array object, whose fields have had the same places since numpy 1.7 (`PyArrayObject` in its C
API): data, number of axes, lengths, strides. Imported by `streamlr.kernels.jit` when a kernel has to be
compiled, and by nobody else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numba.experimental.function_type
import numba.experimental.jitclass.boxing  # noqa: F401
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import entrypoints
from numba.core.cgutils import intp_t
from numba.core.registry import cpu_target
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array
from numba.np.numpy_support import from_dtype

from streamlr.kernels.jit import ALIGNED, CONTIGUOUS, CompiledKernel
from streamlr.kernels.machine_code import Compiled

# Whatever tells Numba of further types is loaded here, by one thread: the two modules above and what other
# packages have registered. Numba loads them while it compiles, and a thread that asks for the type of an
# argument meanwhile can fail ("dictionary changed size during iteration", seen beside `sparse`).
entrypoints.init_all()

# Kernels allocate nothing, so that nobody has to count who holds an array: a fifth of compiling.
OPTIONS = {
    "_nrt": False,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
    "nogil": True,
    "error_model": "numpy",
}
WORD = ir.IntType(64)
WORDS = WORD.as_pointer()
# Places in an array object, in words behind its head.
DATA, _, LENGTHS, STRIDES = range(4)
HEAD = object.__basicsize__ // 8
SCALARS = {bool: types.boolean, int: types.int64, float: types.float64, np.uint64: types.uint64}
LETTERS = {types.boolean: "?7x", types.int64: "q", types.float64: "d"}


def dispatcher_of(kernel: CompiledKernel) -> Any:
    """The function of a kernel as Numba compiles it into others."""
    return njit(fastmath=set(kernel.fastmath), **OPTIONS)(kernel.function)


def type_of_intrinsic(define: Callable[..., Any]) -> Any:
    """What Numba takes an operation for that is written in LLVM's language."""
    operation = intrinsic(define)
    cpu_target.typing_context.refresh()
    return cpu_target.typing_context.resolve_value_type(operation)


def compiled_entry(kernel: CompiledKernel, kinds: Sequence[Any]) -> Compiled:
    """The machine code of a kernel, called with arguments of some kinds."""
    returned: list[Any] = []
    names = {"kernel": kernel.dispatcher, "put": _put(returned)}
    _, count, *rest = kinds
    arguments = _arguments(iter(rest), count, names, [0])
    exec(f"def entry(words, results):\n    put(results, kernel({arguments}))\n", names)
    dispatcher = njit(**OPTIONS)(names["entry"])
    dispatcher.compile((types.int64, types.int64))
    (entry,) = dispatcher.overloads.values()
    externals = [
        function.name
        for function in entry.library._final_module.functions
        if function.is_declaration and not function.name.startswith("llvm.")
    ]
    return Compiled(
        code=entry.library._get_compiled_object(),
        symbol=entry.fndesc.llvm_func_name,
        externals=tuple(sorted(externals)),
        results="".join(LETTERS[_word_type(kind)] for kind in _members(returned[-1])),
        is_tuple=isinstance(returned[-1], types.BaseTuple),
    )


def _arguments(kinds: Iterator[Any], count: int, names: dict[str, Any], place: list[int]) -> str:
    """The text of `count` arguments of an entry. `names` gains what it mentions, `place` is the next word."""
    texts = []
    for _ in range(count):
        kind = next(kinds)
        name = f"name{len(names)}"
        if isinstance(kind, type) and issubclass(kind, tuple):
            names[name] = kind
            members = _arguments(kinds, next(kinds), names, place)
            texts.append(f"({members})" if kind is tuple else f"{name}({members})")
            continue
        names[name] = (
            _array_at(kind, next(kinds)) if isinstance(kind, np.dtype) else _number_at(SCALARS[kind])
        )
        texts.append(f"{name}(words, {place[0]})")
        place[0] += 1
    return "".join(f"{text}, " for text in texts)


def _pointer(builder: Any, words: Any, place: Any) -> Any:
    return builder.gep(builder.inttoptr(words, WORDS), [place])


def _number_at(kind: Any) -> Any:
    """A function of an address and a place: the number in that word."""

    @intrinsic
    def number(typing_context, words, place):
        def generate(context, builder, signature, arguments):
            pointer = _pointer(builder, *arguments)
            if kind == types.boolean:
                return builder.icmp_signed("!=", builder.load(pointer), WORD(0))
            return builder.load(builder.bitcast(pointer, context.get_data_type(kind).as_pointer()))

        return kind(types.int64, types.int64), generate

    return number


def _array_at(dtype: np.dtype[Any], form: int) -> Any:
    """A function of an address and a place: the array whose object's address is in that word."""
    layout = "C" if form & CONTIGUOUS else "A"
    kind = types.Array(from_dtype(dtype), form >> 9, layout, aligned=bool(form & ALIGNED))

    @intrinsic
    def array(typing_context, words, place):
        def generate(context, builder, signature, arguments):
            fields = builder.load(_pointer(builder, *arguments))

            def field(which: int, place: int = 0) -> Any:
                value = builder.load(_pointer(builder, fields, WORD(HEAD + which)))
                return value if which == DATA else builder.load(_pointer(builder, value, WORD(place)))

            made = context.make_array(kind)(context, builder)
            lengths = [field(LENGTHS, axis) for axis in range(kind.ndim)]
            size = intp_t(dtype.itemsize)
            if layout == "C":
                strides = [size]
                for length in lengths[:0:-1]:
                    strides.insert(0, builder.mul(strides[0], length))
            else:
                strides = [field(STRIDES, axis) for axis in range(kind.ndim)]
            data = builder.inttoptr(field(DATA), made.data.type)
            populate_array(made, data=data, shape=lengths, strides=strides, itemsize=size, meminfo=None)
            return made._getvalue()

        return kind(types.int64, types.int64), generate

    return array


def _put(returned: list[Any]) -> Any:
    """A function of an address and what a kernel returns, which puts that there; its type joins a list."""

    @intrinsic
    def put(typing_context, results, value):
        returned.append(value)

        def generate(context, builder, signature, arguments):
            address, whole = arguments
            for place, kind in enumerate(_members(value)):
                number = builder.extract_value(whole, place) if isinstance(value, types.BaseTuple) else whole
                word = _word_type(kind)
                number = context.cast(builder, number, kind, word)
                if word == types.boolean:
                    number = builder.zext(number, WORD)
                pointer = _pointer(builder, address, WORD(place))
                builder.store(number, builder.bitcast(pointer, number.type.as_pointer()))
            return context.get_dummy_value()

        return types.void(types.int64, value), generate

    return put


def _members(returned: Any) -> list[Any]:
    """The types of the numbers that a kernel returns."""
    if returned == types.none:
        return []
    return list(returned) if isinstance(returned, types.BaseTuple) else [returned]


def _word_type(kind: Any) -> Any:
    """The type that a returned number is widened to."""
    if isinstance(kind, types.Boolean | types.BooleanLiteral):
        return types.boolean
    return types.float64 if isinstance(kind, types.Float) else types.int64
