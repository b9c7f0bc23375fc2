#!/bin/sh
# Fails if the program needs a library of MPI or CUDA, directly or through another library.
set -eu
ldd "$1" > "${TMPDIR:-/tmp}/links.$$"
trap 'rm -f "${TMPDIR:-/tmp}/links.$$"' EXIT
grep -q libhdf5 "${TMPDIR:-/tmp}/links.$$" || { echo "ldd lists no libhdf5: is this the program?"; exit 1; }
if grep -E 'libmpi|libopen-rte|libpmix|libcuda|libcudart|libcublas|libnccl' "${TMPDIR:-/tmp}/links.$$"; then
    echo "$1 must run without these"
    exit 1
fi
