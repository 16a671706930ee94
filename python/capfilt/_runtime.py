"""Where ONNX Runtime is."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from . import _lib


def find() -> None:
    """Names the library of the installed package onnxruntime, or onnxruntime-gpu, without importing it.

    The import would load a second copy of the library, and write a device's identity to the user's cache.
    """
    _lib.set_runtime(_library())


def _library() -> Path | None:
    try:
        spec = importlib.util.find_spec("onnxruntime")
    except ValueError:  # A module of this name without a spec, such as a stand-in of another's tests.
        return None
    for folder in (spec.submodule_search_locations or []) if spec else []:
        capi = Path(folder, "capi")
        libraries = sorted(capi.glob("libonnxruntime.so*")) + sorted(capi.glob("libonnxruntime.*dylib"))
        if libraries:
            return libraries[-1]
    return None
