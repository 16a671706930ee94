"""The Python package: what it gives is what SQL and the command give."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import capfilt

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "tests" / "fixtures"
MODELS = {"captioner": FIXTURES / "models" / "captioner", "filter": FIXTURES / "models" / "matcher"}
WEB = FIXTURES / "web.parquet"


@pytest.fixture(scope="module")
def web():
    """Ids, images and texts of the fixtures' table."""
    import pyarrow.parquet as parquet

    return parquet.read_table(WEB).sort_by("id")


@pytest.fixture(scope="module")
def model():
    return capfilt.Model(**MODELS)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Captions and scores by the command's SQL."""
    import pyarrow.parquet as parquet

    out = tmp_path_factory.mktemp("sql") / "expected.parquet"
    sql = f"""COPY (SELECT id, caption(image) AS caption, itm_score(image, text) AS itm, itc_score(image, text) AS itc,
        embed_image(image) AS image_embedding, embed_text(text) AS text_embedding, image_error(image) AS error
        FROM '{WEB}' ORDER BY id) TO '{out}'"""
    models = [f"--{name}={path}" for name, path in MODELS.items()]
    subprocess.run([sys.executable, "-m", "capfilt", "sql", *models, "-c", sql], check=True, stdout=subprocess.DEVNULL)
    return parquet.read_table(out)


def test_columns_of_pyarrow_give_what_sql_gives(model, web, expected):
    import pyarrow as pa

    images, texts = web["image"], web["text"]
    for name, column, found in [
        ("caption", "caption", model.caption(images)),
        ("itm", "itm", model.itm_score(images, texts)),
        ("itc", "itc", model.itc_score(images, texts)),
        ("embed_image", "image_embedding", model.embed_image(images)),
        ("embed_text", "text_embedding", model.embed_text(texts)),
        ("image_error", "error", model.image_error(images)),
    ]:
        wanted = expected[column].combine_chunks()
        assert len(found) == web.num_rows
        assert pa.array(found).to_pylist() == wanted.to_pylist() == found.to_pylist(), name


def test_lists_chunks_and_pictures_are_columns_too(model, web):
    import pyarrow as pa
    from PIL import Image

    images = [image for image in web["image"].to_pylist()[:20]]
    whole = model.caption(images)
    assert model.caption(pa.chunked_array([images[:3], images[3:11], images[11:]])).to_pylist() == list(whole)
    assert model.caption([bytearray(image) if image else None for image in images]).to_pylist() == list(whole)
    assert (whole[-1], whole[0]) == (list(whole)[19], list(whole)[0])
    path = FIXTURES / "images" / "astronaut_cmyk.jpg"
    picture = Image.open(FIXTURES / "images" / "coffee.png")
    from_file = model.embed_image([(FIXTURES / "images" / "coffee.png").read_bytes()])
    assert model.embed_image([picture]).to_pylist() == from_file.to_pylist()
    undecoded = {"bytes": (FIXTURES / "images" / "coffee.png").read_bytes(), "path": "coffee.png"}
    assert model.embed_image([undecoded, None, picture]).to_pylist() == [from_file[0], None, from_file[0]]
    assert model.embed_image([Image.open(path)])[0] is not None
    assert len(model.caption([])) == 0
    assert model.caption([None, b"no image"]).to_pylist() == [None, None]
    assert "image" in model.image_error([None, b"no image"])[1]


def test_settings_are_those_of_sql(model, web):
    images = web["image"].to_pylist()[:8]
    beams = model.captions(images, 2, num_beams=3)
    assert all(beam is None or len(beam) == 2 for beam in beams) and any(beams)
    prompted = model.caption(images, prompt="a picture of ", max_length=8)
    assert prompted.to_pylist() != model.caption(images).to_pylist()
    for wrong, words in [
        (lambda: capfilt.Model(num_beams=0), "capfilt.num_beams must be a whole number"),
        (lambda: capfilt.Model(captionner="x"), "Did you mean captioner?"),
        (lambda: model.caption(images, top_p=2), "capfilt.top_p must be"),
        (lambda: capfilt.Model().caption(images), "caption needs a captioner"),
        (lambda: capfilt.Model(captioner="/no/such").caption(images), "/no/such"),
        (lambda: model.caption(["a text"]), "image must be"),
    ]:
        with pytest.raises(capfilt.CapfiltError, match=words):
            wrong()
    with pytest.raises(TypeError, match="give a list"):
        model.caption(images[0])
    with pytest.raises(ValueError, match="columns of 8 and 1 rows"):
        model.itm_score(images, ["a"])
    assert pickle.loads(pickle.dumps(model)).caption(images).to_pylist() == model.caption(images).to_pylist()


def test_a_datafusion_session_has_the_functions(web, expected):
    import pyarrow.compute

    ctx = capfilt.session(**MODELS)
    ctx.register_parquet("web", str(WEB))
    got = ctx.sql("SELECT id, caption(image) AS c, itm_score(image, text) AS s FROM web ORDER BY id").to_pydict()
    assert got["c"] == expected["caption"].to_pylist()
    assert got["s"] == expected["itm"].to_pylist()
    first = "SELECT caption(image) AS c FROM web WHERE id < 20 ORDER BY id"
    plain = ctx.sql(first).to_pydict()["c"]
    ctx.sql("SET capfilt.max_length = '4'")
    images = web["image"].filter(pyarrow.compute.less(web["id"], 20))
    shorter = capfilt.Model(**MODELS).caption(images, max_length=4).to_pylist()
    assert ctx.sql(first).to_pydict()["c"] == shorter != plain
    for name, value, words in [("num_beams", "0", "capfilt.num_beams must be"), ("captionner", "x", "Did you mean captioner")]:
        other = capfilt.session(**MODELS)
        other.register_parquet("web", str(WEB))
        with pytest.raises(Exception, match=words):
            other.sql(f"SET capfilt.{name} = '{value}'")
            other.sql(first).to_pydict()
    with pytest.raises(capfilt.CapfiltError, match="top_p"):
        capfilt.session(top_p=7)
    bleu = "SELECT bleu1(c, 'a dog') AS b FROM (VALUES ('a dog'), ('a cat')) AS t(c)"
    assert 0.5 < ctx.sql(bleu).to_pydict()["b"][0] < 1


def test_registering_in_a_session_of_ones_own(expected):
    from datafusion import SessionContext

    ctx = capfilt.register(SessionContext(), max_length=7, **MODELS)
    ctx.register_parquet("web", str(WEB))
    got = ctx.sql("SELECT caption(image) AS c FROM web ORDER BY id").to_pydict()["c"]
    assert len(got) == expected.num_rows and got != expected["caption"].to_pylist()


def test_polars_expressions_give_what_sql_gives(expected):
    import polars as pl

    import capfilt.polars  # noqa: F401

    image, models = pl.col("image").capfilt, {name: str(path) for name, path in MODELS.items()}
    frame = pl.scan_parquet(WEB).sort("id").select(
        "id",
        caption=image.caption(captioner=models["captioner"]),
        itm=image.itm_score(pl.col("text"), filter=models["filter"]),
        vector=image.embed_image(filter=models["filter"]),
        error=image.image_error(),
        info=image.image_info(),
        two=image.captions(2, captioner=models["captioner"], num_beams=3),
    )
    assert frame.collect_schema()["caption"] == pl.String
    for engine in ["in-memory", "streaming"]:
        got = frame.collect(engine=engine)
        assert got["caption"].to_list() == expected["caption"].to_pylist()
        assert got["itm"].to_list() == expected["itm"].to_pylist()
        assert got["vector"].to_list() == expected["image_embedding"].to_pylist()
        assert got["error"].to_list() == expected["error"].to_pylist()
    assert got["info"].struct.field("width").drop_nulls().len() > 10
    with pytest.raises(capfilt.CapfiltError, match="num_beams"):
        image.caption(num_beams=0)
    with pytest.raises(pl.exceptions.PolarsError, match="image must be"):
        pl.DataFrame({"n": [1]}).select(pl.col("n").capfilt.caption(captioner=models["captioner"]))


def test_a_job_gives_what_the_command_gives(tmp_path):
    import pyarrow.parquet as parquet

    seen = []
    summary = capfilt.run(WEB, tmp_path / "pairs", min_itm=0.4, progress=seen.append, checkpoint_rows=64, **MODELS)
    models = [f"--{name}={path}" for name, path in MODELS.items()]
    command = [sys.executable, "-m", "capfilt", "run", WEB, tmp_path / "command", "--min-itm=0.4", "--checkpoint-rows=64", *models]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    ours, theirs = [parquet.read_table(tmp_path / name).drop(["provenance"]) for name in ("pairs", "command")]
    assert ours.equals(theirs)
    assert summary.pairs == ours.num_rows and summary.kept == sum(ours["kept"].to_pylist()) > 0
    assert seen[-1]["rows"] == seen[-1]["total_rows"] == summary.rows and len(seen) > 1
    assert "rows" in str(summary) and "<table>" in summary._repr_html_() and f"{summary.rows:,}" in summary._repr_html_()
    with pytest.raises(capfilt.CapfiltError, match="is finished"):
        capfilt.resume(tmp_path / "pairs")
    with pytest.raises(capfilt.CapfiltError, match="--min-itm"):
        capfilt.run(WEB, tmp_path / "x", min_itm=7, **MODELS)
    with pytest.raises(capfilt.CapfiltError, match="unexpected argument '--min-it'"):
        capfilt.run(WEB, tmp_path / "x", min_it=0.7, **MODELS)
    fewer = capfilt.select(tmp_path / "pairs", tmp_path / "fewer", min_itm=0.6)
    assert 0 < fewer.kept < summary.kept
    page = capfilt.report(tmp_path / "pairs", tmp_path / "report.html")
    assert page.startswith("<!doctype html>") and (tmp_path / "report.html").read_text() == page
    again = capfilt.update(tmp_path / "pairs")
    assert (again.pairs, again.resumed_rows) == (summary.pairs, summary.rows)
    assert any(row["captions"] > 0 for row in capfilt.stats())


def test_ctrl_c_stops_after_the_unit_and_the_job_resumes(tmp_path):
    def interrupt(done):
        if done["rows"] and not sent:
            sent.append(done["rows"])
            os.kill(os.getpid(), signal.SIGINT)

    sent = []
    with pytest.raises(KeyboardInterrupt):
        capfilt.run(WEB, tmp_path / "pairs", progress=interrupt, checkpoint_rows=64, **MODELS)
    summary = capfilt.resume(tmp_path / "pairs")
    assert 0 < summary.resumed_rows < summary.rows

    def broken(done):
        raise ZeroDivisionError("of the callback")

    with pytest.raises(ZeroDivisionError, match="of the callback"):
        capfilt.run(WEB, tmp_path / "other", progress=broken, **MODELS)


def test_ctrl_c_ends_a_call_of_a_model(web):
    slow = capfilt.Model(**MODELS, num_beams=20, min_length=60, max_length=64, memo_limit=0)
    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        while time.monotonic() - start < 60:
            slow.captions(web["image"], 20, seed=int(1000 * time.monotonic()))
    assert time.monotonic() - start < 20
    assert slow.caption(web["image"].slice(0, 2).to_pylist(), num_beams=1, min_length=1)[0] is not None


def _captions(images):
    return capfilt.Model(**MODELS).caption(images).to_pylist()


def test_a_forked_process_has_an_engine_of_its_own(model, web):
    images = web["image"].to_pylist()[:6]
    expected = model.caption(images).to_pylist()
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(_captions, (images,)).get(timeout=60) == expected


def test_the_interpreter_runs_while_a_model_works(model, web):
    ticks = []
    done = threading.Event()

    def tick():
        while not done.wait(0.01):
            ticks.append(1)

    thread = threading.Thread(target=tick)
    thread.start()
    model.captions(web["image"], 3, seed=99)
    done.set()
    thread.join()
    assert len(ticks) > 5


def test_the_package_is_light_to_import():
    code = "import sys, capfilt; print([m for m in ('datafusion', 'polars', 'pyarrow', 'numpy', 'onnxruntime', 'PIL') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout == "[]\n"


@pytest.mark.parametrize("work", [
    "threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start(); ctx.sql('SELECT captions(image, 20) FROM web').collect()",
    "threading.Thread(target=lambda: [model.captions(images, 20, seed=i) for i in range(1000)], daemon=True).start(); time.sleep(1)",
])
def test_a_process_may_end_while_a_model_runs(work):
    program = f"""
import os, signal, threading, time, capfilt, pyarrow.parquet
models = dict(captioner={str(ROOT / "examples/models/captioner")!r}, num_beams=20, max_length=64, memo_limit=0)
model, ctx = capfilt.Model(**models), capfilt.session(**models)
ctx.register_parquet("web", {str(ROOT / "examples/web.parquet")!r})
images = pyarrow.parquet.read_table({str(ROOT / "examples/web.parquet")!r})["image"]
try:
    {work}
except KeyboardInterrupt:
    pass
print("at its end")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "at its end\n"), done.stderr
    assert "panicked" not in done.stderr
