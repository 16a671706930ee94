"""What `capfilt run` writes, read back by others: pyarrow, DuckDB, Hugging Face's datasets, webdataset, deltalake.

usage: check.py CAPFILT, from the project's root; `make test-readers` installs the packages and runs it.
"""

import base64
import datetime
import decimal
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import duckdb
import numpy
import pyarrow
import pyarrow.dataset
import pyarrow.parquet
import pyarrow.parquet.encryption
import webdataset
from datasets import load_dataset
from deltalake import DeltaTable, write_deltalake

ROWS = 200
RECIPE = ("SELECT * EXCLUDE (image, text), '' AS image_sha256, 'web' AS source, text, 1.0 AS itm_score, true AS kept, "
          "CAST(NULL AS VARCHAR) AS error, image FROM web")


def typed():
    """A column of each type that pyarrow writes to Parquet, with a NULL and values at the types' ends."""
    at = datetime.datetime(2020, 1, 2, 3, 4, 5)
    time = datetime.time(10, 11, 12)
    types = {
        pyarrow.bool_(): [True, False], pyarrow.float16(): [numpy.float16(1.5), numpy.float16(-2)],
        pyarrow.float32(): [1.5, float("-inf")], pyarrow.float64(): [1e300, -0.0],
        pyarrow.decimal128(10, 2): [decimal.Decimal("1.25"), decimal.Decimal("-3.00")],
        pyarrow.decimal256(50, 3): [decimal.Decimal("1.250"), decimal.Decimal(10**40)],
        pyarrow.date32(): [at.date(), datetime.date(1, 1, 1)], pyarrow.date64(): [at.date(), datetime.date(1969, 1, 1)],
        pyarrow.binary(): [b"\xff", b""], pyarrow.large_binary(): [b"\xff", b""], pyarrow.binary(4): [b"abcd", b"efgh"],
        pyarrow.binary_view(): [b"x", b"longer than twelve bytes"],
        pyarrow.string(): ["é", ""], pyarrow.large_string(): ["é", ""], pyarrow.string_view(): ["é", "longer than twelve bytes"],
        pyarrow.list_(pyarrow.string()): [["a", None], []], pyarrow.large_list(pyarrow.int8()): [[1], []],
        pyarrow.list_(pyarrow.float32(), 2): [[1, 2], [3, 4]], pyarrow.map_(pyarrow.string(), pyarrow.int64()): [[("k", 1)], []],
        pyarrow.struct([("a", pyarrow.int32()), ("b", pyarrow.list_(pyarrow.date64()))]): [{"a": 1, "b": [at.date()]}, {"a": None, "b": None}],
        pyarrow.dictionary(pyarrow.int8(), pyarrow.string()): ["a", "b"], pyarrow.dictionary(pyarrow.int8(), pyarrow.int64()): [5, 6],
        pyarrow.dictionary(pyarrow.int8(), pyarrow.binary(4)): [b"abcd", b"efgh"],
        pyarrow.list_(pyarrow.dictionary(pyarrow.int16(), pyarrow.string())): [["a"], ["b", "a"]],
        pyarrow.null(): [None, None], pyarrow.time32("s"): [time, datetime.time(0)], pyarrow.time32("ms"): [time, datetime.time(0)],
        pyarrow.time64("us"): [time, datetime.time(0)], pyarrow.time64("ns"): [time, datetime.time(0)],
    }
    for bits in (8, 16, 32, 64):
        types[getattr(pyarrow, f"int{bits}")()] = [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1]
        types[getattr(pyarrow, f"uint{bits}")()] = [0, 2**bits - 1]
    for unit in ("s", "ms", "us", "ns"):
        types[pyarrow.timestamp(unit)] = types[pyarrow.timestamp(unit, "Europe/Berlin")] = [at, at]
        types[pyarrow.duration(unit)] = [datetime.timedelta(seconds=5), datetime.timedelta(0)]
    columns = {f"{number:02} {of}": pyarrow.array([first, None, last], of) for number, (of, (first, last)) in enumerate(types.items())}
    decimals = pyarrow.array([decimal.Decimal("1.25"), decimal.Decimal("2.00")], pyarrow.decimal128(10, 2))
    columns["a dictionary of decimals"] = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0, None, 1], pyarrow.int8()), decimals)
    return columns


def check_types(place, run):
    """Each type comes out as it went in; a dictionary as its values."""
    columns, image = typed(), Path("tests/fixtures/images/one_pixel.png").read_bytes()
    source = pyarrow.table({"image": [image] * 3, "text": ["a", "b", "c"], **columns})
    pyarrow.parquet.write_table(source, place / "types.parquet")
    run("run", place / "types.parquet", place / "typed", "--recipe", place / "recipe.sql")
    table = pyarrow.dataset.dataset(place / "typed", format="parquet").to_table()
    # Compare with pyarrow's own reading of the source, since Parquet has no timestamps in seconds.
    read = pyarrow.parquet.read_table(place / "types.parquet")
    for name in columns:
        assert table[name].to_pylist() == read[name].to_pylist(), (name, table[name], read[name])
        was, now = read.schema.field(name).type, table.schema.field(name).type
        # Dictionaries and views come back as plain values, and the display time zone of timestamps in seconds is lost.
        if not any(word in name for word in ("dictionary", "view", "timestamp[s, tz")):
            assert now == was, (name, was, now)
    old = pyarrow.table({"image": [image], "text": ["a"], "seen": pyarrow.array([datetime.datetime(2020, 1, 2)], pyarrow.timestamp("ns"))})
    pyarrow.parquet.write_table(old, place / "old.parquet", use_deprecated_int96_timestamps=True)
    run("run", place / "old.parquet", place / "of-old", "--recipe", place / "recipe.sql")
    assert pyarrow.dataset.dataset(place / "of-old", format="parquet").to_table()["seen"].to_pylist() == old["seen"].to_pylist()


class Keys(pyarrow.parquet.encryption.KmsClient):
    """Keys that are kept nowhere."""

    def __init__(self, _):
        super().__init__()

    def wrap_key(self, key, _):
        return base64.b64encode(key)


def check_encrypted(place, capfilt):
    """Files that are encrypted as a whole, or but for the footer, are named as that."""
    table = pyarrow.table({"image": [b"x"], "text": ["a"]})
    for plain in (True, False):
        config = pyarrow.parquet.encryption.EncryptionConfiguration(footer_key="f", column_keys={"c": ["text"]}, plaintext_footer=plain)
        factory = pyarrow.parquet.encryption.CryptoFactory(Keys)
        properties = factory.file_encryption_properties(pyarrow.parquet.encryption.KmsConnectionConfig(), config)
        with pyarrow.parquet.ParquetWriter(place / "secret.parquet", table.schema, encryption_properties=properties) as writer:
            writer.write_table(table)
        told = subprocess.run([capfilt, "run", place / "secret.parquet", place / "secret"], capture_output=True, text=True)
        assert told.returncode == 1 and "it is encrypted" in told.stderr, told.stderr


def check_categories(place, run):
    """The keys of 100 categories are of 8 bits, and the table has 300 of them."""
    (place / "categories").mkdir()
    image = Path("tests/fixtures/images/one_pixel.png").read_bytes()
    for file in range(3):
        names = pyarrow.array([f"site{file}_{row % 100}.org" for row in range(300)]).dictionary_encode()
        names = pyarrow.DictionaryArray.from_arrays(names.indices.cast(pyarrow.int8()), names.dictionary, ordered=True)
        nested = pyarrow.ListArray.from_arrays(list(range(301)), names)
        parts = pyarrow.StructArray.from_arrays([names], ["of"])
        columns = {"image": [image] * 300, "text": ["a"] * 300, "domain": names, "all": nested, "part": parts}
        pyarrow.parquet.write_table(pyarrow.table(columns), place / "categories" / f"{file}.parquet")
    for form in ("parquet", "delta"):
        run("run", place / "categories", place / form, "--recipe", place / "recipe.sql", "--table-format", form)
    for table in (pyarrow.dataset.dataset(place / "parquet", format="parquet").to_table(), DeltaTable(place / "delta").to_pyarrow_table()):
        rows = table.to_pylist()
        assert len({row["domain"] for row in rows}) == len({row["all"][0] for row in rows}) == len({row["part"]["of"] for row in rows}) == 300
    loaded = load_dataset("parquet", data_files=f"{place}/parquet/*.parquet", split="train", cache_dir=place / "cache")
    assert len(set(loaded["domain"])) == 300


def main(capfilt):
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)

        def run(*words):
            subprocess.run([capfilt, *map(str, words)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        run("sql", "--table", "web=tests/fixtures/web.parquet", "-c",
            f"COPY (SELECT * FROM web ORDER BY image_error(image) IS NULL, id LIMIT {ROWS}) TO '{place}/web.parquet'")
        models = ["--captioner", "tests/fixtures/models/captioner", "--filter", "tests/fixtures/models/matcher", "--checkpoint-rows", 64]
        run("run", place / "web.parquet", place / "pairs", *models)
        run("run", place / "web.parquet", place / "shards", *models, "--table-format", "webdataset", "--write-images", "all", "--write-pairs", "kept")

        table = pyarrow.dataset.dataset(place / "pairs", format="parquet").to_table()
        assert table.num_rows == 2 * ROWS, table.num_rows
        rows = table.to_pylist()
        kept = [row for row in rows if row["kept"]]
        assert kept and all(hashlib.sha256(row["image"]).hexdigest() == row["image_sha256"] for row in kept)
        assert all(row["provenance"]["file"] == "web.parquet" for row in rows)
        assert sorted(row["provenance"]["row"] for row in rows if row["source"] == "web") == list(range(ROWS))
        metadata = pyarrow.parquet.read_metadata(next((place / "pairs").glob("*.parquet"))).metadata
        assert json.loads(metadata[b"capfilt.job"])["engine"].startswith("capfilt ")
        print("pyarrow: the pair table, its provenance and its job")

        counted = duckdb.sql(f"SELECT source, count(*), count(*) FILTER (WHERE kept) FROM '{place}/pairs/*.parquet' GROUP BY 1 ORDER BY 1")
        expected = [(source, ROWS, sum(row["source"] == source for row in kept)) for source in ("synthetic", "web")]
        assert counted.fetchall() == expected, expected
        print("DuckDB: the same counts")

        loaded = load_dataset("parquet", data_files=f"{place}/pairs/*.parquet", split="train", cache_dir=place / "cache")
        assert loaded.num_rows == 2 * ROWS and loaded[0]["text"] == rows[0]["text"]
        print("datasets: the pair table")

        shards = [str(shard) for shard in sorted((place / "shards").glob("*.tar"))]
        samples = list(webdataset.WebDataset(shards, shardshuffle=False))
        images = [next(sample[name] for name in ("png", "jpg", "webp", "gif", "bmp", "tif") if name in sample) for sample in samples]
        texts = [sample["txt"].decode() for sample in samples]
        assert texts == [row["text"] for row in kept] and images == [row["image"] for row in kept]
        assert [json.loads(sample["json"])["image_sha256"] for sample in samples] == [row["image_sha256"] for row in kept]
        assert len({sample["__key__"] for sample in samples}) == len(samples)
        print("webdataset: the kept pairs, in their order")

        delta = place / "delta"
        run("run", place / "web.parquet", delta, *models, "--table-format", "delta")
        first = DeltaTable(delta)
        assert first.version() == 0 and first.to_pyarrow_table().num_rows == 2 * ROWS
        assert "capfilt-" in (delta / "_delta_log" / f"{0:020}.json").read_text() and "capfilt" in first.history(1)[0], first.history(1)
        run("run", place / "web.parquet", delta, *models, "--table-format", "delta", "--min-itm", "0.9", "--overwrite")
        both = [DeltaTable(delta, version=version).to_pyarrow_table(columns=["kept", "itm_score"]).to_pylist() for version in (0, 1)]
        for rows_then, least in zip(both, (0.5, 0.9)):
            assert sum(row["kept"] for row in rows_then) == sum((row["itm_score"] or 0) >= least for row in rows if row["error"] is None)
        # A table written and modified by deltalake is readable as a source at each version.
        web = pyarrow.parquet.read_table(place / "web.parquet")
        write_deltalake(place / "crawl", web.slice(0, 50))
        write_deltalake(place / "crawl", web.slice(50, 30), mode="append")
        DeltaTable(place / "crawl").delete("id % 2 = 0")
        left = sum(row["id"] % 2 == 1 for row in web.slice(0, 80).to_pylist())
        recipe = place / "recipe.sql"
        recipe.write_text(RECIPE)
        for version, expected in ((0, 50), (1, 80), (2, left)):
            run("run", place / f"crawl@{version}", place / f"of-{version}", "--recipe", recipe)
            assert pyarrow.dataset.dataset(place / f"of-{version}", format="parquet").count_rows() == expected, version
        print("deltalake: each version, and its own tables as a source")

        check_types(place, run)
        check_encrypted(place, capfilt)
        print("pyarrow: each type as it was in the source, and encrypted files are refused as that")
        (place / "of-categories").mkdir()
        (place / "of-categories" / "recipe.sql").write_text(RECIPE)
        check_categories(place / "of-categories", run)
        print("pyarrow, datasets and deltalake: categories of more files than their keys suffice for")


if __name__ == "__main__":
    main(sys.argv[1])
