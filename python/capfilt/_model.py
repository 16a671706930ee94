"""Captions, scores and embeddings of columns."""

from __future__ import annotations

import io
import os
from typing import Any

from . import _lib
from ._lib import Column
from ._settings import texts


#: Size from which a picture of Pillow is compressed on its way, to stay within ``max_image_bytes``.
_LARGE = 32 << 20


def _is_picture(value: Any) -> bool:
    """Whether it is a picture of Pillow, which need not be imported for that."""
    return hasattr(value, "convert") and hasattr(value, "save") and hasattr(value, "getbands")


def _bytes(picture: Any) -> bytes:
    """The picture's pixels as Pillow converts them to RGB, in a file without loss."""
    try:
        rgb = picture.convert("RGB")
    except Exception:
        # Pillow reads the pixels only now. A broken file is judged as its bytes would be.
        source = getattr(picture, "fp", None)
        if source is None:
            raise
        source.seek(0)
        return bytes(source.read())
    file = io.BytesIO()
    if 3 * picture.width * picture.height < _LARGE:
        rgb.save(file, "BMP")
    else:
        rgb.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _images(images: Any) -> Any:
    if hasattr(images, "__arrow_c_array__") or hasattr(images, "__arrow_c_stream__"):
        return images
    if _is_picture(images) or isinstance(images, (bytes, bytearray, memoryview, str, os.PathLike, dict)):
        raise TypeError("images: give a list of the bytes of files, also for one image: [image]")
    encoded = [_bytes(image) if _is_picture(image) else image for image in images]
    if any(isinstance(image, (str, os.PathLike)) for image in encoded):
        raise TypeError("images: give the bytes of the files and not their paths: [Path(path).read_bytes() for path in paths]")
    return encoded


class Model:
    """A captioner, a filter, an answerer, or several of them, with their settings.

    ``captioner``, ``filter`` and the setting ``answerer`` are names ``hf:OWNER/NAME`` or folders of BLIP checkpoints in Hugging Face layout; ``settings`` those of SQL's
    ``SET capfilt.NAME``. A method's own settings override them for one call.

    A column of images is an Arrow array of encoded images (JPEG, PNG, WebP, ..) from anything with
    ``__arrow_c_array__`` or ``__arrow_c_stream__`` (pyarrow, Polars, DuckDB, ..), or a list of bytes, of Pillow's
    images, or of dictionaries with ``bytes`` as undecoded images of Hugging Face's datasets are. A column of texts is an
    Arrow array or a list of strings. NULL and None give NULL, and so does an image that cannot be read:
    :meth:`image_error` says why.

    Checkpoints are loaded when they are first used, once for the process, whose memory they share: ``memory_limit`` is
    that of all models, and the last one given counts. A model may be pickled: it is loaded where it is used. Results are
    a function of the row, whatever is beside it.

    Raises CapfiltError if a setting is wrong or a checkpoint is unusable, and KeyboardInterrupt after Ctrl-C.
    """

    def __init__(self, captioner: Any = None, filter: Any = None, **settings: Any) -> None:
        self._settings = texts({"captioner": captioner, "filter": filter, **settings})
        # A wrong setting is an error here and not at the first call.
        _lib.Settings(self._settings)

    def _call(self, name: str, columns: list[tuple[str, Any]], settings: dict[str, Any], count: int | None = None) -> Column:
        return _lib.call(name, columns, {**self._settings, **texts(settings)}, count)

    def caption(self, images: Any, **settings: Any) -> Column:
        """A caption of each image: a column of strings."""
        return self._call("caption", [("images", _images(images))], settings)

    def captions(self, images: Any, n: int, **settings: Any) -> Column:
        """``n`` captions of each image, from 1 to 64: a column of lists of strings.

        They are drawn by nucleus sampling, unless ``strategy="beam"`` or ``num_beams`` is given: then they are the best
        beams, best first.
        """
        return self._call("captions", [("images", _images(images))], settings, n)

    def itm_score(self, images: Any, texts: Any, **settings: Any) -> Column:
        """Probability that each text matches its image, from 0 to 1, by the filter's ITM head."""
        return self._call("itm_score", [("images", _images(images)), ("texts", texts)], settings)

    def itc_score(self, images: Any, texts: Any, **settings: Any) -> Column:
        """Cosine similarity of each image and its text, from -1 to 1: cheaper than ITM, and less exact."""
        return self._call("itc_score", [("images", _images(images)), ("texts", texts)], settings)

    def vqa(self, images: Any, questions: Any, **settings: Any) -> Column:
        """An answer to each question about its image, by the checkpoint ``answerer``: a column of strings."""
        return self._call("vqa", [("images", _images(images)), ("questions", questions)], settings)

    def vqa_score(self, images: Any, questions: Any, answers: Any, **settings: Any) -> Column:
        """Probability of each answer to its question about its image, from 0 to 1."""
        return self._call("vqa_score", [("images", _images(images)), ("questions", questions), ("answers", answers)], settings)

    def embed_image(self, images: Any, **settings: Any) -> Column:
        """Unit-length ITC embedding of each image: lists of as many floats as the model's projection has, BLIP's 256."""
        return self._call("embed_image", [("images", _images(images))], settings)

    def embed_text(self, texts: Any, **settings: Any) -> Column:
        """Unit-length ITC embedding of each text."""
        return self._call("embed_text", [("texts", texts)], settings)

    def image_error(self, images: Any, **settings: Any) -> Column:
        """Why each image cannot be used; NULL for those that can be. Needs no checkpoint."""
        return self._call("image_error", [("images", _images(images))], settings)

    def __repr__(self) -> str:
        return f"capfilt.Model({', '.join(f'{name}={value!r}' for name, value in self._settings.items())})"
