"""The one decorator of every compiled kernel, so that all options of compiling are decided here.

A kernel is compiled when it is first called with arguments of some types, and its machine code is kept in a
file (`streamlr.kernels.machine_code`). Numba is imported where there is none, and only then: importing it and
having it load what it has cached take 0.2 s of a fit, the code alone takes 0.002 s a kernel. Kernels release
the interpreter lock (threads live in `streamlr.passes`, never in a kernel) and divide as IEEE 754 says
instead of raising.

From Python a kernel is given arrays, numbers and tuples of them, in their places. Arrays are handed over as
addresses of the objects themselves, whether they may be written to or not.
"""

from __future__ import annotations

import functools
import os
import struct
import threading
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, TypeVar, cast

import numpy as np

from streamlr.kernels import machine_code
from streamlr.kernels.machine_code import MachineCode

Function = TypeVar("Function", bound=Callable[..., Any])

# As for Numba itself: with NUMBA_DISABLE_JIT=1 kernels are the functions that they are written as.
COMPILED = os.environ.get("NUMBA_DISABLE_JIT", "0") in ("", "0")

# `contract` lets a multiply and an add become one FMA, which only removes a rounding. Reordering is kept
# out of the default: it ruins the two-part reduction of exp (2e-14 instead of 1e-16).
EXACT = frozenset({"contract"})

# For sums that are meant to be reordered into vector lanes. No `nnan`, no `ninf`: an infinity in the data
# must reach the ranges, where it is reported.
REORDERED = frozenset({"reassoc", "contract", "nsz", "arcp"})

# What the flags of an array say of how its memory may be read (numpy's C_CONTIGUOUS and ALIGNED).
CONTIGUOUS, ALIGNED = 0x1, 0x100
_compiling = threading.RLock()


class CompiledKernel:
    """A function and its machine code for every combination of types that it was called with."""

    def __init__(self, function: Callable[..., Any], fastmath: frozenset[str]) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.fastmath = fastmath
        self._codes: dict[tuple[Any, ...], tuple[MachineCode, Callable[..., bytes]]] = {}

    def __call__(self, *arguments: Any) -> Any:
        kinds: list[Any] = []
        words: list[Any] = []
        _describe((arguments,), kinds, words)
        key = tuple(kinds)
        found = self._codes.get(key)
        if found is None:
            found = self._find(key)
        code, pack = found
        return code(pack(*words))

    def __reduce__(self) -> str:
        return self.function.__qualname__

    def _find(self, kinds: tuple[Any, ...]) -> tuple[MachineCode, Callable[..., bytes]]:
        """The machine code for arguments of these kinds, and how their words are packed."""
        with _compiling:
            if kinds not in self._codes:
                code = machine_code.find(self.function, kinds, self._compile)
                self._codes[kinds] = code, struct.Struct(_format(kinds)).pack
            return self._codes[kinds]

    def _compile(self, kinds: Sequence[Any]) -> machine_code.Compiled:
        from streamlr.kernels.compiling import compiled_entry

        return compiled_entry(self, kinds)

    @cached_property
    def dispatcher(self) -> Any:
        """The function as Numba compiles it into others."""
        from streamlr.kernels.compiling import dispatcher_of

        return dispatcher_of(self)

    @property
    def _numba_type_(self) -> Any:
        """What Numba takes this for where another kernel calls it."""
        return self.dispatcher._numba_type_


class Intrinsic:
    """An operation that kernels call and that is written in LLVM's language: a function, called with Numba's
    context and the types of the arguments, that returns a signature and what generates the code."""

    def __init__(self, define: Callable[..., Any]) -> None:
        self._define = define

    @cached_property
    def _numba_type_(self) -> Any:
        from streamlr.kernels.compiling import type_of_intrinsic

        return type_of_intrinsic(self._define)


def kernel(function: Function) -> Function:
    """Compile a kernel whose roundings are those written down (but for fused multiply-add)."""
    return _kernel(function, EXACT)


def summing_kernel(function: Function) -> Function:
    """Compile a kernel whose sums may be taken in any order, so that they vectorise."""
    return _kernel(function, REORDERED)


def _kernel(function: Function, fastmath: frozenset[str]) -> Function:
    return cast(Function, CompiledKernel(function, fastmath)) if COMPILED else function


def _widest_vectors(typing_context: Any) -> Any:
    """Let the kernel that calls this use vectors of 512 bits where the processor has them.

    LLVM stops at 256 bits on processors whose first generation slowed down under wider ones. The Gram
    kernel goes from 40 to 60 billion operations a second at 29 columns on one that does not. The wish is
    an attribute of one function, so nobody else's compiled code changes.
    """
    from numba import types

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        # llvmlite knows the attribute only as text; `set.add` passes by its list of known names.
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.void(), generate


use_widest_vectors: Any = Intrinsic(_widest_vectors) if COMPILED else (lambda: None)


def _describe(arguments: Sequence[Any], kinds: list[Any], words: list[Any]) -> None:
    """Append what machine code depends on of every argument, and the eight bytes that it is passed as."""
    for argument in arguments:
        if isinstance(argument, np.ndarray):
            kinds.append(argument.dtype)
            kinds.append(argument.ndim << 9 | argument.flags.num & (CONTIGUOUS | ALIGNED))
            words.append(id(argument))
        elif isinstance(argument, tuple):
            kinds.append(type(argument))
            kinds.append(len(argument))
            _describe(argument, kinds, words)
        elif isinstance(argument, bool | np.bool_):
            kinds.append(bool)
            words.append(bool(argument))
        elif isinstance(argument, np.uint64):
            kinds.append(np.uint64)
            words.append(int(argument))
        elif isinstance(argument, int | np.integer):
            kinds.append(int)
            words.append(int(argument))
        elif isinstance(argument, float | np.floating):
            kinds.append(float)
            words.append(float(argument))
        else:
            raise TypeError(
                f"a kernel takes arrays, numbers and tuples of them, not {type(argument).__name__}"
            )


def _format(kinds: Sequence[Any]) -> str:
    """How words are packed, as `struct` has it."""
    letters = ""
    for kind in kinds:
        if isinstance(kind, np.dtype) or kind in (bool, int):
            letters += "q"
        elif kind in (float, np.uint64):
            letters += "d" if kind is float else "Q"
    return letters
