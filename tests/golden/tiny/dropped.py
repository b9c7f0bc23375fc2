"""Adapters with dropout on some tiny models by PEFT over transformers and bitsandbytes: MODEL/dropped/. Run after make.py, which
removes it.

The masks are not torch's but those of qshard, by the words of engine/base/dropout.h: element i of what a module reads (tokens of
the slot, one after the other) is kept if 16 bits of a Philox4x32-10 stream say so, which seed, step, slot and module select.
"""

import re

import numpy
import torch
from adapters import documents, make_all, record  # makes make and common importable
from peft import LoraConfig, get_peft_model

DORA = {"llama": False, "gemma3": True, "gpt2": True}
RATE = 0.25
DROPPED = round(RATE * 65536)
PURPOSE = 3  # Purpose::kDropout of engine/base/philox.h
ROLES = 35   # Role::kCount of engine/spec/weights.h
ROLE = {"attn.c_attn": 7, "q_proj": 9, "k_proj": 11, "v_proj": 13, "o_proj": 15, "attn.c_proj": 15, "gate_proj": 23, "up_proj": 25,
        "mlp.c_fc": 25, "down_proj": 27, "mlp.c_proj": 27}


def philox(counter, key):
    """Philox4x32-10 of Salmon et al. 2011: four arrays of 32-bit numbers from four, under a key of two numbers."""
    word = numpy.uint64(0xFFFFFFFF)
    a, b, c, d = (numpy.asarray(x, dtype=numpy.uint64) for x in counter)
    for _ in range(10):
        first, second = a * numpy.uint64(0xD2511F53), c * numpy.uint64(0xCD9E8D57)
        a, b, c, d = ((second >> numpy.uint64(32)) ^ b ^ numpy.uint64(key[0]), second & word,
                      (first >> numpy.uint64(32)) ^ d ^ numpy.uint64(key[1]), first & word)
        key = ((key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF)
    return a, b, c, d


def kept(seed, step, slot, target, first, count):
    """Whether elements first .. first + count - 1 are kept."""
    element = numpy.arange(first, first + count, dtype=numpy.uint64)
    shape = numpy.ones_like(element)
    key = (seed & 0xFFFFFFFF, (seed >> 32) ^ (PURPOSE * 0x85EBCA6B & 0xFFFFFFFF))
    words = numpy.stack(philox((element >> numpy.uint64(3), step * shape, target * shape, slot * shape), key))
    lane = (element & numpy.uint64(7)).astype(numpy.int64)
    word = numpy.take_along_axis(words, (lane >> 1)[None], 0)[0]
    return (word >> (lane % 2 * 16).astype(numpy.uint64) & numpy.uint64(0xFFFF)) >= DROPPED


class Dropout(torch.nn.Module):
    """In the place of a LoRA module's own: the next documents are those of slot 0."""

    def __init__(self, target):
        super().__init__()
        self.target, self.seed, self.step, self.first = target, None, 0, 0

    def start(self, seed, step):
        self.seed, self.step, self.first = seed, step, 0

    def forward(self, x):
        if self.seed is None:
            return x
        mask = torch.from_numpy(kept(self.seed, self.step, 0, self.target, self.first, x.numel())).view(x.shape)
        self.first += x.numel()
        return torch.where(mask, x * (65536 / (65536 - DROPPED)), 0.0)


def target_of(path):
    role = next(number for name, number in ROLE.items() if path.endswith(name))
    return int(re.search(r"\.(\d+)\.", path)[1]) * ROLES + role


def drop(model, seed, step):
    for path, module in model.named_modules():
        if hasattr(module, "lora_dropout"):
            if not isinstance(module.lora_dropout["default"], Dropout):
                module.lora_dropout["default"] = Dropout(target_of(path))
            module.lora_dropout["default"].start(seed, step)


def make(name):
    def attach(model):
        return get_peft_model(model, LoraConfig(r=4, lora_alpha=8, lora_dropout=RATE, target_modules="all-linear",
                                                use_dora=DORA[name], task_type="CAUSAL_LM"))

    record(name, "dropped", attach, 500, documents(name), drop=drop)


if __name__ == "__main__":
    make_all(DORA, make)
