#!/usr/bin/env bash
# Checks and times a GPU with the benchmark as `make build-gpu-check` built it, here or elsewhere. An argument is the device.
set -eu -o pipefail
cd "$(dirname "$0")/../.."

program=$(find "${CARGO_TARGET_DIR:-target}/release/deps" -maxdepth 1 -name 'blip-*' -type f -executable -printf '%T@ %p\n' 2>/dev/null |
  sort -n | tail -1 | cut -d ' ' -f 2-)
if [ -z "$program" ]; then
  echo "there is no benchmark: make build-gpu-check builds it, on any machine with this system and processor" >&2
  exit 1
fi
exec "$program" --bench --device "${1:-cuda:0}"
