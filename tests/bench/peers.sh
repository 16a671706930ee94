#!/usr/bin/env bash
# Installs the benchmark's peers in a folder of the project's and prints it.
set -eu -o pipefail
cd "$(dirname "$0")/../.."

peers=.deps/peers
version="torch 2.15.0, transformers 5.23.0, openvino 2026.4.1"
if [ "$(cat "$peers/.version" 2>/dev/null)" != "$version" ]; then
  echo "== transformers, torch, OpenVINO and libvips, into $peers (about 6 GB, once)" >&2
  rm -rf "$peers"
  python3 -m venv "$peers"
  "$peers/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.15.0 transformers==5.23.0 safetensors numpy pillow openvino==2026.4.1 nncf==3.4.0 'pyvips[binary]==3.*' >&2
  echo "$version" >"$peers/.version"
fi
echo "$peers"
