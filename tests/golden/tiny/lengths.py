"""Tiny models whose rotary positions depend on the length of a document: a folder a model, as make.py's, with logits,
losses and LoRA gradients in fp32 of documents below, at and beyond the original length, each run alone, and with what
transformers' generate() answers (greedy) below, across and beyond it.

    lengths.py [model ...]      all models when none is named
"""

import os
import shutil
import sys

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM
from safetensors.torch import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from make import BASE, VOCAB, attach_lora, gradients, save_adapter, set_parameters
from common import versions, write_json

ORIGINAL = 11
LENGTHS = (11, 7, 13, 12, 20)  # of the documents, which are one packed row
PROMPTS = ((4, 6), (8, 12), (11, 3), (14, 8))  # tokens of the prompt, and of the answer


def longrope(count, **more):
    return dict(rope_type="longrope", rope_theta=10000.0, short_factor=[1.0 + 0.125 * i for i in range(count)],
                long_factor=[2.0 + 0.75 * i for i in range(count)], **more)


def row(model_type, **changes):
    return dict(model_type=model_type, **(BASE | dict(rms_norm_eps=1e-5) | changes))


MODELS = {
    "phi3_longrope": row("phi3", original_max_position_embeddings=ORIGINAL, partial_rotary_factor=0.75,
                         rope_parameters=longrope(6)),
    "llama_longrope": row("llama", head_dim=16, rope_parameters=longrope(
        8, factor=5.0, original_max_position_embeddings=ORIGINAL)),
    "llama_dynamic": row("llama", head_dim=16, max_position_embeddings=ORIGINAL, rope_parameters=dict(
        rope_type="dynamic", rope_theta=10000.0, factor=3.0)),
}


def documents(seed):
    generator = torch.Generator().manual_seed(seed)
    result = []
    for i, length in enumerate(LENGTHS):
        ids = torch.randint(3, VOCAB, (length,), generator=generator).tolist()
        result.append({"input_ids": ids, "labels": [-100] * i + ids[i:]})
    return result


def forget(model):
    """As if the model had not run before: "dynamic" frequencies keep some of the longest document's."""
    for module in model.modules():
        if hasattr(module, "rotary_emb"):
            module.rotary_emb = type(module.rotary_emb)(module.config)


def run(model, docs):
    """Logits of each document, and the loss (sum over targets / their number) with gradients left in the model."""
    targets = sum(sum(label != -100 for label in doc["labels"][1:]) for doc in docs)
    logits, total = [], 0
    for doc in docs:
        forget(model)
        out = model(input_ids=torch.tensor([doc["input_ids"]]), use_cache=False).logits[0]
        total = total + torch.nn.functional.cross_entropy(out[:-1].double(), torch.tensor(doc["labels"][1:]),
                                                          ignore_index=-100, reduction="sum") / targets
        logits.append(out.detach())
    if total.requires_grad:
        total.backward()
    return torch.cat(logits).contiguous(), total.item()


def answers(model, seed):
    generator = torch.Generator().manual_seed(seed)
    model.generation_config.eos_token_id = None
    result = []
    for length, count in PROMPTS:
        forget(model)
        ids = torch.randint(3, VOCAB, (1, length), generator=generator)
        out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=count)
        result.append({"prompt": ids[0].tolist(), "answer": out[0, length:].tolist()})
    return result


def load(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return model.requires_grad_(False).eval()


def make(name, seed):
    folder = os.path.join(HERE, name)
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(seed)
    settings = dict(MODELS[name])
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings))
    set_parameters(model, seed)
    model.to(torch.bfloat16).save_pretrained(folder)
    docs = documents(seed)
    golden = {"about": "tests/golden/tiny/lengths.py", "versions": versions("torch", "transformers", "peft"),
              "documents": docs, "answers": answers(load(folder), seed), "loss": {}}
    tensors = {}
    tensors["logits.base"], golden["loss"]["base"] = run(load(folder), docs)
    model = attach_lora(load(folder), seed)
    save_adapter(model, os.path.join(folder, "adapter"), name)
    tensors["logits.lora_fp32"], golden["loss"]["lora_fp32"] = run(model, docs)
    tensors |= gradients(model, "grad.fp32.")
    save_file({key: value.detach().contiguous() for key, value in tensors.items()},
              os.path.join(folder, "golden.safetensors"))
    write_json(os.path.join(folder, "golden.json"), golden)


def main():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for name in sys.argv[1:] or MODELS:
        make(name, 200 + list(MODELS).index(name))


if __name__ == "__main__":
    main()
