#!/bin/bash
# Registers, shared memory and local memory of every kernel, from ptxas; needs nvcc, no GPU.
#
#   tests/gpu/spills.sh [ARCHITECTURE]      default: 90
#
# Compiles the kernels again, in build-cuda. Exit code 1 if one uses local memory (spills or a stack frame), 77 without
# nvcc.
set -euo pipefail
cd "$(dirname "$0")/../.."
command -v nvcc >/dev/null || { echo "SKIP: no nvcc" && exit 77; }
architecture=${1:-90}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
run() { # its output only if it fails
    "$@" >"$work/log" 2>&1 || { cat "$work/log" && exit 1; }
}
run cmake -S . -B build-cuda -G Ninja -DCMAKE_BUILD_TYPE=Release -DQSHARD_CUDA=ON \
    -DQSHARD_CUDA_ARCHITECTURES="$architecture-real" -DCMAKE_CUDA_FLAGS=-Xptxas=-v
mapfile -t kernels < <(ninja -C build-cuda -t targets all | sed -nE 's/^(.*\.cu\.o): .*/\1/p')
(cd build-cuda && rm -f "${kernels[@]}")
run ninja -C build-cuda "${kernels[@]}"
awk '
    /^\[[0-9]+\/[0-9]+\] Building CUDA object / { file = $NF; sub(/.*\//, "", file); sub(/\.o$/, "", file) }
    /Compiling entry function/ { name = $0; sub(/.*function \047/, "", name); sub(/\047.*/, "", name) }
    /bytes stack frame/ { stack = $1; spills = $5 + $9 }
    /Used [0-9]+ registers/ {
        registers = $0; sub(/.*Used /, "", registers); sub(/ .*/, "", registers)
        shared = 0
        if (match($0, /[0-9]+ bytes smem/)) { shared = substr($0, RSTART, RLENGTH); sub(/ .*/, "", shared) }
        printf "%-22s %9d %9d %7d %7d  %s\n", file, registers, shared, stack, spills, name
    }' "$work/log" | c++filt | sed -E 's/(void )?qshard::cuda::\(anonymous namespace\):://; s/\(.*\)$//' | sort >"$work/table"
printf '%-22s %9s %9s %7s %7s  %s\n' file registers shared stack spills kernel
cat "$work/table"
bad=$(awk '$4 + $5 > 0' "$work/table" | wc -l)
echo "$(wc -l <"$work/table") kernels, $bad with local memory"
[ -s "$work/table" ] && [ "$bad" = 0 ]
