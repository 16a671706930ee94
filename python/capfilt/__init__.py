"""BLIP's captioning and filtering (CapFilt) of image-text tables.

Three ways in, over one engine, which loads each checkpoint once:

- :class:`Model`: captions, scores and embeddings of columns of images, for any library that has Arrow data or bytes.
- :func:`session` and :func:`register`: the SQL functions in datafusion-python; :mod:`capfilt.polars` for Polars.
- :func:`run`, :func:`resume`, :func:`update`, :func:`retry`, :func:`select`, :func:`report`: the batch job.

Settings are those of SQL's ``SET capfilt.NAME``, as keyword arguments: ``num_beams=3``, ``precision="int8"``.
"""

from __future__ import annotations

import atexit
from collections.abc import Sequence

from . import _lib, _runtime
from ._lib import CapfiltError, Column, __version__, cancel, stats
from ._job import Summary, report, resume, retry, run, select, update
from ._model import Model
from ._session import register, session

Sequence.register(Column)
_runtime.find()
# The process must not end while a model runs.
atexit.register(_lib.end)

__all__ = [
    "CapfiltError",
    "Column",
    "Model",
    "Summary",
    "__version__",
    "cancel",
    "register",
    "report",
    "resume",
    "retry",
    "run",
    "select",
    "session",
    "stats",
    "update",
]
