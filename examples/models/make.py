"""Builds the project's own small models from scratch: a captioner and a filter for emoji and for the small world.

usage: make.py [--out DIR] [--bin DIR]

Openly licensed drawings of emoji come from npm packages (emoji.mjs), the world from `capfilt-train world`. A MED is
pretrained on both; captioner and filter are finetuned from it separately. The demo's table is held out from training:
another artist's drawings of the emoji, and other pictures of the world. Every stage writes its file or folder
atomically, so an interrupted run resumes where it stopped. Needs Node.js with npm, Python's standard library and the
two commands.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "examples/reproduce"))

from reproduce import has_bfloat16  # noqa: E402 (the module is in a sibling folder)

PACKAGES = [
    "sharp@0.34.5", "unicode-emoji-json@0.9.0", "@iconify-json/emojione@1.2.3", "@iconify-json/fluent-emoji@1.2.7",
    "@iconify-json/fluent-emoji-flat@1.2.6", "@iconify-json/fxemoji@1.2.2", "@iconify-json/noto@1.2.9", "@iconify-json/noto-v1@1.2.5",
    "@iconify-json/openmoji@1.2.29", "@iconify-json/streamline-emojis@1.2.4", "@iconify-json/twemoji@1.2.5",
    "@lobehub/fluent-emoji-3d@1.1.0",
]

# Sizes of a MED slightly wider than the preset.
SIZES = [
    "model.image_size=64", "model.vision_width=128", "model.vision_mlp_width=512", "model.text_width=128",
    "model.text_mlp_width=512",
]


# Number of the world's pictures in the demo's table.
WORLD_ROWS = 480

# Minimum probability of a match in the demo, chosen on data of neither training nor the demo: on further pictures of
# the world 0.1 is best (balanced accuracy 0.946); on OpenMoji's line drawings, the lower the better.
MIN_ITM = 0.1


class Work:
    def __init__(self, args):
        self.args = args
        self.dir = args.out.resolve()
        self.dir.mkdir(parents=True, exist_ok=True)

    def run(self, *words, **more):
        words = [str(word) for word in words]
        print("$", *words, file=sys.stderr, flush=True)
        subprocess.run(words, check=True, **more)

    def capfilt(self, *words):
        self.run(self.args.bin / "capfilt", *words)

    def train(self, *words):
        self.run(self.args.bin / "capfilt-train", *words, "--set", "bfloat16=" + str(self.args.bfloat16).lower())

    def stage(self, name, work):
        """Runs `work(part)` unless its result exists, then moves `part` into place."""
        place, part = self.dir / name, self.dir / f"{name}.part"
        if not place.exists():
            shutil.rmtree(part, ignore_errors=True)
            work(part)
            os.replace(part, place)
        return place

    def emoji(self, part):
        part.mkdir()
        npm = self.dir / "npm"
        npm.mkdir(exist_ok=True)
        (npm / "package.json").write_text('{"private": true}\n')
        self.run("npm", "install", "--silent", "--no-package-lock", "--no-audit", "--no-fund", *PACKAGES, cwd=npm)
        self.run("node", HERE / "emoji.mjs", part, ROOT / "tests/fixtures/bad", cwd=npm)
        for name in ("train", "validation", "web"):
            self.capfilt(
                "sql", "-c", f"CREATE EXTERNAL TABLE t STORED AS JSON LOCATION '{part}/{name}.jsonl'",
                "-c", f"COPY (SELECT * EXCLUDE (image), decode(image, 'base64') AS image FROM t) TO '{part}/{name}.parquet'")

    def tokenizer(self, part):
        """Writes the world's tokenizer with the words of the emoji names appended to its vocabulary."""
        tokenizer = json.loads((self.dir / "world/tokenizer.json").read_text())
        vocabulary = tokenizer["model"]["vocab"]
        for word in json.loads((self.dir / "emoji/words.json").read_text()):
            vocabulary.setdefault(word, len(vocabulary))
        part.write_text(json.dumps(tokenizer, ensure_ascii=False, indent=1) + "\n")

    def settings(self, *settings):
        return [word for setting in settings for word in ("--set", setting)]

    def tables(self):
        """Settings of the training tables: half emoji, half pictures of the world.

        The latter are the world's human pairs and another world's web pictures with true texts, because the human texts
        name only part of what the world shows."""
        tables = [
            ("emoji/train.parquet", "", 2.0), ("world/human.parquet", "", 1.0), ("seen/web.parquet", "SELECT image, truth AS text FROM pairs", 1.0),
        ]
        inline = ", ".join(
            "{ " + f"path = {json.dumps(str(self.dir / path))}, query = {json.dumps(query)}, weight = {weight}" + " }"
            for path, query, weight in tables)
        return self.settings(f"data.tables=[{inline}]")

    def world(self, part, seed, **rows):
        counts = [word for name in ("human", "things", "web", "validation", "test") for word in (f"--{name}", rows.get(name, 0))]
        self.run(self.args.bin / "capfilt-train", "world", "--out", part, "--seed", seed, *counts)

    def make(self):
        args = self.args
        self.stage("emoji", self.emoji)
        self.stage("world", lambda part: self.world(part, 1, human=4000, web=4000, validation=500, test=500))
        self.stage("seen", lambda part: self.world(part, 2, web=8000))
        tokenizer = self.stage("tokenizer.json", self.tokenizer)
        common = ["--preset", "tiny", *self.tables(), *self.settings("data.flip=0.5", "data.crop=[0.7, 1.0]", "data.threads=1")]
        med, captioner, filter_ = (self.dir / name for name in ("med", "captioner", "filter"))
        self.train(
            "pretrain", *common, "--out", med,
            *self.settings(*SIZES, f"model.tokenizer={tokenizer}", f"train.steps={args.steps}"))
        finetune = [*common, *self.settings("export.kind=float16", "model.image_size=0", "threads=1")]
        with ThreadPoolExecutor(2) as pool:
            for done in [
                pool.submit(self.captioner, finetune, med, captioner),
                pool.submit(self.train, "finetune-filter", *finetune, "--start", med / "checkpoint", "--out", filter_, *self.settings(
                    f"train.steps={args.filter_steps}", "loss.hard_negatives=false")),
            ]:
                done.result()
        self.table(self.dir / "web.parquet")
        train = args.bin / "capfilt-train"
        self.run(train, "evaluate", filter_ / "checkpoint", "--filter", self.dir / "web.parquet", "--threshold", MIN_ITM, "--card")
        self.run(train, "evaluate", captioner / "checkpoint", "--captions", self.dir / "world/test.parquet", "--prompt", "a picture of ",
                 "--max-length", 32, "--card")
        if args.install:
            for name, run in (("captioner", captioner), ("filter", filter_)):
                shutil.rmtree(HERE / name, ignore_errors=True)
                shutil.copytree(run / "checkpoint", HERE / name)
                card = HERE / name / "README.md"
                card.write_text(card.read_text().replace(f"{self.dir}/", ""))
            shutil.copyfile(self.dir / "web.parquet", HERE.parent / "web.parquet")

    def captioner(self, finetune, med, out):
        """Finetunes the captioner in two stages.

        The prompt lets a one-word name stand alone: the recipes require five tokens, which would otherwise be filled
        up. The last stage has no label smoothing: with a small vocabulary, nucleus sampling would draw the unfitting
        words to which smoothing gives probability."""
        smoothed = self.dir / "captioner-smoothed"
        common = [*finetune, *self.settings("loss.prompt='a picture of '")]
        self.train(
            "finetune-captioner", *common, "--start", med / "checkpoint", "--out", smoothed, *self.settings(f"train.steps={self.args.captioner_steps}"))
        self.train(
            "finetune-captioner", *common, "--start", smoothed / "checkpoint", "--out", out, *self.settings(
                f"train.steps={self.args.sharpen_steps}", "train.lr=0.0003", "loss.label_smoothing=0"))

    def table(self, path):
        """Writes the demo's table: emoji by an artist held out from training, then pictures of the world's web.

        Near misses, which have one wrong word, are left out: models of this size cannot detect them (figures in
        docs/reproduction.md)."""
        emoji, world = self.dir / "emoji/web.parquet", self.dir / "world/web.parquet"
        self.capfilt("sql", "--table", f"emoji={emoji}", "--table", f"world={world}", "-c", f"""
            COPY (
                SELECT CAST(id AS BIGINT) AS id, url, image, text, text_is_true FROM emoji
                UNION ALL
                SELECT CAST((SELECT max(id) FROM emoji) + row_number() OVER (ORDER BY key) AS BIGINT), 'https://example.com/world/' || key || '.png', image,
                       text, text_is_true
                FROM (SELECT * FROM world WHERE kind <> 'near_miss' ORDER BY key LIMIT {WORLD_ROWS})
                ORDER BY id
            ) TO '{path}'""")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "default-model-out")
    parser.add_argument("--install", action="store_true", help="put models and table in the place of the project's")
    parser.add_argument("--bin", type=Path, default=ROOT / "target/debug", help="folder of capfilt and capfilt-train")
    parser.add_argument("--bfloat16", action=argparse.BooleanOptionalAction, default=has_bfloat16(), help="default: where the processor has it")
    parser.add_argument("--steps", type=int, default=4000, help="of pretraining")
    parser.add_argument("--captioner-steps", type=int, default=6000)
    parser.add_argument("--sharpen-steps", type=int, default=1000, help="of the captioner, without label smoothing, after those")
    parser.add_argument("--filter-steps", type=int, default=4000)
    args = parser.parse_args()
    args.bin = args.bin.resolve()
    try:
        Work(args).make()
    except subprocess.CalledProcessError as failed:
        sys.exit(f"failed with {failed.returncode}: {' '.join(failed.cmd)}")


if __name__ == "__main__":
    main()
