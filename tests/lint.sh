#!/bin/bash
# What is checked of the program's text: formatting, shell scripts, clang-tidy. Tests are in tests/run.sh.
#
# Needs jobs/packages.txt. Prints what it finds; exit code 1 if that is anything.
set -euo pipefail
cd "$(dirname "$0")/.."
find engine comm io tests \( -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \) -print0 |
    xargs -0 clang-format --dry-run -Werror
shellcheck .ci/run jobs/*.sh jobs/*.sbatch tests/*.sh tests/jobs/*.sh tests/gpu/*.sh
tests/tidy.sh
echo "nothing found in formatting, shell scripts and by clang-tidy"
