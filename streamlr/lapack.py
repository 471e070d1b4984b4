"""LAPACK and BLAS as scipy has them compiled, without the packages `scipy` and `scipy.linalg` around them.

Both packages take 0.13 s of a fit of half a second to import, nearly all for parts of numpy that none of this
uses; the two extension modules take 0.004 s. They are loaded under their own names, so that `scipy.linalg`,
should anybody import it later, finds these and loads no second copy. Where it has been imported, or where
scipy keeps its files in another place, the functions are its own. They are loaded at the top of a module and
not where they are used, so that their BLAS can be held to one thread before a fit begins.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from types import ModuleType


def _compiled(name: str) -> ModuleType:
    """The functions of `scipy.linalg.blas` or `scipy.linalg.lapack`."""
    whole = f"scipy.linalg._f{name}"
    package = find_spec("scipy")
    folders = [] if package is None else package.submodule_search_locations or []
    spec = PathFinder.find_spec(whole, [os.path.join(folder, "linalg") for folder in folders])
    if sys.platform == "win32" or "scipy.linalg" in sys.modules or spec is None or spec.loader is None:
        return import_module(f"scipy.linalg.{name}")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return sys.modules.setdefault(whole, module)


blas = _compiled("blas")
lapack = _compiled("lapack")
