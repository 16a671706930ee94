#!/usr/bin/env bash
# The benchmark: `make bench`, or PEERS=1 for transformers, OpenVINO, Pillow and libvips in the same run. Arguments (--quick, --threads N) go to ours, and from
# its figures to theirs.
set -eu -o pipefail
cd "$(dirname "$0")/../.."

flags=("$@")

if [ "${PEERS:-0}" = 1 ]; then
  flags+=(--peers)
  peers=$(bash tests/bench/peers.sh)
fi

# ours.json lies there; relative to here, as cargo takes it.
target=${CARGO_TARGET_DIR:-target}
cargo bench --locked --package capfilt-udfs --bench blip -- ${flags[@]+"${flags[@]}"}

if [ "${PEERS:-0}" = 1 ]; then
  out=$target/bench
  [[ " ${flags[*]} " == *" --quick "* ]] && out=$out/quick
  "$peers/bin/python" tests/bench/peers.py "$out"
  "$peers/bin/python" tests/bench/openvino_peers.py "$out"
  program=$(find "$target/release/deps" -maxdepth 1 -name 'blip-*' -type f -executable -printf '%T@ %p\n' | sort -n | tail -1 | cut -d ' ' -f 2-)
  "$peers/bin/python" tests/bench/decode.py "$program"
fi
