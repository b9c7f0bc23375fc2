"""Makes the golden PEFT adapter: PEFT's own folder for a tiny random llama, and the same in bfloat16.

Usage: python make.py    (writes beside itself; the versions used go to versions.json)
"""

import json
import pathlib
import shutil

import peft
import safetensors
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

HERE = pathlib.Path(__file__).resolve().parent


def main():
    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, vocab_size=128)
    model = get_peft_model(
        LlamaForCausalLM(config),
        LoraConfig(r=4, lora_alpha=8, lora_dropout=0.05, task_type="CAUSAL_LM",
                   target_modules=["q_proj", "v_proj", "down_proj"]))
    model.peft_config["default"].base_model_name_or_path = "tiny/llama"
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    model.save_pretrained(HERE / "f32")
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(torch.bfloat16)
    model.save_pretrained(HERE / "bf16")
    for folder in ("f32", "bf16"):
        (HERE / folder / "README.md").unlink()
        (HERE / folder / "adapter_model.safetensors").chmod(0o644)
    versions = {m.__name__: m.__version__ for m in (torch, transformers, peft, safetensors)}
    (HERE / "versions.json").write_text(json.dumps(versions, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    for name in ("f32", "bf16"):
        shutil.rmtree(HERE / name, ignore_errors=True)
    main()
