#!/bin/bash
# Registers, shared memory and local memory of every kernel, from ptxas; needs nvcc, no GPU.
#
#   tests/gpu/spills.sh [ARCHITECTURE] [FILE.cu...]      default: 90, all kernels
#
# Exit code 1 if a kernel uses local memory (spills or a stack frame), 77 without nvcc.
set -euo pipefail
cd "$(dirname "$0")/../.."
nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
[ -x "$nvcc" ] || { echo "SKIP: no nvcc" && exit 77; }
architecture=${1:-90}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- engine/backend/cuda/*.cu
tables=$(mktemp -d)
trap 'rm -rf "$tables"' EXIT
# resources FILE: one line a kernel, into $tables
resources() {
    "$nvcc" -std=c++20 -O3 -arch="sm_$architecture" -Xptxas -v -Iengine -I. -c "$1" -o /dev/null 2>&1 |
        awk -v file="$(basename "$1")" '
            /Compiling entry function/ { name = $0; sub(/.*function \047/, "", name); sub(/\047.*/, "", name) }
            /bytes stack frame/ { stack = $1; spills = $5 + $9 }
            /Used [0-9]+ registers/ {
                registers = $0; sub(/.*Used /, "", registers); sub(/ .*/, "", registers)
                shared = 0
                if (match($0, /[0-9]+ bytes smem/)) { shared = substr($0, RSTART, RLENGTH); sub(/ .*/, "", shared) }
                printf "%-22s %9d %9d %7d %7d  %s\n", file, registers, shared, stack, spills, name
            }' >"$tables/$(basename "$1")"
}
export nvcc architecture tables
export -f resources
printf '%s\n' "$@" | xargs -P "$(nproc)" -I '{}' bash -c 'set -euo pipefail; resources {}'
table=$tables/all
cat "$tables"/*.cu | c++filt | sed -E 's/(void )?qshard::cuda::\(anonymous namespace\):://; s/\(.*\)$//' >"$table"
printf '%-22s %9s %9s %7s %7s  %s\n' file registers shared stack spills kernel
sort "$table"
bad=$(awk '$4 + $5 > 0' "$table" | wc -l)
echo "$(wc -l <"$table") kernels, $bad with local memory"
[ "$bad" = 0 ]
