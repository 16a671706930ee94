#!/usr/bin/env bash
# Delta in, Delta out, and back in time: examples/lakehouse/run.sh [CAPFILT]
#
# A crawl lies in a Delta table and grows. CapFilt makes a Delta table of pairs from it, adds what the crawl adds, and is made
# stricter. Each of these is a version, and all of them can still be read.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
capfilt=$(realpath "${1:-$root/target/debug/capfilt}")
cd "$root"
here=examples/lakehouse
out=${OUT:-demo-out/lakehouse}
models=(--captioner tests/fixtures/models/captioner --filter tests/fixtures/models/matcher)

[ -x "$capfilt" ] || { echo "error: there is no $capfilt: make build makes it" >&2; exit 1; }
rm -rf "$out"
mkdir -p "$out/crawl"

step() { echo "== $*" >&2; }

# Of what a job says its numbers are shown, and all of it where it fails.
quietly() { "$capfilt" "$@" >"$out/said" 2>&1 || { cat "$out/said" >&2; exit 1; }; }
job() {
    quietly "$@"
    grep -E '^(web|synthetic|took)|version' "$out/said" >&2
}

# A pair table that is a source has columns named as those of the new one: they get $1_ before their names.
aside() {
    local name
    for name in image_sha256 source itm_score kept error provenance; do echo --rename "$name=$1_$name"; done
}

# What the crawler brings on a day: the rows of the example table for which $2 holds.
crawl() {
    quietly sql --table web=tests/fixtures/web.parquet -c "COPY (SELECT * FROM web WHERE $2) TO '$out/crawl/$1.parquet'"
}

step "Monday: 100 pictures with noisy texts become a Delta table, $out/web"
crawl monday 'id < 98 OR id IN (1503, 1505)'
job run "$out/crawl" "$out/web" --table-format delta --recipe "$here/crawl.sql"

step "CapFilt over it, into another Delta table, $out/pairs"
job run "$out/web" "$out/pairs" --table-format delta "${models[@]}" $(aside crawl)

step "Tuesday: 22 more pictures. \`capfilt update\` does what is new, and no more; the tables know their jobs"
crawl tuesday 'id BETWEEN 98 AND 119'
job update "$out/web"
job update "$out/pairs"

step "What would a threshold of 0.9 keep? select answers by the scores that are there, without a model"
job select "$out/pairs" "$out/strict" --min-itm 0.9

step "Wednesday: 0.9 it is, in place of the 0.5 until now"
job run "$out/web" "$out/pairs" --table-format delta "${models[@]}" $(aside crawl) --min-itm 0.9 --overwrite

step "Back in time: was that wise? $out/pairs at each of its versions"
tables=(--table "v0=$out/pairs@0" --table "v1=$out/pairs@1" --table "v2=$out/pairs@2")
"$capfilt" sql "${tables[@]}" -f "$here/story.sql"
echo "The log that tells each version's files and its job: $out/pairs/_delta_log"
