"""The one decorator of every compiled kernel, so that all jit options are decided here.

Kernels release the interpreter lock (threads live in `streamlr.passes`, never in a kernel), are cached
on disk between processes, and divide as IEEE 754 says instead of raising. Where Numba finds no folder
that it may write its cache to, kernels are compiled for this process alone and one line says so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import numba.experimental.function_type
import numba.experimental.jitclass.boxing  # noqa: F401
from llvmlite import binding
from numba import config, njit, types
from numba.core import entrypoints
from numba.core.caching import FunctionCache
from numba.core.runtime import _nrt_python, rtsys
from numba.extending import intrinsic

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

# `contract` lets a multiply and an add become one FMA, which only removes a rounding. Reordering is kept
# out of the default: it ruins the two-part reduction of exp (2e-14 instead of 1e-16).
EXACT = frozenset({"contract"})

# For sums that are meant to be reordered into vector lanes. No `nnan`, no `ninf`: an infinity in the data
# must reach the ranges, where it is reported.
REORDERED = frozenset({"reassoc", "contract", "nsz", "arcp"})
# Whatever tells Numba of further types is loaded here, by one thread: the two modules above and what other
# packages have registered. Numba loads them while it compiles, and a thread that asks for the type of an
# argument meanwhile can fail ("dictionary changed size during iteration", seen beside `sparse`).
entrypoints.init_all()

# What a compiled kernel calls of Numba's run-time library: to take arrays, and to let go of them.
RUNTIME = ("NRT_adapt_ndarray_from_python", "NRT_MemInfo_call_dtor")
_told_about_cache = False


class KernelCache(FunctionCache):  # type: ignore[misc]
    """Numba's cache of a function, without what nothing but compiling needs.

    Before Numba looks for machine code it loads all that it can compile, a thousand functions in sixty
    modules: 0.10 of the 0.13 s that loading the kernels of a fit took. Where there is none it compiles, and
    loads them then. Machine code needs the addresses of the run-time library in C alone: what Numba compiles
    of that library (0.015 s) is contained in every kernel.
    """

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The kernel compiled for a signature, None where the cache has none."""
        for name, address in _nrt_python.c_helpers.items():
            binding.add_symbol(name if name.startswith("_") else f"NRT_{name}", address)
        if any(binding.address_of_symbol(name) is None for name in RUNTIME):
            rtsys.initialize(target_context)  # a Numba that has other names for them
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)


def _widest_vectors(typing_context: Any) -> Any:
    """Let the kernel that calls this use vectors of 512 bits where the processor has them.

    LLVM stops at 256 bits on processors whose first generation slowed down under wider ones. The Gram
    kernel goes from 40 to 60 billion operations a second at 29 columns on one that does not. The wish is
    an attribute of one function, so nobody else's compiled code changes.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        # llvmlite knows the attribute only as text; `set.add` passes by its list of known names.
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.void(), generate


use_widest_vectors: Callable[[], None] = (lambda: None) if config.DISABLE_JIT else intrinsic(_widest_vectors)


def kernel(function: Kernel) -> Kernel:
    """Compile a kernel whose roundings are those written down (but for fused multiply-add)."""
    return _compile(function, EXACT)


def summing_kernel(function: Kernel) -> Kernel:
    """Compile a kernel whose sums may be taken in any order, so that they vectorise."""
    return _compile(function, REORDERED)


def _compile(function: Kernel, fastmath: frozenset[str]) -> Kernel:
    global _told_about_cache
    options = {"no_cfunc_wrapper": True, "nogil": True, "error_model": "numpy", "fastmath": set(fastmath)}
    compiled = njit(**options)(function)
    if config.DISABLE_JIT:
        return compiled
    try:
        compiled._cache = KernelCache(function)
        return compiled
    except RuntimeError as error:
        if "cannot cache function" not in str(error):
            raise
    if not _told_about_cache:
        _told_about_cache = True
        line = "streamlr: no writable folder for compiled kernels; compiling them for this run only"
        sys.stderr.write(f"{line} (set NUMBA_CACHE_DIR to keep them)\n")
    return compiled
