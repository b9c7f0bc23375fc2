"""Compares a folder from `qshard export --to merged-hf` with what PEFT's merge_and_unload() makes of the same adapter.

    check_merged_folder.py --base MODEL.gguf|HF_FOLDER --adapter PEFT_FOLDER --merged FOLDER

The base is loaded in bfloat16. Every tensor of the folder must be there under PEFT's name and shape; values may differ where the
fp32 sum of W and B A, taken in another order, lies at a rounding boundary: at most 1 of 10,000 elements, by one step of bfloat16, or,
where its terms cancel, by 2 (r + 1) roundings of the sum of their absolute values (of experts and routers, whose B A PEFT rounds to
bfloat16 first: also by a step of that and the one of the sum). The folder must load in transformers, and its
tokenizer give the base's ids. Measured on SmolLM2-135M-Instruct, all linears at r 4: 36 of 162,826,560 elements differ.
Exit status 0 when all holds. Run by hand where torch, transformers, peft, safetensors and tokenizers are installed.
"""

import argparse
import os
import sys
import tempfile

import torch
import transformers
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path += [os.path.join(HERE, "..", "bench"), os.path.join(HERE, "..", "golden")]
from peer import hugging_face_folder

TEXTS = ["Hello  World's 1234567 x=3.14;\r\n\n\t   I'LL", "<|im_start|>user\nHi<|im_end|>\n", " def f(a): # comment"]


def steps(value):
    """bfloat16 numbers as integers whose difference is the number of values between them."""
    bits = value.view(torch.int16).to(torch.int32)
    return torch.where(bits < 0, -(bits & 0x7FFF), bits)


def roundings(model, before):
    """Of each weight with LoRA, by its name in the base: 2 (r + 1) roundings of |W| + scale |B| |A|, of DoRA's rows in their length; of
    parameters a step of scale B A and one of the result beside."""
    result = {}
    for path, module in model.named_modules():
        if not isinstance(module, LoraLayer) or "default" not in module.lora_A:
            continue
        parameter = getattr(module, "parameter_name", None)
        name = path.removeprefix("base_model.model.").replace(".base_layer", "") + "." + (parameter or "weight")
        factors = [module.lora_A["default"].weight, module.lora_B["default"].weight]
        delta = module.get_delta_weight("default").float()
        for factor in factors:
            factor.data.abs_()
        terms = before[name].float().abs() + module.get_delta_weight("default").float()
        if module.lora_magnitude_vector:
            lengths = (before[name].float() + delta).norm(dim=1)
            terms *= (module.lora_magnitude_vector["default"].weight / lengths)[:, None]
        result[name] = terms * 2 * (module.r["default"] + 1) * 2.0 ** -24
        if parameter:
            result[name] += (delta.abs() + (before[name].float() + delta).abs()) * 2.0 ** -7
    return result


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", required=True)
    parser.add_argument("--adapter", required=True)
    parser.add_argument("--merged", required=True)
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        folder = hugging_face_folder(arguments.base, torch.bfloat16, scratch)
        base, again = (AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16) for _ in range(2))
    before = {name: value.clone() for name, value in base.state_dict().items()}
    theirs = PeftModel.from_pretrained(base, arguments.adapter).merge_and_unload().state_dict()
    with torch.no_grad():
        allowed = roundings(PeftModel.from_pretrained(again, arguments.adapter), before)
    model = AutoModelForCausalLM.from_pretrained(arguments.merged, dtype="auto")
    ours = model.state_dict()
    if model.dtype != torch.bfloat16 or set(ours) != set(theirs):
        sys.exit(f"dtype {model.dtype}; names differ: {sorted(set(ours) ^ set(theirs))[:5]}")
    count = different = wrong = 0
    for name, value in ours.items():
        distance = (steps(value) - steps(theirs[name])).abs()
        count += distance.numel()
        different += int((distance > 0).sum())
        far = (value.float() - theirs[name].float()).abs() > allowed.get(name, torch.zeros(()))
        wrong += int((far & (distance > 1)).sum())
    print(f"{len(ours)} tensors, {count} elements: {different} differ, {wrong} of them by more than rounding explains")
    good = different <= count // 10000 and wrong == 0
    if os.path.exists(os.path.join(arguments.merged, "tokenizer.json")):
        mine = AutoTokenizer.from_pretrained(arguments.merged)
        options = {"gguf_file": os.path.basename(arguments.base)} if arguments.base.endswith(".gguf") else {}
        source = os.path.dirname(arguments.base) if options else arguments.base
        other = AutoTokenizer.from_pretrained(source, **options)
        same = sum(mine(text).input_ids == other(text).input_ids for text in TEXTS)
        print(f"tokenizer: {same} of {len(TEXTS)} texts give transformers' ids of the base (which splits digits of SmolLM2's "
              "GGUF otherwise)")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
