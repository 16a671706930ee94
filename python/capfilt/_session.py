"""The SQL functions in datafusion-python."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from . import _lib
from ._settings import texts

if TYPE_CHECKING:
    import datafusion

#: Major version of datafusion-python whose C interface this package speaks.
_MAJOR = "55"


#: Sessions that SET capfilt.NAME works in.
_SESSIONS: weakref.WeakSet[Any] = weakref.WeakSet()


def _datafusion() -> Any:
    try:
        import datafusion
    except ImportError as error:
        raise _lib.CapfiltError("datafusion is not installed: pip install 'capfilt[datafusion]'") from error
    version = datafusion.__version__
    if version.split(".")[0] != _MAJOR:
        raise _lib.CapfiltError(
            f"datafusion {version} is installed, and capfilt {_lib.__version__} needs {_MAJOR}: "
            f"pip install 'datafusion=={_MAJOR}.*'"
        )
    return datafusion


def register(ctx: datafusion.SessionContext, **settings: Any) -> datafusion.SessionContext:
    """Adds the functions to a session of datafusion-python and returns it.

    ``settings`` are those of ``SET capfilt.NAME``. SET itself works only in a session whose configuration knows the
    settings, as that of :func:`session` does. Such a session also has batches of 64 rows; with DataFusion's 8192 the first
    row of a LIMIT takes as long as 8192.

    Raises CapfiltError if a setting is wrong, if the session is one of :func:`session` and has settings of its own, or if
    datafusion has another version.
    """
    datafusion = _datafusion()
    if settings and ctx in _SESSIONS:
        raise _lib.CapfiltError("the session has capfilt's settings: change them by SET capfilt.NAME = 'VALUE'")
    for function in _lib.scalar_functions(texts(settings)):
        ctx.register_udf(datafusion.udf(function))
    for aggregate in _lib.aggregate_functions():
        ctx.register_udaf(datafusion.udaf(aggregate))
    return ctx


def session(captioner: Any = None, filter: Any = None, **settings: Any) -> datafusion.SessionContext:
    """A session of datafusion-python with the functions, in which ``SET capfilt.NAME`` works.

    Raises CapfiltError as :func:`register` does.
    """
    datafusion = _datafusion()
    values = {"captioner": captioner, "filter": filter, **settings}
    config = datafusion.SessionConfig().with_batch_size(64).with_information_schema(True)
    config = config.with_extension(_lib.Settings(texts(values)))
    ctx = register(datafusion.SessionContext(config), **values)
    _SESSIONS.add(ctx)
    return ctx
