"""The Python of the guide, of the package's README and of the notebook runs as it stands."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def python_of(page):
    """The contents of a page's ```python blocks, joined."""
    lines, inside = [], False
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            inside = not inside and line == "```python"
        elif inside:
            lines.append(line)
    assert not inside and lines, page
    return "\n".join(lines) + "\n"


def run(python, page, folder):
    for name in ["examples", "tests"]:
        (folder / name).symlink_to(ROOT / name)
    program = folder / "page.py"
    program.write_text(python_of(ROOT / page), encoding="utf-8")
    done = subprocess.run([python, program], cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_guide_runs(tmp_path):
    assert "0." in run(sys.executable, "docs/python.md", tmp_path)


def test_the_readme_runs_in_an_empty_environment(tmp_path):
    wheels = os.environ.get("CAPFILT_WHEELS")
    if not wheels:
        pytest.fail("CAPFILT_WHEELS names no folder with a wheel: make test-python sets it")
    (wheel,) = Path(wheels).resolve().glob("capfilt-*.whl")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, f"{wheel}[cpu]"], check=True)
    work = tmp_path / "work"
    work.mkdir()
    assert "texts kept" in run(python, "python/README.md", work)
    command = [python.with_name("capfilt"), "--version"]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.startswith("capfilt ")
    # Nothing but the package and ONNX Runtime is there, and the errors say what to install.
    for module, extra in [("capfilt.polars", "capfilt[polars]"), ("capfilt; capfilt.session()", "capfilt[datafusion]")]:
        done = subprocess.run([python, "-c", f"import {module}"], capture_output=True, text=True)
        assert done.returncode == 1 and extra in done.stderr, done.stderr


def test_the_notebook_runs_from_top_to_bottom(tmp_path):
    import nbformat
    from nbclient import NotebookClient

    # Built by make test; the last step of the notebook trains.
    programs = Path(os.environ.get("CAPFILT_PROGRAMS", ROOT / "target" / "debug")).resolve()
    if not (programs / "capfilt-train").exists() and not shutil.which("capfilt-train"):
        pytest.fail("capfilt-train is not built: make build-training")
    notebook = nbformat.read(ROOT / "examples" / "capfilt.ipynb", as_version=4)
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(ROOT / "examples")}})
    client.execute(env=environment)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error"]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    tables = [output for output in outputs if "<table" in output.get("data", {}).get("text/html", "")]
    assert len(pictures) == 1 and len(tables) == 2
    assert "model.safetensors" in str(outputs[-1])
