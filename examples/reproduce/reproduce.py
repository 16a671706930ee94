"""The paper's Table 1 on a small world whose truth is known: does CapFilt help?

For each seed: a world of its own, a MED pretrained on human and web pairs, captioner and filter finetuned from it on the human
pairs, the web table CapFilt-ed in four ways, a new MED pretrained from the same initial weights on each for the same number of
steps, all evaluated on pictures that no training saw. Each stage leaves a folder or file that is whole or not there, so a run
that was killed goes on where it was.

Needs nothing but Python's standard library and the two commands.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Row of Table 1: recipe that makes the pair table of web pairs; None is the web table as it is.
VARIANTS = {
    "none": None,
    "captioner": "sql/caption_only.sql",
    "filter": "sql/filter_only.sql",
    "both": "sql/capfilt.sql",
}

# ViT-B, 14 million images (paper, Table 1): retrieval finetuned on COCO (TR@1, IR@1), zero-shot on Flickr30k (TR@1, IR@1),
# captions zero-shot on NoCaps (CIDEr).
PAPER = {
    "none": (78.4, 60.7, 93.9, 82.1, 102.2),
    "filter": (79.1, 61.5, 94.1, 82.8, 102.7),
    "captioner": (79.7, 62.0, 94.4, 83.6, 103.4),
    "both": (80.6, 63.1, 94.8, 84.9, 105.1),
}

# Name, and where it lies in evaluate's JSON.
SCORES = {
    "TR@1, ITC": ("retrieval", "itc_text", "r1"),
    "IR@1, ITC": ("retrieval", "itc_image", "r1"),
    "TR@1, ITM": ("retrieval", "itm_text", "r1"),
    "IR@1, ITM": ("retrieval", "itm_image", "r1"),
    "CIDEr-D": ("captions", "cider_d"),
    "BLEU-4": ("captions", "bleu", 3),
}


def say(text):
    print(text, file=sys.stderr, flush=True)


class Run:
    """Stages of one seed."""

    def __init__(self, args, seed):
        self.args = args
        self.seed = seed
        self.dir = args.out / f"seed-{seed}"
        self.dir.mkdir(parents=True, exist_ok=True)

    def command(self, name, *words):
        """Runs one of the two commands; its progress goes to a log, its output is returned."""
        log = self.dir / "log.txt"
        words = [str(word) for word in words]
        with open(log, "a") as errors:
            print("$", name, *words, file=errors, flush=True)
            done = subprocess.run([self.args.bin / name, *words], stdout=subprocess.PIPE, stderr=errors, text=True)
        if done.returncode != 0:
            sys.exit(f"{name} {' '.join(words)}\nfailed with {done.returncode}; the end of {log}:\n" + "".join(open(log).readlines()[-15:]))
        return done.stdout

    def stage(self, name, work):
        """Does `work(part)` unless it was done, where `part` is moved to its place at the end."""
        place, part = self.dir / name, self.dir / f"{name}.part"
        if not place.exists():
            began = time.monotonic()
            if part.is_dir():
                shutil.rmtree(part)
            work(part)
            os.replace(part, place)
            self.note(name, time.monotonic() - began)
        return place

    def note(self, name, seconds):
        say(f"seed {self.seed}: {name}, {seconds:.0f} s")
        with open(self.dir / "seconds.jsonl", "a") as file:
            print(json.dumps({"stage": name, "seconds": round(seconds, 1)}), file=file)

    def train(self, command, name, tables, steps, *more):
        """A training run resumes by itself."""
        place = self.dir / name
        if not (place / "done.json").exists():
            began = time.monotonic()
            data = [word for table in tables for word in ("--data", table)]
            self.command(
                "capfilt-train", command, "--preset", "tiny", "--out", place, *data,
                "--set", f"seed={self.seed}", "--set", f"train.steps={steps}",
                "--set", f"train.checkpoint_steps={self.args.checkpoint_steps}", *more,
            )
            self.note(name, time.monotonic() - began)
        return place / "checkpoint"

    def pretrain(self, variant, tables):
        tokenizer = f"model.tokenizer={self.world}/tokenizer.json"
        return self.train("pretrain", f"med-{variant}", tables, self.args.steps, "--set", tokenizer)

    def all(self):
        args = self.args
        self.world = self.stage("world", lambda part: self.command(
            "capfilt-train", "world", "--out", part, "--seed", self.seed,
            "--human", args.human, "--web", args.web, "--validation", args.test, "--test", args.test,
        ))
        human, web = self.world / "human.parquet", self.world / "web.parquet"
        first = self.pretrain("none", [human, web])
        captioner = self.train("finetune-captioner", "captioner", [human], args.captioner_steps, "--start", first)
        filter_ = self.train("finetune-filter", "filter", [human], args.filter_steps, "--start", first)
        models = {"none": first}
        for variant, recipe in VARIANTS.items():
            if recipe is not None:
                pairs = self.stage(f"pairs-{variant}", lambda part: self.command(
                    "capfilt", "run", web, part, "--captioner", captioner, "--filter", filter_, "--recipe", ROOT / recipe,
                    "--set", f"capfilt.seed={self.seed}", "--set", "capfilt.max_length=32",
                ))
                models[variant] = self.pretrain(variant, [human, pairs])
        scores = {name: self.evaluate(f"med-{name}", model) for name, model in models.items()}
        table = self.world / f"{args.split}.parquet"
        makers = {
            "captioner": self.stage("captioner.json", lambda part: part.write_text(self.command(
                "capfilt-train", "evaluate", captioner, "--captions", table, "--max-length", 32, "--images", args.test))),
            "filter": self.stage("filter.json", lambda part: part.write_text(self.command(
                "capfilt-train", "evaluate", filter_, "--filter", web, "--images", 2000))),
        }
        return {
            "scores": scores,
            "makers": {name: json.loads(path.read_text()) for name, path in makers.items()},
            "kept": self.kept(),
        }

    def evaluate(self, name, model):
        table = self.world / f"{self.args.split}.parquet"
        path = self.stage(f"{name}-{self.args.split}.json", lambda part: part.write_text(self.command(
            "capfilt-train", "evaluate", model, "--retrieval", table, "--captions", table,
            "--rerank", 16, "--max-length", 32, "--captions-out", self.dir / f"{name}-captions.jsonl",
        )))
        return json.loads(path.read_text())

    def kept(self):
        """What the filter kept: of web texts by their kind, of synthetic ones in all."""
        query = """SELECT CASE source WHEN 'web' THEN kind ELSE 'synthetic' END AS texts, count(*) AS all_texts,
                   count(*) FILTER (WHERE kept) AS kept FROM pairs GROUP BY 1 ORDER BY 1"""
        path = self.stage("kept.json", lambda part: part.write_text(self.command(
            "capfilt", "sql", "--table", f"pairs={self.dir}/pairs-both", "--format", "json", "-c", query)))
        return json.loads(path.read_text())


def dig(scores, path):
    for key in path:
        scores = scores[key]
    return 100 * scores


def mean(values):
    return sum(values) / len(values)


def deviation(values):
    """Of a sample; 0 for one value."""
    m = mean(values)
    return math.sqrt(sum((v - m) ** 2 for v in values) / (len(values) - 1)) if len(values) > 1 else 0.0


def page(args, seeds, results):
    """docs/reproduction.md, whatever the results are."""
    lines = [
        "# Does CapFilt help? The paper's Table 1 on a small world",
        "",
        "Made by `make reproduce` (examples/reproduce/reproduce.py); do not edit.",
        "",
        f"Seeds {', '.join(map(str, seeds))}, each a world and initial weights of its own: {args.human} human pictures with five true "
        f"captions each, {args.web} web pictures with the text beside them, {args.test} pictures of the {args.split} set. Every MED is "
        f"pretrained for {args.steps} steps from the same initial weights; captioner and filter are finetuned for "
        f"{args.captioner_steps} and {args.filter_steps} steps from the MED of the first row, on the human pairs. Mean over the seeds, and "
        "the deviation of one seed.",
        "",
        "| CapFilt | " + " | ".join(SCORES) + " |",
        "|---" * (len(SCORES) + 1) + "|",
    ]
    per = {v: {n: [dig(r["scores"][v], p) for r in results] for n, p in SCORES.items()} for v in VARIANTS}
    for variant in ["none", "filter", "captioner", "both"]:
        cells = [f"{mean(per[variant][n]):.1f} ± {deviation(per[variant][n]):.1f}" for n in SCORES]
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "The paper's, for direction (ViT-B, 14 million images; it evaluates on photographs):",
        "",
        "| CapFilt | COCO TR@1 | COCO IR@1 | Flickr30k TR@1 | Flickr30k IR@1 | NoCaps CIDEr |",
        "|---|---|---|---|---|---|",
    ]
    for variant, figures in PAPER.items():
        lines.append(f"| {variant} | " + " | ".join(map(str, figures)) + " |")
    lines += [
        "",
        "## Differences, seed by seed",
        "",
        "Pairs of models of one seed. A difference counts as seen if it has the same sign in every seed and its mean is over two "
        "standard errors.",
        "",
        "| difference | score | " + " | ".join(f"seed {s}" for s in seeds) + " | mean | standard error | seen |",
        "|---" * (len(seeds) + 5) + "|",
    ]
    for a, b in [("filter", "none"), ("captioner", "none"), ("both", "none"), ("both", "filter"), ("both", "captioner")]:
        for name in SCORES:
            differences = [x - y for x, y in zip(per[a][name], per[b][name])]
            m, error = mean(differences), deviation(differences) / math.sqrt(len(differences))
            same = all(d > 0 for d in differences) or all(d < 0 for d in differences)
            seen = "one seed" if len(seeds) < 2 else "yes" if same and abs(m) > 2 * error else "no"
            cells = " | ".join(f"{d:+.1f}" for d in differences)
            lines.append(f"| {a} - {b} | {name} | {cells} | {m:+.1f} | {error:.1f} | {seen} |")
    lines += [
        "",
        "## Captioner, filter, and what they kept",
        "",
        "| | " + " | ".join(f"seed {s}" for s in seeds) + " |",
        "|---" * (len(seeds) + 1) + "|",
    ]

    def row(name, values):
        lines.append(f"| {name} | " + " | ".join(values) + " |")

    row(f"captioner: CIDEr-D on the {args.split} set", [f"{100 * r['makers']['captioner']['captions']['cider_d']:.1f}" for r in results])
    for key, name in [("balanced_accuracy", "balanced accuracy"), ("average_precision", "average precision")]:
        row(f"filter: {name} on 2,000 web texts, %", [f"{100 * r['makers']['filter']['filter'][key]:.1f}" for r in results])
    for kind in [entry["texts"] for entry in results[0]["kept"]]:
        cells = []
        for r in results:
            entry = next(e for e in r["kept"] if e["texts"] == kind)
            cells.append(f"{100 * entry['kept'] / entry['all_texts']:.1f}")
        row(f"kept of {kind.replace('_', ' ')}, %", cells)
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "reproduce-out")
    parser.add_argument("--bin", type=Path, default=ROOT / "target/debug", help="folder of capfilt and capfilt-train")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--human", type=int, default=3000)
    parser.add_argument("--web", type=int, default=12000)
    parser.add_argument("--test", type=int, default=2000)
    parser.add_argument("--split", choices=["validation", "test"], default="test", help="settings are chosen on validation")
    parser.add_argument("--steps", type=int, default=1000, help="of pretraining")
    parser.add_argument("--captioner-steps", type=int, default=1500)
    parser.add_argument("--filter-steps", type=int, default=500)
    parser.add_argument("--checkpoint-steps", type=int, default=200)
    parser.add_argument("--page", type=Path, help="file to write; the page is printed as well")
    args = parser.parse_args()
    args.out, args.bin = args.out.resolve(), args.bin.resolve()
    results = [Run(args, seed).all() for seed in args.seeds]
    text = page(args, args.seeds, results)
    if args.page:
        args.page.write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
