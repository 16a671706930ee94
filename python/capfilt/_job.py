"""The batch job, as `capfilt run` runs it."""

from __future__ import annotations

import os
import sys
import time
from html import escape
from typing import Any, Callable

from . import _lib
from ._settings import text

Progress = Callable[[dict[str, Any]], None]


class Summary:
    """The result of a job on one shard: its counts, and what it wrote.

    Attributes: ``dest``, ``rows`` (of the source, done), ``resumed_rows`` (of these, done by an earlier run), ``pairs``,
    ``web`` and ``synthetic`` (each a dictionary of ``pairs``, ``kept`` and ``mean_itm``), ``failed``, ``duplicates``,
    ``reasons`` (why rows failed, with their number), ``files``, ``bytes``, ``seconds``. ``str(summary)`` is what the
    command prints.
    """

    dest: str
    rows: int
    resumed_rows: int
    pairs: int
    web: dict[str, Any]
    synthetic: dict[str, Any]
    failed: int
    duplicates: int
    reasons: dict[str, int]
    files: list[str]
    bytes: int
    seconds: float

    def __init__(self, values: dict[str, Any]) -> None:
        self._text: str = values.pop("text")
        self.__dict__.update(values)

    @property
    def kept(self) -> int:
        """Number of pairs that are kept."""
        return int(self.web["kept"] + self.synthetic["kept"])

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"<capfilt.Summary of {self.dest}: {self.pairs} pairs, {self.kept} kept>"

    def _repr_html_(self) -> str:
        """The funnel, for notebooks: rows, texts and kept texts of either source."""
        steps = [
            ("rows", self.rows, ""),
            ("web texts", self.web["pairs"], "web"),
            ("of these kept", self.web["kept"], "web"),
            ("synthetic texts", self.synthetic["pairs"], "synthetic"),
            ("of these kept", self.synthetic["kept"], "synthetic"),
            ("failed rows", self.failed, ""),
            ("duplicates", self.duplicates, ""),
        ]
        widest = max([count for _, count, _ in steps] + [1])
        colours = {"web": "#4c78a8", "synthetic": "#f58518", "": "#888888"}
        rows = "".join(
            f"<tr><td>{name}</td><td style='text-align:right'>{count:,}</td><td style='text-align:left'>"
            f"<div style='width:{300 * count / widest:.0f}px;height:0.8em;background:{colours[kind]}'></div></td></tr>"
            for name, count, kind in steps
            if count or not name.startswith(("failed", "dup"))
        )
        return f"<table><caption>{escape(str(self.dest))}</caption>{rows}</table>"


class _Bar:
    """A line on stderr that is written anew."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __call__(self, done: dict[str, Any]) -> None:
        rows, total = done["rows"], done["total_rows"]
        kept = done["web"]["kept"] + done["synthetic"]["kept"]
        speed = (rows - done["resumed_rows"]) / max(time.monotonic() - self._start, 1e-3)
        share = rows / total if total else 1.0
        blocks = "#" * int(30 * share)
        sys.stderr.write(f"\r[{blocks:<30}] {rows:,} of {total:,} rows, {kept:,} texts kept, {speed:,.1f} rows/s ")
        if rows >= total:
            sys.stderr.write("\n")
        sys.stderr.flush()


def _arguments(positional: list[Any], options: dict[str, Any]) -> list[str]:
    """Keyword arguments as options of the command: lists repeat an option, dictionaries give NAME=VALUE."""
    arguments = []
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if value is None or value is False:
            continue
        if value is True:
            arguments.append(option)
        elif isinstance(value, dict):
            arguments += [f"{option}={key}={text(each)}" for key, each in value.items()]
        elif isinstance(value, (list, tuple)):
            arguments += [f"{option}={text(each)}" for each in value]
        else:
            arguments.append(f"{option}={text(value)}")
    return [*arguments, "--", *(os.fspath(value) for value in positional)]


def _run(verb: str, positional: list[Any], progress: Progress | bool | None, options: dict[str, Any]) -> list[Summary]:
    callback = _Bar() if progress is True else progress or None
    if not (callback is None or callable(callback)):
        raise TypeError(f"progress: give a function or True, not {callback!r}")
    try:
        return [Summary(values) for values in _lib.run([verb, *_arguments(positional, options)], callback)]
    except _lib.CapfiltError as error:
        for name in set(options).intersection(_lib.setting_names()):
            if f"unexpected argument '--{name.replace('_', '-')}'" in str(error):
                message = f"{name} is a setting: give set={{'capfilt.{name}': {options[name]!r}}}"
                raise _lib.CapfiltError(message) from None
        raise


def _one_or_all(summaries: list[Summary]) -> Summary | list[Summary]:
    return summaries[0] if len(summaries) == 1 else summaries


def run(source: Any, dest: Any, *, progress: Progress | bool | None = None, **options: Any) -> Summary:
    """Captions and filters the table ``source`` into the pair table ``dest``, or continues where it stopped.

    ``options`` are those of ``capfilt run``, with underscores: ``captioner``, ``filter``, ``min_itm=0.5``,
    ``write_images="kept"``, ``shard="1/4"``, ``overwrite=True``, ``set={"capfilt.precision": "int8"}``. ``progress`` is
    called with a dictionary of counts after every chunk; True draws a bar on stderr.

    The first Ctrl-C stops after the current unit, a second one immediately; the same call continues. Raises CapfiltError in the words of
    the command.
    """
    (summary,) = _run("run", [source, dest], progress, options)
    return summary


def resume(dest: Any, *, progress: Progress | bool | None = None, **options: Any) -> Summary | list[Summary]:
    """Continues an unfinished pair table, whose job is on record: a summary for each shard if there are several."""
    return _one_or_all(_run("resume", [dest], progress, options))


def update(dest: Any, *, progress: Progress | bool | None = None, **options: Any) -> Summary | list[Summary]:
    """Adds what the source of a pair table has gained."""
    return _one_or_all(_run("update", [dest], progress, options))


def retry(dest: Any, *, progress: Progress | bool | None = None, **options: Any) -> Summary | list[Summary]:
    """Repeats the rows of a pair table whose image could not be obtained."""
    return _one_or_all(_run("retry", [dest], progress, options))


def select(table: Any, dest: Any, **options: Any) -> Summary:
    """Makes the pair table ``dest`` of a finished one with another choice of kept pairs, by its stored scores.

    ``options`` are those of ``capfilt select``: ``min_itm=0.7`` or ``keep_fraction=0.25``.
    """
    return Summary(_lib.select(["select", *_arguments([table, dest], options)]))


def report(table: Any, output: Any = None, **options: Any) -> str:
    """The page of ``capfilt report`` on a finished pair table, as HTML; also written to ``output`` if it is given."""
    page = _lib.report(["report", *_arguments([table], {**options, "output": "-"})])
    if output is not None:
        with open(output, "w", encoding="utf-8") as file:
            file.write(page)
    return page
