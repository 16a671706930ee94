#!/usr/bin/env bash
# A list of URLs in, a pair table and a page out: examples/web/run.sh [CAPFILT]
#
# The web is a server on this machine, with pictures that are gone, errors that pass, a site that opts out, and a slow one. The
# first pass is impatient; `capfilt retry` does again what it missed, and nothing else.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
capfilt=$(realpath "${1:-$root/target/debug/capfilt}")
cd "$root"
here=examples/web
out=${OUT:-demo-out/web}

[ -x "$capfilt" ] || { echo "error: there is no $capfilt: make build makes it" >&2; exit 1; }
rm -rf "$out"
mkdir -p "$out"
touch "$out/requests"

step() { echo "== $*" >&2; }

step "A server with sixty pictures"
python3 "$here/server.py" "$out/pictures.tar" >"$out/requests" &
server=$!
trap 'kill "$server" 2>/dev/null || true' EXIT
until address=$(head -n 1 "$out/requests") && [ -n "$address" ]; do
    kill -0 "$server" 2>/dev/null || { echo "error: the server did not start" >&2; exit 1; }
    sleep 0.1
done
(cd "$out" && "$capfilt" sql --table web="$root/tests/fixtures/web.parquet" --param server="$address" -f "$root/$here/urls.sql") >/dev/null
head -n 4 "$out/urls.csv" >&2

# Only because this web is on this machine are private addresses allowed.
requests() { echo "$(($(wc -l <"$out/requests") - 1)) requests so far" >&2; }

step "The first pass gives each URL a second, and one try"
"$capfilt" run "$out/urls.csv" "$out/pairs" --image-column url --image-is url --write-images all \
    --captioner tests/fixtures/models/captioner --filter tests/fixtures/models/matcher \
    --set fetch.allow_private=true --set fetch.timeout=1 --set fetch.retries=0
requests

step "The second pass takes thirty seconds and three tries for what failed; the table knows the rest"
"$capfilt" retry "$out/pairs" --set fetch.timeout=30 --set fetch.retries=2
requests

step "What came of the URLs, by SQL"
"$capfilt" sql --table pairs="$out/pairs" -f "$here/outcome.sql"
"$capfilt" report "$out/pairs" -o "$out/report.html"
