"""Settings as keyword arguments."""

from __future__ import annotations

import os
from typing import Any


def texts(settings: dict[str, Any]) -> dict[str, str]:
    """The settings as SQL's SET takes them; None leaves a setting at its default."""
    return {name: text(value) for name, value in settings.items() if value is not None}


def text(value: Any) -> str:
    """A value as the command line and SET take it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return os.fspath(value) if isinstance(value, os.PathLike) else str(value)
