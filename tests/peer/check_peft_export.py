"""Loads an adapter that qshard exported into PEFT and compares the logits of given token ids with qshard's own.

    check_peft_export.py --base MODEL.gguf|HF_FOLDER --adapter PEFT_FOLDER --scores SCORES.jsonl
                         [--compute bf16|fp32] [--quantization nf4|none|stored] [--limit N]

SCORES.jsonl comes from `qshard score --model M --adapter CHECKPOINT --input prompts.jsonl --top V --out SCORES.jsonl` with the
same --compute-dtype and --quantization and V the size of the vocabulary: rows {"input_ids": [...], "logprobs": [null, -3.21, ...],
"top": [[[id, logprob], ...]]}. A smaller V compares the likeliest tokens alone. "stored": the base is a bnb-4bit folder, whose
bytes both programs take as they are; with "nf4" bitsandbytes quantizes anew, and its fp32 mean of the absmax values may differ
from ours in its last bit, which moves a few of their 8-bit codes.
fp32: every log-probability within 1e-4 of PEFT's, relative to 1 + its size. bf16: the distance from PEFT's logits, root of the
mean square over theirs, is at most 2e-2, from PEFT in fp32 and from PEFT as QLoRA's users prepare it for bf16
(prepare_model_for_kbit_training; without quantization fp32 weights under autocast). The same from a model that is in bf16 as a
whole is printed, not judged: such a one rounds the residual stream, the LoRA term and their sum, and may itself be more than 2e-2
from fp32. Our mean distance from fp32 must not be larger than that model's.
Exit status 0 when that holds, 1 when it does not, 2 for bad input.
Run by hand where torch, transformers, peft, bitsandbytes and safetensors are installed.
"""

import argparse
import json
import os
import sys
import tempfile

import torch
import transformers
from bitsandbytes.nn import Linear4bit
from peft import PeftModel, get_peft_model_state_dict, prepare_model_for_kbit_training
from safetensors import safe_open
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path += [os.path.join(HERE, "..", folder) for folder in ("bench", "golden", "golden/tiny")]
from common import use_exact_bitsandbytes
from make import quantize_experts
from peer import hugging_face_folder

TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2}


def load_base(path, dtype, quantization, scratch):
    """GGUF values are rounded to bfloat16 first, as qshard reads them; fp32 keeps NF4 values unrounded in fp32."""
    folder = hugging_face_folder(path, torch.bfloat16, scratch)
    options = dict(device_map="cpu") if quantization == "stored" else {}
    if quantization == "nf4":
        options = dict(device_map="cpu", quantization_config=BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **options)
    if quantization == "nf4":
        quantize_experts(model)
    if quantization == "stored" and not getattr(model, "is_loaded_in_4bit", False):
        sys.exit(f"{path}: --quantization stored needs a bnb-4bit folder")
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.compute_dtype = dtype  # a stored folder names one of its own
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)  # and keeps its dtype whatever is asked for
    return model


def check_loaded(model, folder):
    """Every tensor of the file must have arrived in the model with its values: PEFT ignores keys it does not know. A weight of
    modules_to_save has the dtype of the base in PEFT."""
    loaded = get_peft_model_state_dict(model)
    with safe_open(os.path.join(folder, "adapter_model.safetensors"), framework="pt") as file:
        names = set(file.keys())
        for name in sorted(names):
            if name not in loaded:
                sys.exit(f"PEFT has no parameter for {name}")
            if not torch.equal(loaded[name], file.get_tensor(name).to(loaded[name].dtype)):
                sys.exit(f"PEFT holds other values for {name}")
    missing = sorted(set(loaded) - names)
    if missing:
        sys.exit(f"the adapter file lacks {len(missing)} tensors that PEFT expects, the first is {missing[0]}")
    return len(names)


def listed(row):
    """Positions, tokens and our log-probabilities of the row's own tokens and of its top tables."""
    own = [(i - 1, row["input_ids"][i], ours) for i, ours in enumerate(row["logprobs"]) if ours is not None]
    top = [(i - 1, token, ours) for i, table in enumerate(row.get("top") or []) for token, ours in table or []]
    positions, tokens, ours = zip(*(own + top))
    return torch.tensor(positions), torch.tensor(tokens), torch.tensor(ours, dtype=torch.float64)


def peer_values(arguments, way, rows):
    """PEFT's log-probabilities and logits of what listed() names, and the number of adapter tensors. Ways: all in "fp32", all in
    "bf16", or "prepared" for bf16."""
    prepared, quantized = way == "prepared", arguments.quantization != "none"
    dtype = torch.float32 if way == "fp32" or (prepared and not quantized) else torch.bfloat16
    with tempfile.TemporaryDirectory() as scratch:
        model = load_base(arguments.base, dtype, arguments.quantization, scratch)
    if prepared and quantized:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    model = PeftModel.from_pretrained(model, arguments.adapter)
    tensors = check_loaded(model, arguments.adapter)
    model.train()  # in eval() bitsandbytes repacks to bfloat16 on some processors
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    logprobs, logits = [], []
    for positions, tokens, row in rows:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=prepared and not quantized):
            row_logits = model(input_ids=torch.tensor([row["input_ids"]]), use_cache=False).logits[0].double()
        logprobs.append(row_logits.log_softmax(-1)[positions, tokens])
        logits.append(row_logits[positions, tokens])
    return torch.cat(logprobs), torch.cat(logits), tensors


def relative(a, b, logits):
    return ((a - b).square().mean() / logits.square().mean()).sqrt().item()


def describe(name, a, b, logits):
    difference = (a - b).abs()
    scaled = (difference / (1 + b.abs())).max()
    print(f"{name}: {relative(a, b, logits):.2e} of the logits; largest difference {difference.max():.3g}, "
          f"{scaled:.2e} of 1 + size; mean {difference.mean():.3g}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", required=True)
    parser.add_argument("--adapter", required=True)
    parser.add_argument("--scores", required=True)
    parser.add_argument("--compute", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--quantization", choices=("nf4", "none", "stored"), default="nf4")
    parser.add_argument("--limit", type=int, default=50)
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    use_exact_bitsandbytes()
    with open(arguments.scores, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file][: arguments.limit]
    if not rows or any(len(row["input_ids"]) != len(row["logprobs"]) for row in rows):
        print(f"{arguments.scores}: needs rows with input_ids and logprobs of one length", file=sys.stderr)
        sys.exit(2)

    named = [(*listed(row), row) for row in rows]
    ours = torch.cat([values for _, _, values, _ in named])
    wanted = [(positions, tokens, row) for positions, tokens, _, row in named]
    exact, logits, tensors = peer_values(arguments, "fp32", wanted)
    print(f"{tensors} tensors loaded; {len(rows)} rows, {len(ours)} log-probabilities")
    describe(f"ours in {arguments.compute} from PEFT in fp32", ours, exact, logits)
    limit = TOLERANCE[arguments.compute]
    if arguments.compute == "fp32":
        sys.exit(0 if ((ours - exact).abs() <= limit * (1 + exact.abs())).all() else 1)
    prepared, _, _ = peer_values(arguments, "prepared", wanted)
    describe("PEFT prepared for bf16 from PEFT in fp32", prepared, exact, logits)
    describe("ours in bf16 from PEFT prepared for bf16", ours, prepared, logits)
    whole, _, _ = peer_values(arguments, "bf16", wanted)
    describe("PEFT all in bf16 from PEFT in fp32", whole, exact, logits)
    describe("ours in bf16 from PEFT all in bf16", ours, whole, logits)
    near = relative(ours, exact, logits) <= limit and relative(ours, prepared, logits) <= limit
    sys.exit(0 if near and (ours - exact).abs().mean() <= (whole - exact).abs().mean() else 1)


if __name__ == "__main__":
    main()
