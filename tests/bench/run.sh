#!/usr/bin/env bash
# The benchmark: `make bench`, or PEERS=1 for transformers in the same run. Arguments (--quick, --threads N) go to ours, and from
# its figures to theirs.
set -eu -o pipefail
cd "$(dirname "$0")/../.."

peers=.deps/peers
peers_version="torch 2.15.0, transformers 5.23.0"
flags=("$@")

if [ "${PEERS:-0}" = 1 ]; then
  flags+=(--peers)
  if [ "$(cat "$peers/.version" 2>/dev/null)" != "$peers_version" ]; then
    echo "== transformers and torch, into $peers (about 6 GB, once)" >&2
    rm -rf "$peers"
    python3 -m venv "$peers"
    "$peers/bin/pip" install --quiet --disable-pip-version-check \
      torch==2.15.0 transformers==5.23.0 safetensors numpy pillow
    echo "$peers_version" >"$peers/.version"
  fi
fi

# ours.json lies there; relative to here, as cargo takes it.
target=${CARGO_TARGET_DIR:-target}
cargo bench --locked --package capfilt-udfs --bench blip -- ${flags[@]+"${flags[@]}"}

if [ "${PEERS:-0}" = 1 ]; then
  out=$target/bench
  [[ " ${flags[*]} " == *" --quick "* ]] && out=$out/quick
  "$peers/bin/python" tests/bench/peers.py "$out"
fi
