"""Tiny models as transformers and bitsandbytes save them quantized, and the logits that they give: folders nf4, fp4
and int8 beside this file, made from ../tiny/llama.

- nf4: double quantization, uint8 storage; one linear is left in bfloat16 (llm_int8_skip_modules), as in "dynamic" folders
- fp4: no double quantization, stored as bfloat16 (bnb_4bit_quant_storage)
- int8: LLM.int8
Logits are those of the folder loaded again, in train() mode (nothing is repacked) and fp32, document by document.
"""

import json
import os
import shutil
import sys

import torch
import transformers
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, ".."))
from common import versions, write_json

SOURCE = os.path.join(HERE, "..", "tiny", "llama")
KINDS = {
    "nf4": dict(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                llm_int8_skip_modules=["lm_head", "layers.1.mlp.down_proj"]),
    "fp4": dict(load_in_4bit=True, bnb_4bit_quant_type="fp4", bnb_4bit_quant_storage=torch.bfloat16),
    "int8": dict(load_in_8bit=True),
}


def load(folder, dtype, config=None):
    options = {"quantization_config": config} if config else {}
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, device_map="cpu", attn_implementation="eager",
                                                **options)


def widen(model):
    """What bitsandbytes did not quantize in fp32: loading a quantized folder leaves it in bfloat16."""
    for module in model.modules():
        if not isinstance(module, (Linear4bit, Linear8bitLt)):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.float()
    return model


def make(kind, documents):
    folder = os.path.join(HERE, kind)
    shutil.rmtree(folder, ignore_errors=True)
    settings = KINDS[kind] | ({"bnb_4bit_compute_dtype": torch.float32} if kind != "int8" else {})
    load(SOURCE, torch.bfloat16, BitsAndBytesConfig(**settings)).save_pretrained(folder)
    model = widen(load(folder, torch.float32)).train()
    logits = [model(input_ids=torch.tensor([doc["input_ids"]]), use_cache=False).logits[0].detach().float()
              for doc in documents]
    save_file({"logits": torch.cat(logits).contiguous()}, os.path.join(folder, "golden.safetensors"))
    write_json(os.path.join(folder, "golden.json"),
               {"about": "tests/golden/bnb/make.py", "versions": versions("torch", "transformers", "bitsandbytes"),
                "documents": documents})


def main():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with open(os.path.join(SOURCE, "golden.json"), encoding="utf-8") as file:
        documents = json.load(file)["documents"]
    for kind in sys.argv[1:] or KINDS:
        make(kind, documents)


if __name__ == "__main__":
    main()
