"""Where ONNX Runtime is."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from . import _lib


def find() -> None:
    """Names the library of the installed package onnxruntime, or onnxruntime-gpu, without importing it.

    The import would load a second copy of the library, and write a device's identity to the user's cache.
    """
    spec = importlib.util.find_spec("onnxruntime")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        libraries = sorted(Path(folder, "capi").glob("libonnxruntime.so*")) + sorted(
            Path(folder, "capi").glob("libonnxruntime.*dylib")
        )
        if libraries:
            _lib.set_runtime(libraries[-1])
            return
