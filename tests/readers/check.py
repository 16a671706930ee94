"""What `capfilt run` writes, read back by others: pyarrow, DuckDB, Hugging Face's datasets, webdataset, deltalake.

usage: check.py CAPFILT, from the project's root; `make test-readers` installs the packages and runs it.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import duckdb
import pyarrow.dataset
import pyarrow.parquet
import webdataset
from datasets import load_dataset
from deltalake import DeltaTable, write_deltalake

ROWS = 200


def main(capfilt):
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)

        def run(*words):
            subprocess.run([capfilt, *map(str, words)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        run("sql", "--table", "web=tests/fixtures/web.parquet", "-c",
            f"COPY (SELECT * FROM web ORDER BY image_error(image) IS NULL, id LIMIT {ROWS}) TO '{place}/web.parquet'")
        models = ["--captioner", "tests/fixtures/models/captioner", "--filter", "tests/fixtures/models/matcher", "--unit-rows", 64]
        run("run", place / "web.parquet", place / "pairs", *models)
        run("run", place / "web.parquet", place / "shards", *models, "--format", "webdataset", "--image", "all", "--kept-only")

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
        run("run", place / "web.parquet", delta, *models, "--format", "delta")
        first = DeltaTable(delta)
        assert first.version() == 0 and first.to_pyarrow_table().num_rows == 2 * ROWS
        assert "capfilt-" in (delta / "_delta_log" / f"{0:020}.json").read_text() and "capfilt" in first.history(1)[0], first.history(1)
        run("run", place / "web.parquet", delta, *models, "--format", "delta", "--min-itm", "0.9", "--overwrite")
        both = [DeltaTable(delta, version=version).to_pyarrow_table(columns=["kept", "itm_score"]).to_pylist() for version in (0, 1)]
        for rows_then, least in zip(both, (0.5, 0.9)):
            assert sum(row["kept"] for row in rows_then) == sum((row["itm_score"] or 0) >= least for row in rows if row["error"] is None)
        # What deltalake writes and deletes is a source at each version.
        web = pyarrow.parquet.read_table(place / "web.parquet")
        write_deltalake(place / "crawl", web.slice(0, 50))
        write_deltalake(place / "crawl", web.slice(50, 30), mode="append")
        DeltaTable(place / "crawl").delete("id % 2 = 0")
        left = sum(row["id"] % 2 == 1 for row in web.slice(0, 80).to_pylist())
        recipe = place / "recipe.sql"
        recipe.write_text("SELECT * EXCLUDE (image, text), '' AS image_sha256, 'web' AS source, text, 1.0 AS itm_score, true AS kept, "
                          "CAST(NULL AS VARCHAR) AS error, image FROM web")
        for version, expected in ((0, 50), (1, 80), (2, left)):
            run("run", place / "crawl", place / f"of-{version}", "--source-version", version, "--recipe", recipe)
            assert pyarrow.dataset.dataset(place / f"of-{version}", format="parquet").count_rows() == expected, version
        print("deltalake: each version, and its own tables as a source")


if __name__ == "__main__":
    main(sys.argv[1])
