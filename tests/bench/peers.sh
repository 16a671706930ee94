#!/usr/bin/env bash
# Installs transformers and torch in a folder of the project's and prints it.
set -eu -o pipefail
cd "$(dirname "$0")/../.."

peers=.deps/peers
version="torch 2.15.0, transformers 5.23.0"
if [ "$(cat "$peers/.version" 2>/dev/null)" != "$version" ]; then
  echo "== transformers and torch, into $peers (about 6 GB, once)" >&2
  rm -rf "$peers"
  python3 -m venv "$peers"
  "$peers/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.15.0 transformers==5.23.0 safetensors numpy pillow >&2
  echo "$version" >"$peers/.version"
fi
echo "$peers"
