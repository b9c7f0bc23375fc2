"""DoRA on some tiny models by PEFT over transformers and bitsandbytes: MODEL/dora/. Run after make.py, which removes it.

The adapter has the targets and the A and B of make.py's, and magnitudes a fifth or so away from the base's row norms. Recorded, as
in make.py: logits, losses and gradients in fp32, on the plain base and over NF4; PEFT's own first magnitudes over NF4; and the
losses of twenty AdamW steps over NF4 as in train.py.
"""

import json
import os
import shutil

import torch
import transformers
from make import FAMILIES, HERE, load, run, save_adapter  # makes common importable
from train import LEARNING_RATE, STEPS
from common import use_exact_nested_codes, versions, write_json
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file


def attach(model):
    return get_peft_model(model, LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules="all-linear",
                                            use_dora=True, task_type="CAUSAL_LM"))


def trained(model):
    """Name in the adapter's file and parameter of everything that learns."""
    return {name.replace(".default", "").replace("vector.weight", "vector"): parameter
            for name, parameter in sorted(model.named_parameters()) if parameter.requires_grad}


def set_parameters(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in trained(model).items():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("magnitude_vector"):
            parameter.data *= 1 + 0.2 * noise
        else:
            parameter.data = noise * (1 / parameter.shape[1] ** 0.5 if "lora_A" in name else 0.2)


def make(name):
    base, folder = os.path.join(HERE, name), os.path.join(HERE, name, "dora")
    shutil.rmtree(folder, ignore_errors=True)
    with open(os.path.join(base, "golden.json"), encoding="utf-8") as file:
        docs = json.load(file)["documents"]
    golden = {"about": "tests/golden/tiny/dora.py", "versions": versions("torch", "transformers", "peft", "bitsandbytes"),
              "loss": {}, "grad_norm": {}, "learning_rate": LEARNING_RATE, "losses": []}
    model = attach(load(base, quantized=True))
    tensors = {"initial.nf4." + key: value.detach().clone() for key, value in trained(model).items()
               if key.endswith("magnitude_vector")}
    for kind in ("fp32", "nf4"):
        if kind == "fp32":
            model = attach(load(base, quantized=False))
            set_parameters(model, 200 + list(FAMILIES).index(name))
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
    for name in ("llama", "llama_bias", "gemma3", "gpt2"):
        make(name)


if __name__ == "__main__":
    main()
