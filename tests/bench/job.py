"""Benchmarks the whole job: memory by number of rows, overhead over the engine alone, reading speed.

usage: job.py CAPFILT [--rows 10000 200000 5000000] [--pictures 10000 200000] [--peers PYTHON] [--base CAPTIONER FILTER]

PYTHON has pyarrow and webdataset (make setup-readers); CAPTIONER and FILTER are folders of large checkpoints.
Everything runs sequentially on this machine; ratios compare figures of the same run.
"""

import argparse
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

# A job without the models' work. The image bytes need not be valid images.
PLAIN = """SELECT * EXCLUDE (image, text), encode(sha256(image), 'hex') AS image_sha256, 'web' AS source, text, 1.0 AS itm_score,
    true AS kept, CAST(NULL AS VARCHAR) AS error, image FROM web"""
BYTES = """SELECT value AS id, concat('text ', value) AS text,
    decode(repeat(encode(sha256(CAST(value AS VARCHAR)), 'hex'), 4), 'hex') AS image FROM range(0, {rows})"""

# The fixtures' pictures, repeated with distinct texts; distinct bytes after each image's end make it a distinct file.
PICTURES = """SELECT value AS id, concat(text, ' ', value) AS text,
    decode(concat(encode(image, 'hex'), encode(sha256(CAST(value AS VARCHAR)), 'hex')), 'hex') AS image
    FROM range(0, {rows}) JOIN (SELECT row_number() OVER (ORDER BY id) - 1 AS k, count(*) OVER () AS n, text, image FROM web
    WHERE image_error(image) IS NULL AND text IS NOT NULL) ON value % n = k"""

PYARROW = """
import sys, pyarrow.parquet as parquet
rows = total = 0
for batch in parquet.ParquetFile(sys.argv[1]).iter_batches(64):
    rows += batch.num_rows
    total += sum(len(image.as_py()) for image in batch.column("image"))
print(rows, total)
"""
WEBDATASET = """
import sys, webdataset
rows = total = 0
for sample in webdataset.WebDataset(sys.argv[1], shardshuffle=False):
    rows += 1
    total += len(sample["png"])
print(rows, total)
"""


def run(*words):
    """Runs a command; returns wall seconds, CPU seconds, and peak resident memory in MB."""
    begun = time.perf_counter()
    child = subprocess.Popen([str(word) for word in words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said = child.stderr.read().decode()
    _, status, used = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"{' '.join(map(str, words))} failed:\n{said}")
    return time.perf_counter() - begun, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def memory(capfilt, place, rows, kind, source, words):
    """Peak memory by number of rows, which must not affect it. Row groups are small, as a reader holds a whole one."""
    print(f"{kind}:\nrows       most MB   wall s    CPU ms a row   rows/s")
    for count in rows:
        table, pairs = place / f"{count}.parquet", place / f"pairs-{count}"
        run(capfilt, "sql", "--table", "web=tests/fixtures/web.parquet", "-c",
            f"COPY ({source.format(rows=count)}) TO '{table}' OPTIONS ('format.max_row_group_size' '4096')")
        wall, cpu, most = run(capfilt, "run", table, pairs, *words)
        print(f"{count:<10} {most:7.0f} {wall:8.1f} {1000 * cpu / count:14.3f} {count / wall:10.0f}", flush=True)
        subprocess.run(["rm", "-rf", table, pairs], check=True)


def overhead(capfilt, place, name, models, rows):
    """Compares the job with its SQL as a single query on the same rows, which writes one file."""
    source = place / f"{name}.parquet"
    run(capfilt, "sql", "--table", "web=tests/fixtures/web.parquet", "-c",
        f"COPY (SELECT * FROM web WHERE image_error(image) IS NULL AND text IS NOT NULL ORDER BY id LIMIT {rows}) TO '{source}'")
    words = ["--captioner", models[0], "--filter", models[1]]
    sql = subprocess.run([capfilt, "recipe", *words], check=True, capture_output=True, text=True).stdout
    query = place / f"{name}.sql"
    query.write_text(f"COPY ({sql}) TO '{place}/{name}-sql.parquet'")
    best = {}
    for _ in range(3):
        for kind, command in (
            ("sql", ["sql", "--table", f"web={source}", *words, "--param", "min_itm=0.5", "--param", "prompt=''", "-f", query]),
            ("job", ["run", source, place / f"{name}-job", *words, "--overwrite"]),
        ):
            wall, cpu, _ = run(capfilt, *command)
            best[kind] = min(best.get(kind, (wall, cpu)), (wall, cpu))
    (wall_sql, cpu_sql), (wall_job, cpu_job) = best["sql"], best["job"]
    pairs = 2 * rows
    print(f"{name}: {rows} rows; SQL alone {wall_sql:.2f} s, the job {wall_job:.2f} s ({100 * (wall_job / wall_sql - 1):+.1f} %); "
          f"CPU {1000 * (cpu_job - cpu_sql) / pairs:+.3f} ms a pair", flush=True)


def reading(capfilt, place, peers, rows=20_000, size=10_000):
    table, shard = place / "read.parquet", place / "read.tar"
    with tarfile.open(shard, "w") as out:
        for row in range(rows):
            for extension, content in (("png", os.urandom(size)), ("txt", f"text {row}".encode())):
                member = tarfile.TarInfo(f"{row:09}.{extension}")
                member.size = len(content)
                out.addfile(member, io.BytesIO(content))
    run(capfilt, "sql", "-c", f"COPY (SELECT key, text, image FROM '{shard}') TO '{table}'")
    for name, path, peer, program in (("Parquet", table, "pyarrow", PYARROW), ("WebDataset", shard, "webdataset", WEBDATASET)):
        total = path.stat().st_size / 1e6
        ours = min(run(capfilt, "run", path, place / "read-pairs", "--recipe", place / "plain.sql", "--write-images", "none", "--overwrite")[0]
                   for _ in range(3))
        line = f"{name}: {rows} rows, {total:.0f} MB; a job that reads, hashes and writes no image {ours:.2f} s ({rows / ours:.0f} rows/s)"
        if peers:
            theirs = min(run(peers, "-c", program, path)[0] for _ in range(3))
            line += f"; {peer} reads it in {theirs:.2f} s ({theirs / ours:.2f} x)"
        print(line, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("capfilt", type=lambda path: Path(path).resolve())
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 200_000])
    parser.add_argument("--pictures", type=int, nargs="*", default=[1_000, 4_000], help="rows that the small models caption and score")
    parser.add_argument("--peers", help="a Python with pyarrow and webdataset")
    parser.add_argument("--base", nargs=2, metavar=("CAPTIONER", "FILTER"), help="large checkpoints")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "plain.sql").write_text(PLAIN)
        small = [f"tests/fixtures/models/{name}" for name in ("captioner", "matcher")]
        memory(args.capfilt, place, args.rows, "Distinct keys and bytes, a recipe without models", BYTES, ["--recipe", place / "plain.sql"])
        memory(args.capfilt, place, args.pictures, "Distinct pictures, small captioner and filter", PICTURES,
               ["--captioner", small[0], "--filter", small[1]])
        overhead(args.capfilt, place, "small", small, 1000)
        if args.base:
            overhead(args.capfilt, place, "base", args.base, 16)
        reading(args.capfilt, place, args.peers)


if __name__ == "__main__":
    main()
