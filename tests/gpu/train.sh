#!/bin/bash
# Trains a tiny model through the program itself and compares the adapter's bits: one rank, two ranks that gather the base
# (threads that share the GPU), a base streamed from the host, and a run that lost its newest checkpoint and resumed.
#
#   tests/gpu/train.sh QSHARD TINY_MODEL [BACKEND]      default: cuda
set -euo pipefail
qshard=$1 model=$2 backend=${3:-cuda}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

awk 'BEGIN { srand(7); for (i = 0; i < 48; i++) { line = ""; n = 9 + i % 13
    for (j = 0; j < n; j++) line = line (j ? ", " : "") int(rand() * 90) + 3
    printf "{\"input_ids\": [%s], \"labels\": [%s]}\n", line, line } }' >"$work/train.jsonl"
cat >"$work/run.yaml" <<Y
model: {base: $model}
adapter: {r: 8, alpha: 16}
data: {train: train.jsonl, format: tokenized, max_length: 32}
train: {max_steps: 8, micro_batch_size: 2, global_batch_size: 8, learning_rate: 5.0e-3}
checkpoint: {every: 4}
placement: {backend: $backend, ranks_per_gpu: 2}
output: one
Y

train() { # OUTPUT FLAGS...
    local output=$1
    shift
    # A step that is stuck on the GPU takes no notice of a first signal.
    timeout -k 5 60 "$qshard" train "$work/run.yaml" --set output="$output" "$@" >"$work/log" 2>&1 || {
        tail -n 40 "$work/log" >&2
        exit 1
    }
    sha256sum <"$work/$output/adapter/adapter_model.safetensors" | cut -c 1-16
}

one=$(train one)
two=$(train two --ranks 2 --set placement.mode=gathered)
streamed=$one
[ "$backend" != cuda ] || streamed=$(train streamed --set placement.mode=host_streamed)
rm -r "$work"/one/checkpoints/step-00000008.* "$work/one/adapter"
again=$(train one)
grep -q -i resum "$work/log" || { echo "the third run did not resume" && cat "$work/log" && exit 1; }
echo "$backend: one rank $one, two gathered $two, streamed $streamed, resumed $again"
[ "$one" = "$two" ] && [ "$one" = "$streamed" ] && [ "$one" = "$again" ]
