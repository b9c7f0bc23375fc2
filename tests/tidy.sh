#!/bin/bash
# clang-tidy over every source of the programs, with the compile commands of a build folder.
#
#   tests/tidy.sh [BUILD] [CLANG_TIDY_FLAGS...]     default: build
#
# Prints what it finds; exit code 1 if that is anything.
set -euo pipefail
cd "$(dirname "$0")/.."
build=${1:-build}
shift || true
# clang 14 cannot read std::source_location of libstdc++ 12 without help.
find engine comm io -name '*.cpp' -print0 | xargs -0 -n 1 -P "$(nproc)" clang-tidy -p "$build" --quiet \
    --extra-arg=-include"$PWD"/tests/fuzz/clang14.h "$@" 2> >(grep -v 'warnings\? generated\|^Suppressed\|^Use -header-filter' >&2)
