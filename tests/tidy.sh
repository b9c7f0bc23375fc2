#!/bin/bash
# clang-tidy over every source of the programs that a build folder compiles.
#
#   tests/tidy.sh [BUILD] [CLANG_TIDY_FLAGS...]     default: build
#
# Prints what it finds; exit code 1 if that is anything.
set -euo pipefail
cd "$(dirname "$0")/.."
build=${1:-build}
shift || true
# clang 14 cannot read std::source_location of libstdc++ 12 without help.
sed -nE "s|^ *\"file\": \"$PWD/((engine\|comm\|io)/.*\.cpp)\".*|\1|p" "$build/compile_commands.json" | sort -u |
    xargs -n 1 -P "$(nproc)" clang-tidy -p "$build" --quiet \
    --extra-arg=-include"$PWD"/tests/fuzz/clang14.h "$@" 2> >(grep -v 'warnings\? generated\|^Suppressed\|^Use -header-filter' >&2)
