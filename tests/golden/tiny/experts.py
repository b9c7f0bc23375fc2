"""LoRA on all of a mixture of experts by PEFT over transformers and bitsandbytes: MODEL/experts/. Run after make.py, which removes it.

The adapter is PEFT's all-linear: attention, the fused parameters of the experts (gate and up with twice the rank) and the router.
Recorded, as in make.py: logits, losses and gradients in fp32, on the plain base and over NF4; and the losses of twenty AdamW steps
over NF4 as in train.py. Gradients have the names and shapes of the adapter's file.
"""

import json
import os
import shutil

import torch
import transformers
from make import FAMILIES, HERE, load, run  # makes common importable
from train import LEARNING_RATE, STEPS
from common import use_exact_nested_codes, versions, write_json
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file


def trained(model):
    """Name in the adapter's file and parameter of everything that learns."""
    return {name.replace(".default", ""): parameter
            for name, parameter in sorted(model.named_parameters()) if parameter.requires_grad}


def set_parameters(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in trained(model).items():
        scale = 1 / parameter.shape[1] ** 0.5 if "lora_A" in name else 0.2
        parameter.data = scale * torch.randn(parameter.shape, generator=generator)


def save_adapter(model, folder, base_name):
    """PEFT's own folder, without what changes from run to run: the path of the base and the order of sets."""
    model.save_pretrained(folder)
    os.remove(os.path.join(folder, "README.md"))
    path = os.path.join(folder, "adapter_config.json")
    with open(path, encoding="utf-8") as file:
        config = json.load(file)
    config["base_model_name_or_path"] = base_name
    for key in ("target_modules", "target_parameters"):
        config[key].sort()
    with open(path, "w", encoding="utf-8") as file:
        json.dump(config, file, indent=2, sort_keys=True)


def make(name):
    base, folder = os.path.join(HERE, name), os.path.join(HERE, name, "experts")
    shutil.rmtree(folder, ignore_errors=True)
    with open(os.path.join(base, "golden.json"), encoding="utf-8") as file:
        docs = json.load(file)["documents"]
    golden = {"about": "tests/golden/tiny/experts.py", "versions": versions("torch", "transformers", "peft", "bitsandbytes"),
              "loss": {}, "grad_norm": {}, "learning_rate": LEARNING_RATE, "losses": []}
    tensors = {}
    for kind in ("fp32", "nf4"):
        if kind == "fp32":
            model = get_peft_model(load(base, quantized=False), LoraConfig(
                r=3, lora_alpha=6, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"))
            set_parameters(model, 300 + list(FAMILIES).index(name))
            save_adapter(model, folder, name)
        else:
            model = PeftModel.from_pretrained(load(base, quantized=True), folder, is_trainable=True)
        tensors["logits." + kind], golden["loss"][kind] = run(model, docs)
        gradients = {key: parameter.grad.clone() for key, parameter in trained(model).items()}
        golden["grad_norm"][kind] = float(sum(g.double().square().sum() for g in gradients.values()).sqrt())
        tensors |= {f"grad.{kind}.{key}": value for key, value in gradients.items()}
    optimizer = torch.optim.AdamW(trained(model).values(), lr=LEARNING_RATE, weight_decay=0.0)
    for _ in range(STEPS):
        golden["losses"].append(run(model, docs)[1])
        optimizer.step()
    save_file({key: value.contiguous() for key, value in tensors.items()}, os.path.join(folder, "golden.safetensors"))
    write_json(os.path.join(folder, "golden.json"), golden)
    print(name, golden["loss"], golden["grad_norm"], golden["losses"][-1])


def main():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    use_exact_nested_codes()
    for name in ("mixtral", "qwen3_moe"):
        make(name)


if __name__ == "__main__":
    main()
