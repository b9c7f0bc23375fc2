"""Makes selection.json: which modules PEFT adapts, with which rank and scale, for LoraConfigs of every kind.

Usage: python make_selection.py    (writes beside itself; versions.json of make.py has the versions)

The model is a random llama of 12 layers; "mixed" is a folder that PEFT saved with rank_pattern, alpha_pattern and rsLoRA.
"""

import json
import pathlib
import shutil

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import LlamaConfig, LlamaForCausalLM

HERE = pathlib.Path(__file__).resolve().parent

CASES = {
    "one name": dict(target_modules=["q_proj"]),
    "names and a path suffix": dict(target_modules=["v_proj", "mlp.down_proj"]),
    "a whole path": dict(target_modules=["model.layers.3.self_attn.k_proj"]),
    "all-linear": dict(target_modules="all-linear"),
    "all-linear but names": dict(target_modules="all-linear", exclude_modules=["q_proj", "mlp.gate_proj"]),
    "all-linear but a pattern": dict(target_modules="all-linear", exclude_modules=r".*\.mlp\..*|.*layers\.[0-5]\..*"),
    "a pattern": dict(target_modules=r".*\.self_attn\.(q|v)_proj"),
    "a pattern with look-ahead": dict(target_modules=r"model\.layers\.(?!0\.)\d+\.mlp\.(up|down)_proj"),
    "a pattern with a named group": dict(target_modules=r".*layers\.(?P<i>1)(?P=i)\..*o_proj"),
    "a pattern of two digits": dict(target_modules=r"model\.layers\.1\d\.self_attn\.k_proj"),
    "layers": dict(target_modules=["q_proj", "up_proj"], layers_to_transform=[0, 2, 11]),
    "one layer": dict(target_modules=["q_proj"], layers_to_transform=7),
    "layers by pattern": dict(target_modules=["o_proj"], layers_to_transform=[1, 4], layers_pattern="layers"),
    "rsLoRA": dict(target_modules=["q_proj"], use_rslora=True),
    "ranks": dict(target_modules=["q_proj", "v_proj", "down_proj"], rank_pattern={"down_proj": 2, "layers.1.self_attn.q_proj": 3}),
    "an unescaped dot": dict(target_modules=["q_proj"], rank_pattern={"model.layers.1.self_attn.q_proj": 2, "self_attn.q_proj": 5}),
    "no part of a name": dict(target_modules=["q_proj", "up_proj"], rank_pattern={"proj": 2, "_proj": 3}),
    "ranks by expression": dict(target_modules=["q_proj", "k_proj"], rank_pattern={r"model\.layers\.[0-3]\..*": 1, "(q|k)_proj": 6}),
    "the first hit": dict(target_modules=["q_proj", "k_proj"], rank_pattern={"q_proj": 7, ".*_proj": 2}),
    "alphas": dict(target_modules=["q_proj", "k_proj"], alpha_pattern={"k_proj": 40, r"layers.5.self_attn.q_proj": 0.5}),
    "all of them": dict(target_modules="all-linear", exclude_modules=["o_proj"], use_rslora=True,
                        rank_pattern={"gate_proj": 9, ".*layers.2.*": 4}, alpha_pattern={"down_proj": 11, ".*layers.2.*": 64}),
}


def tiny(layers):
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=layers, num_attention_heads=2,
                                        num_key_value_heads=1, vocab_size=32))


def adapted(model):
    return {name.removeprefix("base_model.model."): [layer.r["default"], layer.scaling["default"]]
            for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}


def main():
    rows = []
    for name, options in CASES.items():
        model = get_peft_model(tiny(12), LoraConfig(r=8, lora_alpha=12, task_type="CAUSAL_LM", **options))
        rows.append({"case": name, "config": dict(options, r=8, lora_alpha=12), "targets": adapted(model)})
    (HERE / "selection.json").write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")

    shutil.rmtree(HERE / "mixed", ignore_errors=True)
    model = get_peft_model(tiny(2), LoraConfig(
        r=4, lora_alpha=8, task_type="CAUSAL_LM", use_rslora=True, target_modules=r".*\.(q_proj|down_proj)",
        rank_pattern={"down_proj": 2}, alpha_pattern={r"model\.layers\.1\..*": 32}))
    model.peft_config["default"].base_model_name_or_path = "tiny/llama"
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "lora_B" in parameter_name:
                parameter.normal_(0, 0.1)
    model.save_pretrained(HERE / "mixed")
    (HERE / "mixed" / "README.md").unlink()
    (HERE / "mixed" / "adapter_model.safetensors").chmod(0o644)
    scales = adapted(model)
    (HERE / "mixed" / "targets.json").write_text(json.dumps(scales, indent=1) + "\n")


if __name__ == "__main__":
    main()
