#!/usr/bin/env bash
# Pictures from npm with names in six languages, and what a filter makes of languages it was never taught: examples/emoji/run.sh [CAPFILT]
#
# The table is made here: Twemoji's drawings, Unicode's names in English, German, French, Spanish, Japanese and Hindi, four in ten of the
# texts spoilt in a known way (table.mjs). The models are this project's small ones: they have seen other artists' drawings of emoji and the
# pictures of a small world, with English texts alone.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
capfilt=$(realpath "${1:-$root/target/debug/capfilt}")
cd "$root"
here=examples/emoji
out=demo-out/emoji
npm=.deps/emoji
# The renderer and the artist as examples/models/make.py has them, so that the models see what they were made for.
packages="sharp@0.34.5 @iconify-json/twemoji@1.2.5 emojibase-data@17.0.0"

[ -x "$capfilt" ] || { echo "error: there is no $capfilt: make build makes it" >&2; exit 1; }
for command in node npm; do
    command -v "$command" >/dev/null || { echo "error: there is no $command: the example needs Node.js with npm" >&2; exit 1; }
done
rm -rf "$out"
mkdir -p "$out"

step() { echo "== $*" >&2; }

if [ "$(cat "$npm/.installed" 2>/dev/null)" != "$packages" ]; then
    step "Twemoji, names in many languages and a renderer, from npm into $npm (80 MB, once)"
    rm -rf "$npm"
    mkdir -p "$npm"
    echo '{"private": true}' >"$npm/package.json"
    # shellcheck disable=SC2086
    (cd "$npm" && npm install --silent --no-package-lock --no-audit --no-fund $packages)
    echo "$packages" >"$npm/.installed"
fi

step "A table: each picture with a text in each of six languages, 60 % of them true"
(cd "$npm" && node "$root/$here/table.mjs" "$root/$out")
sed -n 13,18p "$out/texts.jsonl" >&2

# The pictures are files, which the table names. Threshold, prompt and length are those of make demo.
step "CapFilt over it, with a captioner and a filter that know English alone"
"$capfilt" run "$out/texts.jsonl" "$out/pairs" --image-column picture --image-is path \
    --captioner examples/models/captioner --filter examples/models/filter \
    --min-itm 0.1 --prompt 'a picture of ' --set capfilt.max_length=32

step "By language, by noise, by what the filter can read, and what the captioner says: $here/story.sql"
"$capfilt" sql --table pairs="$out/pairs" -f "$here/story.sql"
step "These models read English alone, and so the job drops most true texts in other languages: a filter has its model's languages"
"$capfilt" report "$out/pairs" -o "$out/report.html"
