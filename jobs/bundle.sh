#!/bin/bash
# Packs qshard and its GPU tests into one folder that runs on a machine with an NVIDIA driver and CUDA's libraries and
# nothing else of ours: no MPI, HDF5 or Boost, no root, no network.
#
#   jobs/bundle.sh [--architectures LIST] [--build DIR] FOLDER
#
#   --architectures LIST   GPUs to compile for, as CMAKE_CUDA_ARCHITECTURES (default: 80-real;90-real)
#   --build DIR            where to build (default: build-bundle)
#   --model FILE           a GGUF file to take along, and the tests that want it (SmolLM2-135M-Instruct Q4_1)
#
# FOLDER gets bin/, lib/, tests/, run files and run-suite.sh, and FOLDER.tar.gz all of it; FOLDER/run-suite.sh on the other
# machine runs everything and ends with "N passed, N failed, N skipped". cuBLASLt and NCCL are taken from there (a CUDA toolkit,
# or the nvidia-cublas and nvidia-nccl packages of a Python environment): they alone are larger than all the rest.
set -euo pipefail
cd "$(dirname "$0")/.."

architectures='80-real;90-real' build=build-bundle folder='' model=
while [ $# -gt 0 ]; do
    case $1 in
        --architectures) architectures=$2 && shift ;;
        --build) build=$2 && shift ;;
        --model) model=$2 && shift ;;
        -h | --help) sed -n '2,14s/^# \{0,1\}//p' "$0" && exit 0 ;;
        -*) echo "bundle.sh: unknown option $1" >&2 && exit 64 ;;
        *) folder=$1 ;;
    esac
    shift
done
[ -n "$folder" ] || { echo "bundle.sh: name the folder to make" >&2 && exit 64; }
[ ! -e "$folder" ] || { echo "bundle.sh: $folder is there already" >&2 && exit 73; }

programs=(qshard qshard-inspect)
tests=(test_ops test_slot_tree test_equivalence test_golden_tiny test_collectives)
[ -z "$model" ] || tests+=(test_golden_train50)

# Programs find their libraries beside them; RPATH, not RUNPATH, so that those libraries find theirs there too.
# shellcheck disable=SC2016 # $ORIGIN is the loader's
cmake -S . -B "$build" -G Ninja -DQSHARD_CUDA=ON -DQSHARD_CUDA_ARCHITECTURES="$architectures" \
    -DCMAKE_CUDA_FLAGS=--compress-mode=size -DQSHARD_TEST_DATA=tests -DCMAKE_BUILD_RPATH='$ORIGIN/../lib' \
    -DCMAKE_EXE_LINKER_FLAGS=-Wl,--disable-new-dtags -DCMAKE_BUILD_RPATH_USE_ORIGIN=ON
ninja -C "$build" "${programs[@]}" "${tests[@]}"

mkdir -p "$folder/bin" "$folder/lib" "$folder/tests" "$folder/jobs"
for program in "${programs[@]}" "${tests[@]}"; do
    strip -o "$folder/bin/$program" "$build/bin/$program"
done
# The C and C++ libraries are the system's (glibc 2.36 or newer), the large ones CUDA's.
system='^(linux-vdso|ld-linux.*|libc|libm|libdl|librt|libpthread|libresolv|libutil|libgcc_s|libstdc\+\+|libcuda)\.so'
for program in "$folder"/bin/*; do
    ldd "$build/bin/${program##*/}" | awk '$2 == "=>" && $3 ~ /^\// { print $1, $3 }'
done | sort -u | while read -r name path; do
    [[ $name =~ $system || $name =~ ^lib(cublas|cublasLt|nccl)\.so ]] && continue
    install -m 644 "$path" "$folder/lib/$name"
done
strip --strip-unneeded "$folder"/lib/*.so* 2>/dev/null || true
cp -r tests/golden tests/gpu "$folder/tests/"
rm -rf "$folder/tests/gpu/emulated"
[ -z "$model" ] || cp "$model" "$folder/model.gguf"
cp jobs/*.yaml jobs/train.sbatch jobs/train-gpu.sbatch "$folder/jobs/"
install -m 755 tests/gpu/run-suite.sh "$folder/run-suite.sh"
install -m 644 tests/gpu/libraries.sh "$folder/libraries.sh"
"$folder/bin/qshard-inspect" --version >/dev/null
archive=$folder.tar.gz
tar -czf "$archive" -C "$(dirname "$folder")" "$(basename "$folder")"
du -sh "$folder" "$archive"
if [ -z "$model" ] && [ "$(du -sm "$archive" | cut -f 1)" -ge 60 ]; then
    echo "bundle.sh: $archive is larger than 60 MiB" >&2
    exit 1
fi
