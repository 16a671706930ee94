"""What huggingface_hub makes of a hub and a cache; run by tests/python.rs.

`reference.py fetch ID REVISION` fetches, `find ID REVISION FILE..` finds without the network, `lock FILE SECONDS`
holds a lock as a download does, `paths` tells where everything is. The environment says which hub and which cache.
"""

import os
import sys
import time

import huggingface_hub
from huggingface_hub import constants, hf_hub_download, snapshot_download
from huggingface_hub.utils import WeakFileLock, get_token

# Files that a checkpoint needs, as `allow_patterns` for `snapshot_download`.
PATTERNS = ["*.json", "*.txt", "*.safetensors"]


def main(command, *rest):
    if command == "fetch":
        repository, revision = rest
        print(snapshot_download(repository, revision=revision, allow_patterns=PATTERNS))
    elif command == "find":
        repository, revision, *files = rest
        assert constants.HF_HUB_OFFLINE
        folder = snapshot_download(repository, revision=revision, local_files_only=True, allow_patterns=PATTERNS)
        for file in files:
            for local in (False, True):
                path = hf_hub_download(repository, file, revision=revision, local_files_only=local)
                assert path == os.path.join(folder, file), (path, folder)
        print(folder)
    elif command == "lock":
        path, seconds = rest
        with WeakFileLock(path):
            print("locked", flush=True)
            time.sleep(float(seconds))
    elif command == "paths":
        print(constants.HF_HUB_CACHE)
        print(constants.ENDPOINT)
        print(constants.HF_HUB_OFFLINE)
        print(get_token())
    else:
        sys.exit(f"no command {command}")


if __name__ == "__main__":
    print("huggingface_hub", huggingface_hub.__version__, file=sys.stderr)
    main(*sys.argv[1:])
