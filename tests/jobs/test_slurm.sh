#!/bin/bash
# jobs/train.sbatch and jobs/preflight.sbatch on a real three-node Slurm on this host: a run that is requeued twice ends
# with the bits of one that was left alone; a run that never gets anywhere is given up.
#
#   QSHARD=build/bin/qshard QSHARD_TEST_MODEL=model.gguf tests/jobs/test_slurm.sh
#
# Ends with "N passed, N failed"; exit code 77 and one line if it cannot run here.
set -euo pipefail

repo=$(cd "$(dirname "$0")/../.." && pwd)
export QSHARD=${QSHARD:-$repo/build/bin/qshard}
PATH=$PATH:/usr/sbin:/sbin
passed=0 failed=0

skip() {
    echo "SKIP tests/jobs/test_slurm.sh: $*"
    exit 77
}

[ "$(id -u)" = 0 ] || skip "needs root (network namespaces)"
for program in slurmctld slurmd munged sbatch ip nsenter; do
    type -P "$program" >/dev/null || skip "no $program (apt-get install slurmctld slurmd slurm-client munge iproute2)"
done
# Root in a container may not make network namespaces.
probe=qsprobe$$
make_probe() {
    ip netns add "$probe" && ip -n "$probe" link add br0 type bridge && ip netns exec "$probe" true
}
if ! why=$(make_probe 2>&1); then
    ip netns delete "$probe" 2>/dev/null || true
    skip "no network namespaces here: $why"
fi
ip netns delete "$probe"
[ -x "$QSHARD" ] || skip "no program $QSHARD; build first, or set QSHARD"
[ -r "${QSHARD_TEST_MODEL:-}" ] || skip "QSHARD_TEST_MODEL names no readable model (jobs/get_model.sh prints one)"

work=$(mktemp -d "${TMPDIR:-/tmp}/qshard-slurm.XXXXXX")
chmod 755 "$work"
cluster=$work/cluster
cleanup() {
    local code=$?
    [ -d "$cluster" ] && "$repo/tests/jobs/slurm.sh" stop "$cluster"
    if [ "$code" = 0 ]; then rm -rf "$work"; else echo "logs are in $work"; fi
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# check DESCRIPTION COMMAND...: one test.
check() {
    local what=$1
    shift
    if "$@"; then
        echo "PASS $what"
        passed=$((passed + 1))
    else
        echo "FAIL $what: $*"
        failed=$((failed + 1))
        local log
        log=$(find "$work" -maxdepth 1 -name '*.log' -printf '%T@ %p\n' | sort -rn | head -n 1) # of the job this is about
        tail -n 20 "${log#* }"
    fi
}

on_ctl() {
    (cd "$work" && "$cluster/on" ctl "$@")
}

# submit NAME SCRIPT_ARGUMENTS...: prints the job's number; its log is $work/NAME.log
submit() {
    local name=$1
    shift
    on_ctl sbatch --parsable --ntasks-per-node=1 --cpus-per-task=1 --output="$work/$name.log" "$@"
}

job_field() {
    on_ctl scontrol show job "$1" | sed -nE "s/.*\b$2=([^ ]*).*/\1/p"
}

# await SECONDS COMMAND...: true once the command succeeds.
await() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.2
    done
}

has_ended() {
    case $(job_field "$1" JobState) in COMPLETED | FAILED | CANCELLED | TIMEOUT | NODE_FAIL) true ;; *) false ;; esac
}

has_steps() {
    [ -r "$1/metrics.jsonl" ] && [ "$(grep -c '"loss"' "$1/metrics.jsonl")" -ge "$2" ]
}

restarts_are() {
    [ "$(job_field "$1" Restarts)" = "$2" ]
}

adapter_sha() {
    sha256sum <"$work/$1/adapter/adapter_model.safetensors" | cut -d ' ' -f 1
}

cat >"$work/run.yaml" <<RUN
model: {base: $QSHARD_TEST_MODEL, quantization: nf4, double_quant: true, compute_dtype: bfloat16}
adapter: {type: lora, r: 8, alpha: 16, target_modules: all-linear}
data:
  train: $repo/jobs/data/train.jsonl
  max_length: 96
  packing: false
  overlong: truncate
train: {seed: 3, max_steps: 16, micro_batch_size: 1, global_batch_size: 3, learning_rate: 5.0e-4}
placement: {mode: gathered, backend: cpu, threads: 1}
checkpoint: {every: 5, keep: 3}
output: left-alone
RUN

"$repo/tests/jobs/slurm.sh" start "$cluster"

job=$(submit preflight --nodes=3 "$repo/jobs/preflight.sbatch" "$QSHARD_TEST_MODEL")
await 120 has_ended "$job" || true
check "preflight finds three good nodes" grep -q "all is well" "$work/preflight.log"

job=$(submit left-alone --nodes=3 "$repo/jobs/train.sbatch" run.yaml)
await 400 has_ended "$job" || true
check "a run left alone completes" [ "$(job_field "$job" JobState)" = COMPLETED ]
check "... in one start" [ "$(grep -c "train.sbatch: .* start " "$work/left-alone.log")" = 1 ]

job=$(submit requeued --nodes=3 "$repo/jobs/train.sbatch" run.yaml --set output=requeued)
check "the second run gets to step 3" await 200 has_steps "$work/requeued" 3
on_ctl scontrol requeue "$job"
check "a requeue half-way starts it again" await 120 restarts_are "$job" 1
check "... and it gets to step 9" await 200 has_steps "$work/requeued" 9
on_ctl scancel --signal=USR1 --batch "$job" # as --signal=B:USR1@180 does before the time limit
check "a warning before the time limit requeues it" await 120 restarts_are "$job" 2
await 400 has_ended "$job" || true
check "the twice requeued run completes" [ "$(job_field "$job" JobState)" = COMPLETED ]
check "... saved each time" [ "$(grep -c "train.sbatch: cause 85" "$work/requeued.log")" = 2 ]
check "... with the same adapter bits" [ "$(adapter_sha requeued)" = "$(adapter_sha left-alone)" ]

# A program that fails as if its peer were lost, before any checkpoint.
cat >"$work/loses-its-peer" <<'STUB'
#!/bin/sh
for argument; do output=${argument#output=}; done
mkdir -p "$output"
echo '{"state": "failed", "exit_code": 75, "cause": {"rank": 1, "host": "n1", "message": "no word from \"n1\""}}' >"$output/run_status.json"
exit 75
STUB
chmod +x "$work/loses-its-peer"
job=$(QSHARD=$work/loses-its-peer submit hopeless --nodes=2 "$repo/jobs/train.sbatch" run.yaml --set output=hopeless)
await 120 has_ended "$job" || true
check "a run without progress is started three times" restarts_are "$job" 2
check "... and ends with 93" [ "$(job_field "$job" ExitCode)" = 93:0 ]
check "... and says why" grep -q 'cause 75: no word from .*n1' "$work/hopeless.log"

job=$(submit usage --nodes=1 "$repo/jobs/train.sbatch" no-such-file.yaml)
await 60 has_ended "$job" || true
check "a missing run file ends with 64, not requeued" [ "$(job_field "$job" ExitCode)" = 64:0 ]

echo "$passed passed, $failed failed"
if [ "$failed" != 0 ]; then
    grep -hE "error|equeu|respond" "$cluster"/*.log | grep -v "state file" | tail -n 40
    exit 1
fi
