"""What dora.py, whole.py and experts.py share: an adapter by PEFT over transformers and bitsandbytes on a tiny model of make.py's, and
what is recorded of it: logits, losses and gradients in fp32, on the plain base and over NF4, and the losses of twenty AdamW steps over
NF4 as in train.py. Gradients have the names and shapes of the adapter's file.
"""

import json
import os
import shutil

import torch
import transformers
from make import FAMILIES, HERE, load, run, save_adapter  # makes common importable
from train import LEARNING_RATE, STEPS
from common import use_exact_bitsandbytes, versions, write_json
from peft import PeftModel
from safetensors.torch import save_file

SEED = 42  # of the twenty steps' masks


def trained(model):
    """Name in the adapter's file and parameter of everything that learns."""
    def in_file(name):
        return name.replace(".modules_to_save.default", "").replace(".default", "").replace("vector.weight", "vector")
    return {in_file(name): parameter for name, parameter in sorted(model.named_parameters()) if parameter.requires_grad}


def set_parameters(model, seed):
    """A and B are drawn, what has a value of the base's is moved away from it."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in trained(model).items():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("magnitude_vector"):
            parameter.data *= 1 + 0.2 * noise
        elif "lora_" in name:
            parameter.data = noise * (1 / parameter.shape[1] ** 0.5 if "lora_A" in name else 0.2)
        else:
            parameter.data = parameter.data + 0.05 * noise


def documents(name):
    with open(os.path.join(HERE, name, "golden.json"), encoding="utf-8") as file:
        return json.load(file)["documents"]


def adamw(model):
    return torch.optim.AdamW(trained(model).values(), lr=LEARNING_RATE, weight_decay=0.0)


def record(name, kind, attach, seed, docs, facts=None, tensors=None, optimizer_of=adamw, drop=None):
    """Writes NAME/KIND/: the adapter that attach(model) makes and `seed` fills, and its golden files, with what `facts` and `tensors`
    have beside. drop(model, seed, step) sets the masks of an adapter's dropout for the next run; without a seed they keep all, as
    for the logits recorded."""
    base, folder = os.path.join(HERE, name), os.path.join(HERE, name, kind)
    shutil.rmtree(folder, ignore_errors=True)
    golden = {"about": f"tests/golden/tiny/{kind}.py", "versions": versions("torch", "transformers", "peft", "bitsandbytes")}
    golden |= (facts or {}) | {"loss": {}, "grad_norm": {}, "learning_rate": LEARNING_RATE, "losses": []}
    tensors = tensors or {}
    for precision in ("fp32", "nf4"):
        if precision == "fp32":
            model = attach(load(base, quantized=False))
            set_parameters(model, seed + list(FAMILIES).index(name))
            save_adapter(model, folder, name)
        else:
            model = PeftModel.from_pretrained(load(base, quantized=True), folder, is_trainable=True)
        if drop:
            drop(model, None, 0)
        tensors["logits." + precision], golden["loss"][precision] = run(model, docs)
        if drop:
            drop(model, 0, 0)
            golden["loss"][precision] = run(model, docs)[1]
        gradients = {key: parameter.grad.clone() for key, parameter in trained(model).items()}
        golden["grad_norm"][precision] = float(sum(g.double().square().sum() for g in gradients.values()).sqrt())
        tensors |= {f"grad.{precision}.{key}": value for key, value in gradients.items()}
    optimizer = optimizer_of(model)
    for step in range(STEPS):
        if drop:
            drop(model, SEED, step)
        golden["losses"].append(run(model, docs)[1])
        optimizer.step()
    save_file({key: value.contiguous() for key, value in tensors.items()}, os.path.join(folder, "golden.safetensors"))
    write_json(os.path.join(folder, "golden.json"), golden)
    print(name, golden["loss"], golden["grad_norm"], golden["losses"][-1])


def make_all(names, make):
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    use_exact_bitsandbytes()
    for name in names:
        make(name)
