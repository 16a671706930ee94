"""The functions as expressions of Polars: ``pl.col("image").capfilt.caption()``.

Importing this module registers the namespace ``capfilt`` of expressions. Expressions are lazy, and run in the in-memory and
the streaming engine.
"""

from __future__ import annotations

import operator
import signal
from pathlib import Path
from typing import Any

from . import _lib
from ._settings import texts

try:
    import polars
    from polars.plugins import register_plugin_function
except ImportError as error:
    raise _lib.CapfiltError("polars is not installed: pip install 'capfilt[polars]'") from error


@polars.api.register_expr_namespace("capfilt")
class Capfilt:
    """The functions on an expression of images, or for ``embed_text`` of texts.

    ``captioner``, ``filter`` and all other settings of ``SET capfilt.NAME`` are keyword arguments. An image is encoded
    bytes, or a struct with them in its field ``bytes``.
    """

    def __init__(self, expr: polars.Expr) -> None:
        self._expr = expr

    def _apply(self, name: str, settings: dict[str, Any], more: list[Any] = [], count: int | None = None) -> polars.Expr:
        values = texts(settings)
        # A wrong setting is an error where it is given.
        _lib.Settings(values)
        # Where Python's own handler of Ctrl-C is in place, it is to end the models' work too.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            _lib.watch()
        return register_plugin_function(
            plugin_path=Path(_lib.__file__),
            function_name=name,
            args=[self._expr, *more],
            kwargs={"settings": values, "count": count},
            is_elementwise=True,
        )

    def caption(self, **settings: Any) -> polars.Expr:
        """A caption of each image."""
        return self._apply("caption", settings)

    def captions(self, n: int, **settings: Any) -> polars.Expr:
        """``n`` captions of each image, a whole number from 1 to 64."""
        return self._apply("captions", settings, count=operator.index(n))

    def itm_score(self, text: Any, **settings: Any) -> polars.Expr:
        """Probability that the text matches the image, from 0 to 1."""
        return self._apply("itm_score", settings, [text])

    def itc_score(self, text: Any, **settings: Any) -> polars.Expr:
        """Cosine similarity of image and text."""
        return self._apply("itc_score", settings, [text])

    def vqa(self, question: Any, **settings: Any) -> polars.Expr:
        """An answer to the question about each image, by the checkpoint ``answerer``."""
        return self._apply("vqa", settings, [question])

    def vqa_score(self, question: Any, answer: Any, **settings: Any) -> polars.Expr:
        """Probability of the answer to the question about each image, from 0 to 1."""
        return self._apply("vqa_score", settings, [question, answer])

    def embed_image(self, **settings: Any) -> polars.Expr:
        """Unit-length embedding of each image, an array of floats."""
        return self._apply("embed_image", settings)

    def embed_text(self, **settings: Any) -> polars.Expr:
        """Unit-length embedding of each text, an array of floats."""
        return self._apply("embed_text", settings)

    def image_error(self) -> polars.Expr:
        """Why an image cannot be used; null if it can be."""
        return self._apply("image_error", {})

    def image_info(self) -> polars.Expr:
        """Format, width, height and channels of each image."""
        return self._apply("image_info", {})

    def image_phash(self) -> polars.Expr:
        """Perceptual hash of each image."""
        return self._apply("image_phash", {})
