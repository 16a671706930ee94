"""The Python package: what it gives is what SQL and the command give."""

import json
import multiprocessing
import os
import pickle
import shutil
import signal
import socket
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
    assert "only a path (x.jpg)" in model.image_error([{"bytes": None, "path": "x.jpg"}])[0]
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
    ]:
        with pytest.raises(capfilt.CapfiltError, match=words):
            wrong()
    with pytest.raises(TypeError, match="give a list"):
        model.caption(images[0])
    with pytest.raises(ValueError, match="images has 8 rows, and texts has 1"):
        model.itm_score(images, ["a"])
    assert pickle.loads(pickle.dumps(model)).caption(images).to_pylist() == model.caption(images).to_pylist()


def test_questions_are_answered_as_in_sql(tmp_path):
    import polars as pl
    import pyarrow.parquet as parquet

    import capfilt.polars  # noqa: F401

    answerer = FIXTURES / "models" / "answerer"
    out = tmp_path / "answers.parquet"
    sql = f"""SET capfilt.answerer = '{answerer}';
        COPY (SELECT image, vqa(image, 'what color is it?') AS answer, vqa_score(image, 'what color is it?', 'red') AS score
        FROM '{WEB}' WHERE id < 12 ORDER BY id) TO '{out}'"""
    subprocess.run([sys.executable, "-m", "capfilt", "sql", "-c", sql], check=True, stdout=subprocess.DEVNULL)
    wanted = parquet.read_table(out)
    answers, scores = wanted["answer"].to_pylist(), wanted["score"].to_pylist()
    model, questions = capfilt.Model(answerer=answerer), ["what color is it?"] * wanted.num_rows
    assert model.vqa(wanted["image"], questions).to_pylist() == answers and any(answers)
    assert model.vqa_score(wanted["image"], questions, ["red"] * len(questions)).to_pylist() == scores
    image, question = pl.col("image").capfilt, pl.lit("what color is it?")
    frame = pl.read_parquet(out).select(
        image.vqa(question, answerer=answerer), score=image.vqa_score(question, pl.lit("red"), answerer=answerer)
    )
    assert frame.to_series(0).to_list() == answers and frame["score"].to_list() == scores


def test_a_column_is_a_sequence(model, web):
    from collections.abc import Sequence

    import pandas
    import pyarrow as pa

    column = model.caption(web["image"][:9])
    values = column.to_pylist()
    assert isinstance(column, Sequence) and list(column) == values == [column[i] for i in range(len(column))]
    assert (column[2:8:3].to_pylist(), column[::-1].to_pylist(), column[20:].to_pylist()) == (values[2:8:3], values[::-1], [])
    assert (column.index(values[4], 1), column.count(values[4]), values[4] in column) == (values.index(values[4], 1), values.count(values[4]), True)
    with pytest.raises(ValueError):
        column.index("not there")
    with pytest.raises(IndexError):
        column[9]
    with pytest.raises(TypeError):
        column["a"]
    scores = model.itc_score(web["image"][:9], column)
    for each in [column, scores, model.embed_text(column), column[:0]]:
        assert pickle.loads(pickle.dumps(each)).to_pylist() == each.to_pylist()
    frame = pandas.DataFrame({"n": range(9)})
    frame["caption"] = column
    assert frame["caption"].tolist() == values
    # Arrow's consumers may ask for a type. No value is lost on the way.
    assert pa.array(column, type=pa.large_string()).to_pylist() == values
    assert pa.array(scores, type=pa.float64()).to_pylist() == scores.to_pylist()
    for each, other in [(column, pa.int64()), (scores, pa.int32()), (scores, pa.list_(pa.string()))]:
        with pytest.raises(ValueError, match="convert without a type"):
            pa.array(each, type=other)


def test_other_things_than_columns_are_refused_in_words(model, web):
    import pyarrow as pa

    images = web["image"][:3].to_pylist()
    assert model.caption(image for image in images).to_pylist() == model.caption(images).to_pylist()
    for wrong, words in [
        (web, "give one column of the table, of \"id\""),
        (["a.jpg"], "not their paths"),
        ([Path("a.jpg")], "not their paths"),
        ("a.jpg", "give a list"),
        ([1, 2], "not of <class 'int'>"),
        (5, "not iterable"),
    ]:
        with pytest.raises(TypeError, match=words):
            model.caption(wrong)
    with pytest.raises(capfilt.CapfiltError, match=r"caption: row 70: .* give on_error='null' to get NULL instead"):
        model.caption([images[0]] * 70 + [b"no image"] + images, on_error="fail")
    with pytest.raises(capfilt.CapfiltError, match="caption needs a captioner: give captioner='/path/to/checkpoint'"):
        capfilt.Model().caption(images)
    assert pa.array(model.caption(pa.nulls(3))).null_count == 3


def test_pictures_of_pillow(model):
    import io

    from PIL import Image

    file = (FIXTURES / "images" / "coffee.png").read_bytes()
    cut = Image.open(io.BytesIO(file[: len(file) // 2]))
    good = model.embed_image([file])[0]
    found = model.embed_image([file, cut, Image.open(io.BytesIO(file))])
    assert (found[0], found[2]) == (good, good)
    errors = model.image_error([file, Image.open(io.BytesIO(file[: len(file) // 2]))])
    assert found[1:2].to_pylist() == [None] and errors[0] is None and errors[1]
    # More than the limit of encoded images, if it were not compressed.
    large = Image.effect_mandelbrot((6000, 4000), (-2, -1, 1, 1), 10)
    assert model.image_error([large]).to_pylist() == [None]


def test_a_list_may_have_more_than_two_gibibytes(model):
    large = bytes(64 << 20)
    assert set(model.image_error([large] * 33)) == set(model.image_error([large]))


def test_warnings_are_records_of_logging(tmp_path):
    captioner = shutil.copytree(MODELS["captioner"], tmp_path / "captioner")
    config = json.loads((captioner / "generation_config.json").read_text())
    (captioner / "generation_config.json").write_text(json.dumps({**config, "no_repeat_ngram_size": 3}))
    program = f"""
import logging, capfilt
logging.basicConfig(format="%(name)s %(levelname)s %(message)s")
capfilt.Model(captioner={str(captioner)!r}).caption([open({str(FIXTURES / 'images' / 'coffee.png')!r}, 'rb').read()])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0 and "capfilt WARNING" in done.stderr and "no_repeat_ngram_size" in done.stderr, done.stderr


@pytest.mark.parametrize("work", [
    "capfilt.Model(captioner='hf:acme/captioner').caption([b'x'])",
    f"capfilt.run({str(WEB)!r}, 'pairs', captioner='hf:acme/captioner', filter='hf:acme/filter')",
])
def test_a_download_can_be_interrupted(tmp_path, work):
    """A hub that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as hub:
        program = f"""
import os, signal, threading, time, capfilt
ticks = []
threading.Thread(target=lambda: [(ticks.append(1), time.sleep(0.01)) for _ in range(10**6)], daemon=True).start()
threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    {work}
except KeyboardInterrupt:
    print("interrupted", len(ticks) > 20)
"""
        environment = {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{hub.getsockname()[1]}", "HF_HOME": str(tmp_path / "hf")}
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "interrupted True\n"), done.stderr


def test_rounds_run_the_command_of_the_package(tmp_path):
    rounds = ["rounds", "--print", WEB, tmp_path / "rounds", "--human", WEB, "--rounds", "1"]
    models = [f"--{name}={path}" for name, path in MODELS.items()]
    command = [sys.executable, "-m", "capfilt", *rounds, *models]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith(f"{sys.executable} -m capfilt run "), done.stderr + done.stdout


def test_types(tmp_path):
    """The package's annotations agree with themselves and with the native module."""
    folder = Path(capfilt.__file__).parents[1]
    # An installed package is found without.
    environment = os.environ if folder.name == "site-packages" else {**os.environ, "MYPYPATH": str(folder)}
    for check in [["mypy", "--strict", "-p", "capfilt"], ["mypy.stubtest", "capfilt._lib", "--ignore-disjoint-bases"]]:
        done = subprocess.run([sys.executable, "-m", *check], capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr


def test_without_onnx_runtime_the_error_says_what_to_install(tmp_path):
    # As if nothing of that name were installed.
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['onnxruntime'] = None\n")
    program = f"import capfilt; capfilt.Model(captioner={str(MODELS['captioner'])!r}).caption([open({str(FIXTURES / 'images' / 'coffee.png')!r}, 'rb').read()])"
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DYLIB_PATH"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "pip install 'capfilt[cpu]'" in done.stderr, done.stderr


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
        # A slip of the hand does not spoil the session.
        assert other.sql(first).to_pydict()["c"] == plain
        other.sql("SET datafusion.execution.batch_size = '32'")
        other.sql("SET capfilt.max_length = '4'")
        assert other.sql(first).to_pydict()["c"] == shorter
    with pytest.raises(capfilt.CapfiltError, match="top_p"):
        capfilt.session(top_p=7)
    bleu = "SELECT bleu1(c, 'a dog') AS b FROM (VALUES ('a dog'), ('a cat')) AS t(c)"
    assert 0.5 < ctx.sql(bleu).to_pydict()["b"][0] < 1


def test_a_session_keeps_its_settings():
    ctx = capfilt.session(max_length=7, **MODELS)
    capfilt.register(ctx)
    with pytest.raises(capfilt.CapfiltError, match="SET capfilt.NAME"):
        capfilt.register(ctx, max_length=20)


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
    images = pl.DataFrame({"image": [None] * 3, "text": ["a"] * 3})
    nulls = images.select(a=image.caption(captioner=models["captioner"]), b=image.itm_score(pl.col("text"), filter=models["filter"]))
    assert nulls["a"].to_list() == nulls["b"].to_list() == [None] * 3
    file = (FIXTURES / "images" / "coffee.png").read_bytes()
    structs = pl.DataFrame({"image": [{"bytes": file, "path": None}, {"bytes": None, "path": None}]})
    captions = structs.select(image.caption(captioner=models["captioner"])).to_series().to_list()
    assert captions[0] == capfilt.Model(**MODELS).caption([file])[0] and captions[1] is None
    with pytest.raises(pl.exceptions.PolarsError, match="itm_score: column image has 3 rows, and another has 2"):
        structs.select(image.itm_score(pl.col("image").len().cast(pl.String).append(pl.lit("x")).append(pl.lit("y")), filter=models["filter"]))
    with pytest.raises(TypeError):
        image.captions("3", captioner=models["captioner"])
    with pytest.raises(capfilt.CapfiltError, match="count"):
        image.caption(count=3)
    with pytest.raises(capfilt.CapfiltError, match="num_beams"):
        image.caption(num_beams=0)
    with pytest.raises(pl.exceptions.PolarsError, match="image must be"):
        pl.DataFrame({"n": [1]}).select(pl.col("n").capfilt.caption(captioner=models["captioner"]))


def test_a_job_gives_what_the_command_gives(tmp_path, capsys):
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
    with pytest.raises(capfilt.CapfiltError, match=r"num_beams is a setting: give set=\{'capfilt.num_beams': 3\}"):
        capfilt.run(WEB, tmp_path / "x", num_beams=3, **MODELS)
    capfilt.run(WEB, tmp_path / "bar", min_itm=0.4, progress=True, **MODELS)
    bar = capsys.readouterr().err
    assert f"[{'#' * 30}] {summary.rows:,} of {summary.rows:,} rows, {summary.kept:,} texts kept" in bar and bar.endswith("\n")
    with pytest.raises(TypeError, match="progress"):
        capfilt.run(WEB, tmp_path / "x", progress=5, **MODELS)
    fewer = capfilt.select(tmp_path / "pairs", tmp_path / "fewer", min_itm=0.6)
    assert 0 < fewer.kept < summary.kept
    page = capfilt.report(tmp_path / "pairs", tmp_path / "report.html")
    assert page.startswith("<!doctype html>") and (tmp_path / "report.html").read_text() == page
    with pytest.raises(capfilt.CapfiltError, match="there is no pair table"):
        capfilt.retry(tmp_path / "nothing")
    assert capfilt.retry(tmp_path / "pairs").pairs == summary.pairs
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

    # Also where the unit in hand is the last one.
    sent.clear()
    with pytest.raises(KeyboardInterrupt):
        capfilt.run(WEB, tmp_path / "whole", progress=interrupt, **MODELS)

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


@pytest.mark.parametrize("engine", ["in-memory", "streaming"])
def test_ctrl_c_ends_an_expression_of_polars(engine):
    program = f"""
import os, signal, threading, capfilt.polars, polars as pl
settings = dict(num_beams=20, min_length=60, max_length=64, memo_limit=0)
frame = pl.concat([pl.scan_parquet({str(WEB)!r})] * 100)
threading.Timer(2, os.kill, (os.getpid(), signal.SIGINT)).start()
frame.select(pl.col("image").capfilt.captions(20, captioner={str(MODELS["captioner"])!r}, **settings)).collect(engine={engine!r})
"""
    # To its end it would take hours.
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and ("query cancelled" in done.stderr or "KeyboardInterrupt" in done.stderr), done.stderr


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
