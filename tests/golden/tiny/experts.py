"""LoRA on all of a mixture of experts by PEFT over transformers and bitsandbytes: MODEL/experts/. Run after make.py, which removes it.

The adapter is PEFT's all-linear: attention, the fused parameters of the experts (gate and up with twice the rank) and the router.
Recorded is what adapters.py says.
"""

from adapters import documents, make_all, record
from peft import LoraConfig, get_peft_model


def attach(model):
    return get_peft_model(model, LoraConfig(r=3, lora_alpha=6, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"))


def make(name):
    record(name, "experts", attach, 300, documents(name))


if __name__ == "__main__":
    make_all(("mixtral", "qwen3_moe"), make)
