#!/bin/bash
# clang-tidy over every source of the programs.
#
#   tests/tidy.sh [CLANG_TIDY_FLAGS...]
#
# Prints what it finds; exit code 1 if that is anything. build-tidy only says how the sources are compiled: clang cannot
# read the precompiled headers of GCC, and so a header that a source forgot to include is found here.
set -euo pipefail
cd "$(dirname "$0")/.."
cmake -S . -B build-tidy -G Ninja -DQSHARD_TESTS=OFF -DCMAKE_DISABLE_PRECOMPILE_HEADERS=ON >/dev/null
# clang 14 cannot read std::source_location of libstdc++ 12 without help.
sed -nE "s|^ *\"file\": \"$PWD/((engine\|comm\|io)/.*\.cpp)\".*|\1|p" build-tidy/compile_commands.json | sort -u |
    xargs -n 1 -P "$(nproc)" clang-tidy -p build-tidy --quiet \
    --extra-arg=-include"$PWD"/tests/fuzz/clang14.h "$@" 2> >(grep -v 'warnings\? generated\|^Suppressed\|^Use -header-filter' >&2)
