#!/bin/bash
# Everything that wants a GPU, on a machine that has one: from a bundle (jobs/bundle.sh) or a build folder.
#
#   ./run-suite.sh [--only PART]...                       in a bundle
#   tests/gpu/run-suite.sh --bin build/bin [...]          in a checkout
#
# Parts: ops model train comm bench bench-8b, and large (a 70B shape), which runs only if it is named. Ends with "N passed,
# N failed, N skipped", and says so after each step, should it be cut off; logs go to $OUT (default: ./gpu-logs). None of it
# has been timed on a GPU yet: where a command may take ten minutes, give each part its own.
set -uo pipefail

here=$(cd "$(dirname "$0")" && pwd)
bin=$here/bin only=''
while [ $# -gt 0 ]; do
    case $1 in
        --bin) bin=$(cd "$2" && pwd) && shift ;;
        --only)
            case ${2:-} in
                ops | model | train | comm | bench | bench-8b | large) only="$only $2" && shift ;;
                *) echo "run-suite.sh: no part \"${2:-}\"" >&2 && exit 64 ;;
            esac
            ;;
        -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0" && exit 0 ;;
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

# shellcheck disable=SC1091 # it is linted itself
. "$here/libraries.sh"
if missing=$(ldd "$bin/qshard" | grep 'not found'); then
    echo "run-suite.sh: $bin/qshard wants libraries that this machine has in no known place; add theirs to LD_LIBRARY_PATH:" >&2
    echo "$missing" >&2
    exit 69
fi

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
    echo "   $ok passed, $bad failed, $skips skipped (exit code $2); in all $passed, $failed, $skipped"
    [ "$bad" = 0 ] || grep -E -A6 '^\[ +FAILED|Failure|differs|Error|error|exception|what\(\)' "$1" | head -n 40
    # Ended before a test could: a library that is missing, an abort, a time limit.
    [ "$2" = 0 ] || [ "$2" = 77 ] || tail -n 15 "$1"
}

suite() { # NAME LIMIT_SECONDS COMMAND...
    local name=$1 limit=$2
    shift 2
    echo "== $name"
    timeout -k 10 "$limit" "$@" >"$logs/$name.log" 2>&1
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
    elif timeout -k 10 "$limit" "$@" 2>&1 | tee "$logs/$name.log"; then passed=$((passed + 1)); else
        failed=$((failed + 1))
        echo "FAILED: $name"
    fi
    echo "   in all $passed passed, $failed failed, $skipped skipped"
}

# Ranks of the collectives over NCCL, all on GPU 0: other host ids make NCCL take them for other hosts.
collectives() { # RANKS
    local id rank pids=() code=0
    id=$(mktemp -u)
    for rank in $(seq 0 $(($1 - 1))); do
        QSHARD_RANK=$rank QSHARD_WORLD=$1 QSHARD_ID_FILE=$id NCCL_HOSTID=host$rank CUDA_VISIBLE_DEVICES=0 \
            NCCL_NET=Socket NCCL_IB_DISABLE=1 NCCL_SOCKET_IFNAME=lo NCCL_NVLS_ENABLE=0 NCCL_MNNVL_ENABLE=0 \
            NCCL_DEBUG=WARN timeout -k 5 170 "$bin/test_collectives" &
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
    suite slot-tree 120 "$bin/test_slot_tree"
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
    show bench-step-135m 120 "$bin/qshard" bench step --backend cuda --shape 135m --max-length 512 --micro-batch-size 2 \
        --slots 16
    show bench-step-1b 180 "$bin/qshard" bench step --backend cuda --shape 1b --max-length 2048 --micro-batch-size 2
fi
if wanted bench-8b; then
    show bench-step-8b 400 "$bin/qshard" bench step --backend cuda --shape 8b --max-length 2048 --micro-batch-size 2
    show bench-step-8b-batch 400 "$bin/qshard" bench step --backend cuda --shape 8b --max-length 2048 --micro-batch-size 1 \
        --slots 5
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
