#!/usr/bin/env bash
# Alternates one qshard training step benchmark with the PyTorch + PEFT + bitsandbytes peer and prints medians and ratios.
#
#   tests/bench/compare_peer.sh QSHARD MODEL.gguf [PYTHON]
#
# Environment: ROUNDS (5), THREADS (2), LENGTH (512), BATCH (2), RANK (16), STEPS (3 timed steps a round for the peer),
# COMPUTE (bf16 | fp32: qshard's compute dtype, default bf16) and PEER_COMPUTE (the peer's; default: the same, but fp32 on a
# processor without AVX-512, where PyTorch multiplies bfloat16 matrices at about 1 GFLOP/s and fp32 is its best).
# PYTHON needs torch, transformers, peft, bitsandbytes and gguf. Close other programs first.
set -euo pipefail

if [ $# -lt 2 ]; then
    sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
qshard=$1
model=$2
python=${3:-python3}
here=$(cd "$(dirname "$0")" && pwd)
rounds=${ROUNDS:-5} threads=${THREADS:-2} length=${LENGTH:-512} batch=${BATCH:-2} rank=${RANK:-16}
compute=${COMPUTE:-bf16} steps=${STEPS:-3}
peer_compute=$compute
grep -q avx512f /proc/cpuinfo || peer_compute=fp32
peer_compute=${PEER_COMPUTE:-$peer_compute}
case $compute in
    bf16) dtype=bfloat16 ;;
    fp32) dtype=float32 ;;
    *) echo "COMPUTE is bf16 or fp32, not $compute" >&2; exit 2 ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
folder=$model
if [ -f "$model" ]; then
    echo "converting the GGUF file for the peer (not timed)" >&2
    folder=$work/model
    "$python" "$here/peer.py" "$model" --convert "$folder" >/dev/null 2>"$work/convert.log" ||
        { cat "$work/convert.log" >&2; exit 1; }
fi

# run NAME COMMAND...: keeps the JSON object that the command prints as NAME.ROUND.json.
run() {
    local name=$1
    shift
    if ! "$@" >"$work/out" 2>"$work/err"; then
        echo "failed: $*" >&2
        cat "$work/err" >&2
        exit 1
    fi
    cp "$work/out" "$work/$name.$round.json"
}

echo "qshard in $compute, the peer in $peer_compute" >&2
export OMP_NUM_THREADS=$threads
for round in $(seq "$rounds"); do
    echo "round $round of $rounds, load $(cut -d' ' -f1 /proc/loadavg)" >&2
    run qshard "$qshard" bench step --model "$model" --max-length "$length" --micro-batch-size "$batch" --r "$rank" \
        --threads "$threads" --compute-dtype "$dtype" --json
    run peer "$python" "$here/peer.py" "$folder" --compute "$peer_compute" --max-length "$length" --micro-batch-size "$batch" \
        --r "$rank" --threads "$threads" --steps "$steps"
done

"$python" - "$work" <<'PY'
import glob, json, statistics, sys

def load(name):
    return [json.loads(open(path).read().strip()) for path in sorted(glob.glob(f"{sys.argv[1]}/{name}.*.json"))]

ours, peer = load("qshard"), load("peer")
speed = {"qshard": [r["tokens_per_second"] for r in ours], "peer": [r["tokens_per_second"] for r in peer]}
memory = {"qshard": [r["resident_bytes"] for r in ours], "peer": [r["peak_resident_bytes"] for r in peer]}
ratios = [a / b for a, b in zip(speed["qshard"], speed["peer"])]
for name in ("qshard", "peer"):
    values = speed[name]
    print(f"{name:7} {statistics.median(values):8.1f} tokens/s  (min {min(values):.1f}, max {max(values):.1f})  "
          f"{statistics.median(memory[name]) / 1e9:.2f} GB")
print(f"speed   {statistics.median(ratios):8.2f} times the peer, median of the rounds' ratios "
      f"({', '.join('%.2f' % r for r in ratios)})")
print(f"memory  {statistics.median(memory['qshard']) / statistics.median(memory['peer']):8.2f} of the peer's peak")
print(f"peer's first step after {statistics.median(r['seconds_to_first_step'] for r in peer):.1f} s")
shares = [r["peak_share"] for r in ours if "peak_share" in r]
if shares:
    print(f"qshard used {100 * statistics.median(shares):.0f} % of the GEMM rate measured in its own process")
PY
