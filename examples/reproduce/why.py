"""Explains why captioner and filter together are hardly better than the filter alone.

Measures how many of the texts that the filter keeps are false, and what a MED learns without those texts. A caption
counts as false if it names a shape, colour or pattern that the picture's true caption, which names all of them, does
not; it may also be false in other ways. Uses the folder of `make reproduce` and creates whatever is missing there.
"""

import re
import sys

from reproduce import SCORES, Failed, at_once, begin, cells, differences, dig, made_by, made_with, options, say, SCORES_ARE, table, VARIANTS

# The world's words for shapes, colours and patterns (training/src/world/kinds.rs), as regular expressions.
NAMES = {
    "shape": [
        "circles?|discs?", "stars?", "hearts?", "cars?", "trees?", "houses?|cottages?", "butterfl(y|ies)", "flowers?|blossoms?", "squares?",
        "fish", "umbrellas?|parasols?", "moons?|crescents?", "boats?|sailboats?", "triangles?", "crowns?", "arrows?",
    ],
    "colour": [
        "red", "blue", "yellow", "green", "white", "black", "pink", "orange", "purple|violet", "brown", "gr[ea]y", "turquoise|teal",
    ],
    "pattern": [
        "striped|stripy|stripes", "dotted|spotted|dots|spots", "zigzag|zigzagged", "checked|checkered|checks", "glowing|shining|glow|light",
    ],
}

# Words for everything that the human set neither shows nor names.
UNSEEN = "butterfl(y|ies)|umbrellas?|parasols?|crowns?|zigzag|zigzagged|glowing|shining|glow|light|bricks?|snow|snowy"

# Background phrases, whose colours are not those of the things.
BEHIND = "(white|gr[ea]y|black|yellow|pink|blue) background|blue sky|green (grass|field)"


def has(column, words):
    return f"regexp_like(regexp_replace({column}, '{BEHIND}', '', 'g'), '\\b({words})\\b')"


def names_false(kinds):
    """SQL for whether the column text names a word of these kinds that the column truth does not."""
    return "(" + " OR ".join(f"{has('text', words)} AND NOT {has('truth', words)}" for kind in kinds for words in NAMES[kind]) + ")"


SYNTHETIC_FALSE = f"source = 'synthetic' AND {names_false(NAMES)}"

# Subsets of the kept pairs of "both" on which a further MED is trained, besides the one on all kept pairs.
SURE = "both, synthetic from 0.9"
TRUE = "both without false names"
ARMS = {
    SURE: "SELECT image, text FROM pairs WHERE kept AND (source = 'web' OR itm_score >= 0.9)",
    TRUE: f"SELECT image, text FROM pairs WHERE kept AND NOT ({SYNTHETIC_FALSE})",
}


def slug(name):
    return re.sub("[^a-z0-9.]+", "-", name)


def some(run, pairs, name, query):
    """Stores a subset of the pairs as a table, so that its many patterns are not matched again in each epoch."""
    return run.stage(f"pairs-{name}.parquet", lambda part: run.command(
        f"pairs-{name}", "capfilt", "sql", "--table", f"pairs={pairs}", "--set", "datafusion.execution.target_partitions=1",
        "-c", f"COPY ({query}) TO '{part}' STORED AS PARQUET"))


def one(run):
    """Scores of each arm of a seed, and statistics of the kept texts."""
    _, captioner, filter_ = run.bootstrap()
    pairs = run.pairs("both", VARIANTS["both"], captioner, filter_)
    arms = {
        "filter": lambda: run.capfilt("filter", VARIANTS["filter"], captioner, filter_),
        "both": lambda: run.pretrain("both", pairs),
    }
    for name, query in ARMS.items():
        arms[name] = lambda name=name, query=query: run.pretrain(slug(name), some(run, pairs, slug(name), query))
    shares = ", ".join(f"avg(CAST({names_false([kind])} AS INT)) AS {kind}" for kind in NAMES)
    query = f"""SELECT source, itm_score >= 0.9 AS sure, count(*) AS texts, {shares}, avg(CAST({names_false(NAMES)} AS INT)) AS any_name,
                avg(CAST({has('truth', UNSEEN)} AS INT)) AS unseen, avg(CAST({has('truth', UNSEEN)} AND {has('text', UNSEEN)} AS INT)) AS told
                FROM pairs WHERE kept GROUP BY GROUPING SETS ((source), (source, itm_score >= 0.9)) ORDER BY source, sure"""
    said = run.json("kept-names", "capfilt", "sql", "--table", f"pairs={pairs}", "--format", "json", "-c", query)
    scores = at_once(*(lambda name=name, make=make: run.evaluate(f"med-{slug(name)}", make()) for name, make in arms.items()))
    return {"scores": dict(zip(arms, scores)), "said": said}


def page(args, results):
    """Renders docs/reproduction-why.md."""
    seeds = [f"seed {seed}" for seed in args.seeds]
    rows = []
    for source, sure, label in [("web", None, "web"), ("synthetic", None, "synthetic"), ("synthetic", True, "synthetic from 0.9")]:
        lines = [next(e for e in r["said"] if e["source"] == source and e.get("sure") == sure) for r in results]
        for key, of in [("texts", "texts"), ("shape", "with a false shape, %"), ("colour", "with a false colour, %"),
                        ("pattern", "with a false pattern, %"), ("any_name", "with any of these, %"),
                        ("unseen", "whose true caption names what the human set never does, %"), ("told", "and that name it too, %")]:
            rows.append([f"{label}: {of}", *(f"{e[key]}" if key == "texts" else f"{100 * e[key]:.1f}" for e in lines)])
    names = list(results[0]["scores"])
    per = {v: {n: [dig(r["scores"][v], path) for r in results] for n, path in SCORES.items()} for v in names}
    pairs = [("both", "filter"), (SURE, "both"), (TRUE, "both"), (SURE, "filter"), (TRUE, "filter")]
    return "\n".join([
        "# Why both are hardly better than the filter",
        "",
        made_by(args, "reproduce-why").replace("reproduce.py", "why.py"),
        "",
        "Of the table of the row \"both\" (docs/reproduction.md): texts that the filter kept, and how many of them name a shape, a colour or "
        "a pattern that is not in the picture. Texts may be false in other ways too (places, numbers, which thing has which colour).",
        "",
        *table(["kept", *seeds], rows),
        "What a MED learns from the web texts alone, from both, from both where a synthetic text must have an ITM score of 0.9, and from "
        "both without the synthetic texts that are false in this way, which only who knows the truth can take away.",
        "",
        f"{made_with(args)} {SCORES_ARE}" + (" Of two seeds a standard error says little." if len(seeds) < 3 else ""),
        "",
        *table(["", *SCORES], [[v, *cells(per[v].values())] for v in names]),
        *differences(args.seeds, per, pairs),
    ]).rstrip() + "\n"


def main():
    args = options(__doc__.splitlines()[0]).parse_args()
    try:
        text = page(args, at_once(*(lambda run=run: one(run) for run in begin(args))))
    except Failed as failed:
        sys.exit(str(failed))
    if args.page:
        args.page.write_text(text)
    say(f"{args.out}")
    print(text, end="")


if __name__ == "__main__":
    main()
