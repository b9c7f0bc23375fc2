#!/bin/bash
# Everything that wants a GPU, on a machine that has one: from a bundle (jobs/bundle.sh) or a build folder.
#
#   ./run-suite.sh [--only ops|model|train|comm|bench|large]... in a bundle; large (a 70B shape) only if named
#   tests/gpu/run-suite.sh --bin build/bin [...]          in a checkout
#
# Ends with "N passed, N failed, N skipped"; logs go to $OUT (default: ./gpu-logs). Takes about ten minutes on one H100.
set -uo pipefail

here=$(cd "$(dirname "$0")" && pwd)
bin=$here/bin only=''
while [ $# -gt 0 ]; do
    case $1 in
        --bin) bin=$(cd "$2" && pwd) && shift ;;
        --only) only="$only $2" && shift ;;
        -h | --help) sed -n '2,8s/^# \{0,1\}//p' "$0" && exit 0 ;;
        *) echo "run-suite.sh: unknown option $1" >&2 && exit 64 ;;
    esac
    shift
done
[ -x "$bin/qshard" ] || { echo "run-suite.sh: no $bin/qshard" >&2 && exit 69; }
mkdir -p "${OUT:-gpu-logs}"
logs=$(cd "${OUT:-gpu-logs}" && pwd)
# Tests of a bundle read tests/ from where they are started.
if [ "$bin" = "$here/bin" ]; then cd "$here" || exit 69; fi
[ -e "$here/model.gguf" ] && export QSHARD_TEST_MODEL=$here/model.gguf

# CUDA's libraries, wherever this machine has them.
for name in libcublasLt.so.13 libcublasLt.so.12 libnccl.so.2; do
    for folder in /usr/local/cuda/lib64 /usr/local/cuda*/lib64 /usr/local/cuda*/targets/*/lib /usr/lib/x86_64-linux-gnu \
        /opt/*/.venv/lib/python3*/site-packages/nvidia/*/lib /usr/lib/python3*/site-packages/nvidia/*/lib \
        /usr/local/lib/python3*/*-packages/nvidia/*/lib /usr/local/nvidia/lib64; do
        [ -e "$folder/$name" ] || continue
        case :${LD_LIBRARY_PATH:-}: in
            *:"$folder":*) ;;
            *) LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder ;;
        esac
        break
    done
done
# The bundle's own: some of them have a search path that hides the programs'.
[ -d "$here/lib" ] && LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$here/lib
export LD_LIBRARY_PATH

passed=0 failed=0 skipped=0

wanted() {
    [ -z "$only" ] || [[ " $only " == *" $1 "* ]]
}

# Cases of a GoogleTest program, or of its log.
count() { # LOG CODE
    local ok skips bad
    ok=$(grep -cE '^\[ +OK \]' "$1")
    skips=$(grep -cE '^\[ +SKIPPED \] [^ ]+ \(' "$1")
    bad=$(grep -cE '^\[ +FAILED +\] .*\([0-9]+ ms\)' "$1")
    if [ "$2" = 77 ]; then skips=$((skips + 1)); else [ "$2" = 0 ] || [ "$bad" -gt 0 ] || bad=1; fi
    passed=$((passed + ok)) failed=$((failed + bad)) skipped=$((skipped + skips))
    echo "   $ok passed, $bad failed, $skips skipped (exit code $2)"
    [ "$bad" = 0 ] || grep -E '^\[ +FAILED|Failure|differs|Error|error:' "$1" | head -n 20
}

suite() { # NAME LIMIT_SECONDS COMMAND...
    local name=$1 limit=$2
    shift 2
    echo "== $name"
    timeout "$limit" "$@" >"$logs/$name.log" 2>&1
    count "$logs/$name.log" $?
}

# A command that must succeed; its output is shown.
show() { # NAME LIMIT_SECONDS COMMAND...
    local name=$1 limit=$2
    shift 2
    echo "== $name"
    if [ "$gpu" = no ]; then
        echo "   skipped: no GPU"
        skipped=$((skipped + 1))
    elif timeout "$limit" "$@" 2>&1 | tee "$logs/$name.log"; then passed=$((passed + 1)); else
        failed=$((failed + 1))
        echo "FAILED: $name"
    fi
}

# Ranks of the collectives over NCCL, all on GPU 0: other host ids make NCCL take them for other hosts.
collectives() { # RANKS
    local id rank pids=() code=0
    id=$(mktemp -u)
    for rank in $(seq 0 $(($1 - 1))); do
        QSHARD_RANK=$rank QSHARD_WORLD=$1 QSHARD_ID_FILE=$id NCCL_HOSTID=host$rank CUDA_VISIBLE_DEVICES=0 \
            NCCL_NET=Socket NCCL_IB_DISABLE=1 NCCL_SOCKET_IFNAME=lo NCCL_NVLS_ENABLE=0 NCCL_MNNVL_ENABLE=0 \
            NCCL_MULTI_RANK_GPU_ENABLE=1 timeout 170 "$bin/test_collectives" &
        pids+=($!)
    done
    for rank in "${!pids[@]}"; do wait "${pids[$rank]}" || code=$?; done
    rm -f "$id"
    return $code
}
export -f collectives
export bin

gpu=yes
show doctor 60 "$bin/qshard" doctor "$logs"
grep -q '^gpu  *none' "$logs/doctor.log" && gpu=no
if wanted ops; then
    # Each group in a process of its own: after one bad access nothing of a process can be believed.
    mapfile -t groups < <("$bin/test_ops" --gtest_list_tests | sed -nE 's/^([A-Za-z0-9_]+\/)?([A-Za-z0-9_]+)\..*/\1\2/p')
    [ ${#groups[@]} -gt 0 ] || failed=$((failed + 1))
    for group in "${groups[@]}"; do
        QSHARD_TEST_BACKEND=cuda suite "ops-${group##*/}" 300 "$bin/test_ops" --gtest_filter="$group.*"
    done
fi
if wanted model; then
    export QSHARD_TEST_BACKEND=cuda
    suite golden-tiny 120 "$bin/test_golden_tiny"
    suite equivalence 300 "$bin/test_equivalence"
    [ -z "${QSHARD_TEST_MODEL:-}" ] || suite golden-train50 300 "$bin/test_golden_train50"
    unset QSHARD_TEST_BACKEND
fi
if wanted train; then
    tests=$here/tests
    [ -d "$tests" ] || tests=$here/..
    show train 200 "$tests/gpu/train.sh" "$bin/qshard" "$(cd "$tests" && pwd)/golden/tiny/llama" cuda
fi
if wanted comm; then
    for ranks in 1 2 3; do suite "collectives-nccl-$ranks" 180 bash -c "collectives $ranks"; done
fi
if wanted bench; then
    show bench-quantize 60 "$bin/qshard" bench quantize --backend cuda
    show bench-gemm-8b 120 "$bin/qshard" bench gemm --backend cuda --shape 8b --max-length 2048 --micro-batch-size 2
    show bench-step-135m 120 "$bin/qshard" bench step --backend cuda --shape 135m --max-length 512 --micro-batch-size 8
    show bench-step-1b 180 "$bin/qshard" bench step --backend cuda --shape 1b --max-length 2048 --micro-batch-size 2
    show bench-step-8b 400 "$bin/qshard" bench step --backend cuda --shape 8b --max-length 2048 --micro-batch-size 2
    show bench-step-8b-wide 400 "$bin/qshard" bench step --backend cuda --shape 8b --max-length 2048 --micro-batch-size 5
    show bench-step-8b-streamed 400 "$bin/qshard" bench step --backend cuda --shape 8b --max-length 2048 --micro-batch-size 2 \
        --slots 4 --placement host_streamed
fi
if [[ " $only " == *" large "* ]]; then # 36 GiB of weights, made on the spot: half a minute on 16 cores
    show bench-step-70b 600 "$bin/qshard" bench step --backend cuda --shape 70b --max-length 2048 --micro-batch-size 2
    show bench-step-70b-streamed 600 "$bin/qshard" bench step --backend cuda --shape 70b --max-length 2048 \
        --micro-batch-size 2 --slots 4 --placement host_streamed
fi
echo
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
