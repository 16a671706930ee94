"""Reproduces the paper's Table 1 on a small world with known ground truth: does CapFilt help?

BLIP starts from BERT and a ViT pretrained on ImageNet. Here one MED first learns to name single things, and every other
MED starts from its weights. Each seed has its own world. A MED is pretrained on human and web pairs, captioner and
filter are finetuned from it on the human pairs, and the web table is bootstrapped in four ways. On each result a new
MED is pretrained from the same initial weights for the same number of steps; all are evaluated on held-out pictures.
The ceiling is a MED trained with a true text for every web picture. --more adds the paper's Table 2 (beam search
against nucleus sampling) and three of its open directions: several synthetic texts per picture, two rounds, and the
mean of two filters. Each stage writes its folder or file atomically, so an interrupted run resumes where it stopped.

Needs only Python's standard library and the two commands.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Row of Table 1 -> recipe that makes the pair table from web pairs; None uses the web table unchanged.
VARIANTS = {
    "none": None,
    "captioner": "sql/caption_only.sql",
    "filter": "sql/filter_only.sql",
    "both": "sql/capfilt.sql",
}

# Variant -> recipe that replaces sql/capfilt.sql, and its parameters. The baseline is "both": one text by nucleus
# sampling, one filter, one round.
CANDIDATES = "examples/reproduce/candidates.sql"
MORE = {
    "beam search": (CANDIDATES, ["strategy='beam'", "candidates=1"]),
    "two texts": (CANDIDATES, ["strategy='nucleus'", "candidates=2"]),
    "five texts": (CANDIDATES, ["strategy='nucleus'", "candidates=5"]),
    "two filters": ("examples/reproduce/two_filters.sql", []),
    "two rounds": ("sql/capfilt.sql", []),
}

# ViT-B, 14 million images (paper, Table 1): retrieval finetuned on COCO (TR@1, IR@1), zero-shot on Flickr30k (TR@1, IR@1),
# captions zero-shot on NoCaps (CIDEr).
PAPER = {
    "none": (78.4, 60.7, 93.9, 82.1, 102.2),
    "filter": (79.1, 61.5, 94.1, 82.8, 102.7),
    "captioner": (79.7, 62.0, 94.4, 83.6, 103.4),
    "both": (80.6, 63.1, 94.8, 84.9, 105.1),
}

# Share of human pairs among the pretraining samples.
HUMAN_SHARE = 0.4

# Name of a score -> its path in the JSON of `evaluate`.
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


def has_bfloat16():
    """Whether Linux reports native bfloat16 products; without them float32 is as fast, and bfloat16 may be slower."""
    try:
        return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(Path("/proc/cpuinfo").read_text().split()))
    except OSError:
        return False


def at_once(*works):
    """Runs independent functions in parallel and returns their results."""
    with ThreadPoolExecutor(len(works)) as pool:
        return [future.result() for future in [pool.submit(work) for work in works]]


class Failed(Exception):
    """A command failed, or a run cannot be continued."""


# Options that determine the results of a folder, besides the seed.
DECIDES = ["human", "web", "test", "things", "things_steps", "steps", "captioner_steps", "filter_steps", "bfloat16"]


def settle(args):
    """Records these options in the folder, and refuses a folder begun with other values."""
    path = args.out / "options.json"
    now = {name: getattr(args, name) for name in DECIDES}
    if path.exists():
        then = json.loads(path.read_text())
        for name in DECIDES:
            if then.get(name) != now[name]:
                raise Failed(f"{args.out} was begun with --{name.replace('_', '-')} {then.get(name)}, not {now[name]}: give another --out")
    elif args.out.exists() and any(args.out.iterdir()):
        raise Failed(f"{args.out} is not empty and does not say what it was made with: give another --out, or remove it")
    else:
        args.out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(now | {"commit": commit()}))


class Run:
    """Stages of one seed.

    Small models train faster as two processes of one thread each than one after the other with two threads, so each
    command has one thread, and as many commands run in parallel as there are cores."""

    def __init__(self, args, seed, slots, begin=None):
        self.args = args
        self.seed = seed
        self.slots = slots
        self.begin = begin
        self.dir = args.out / f"seed-{seed}"
        self.dir.mkdir(parents=True, exist_ok=True)

    def command(self, stage, name, *words):
        """Runs one of the two commands and returns its output; progress goes to the stage's log."""
        log = self.dir / f"{stage}.log"
        words = [str(word) for word in words]
        with self.slots:
            began = time.monotonic()
            with open(log, "a") as errors:
                print("$", name, *words, file=errors, flush=True)
                done = subprocess.run([self.args.bin / name, *words], stdout=subprocess.PIPE, stderr=errors, text=True)
            seconds = time.monotonic() - began
        if done.returncode != 0:
            end = "".join(open(log).readlines()[-15:])
            raise Failed(f"{name} {' '.join(words)}\nfailed with {done.returncode}; the end of {log}:\n{end}")
        say(f"seed {self.seed}: {stage}, {seconds:.0f} s")
        with open(self.dir / "seconds.jsonl", "a") as file:
            print(json.dumps({"stage": stage, "seconds": round(seconds, 1)}), file=file)
        return done.stdout

    def stage(self, name, work):
        """Runs `work(part)` unless its result exists, then moves `part` into place."""
        place, part = self.dir / name, self.dir / f"{name}.part"
        if not place.exists():
            if part.is_dir():
                shutil.rmtree(part)
            work(part)
            os.replace(part, place)
        return place

    def json(self, name, *command):
        """Parsed JSON output of a command, which runs only once."""
        path = self.stage(f"{name}.json", lambda part: part.write_text(self.command(name, *command)))
        return json.loads(path.read_text())

    def train(self, command, name, tables, steps, *more):
        """Runs a training unless it is done; an interrupted one resumes by itself."""
        place = self.dir / name
        if not (place / "done.json").exists():
            data = [word for table in tables for word in ("--data", table)]
            self.command(
                name, "capfilt-train", command, "--preset", "tiny", "--out", place, *data,
                "--set", f"seed={self.seed}", "--set", f"train.steps={steps}", "--set", "threads=1", "--set", "data.threads=1",
                "--set", f"bfloat16={str(self.args.bfloat16).lower()}",
                "--set", f"train.checkpoint_steps={self.args.checkpoint_steps}", *more,
            )
        return place / "checkpoint"

    def things(self):
        """Trains the checkpoint from which all others start: LM on pictures of a single thing with its name."""
        args = self.args
        world = self.stage("world", lambda part: self.command(
            "world", "capfilt-train", "world", "--out", part, "--seed", self.seed, "--things", args.things,
            *(word for table in ("human", "web", "validation", "test") for word in (f"--{table}", 1))))
        only_lm = [f"model.tokenizer={world}/tokenizer.json", "loss.itc=false", "loss.itm=false", f"threads={args.jobs}"]
        return self.train(
            "pretrain", "med", [world / "things.parquet"], args.things_steps, *(word for one in only_lm for word in ("--set", one)))

    def pretrain(self, variant, web, query=None):
        """Pretrains a MED from the common initial weights on human pairs and on web pairs, or a query over these."""
        tables = [{"path": str(self.human), "weight": HUMAN_SHARE}, {"path": str(web), "weight": 1 - HUMAN_SHARE}]
        if query:
            tables[1]["query"] = query
        inline = ", ".join("{ " + ", ".join(f"{k} = {json.dumps(v)}" for k, v in table.items()) + " }" for table in tables)
        return self.train(
            "pretrain", f"med-{variant}", [], self.args.steps, "--start", self.begin, "--set", f"data.tables=[{inline}]")

    def captioner(self, name, med):
        return self.train("finetune-captioner", name, [self.human], self.args.captioner_steps, "--start", med)

    def filter(self, name, med, *more):
        return self.train("finetune-filter", name, [self.human], self.args.filter_steps, "--start", med, *more)

    def capfilt(self, variant, recipe, captioner, filter_, *more):
        """Bootstraps the web table with a recipe and pretrains a MED on the result."""
        name = variant.replace(" ", "-")
        return self.pretrain(name, self.pairs(name, recipe, captioner, filter_, *more))

    def pairs(self, name, recipe, captioner, filter_, *more):
        return self.stage(f"pairs-{name}", lambda part: self.command(
            f"pairs-{name}", "capfilt", "run", self.web, part, "--captioner", captioner, "--filter", filter_, "--recipe", ROOT / recipe,
            "--set", f"capfilt.seed={self.seed}", "--set", "capfilt.max_length=32", "--set", "capfilt.threads=1", *more,
        ))

    def bootstrap(self):
        """Trains the first row's MED, then captioner and filter from it."""
        args = self.args
        self.world = self.stage("world", lambda part: self.command(
            "world", "capfilt-train", "world", "--out", part, "--seed", self.seed, "--things", 1,
            "--human", args.human, "--web", args.web, "--validation", args.test, "--test", args.test,
        ))
        self.human, self.web = self.world / "human.parquet", self.world / "web.parquet"
        first = self.pretrain("none", self.web)
        return first, *at_once(lambda: self.captioner("captioner", first), lambda: self.filter("filter", first))

    def all(self):
        args = self.args
        first, captioner, filter_ = self.bootstrap()
        truth = "SELECT image, truth AS text FROM pairs"
        arms = {"none": lambda: first, "ceiling": lambda: self.pretrain("ceiling", self.web, truth)}
        for variant, recipe in VARIANTS.items():
            if recipe is not None:
                arms[variant] = lambda variant=variant, recipe=recipe: self.capfilt(variant, recipe, captioner, filter_)
        scores = at_once(*(lambda name=name, model=model: self.evaluate(f"med-{name}", model()) for name, model in arms.items()))
        table = self.world / f"{args.split}.parquet"
        return {
            "scores": dict(zip(arms, scores)),
            "captioner": self.json(
                "captioner-scores", "capfilt-train", "evaluate", captioner, "--captions", table, "--max-length", 32, "--images", args.test,
                "--threads", 1),
            "filter": self.json(
                "filter-scores", "capfilt-train", "evaluate", filter_, "--filter", self.web, "--retrieval", table, "--rerank", 16,
                "--images", args.test, "--threads", 1),
            "itm": {name: json.loads((self.dir / f"med-{name}/done.json").read_text())["itm"] for name in arms},
            "kept": self.kept("both"),
        }

    def more(self):
        """Scores and numbers of kept texts for each variant of the second table."""
        return dict(zip(MORE, at_once(*(lambda variant=variant: self.another(variant) for variant in MORE))))

    def another(self, variant):
        recipe, parameters = MORE[variant]
        more = [word for parameter in parameters for word in ("--param", parameter)]
        captioner, filter_ = (self.dir / name / "checkpoint" for name in ("captioner", "filter"))
        if variant == "two filters":
            second = self.filter("filter-2", self.dir / "med-none/checkpoint", "--set", f"seed={self.seed + 1000}")
            more = ["--param", f"second='{second}'"]
        elif variant == "two rounds":
            med = self.dir / "med-both/checkpoint"
            captioner, filter_ = at_once(lambda: self.captioner("captioner-round-2", med), lambda: self.filter("filter-round-2", med))
        model = self.capfilt(variant, recipe, captioner, filter_, *more)
        name = variant.replace(" ", "-")
        return {"scores": self.evaluate(f"med-{name}", model), "kept": self.kept(name)}

    def evaluate(self, name, model):
        table = self.world / f"{self.args.split}.parquet"
        return self.json(
            f"{name}-{self.args.split}", "capfilt-train", "evaluate", model, "--retrieval", table, "--captions", table,
            "--rerank", 16, "--max-length", 32, "--threads", 1, "--captions-out", self.dir / f"{name}-captions.jsonl",
        )

    def kept(self, variant):
        """Numbers of texts that the filter kept: web texts by kind, synthetic texts in total."""
        query = """SELECT CASE source WHEN 'web' THEN kind ELSE 'synthetic' END AS texts, count(*) AS all_texts,
                   count(*) FILTER (WHERE kept) AS kept FROM pairs GROUP BY 1 ORDER BY 1"""
        return self.json(
            f"kept-{variant}", "capfilt", "sql", "--table", f"pairs={self.dir}/pairs-{variant}", "--format", "json", "-c", query)


def dig(scores, path):
    for key in path:
        scores = scores[key]
    return 100 * scores


def mean(values):
    return sum(values) / len(values)


def deviation(values):
    """Sample standard deviation; 0 for a single value."""
    m = mean(values)
    return math.sqrt(sum((v - m) ** 2 for v in values) / (len(values) - 1)) if len(values) > 1 else 0.0


def table(header, rows):
    """Lines of a Markdown table, followed by a blank line."""
    return ["| " + " | ".join(map(str, row)) + " |" for row in [header, ["---"] * len(header), *rows]] + [""]


def cells(values):
    """Mean and deviation of each score over the seeds."""
    return [f"{mean(v):.1f} ± {deviation(v):.1f}" for v in values]


def differences(seeds, per, pairs):
    """Rows that compare pairs of models seed by seed."""
    rows = []
    for a, b in pairs:
        for name in SCORES:
            apart = [x - y for x, y in zip(per[a][name], per[b][name])]
            m, error = mean(apart), deviation(apart) / math.sqrt(len(apart))
            same = all(d > 0 for d in apart) or all(d < 0 for d in apart)
            seen = "one seed" if len(seeds) < 2 else "yes" if same and abs(m) > 2 * error else "no"
            rows.append([f"{a} - {b}", name, *(f"{d:+.1f}" for d in apart), f"{m:+.1f}", f"{error:.1f}", seen])
    return table(["difference", "score", *(f"seed {s}" for s in seeds), "mean", "standard error", "seen"], rows)


def share(kept, texts):
    entry = next(e for e in kept if e["texts"] == texts)
    return 100 * entry["kept"] / entry["all_texts"]


def hours(args):
    """Total wall time of the finished commands, in hours."""
    logs = [args.out / f"seed-{seed}/seconds.jsonl" for seed in (0, *args.seeds)]
    lines = [line for log in logs for line in log.read_text().splitlines()]
    return sum(json.loads(line)["seconds"] for line in lines) / 3600


def commit():
    """Short hash of the checked-out commit; None if unknown."""
    found = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return found.stdout.strip() if found.returncode == 0 else None


def made_by(args, target):
    """Note naming the command that made a page and the commit of its run."""
    begun = json.loads((args.out / "options.json").read_text()).get("commit")
    return f"Made by `make {target}` (examples/reproduce/reproduce.py)" + (f" of a run begun at commit {begun}" if begun else "") + "; do not edit."


def made_with(args):
    """Description of how the models of a page were trained."""
    return (
        f"Seeds {', '.join(map(str, args.seeds))}, each a world of its own: {args.human} human pictures with five true "
        f"captions each, {args.web} web pictures with the text beside them, {args.test} pictures of the {args.split} set. Every MED is "
        f"pretrained in {'bfloat16' if args.bfloat16 else 'float32'} for {args.steps} steps of 64 pairs, {100 * HUMAN_SHARE:.0f} % of them "
        "human, with the preset tiny (no momentum encoder, no queue, no dropout), from the same initial weights: those of a MED that "
        f"learned for {args.things_steps} steps to name single things, as BLIP begins with ImageNet's ViT and with BERT; captioner and "
        f"filter are finetuned for {args.captioner_steps} and {args.filter_steps} "
        "steps from the MED of the first row, on the human pairs."
    )


SCORES_ARE = "Zero-shot scores in percent (CIDEr-D: times 100): mean over the seeds, and the deviation of one seed."


def page(args, results, hours):
    """Renders docs/reproduction.md, whatever the results are."""
    seeds = args.seeds
    per = {v: {n: [dig(r["scores"][v], p) for r in results] for n, p in SCORES.items()} for v in [*PAPER, "ceiling"]}
    lines = [
        "# Does CapFilt help? The paper's Table 1 on a small world",
        "",
        f"{made_by(args, 'reproduce')} [reproduction-more.md](reproduction-more.md) has the paper's Table 2.",
        "",
        f"{made_with(args)} The ceiling had a true text for every web picture. {SCORES_ARE}",
        "",
        *table(["CapFilt", *SCORES], [[v, *cells(per[v].values())] for v in per]),
        "The paper's, for direction (ViT-B, 14 million images; it evaluates on photographs):",
        "",
        *table(
            ["CapFilt", "COCO TR@1", "COCO IR@1", "Flickr30k TR@1", "Flickr30k IR@1", "NoCaps CIDEr"],
            [[v, *figures] for v, figures in PAPER.items()],
        ),
        "## Differences, seed by seed",
        "",
        "Pairs of models of one seed. A difference counts as seen if it has the same sign in every seed and its mean is over two "
        "standard errors.",
        "",
        *differences(seeds, per, [
            ("filter", "none"), ("captioner", "none"), ("both", "none"), ("both", "filter"), ("both", "captioner"), ("ceiling", "both"),
        ]),
        "## Where ITM does not follow",
        "",
        "Re-ranking asks ITM about the candidates that ITC found best, and in BLIP it raises recall. Here it can only do so where ITM has "
        "learned to tell a picture's text from one that is nearly right, which it is slow to: one that has learned nothing has a loss of "
        "0.637 (a third of its pairs are true). Its loss at the end of each pretraining, and what re-ranking makes of the filter's own "
        "candidates after its finetuning:",
        "",
        *table(["", *(f"seed {s}" for s in seeds)], [
            *([f"{v}: ITM loss", *(f"{r['itm'][v]:.3f}" for r in results)] for v in results[0]["itm"]),
            *([f"filter: {name}, %", *(f"{dig(r['filter'], SCORES[name]):.1f}" for r in results)]
              for name in SCORES if SCORES[name][0] == "retrieval"),
        ]),
        "## Captioner, filter, and what they kept",
        "",
    ]
    rows = [[f"captioner: CIDEr-D on the {args.split} set", *(f"{100 * r['captioner']['captions']['cider_d']:.1f}" for r in results)]]
    of = f"of {args.test} web texts, which its MED was pretrained on as if they were true"
    for key, name in [("balanced_accuracy", "balanced accuracy"), ("average_precision", "average precision")]:
        rows.append([f"filter: {name} {of}, %", *(f"{100 * r['filter']['filter'][key]:.1f}" for r in results)])
    for texts in [entry["texts"] for entry in results[0]["kept"]]:
        rows.append([f"kept of {texts.replace('_', ' ')}, %", *(f"{share(r['kept'], texts):.1f}" for r in results)])
    lines += table(["", *(f"seed {s}" for s in seeds)], rows)
    lines += [f"The commands took {hours:.1f} hours by the wall's clock, added up; {args.jobs} ran at a time.", ""]
    return "\n".join(lines).rstrip() + "\n"


def more_page(args, results, more):
    """Renders docs/reproduction-more.md."""
    all_rows = [{"both": {"scores": r["scores"]["both"], "kept": r["kept"]}} | m for r, m in zip(results, more)]
    names = ["both", *MORE]
    per = {v: {n: [dig(run[v]["scores"], p) for run in all_rows] for n, p in SCORES.items()} for v in names}
    noise = {v: [100 - share(run[v]["kept"], "synthetic") for run in all_rows] for v in names}
    lines = [
        "# Beam against nucleus, several texts, two filters, two rounds",
        "",
        made_by(args, "reproduce-more"),
        "",
        f"{made_with(args)} \"both\" has one synthetic text by nucleus sampling, one filter, one round, and each other row differs from it "
        "in one of these. The noise ratio is the share of synthetic texts that the filter drops (paper, Table 2: nucleus 25 %, beam 19 %, "
        f"and nucleus trains the better model). Five texts, two rounds and several filters are the paper's open directions. {SCORES_ARE}",
        "",
        *table(["", "noise ratio, %", *SCORES], [[v, *cells([noise[v]]), *cells(per[v].values())] for v in names]),
        *differences(args.seeds, per, [(v, "both") for v in MORE]),
    ]
    return "\n".join(lines).rstrip() + "\n"


def options(about):
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--out", type=Path, default=ROOT / "reproduce-out")
    parser.add_argument("--bin", type=Path, default=ROOT / "target/debug", help="folder of capfilt and capfilt-train")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--human", type=int, default=3000)
    parser.add_argument("--web", type=int, default=10000)
    parser.add_argument("--test", type=int, default=2000)
    parser.add_argument("--split", choices=["validation", "test"], default="test", help="settings are chosen on validation")
    parser.add_argument("--things", type=int, default=20000, help="pictures of one thing")
    parser.add_argument("--things-steps", type=int, default=3000)
    parser.add_argument("--steps", type=int, default=800, help="of pretraining")
    parser.add_argument("--bfloat16", action=argparse.BooleanOptionalAction, default=has_bfloat16(), help="default: where the processor has it")
    parser.add_argument("--captioner-steps", type=int, default=1500)
    parser.add_argument("--filter-steps", type=int, default=800)
    parser.add_argument("--checkpoint-steps", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="commands that run at once, each with one thread")
    parser.add_argument("--page", type=Path, help="file to write; the page is printed as well")
    return parser


def begin(args):
    """Creates the runs of all seeds, with the same initial weights."""
    args.out, args.bin = args.out.resolve(), args.bin.resolve()
    slots = threading.Semaphore(args.jobs)
    settle(args)
    first = Run(args, 0, slots).things()
    return [Run(args, seed, slots, first) for seed in args.seeds]


def main():
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--more", action="store_true", help="the second table in place of the first, which is made where it is not there")
    args = parser.parse_args()
    began = time.monotonic()
    try:
        runs = begin(args)
        results = at_once(*(run.all for run in runs))
        text = more_page(args, results, at_once(*(run.more for run in runs))) if args.more else page(args, results, hours(args))
    except Failed as failed:
        sys.exit(str(failed))
    say(f"{(time.monotonic() - began) / 60:.0f} minutes with {args.jobs} commands at once")
    if args.page:
        args.page.write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
