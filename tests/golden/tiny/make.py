"""Tiny random models of every family with the logits, losses and LoRA gradients that transformers + PEFT +
bitsandbytes give them. One folder a family: a Hugging Face model, `adapter/` (PEFT) and golden.{json,safetensors}.

    make.py [family ...]      all families when none is named

All arithmetic is fp32 with fp32 weights that bfloat16 can hold; the cross entropy alone is formed in fp64, because
torch's fp32 one is biased by about 1e-5. Documents run one by one: that is what packing must reproduce.
"""

import json
import os
import shutil
import sys

import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, ".."))
from common import use_exact_bitsandbytes, versions, write_json

VOCAB = 131
LENGTHS = (11, 7, 13)  # the first two make one packed row
BASE = dict(vocab_size=VOCAB, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=3,
            num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=False, pad_token_id=0,
            bos_token_id=1, eos_token_id=2)


def row(model_type, **changes):
    return dict(model_type=model_type, **(BASE | changes))


FAMILIES = {
    "llama": row("llama", rms_norm_eps=1e-5, head_dim=16, rope_theta=10000.0),
    "llama_tied": row("llama", rms_norm_eps=1e-5, head_dim=16, tie_word_embeddings=True,
                      rope_parameters={"rope_type": "llama3", "rope_theta": 10000.0, "factor": 4.0,
                                       "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                       "original_max_position_embeddings": 16}),
    "qwen2": row("qwen2", rms_norm_eps=1e-6, rope_theta=1000000.0),
    "qwen3": row("qwen3", rms_norm_eps=1e-6, head_dim=24, rope_theta=1000000.0, tie_word_embeddings=True),
    "mistral": row("mistral", rms_norm_eps=1e-5, head_dim=16, sliding_window=5, rope_theta=10000.0),
    "gemma": row("gemma", rms_norm_eps=1e-6, head_dim=24, tie_word_embeddings=True),
    "gemma2": row("gemma2", rms_norm_eps=1e-6, head_dim=24, tie_word_embeddings=True, sliding_window=5,
                  query_pre_attn_scalar=20, attn_logit_softcapping=5.0, final_logit_softcapping=3.0),
    "gemma3": row("gemma3_text", rms_norm_eps=1e-6, head_dim=24, tie_word_embeddings=True, sliding_window=5,
                  query_pre_attn_scalar=20, num_hidden_layers=3,
                  layer_types=["sliding_attention", "full_attention", "sliding_attention"],
                  rope_parameters={"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                                   "full_attention": {"rope_type": "linear", "factor": 8.0,
                                                      "rope_theta": 1000000.0}}),
    "phi3": row("phi3", rms_norm_eps=1e-5, rope_theta=10000.0, partial_rotary_factor=0.75, sliding_window=5,
                num_attention_heads=3, hidden_size=48, original_max_position_embeddings=64),
    "smollm3": row("smollm3", rms_norm_eps=1e-6, tie_word_embeddings=True, rope_theta=2000000.0,
                   no_rope_layers=[1, 0]),
    "olmo2": row("olmo2", rms_norm_eps=1e-6, rope_theta=500000.0),
    "granite": row("granite", rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=True,
                   embedding_multiplier=6.0, attention_multiplier=0.2, residual_multiplier=0.3, logits_scaling=4.0),
    "starcoder2": row("starcoder2", rope_theta=100000.0, tie_word_embeddings=True, sliding_window=5, use_bias=True),
    "gpt2": dict(model_type="gpt2", vocab_size=VOCAB, n_embd=48, n_layer=2, n_head=3, n_inner=80, n_positions=64,
                 resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=1, eos_token_id=2),
    "mixtral": row("mixtral", rms_norm_eps=1e-5, rope_theta=1000000.0, intermediate_size=36, num_local_experts=4,
                   num_experts_per_tok=2, sliding_window=None),
    "qwen3_moe": row("qwen3_moe", rms_norm_eps=1e-6, head_dim=24, rope_theta=1000000.0, num_hidden_layers=3,
                     mlp_only_layers=[1], num_experts=5, num_experts_per_tok=3, moe_intermediate_size=28,
                     norm_topk_prob=False),
    "llama_bias": row("llama", rms_norm_eps=1e-5, head_dim=16, rope_theta=10000.0, attention_bias=True, mlp_bias=True,
                      rope_parameters={"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
                                       "original_max_position_embeddings": 16}),
}


def set_parameters(model, seed):
    """Every parameter random and representable in bfloat16; norms near their neutral value, biases not zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("bias"):
            value = 0.2 * noise
        elif parameter.dim() == 1:
            value = parameter.data.float() + 0.15 * noise
        elif "embed" in name or "wte" in name or "wpe" in name:
            value = noise * 0.25
        else:
            value = noise * 1.3 / parameter.shape[-1] ** 0.5
        parameter.data = value.to(torch.bfloat16)


def documents(seed):
    generator = torch.Generator().manual_seed(seed)
    result = []
    for i, length in enumerate(LENGTHS):
        ids = torch.randint(3, VOCAB, (length,), generator=generator).tolist()
        prompt = (0, 3, 5)[i]
        result.append({"input_ids": ids, "labels": [-100] * prompt + ids[prompt:]})
    return result


def run(model, docs):
    """Logits of each document, and the loss (sum over targets / their number) with gradients left in the model."""
    model.train()
    model.zero_grad()
    targets = sum(sum(label != -100 for label in doc["labels"][1:]) for doc in docs)
    logits, total = [], 0
    for doc in docs:
        out = model(input_ids=torch.tensor([doc["input_ids"]]), use_cache=False).logits[0]
        labels = torch.tensor(doc["labels"][1:])
        total = total + torch.nn.functional.cross_entropy(out[:-1].double(), labels, ignore_index=-100,
                                                          reduction="sum") / targets
        logits.append(out.detach())
    if total.requires_grad:
        total.backward()
    return torch.cat(logits).contiguous(), total.item()


def load(folder, quantized, dtype=torch.float32):
    options = dict(dtype=dtype, attn_implementation="eager")
    if quantized:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype)
        options["device_map"] = "cpu"
    model = AutoModelForCausalLM.from_pretrained(folder, **options).requires_grad_(False)
    if quantized:
        quantize_experts(model)
    return model


def quantize_experts(model):
    """transformers 5 keeps experts as fused parameters, which bitsandbytes leaves alone: here each matrix of each expert
    is quantized by itself, as the checkpoint names it, and expanded again."""
    import bitsandbytes.functional

    def through_nf4(matrix):
        codes, state = bitsandbytes.functional.quantize_4bit(matrix.contiguous(), quant_type="nf4",
                                                             compress_statistics=True)
        return bitsandbytes.functional.dequantize_4bit(codes, state)

    for name, parameter in model.named_parameters():
        if ".experts." in name:
            for expert in parameter.data:
                for matrix in expert.chunk(2) if name.endswith("gate_up_proj") else [expert]:
                    matrix.copy_(through_nf4(matrix))


def attach_lora(model, seed):
    # On a mixture, PEFT's all-linear would adapt the fused experts and the router too.
    mixture = any(".experts." in name for name, _ in model.named_parameters())
    targets = ["q_proj", "k_proj", "v_proj", "o_proj"] if mixture else "all-linear"
    config = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=targets, task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        if parameter.requires_grad:
            scale = 1 / parameter.shape[1] ** 0.5 if "lora_A" in name else 0.2
            parameter.data = scale * torch.randn(parameter.shape, generator=generator)
    return model


def gradients(model, prefix):
    return {prefix + name.replace(".default", ""): parameter.grad.clone()
            for name, parameter in model.named_parameters() if parameter.requires_grad}


def save_adapter(model, folder, base_name):
    """PEFT's own folder, without what changes from run to run: the path of the base and the order of sets."""
    model.save_pretrained(folder)
    os.remove(os.path.join(folder, "README.md"))
    path = os.path.join(folder, "adapter_config.json")
    with open(path, encoding="utf-8") as file:
        config = json.load(file)
    config["base_model_name_or_path"] = base_name
    for key in ("target_modules", "target_parameters"):
        if config[key]:
            config[key].sort()
    with open(path, "w", encoding="utf-8") as file:
        json.dump(config, file, indent=2, sort_keys=True)


def make(name, seed, lookup):
    folder = os.path.join(HERE, name)
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(seed)
    settings = dict(FAMILIES[name])
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings))
    set_parameters(model, seed)
    model.to(torch.bfloat16).save_pretrained(folder)
    docs = documents(seed)
    golden = {"about": "tests/golden/tiny/make.py", "versions": versions("torch", "transformers", "peft", "bitsandbytes"),
              "documents": docs, "loss": {}, "grad_norm": {}}
    tensors = {}

    model = load(folder, quantized=False)
    tensors["logits.base"], golden["loss"]["base"] = run(model, docs)
    first = torch.tensor([docs[0]["input_ids"]])
    tensors["hidden.base"] = torch.cat(model(input_ids=first, output_hidden_states=True, use_cache=False).hidden_states)

    lookup.update(codes=0, changed=0)
    for kind in ("fp32", "nf4"):
        model = attach_lora(load(folder, quantized=kind == "nf4"), seed)
        if kind == "fp32":
            save_adapter(model, os.path.join(folder, "adapter"), name)
        tensors["logits.lora_" + kind], golden["loss"]["lora_" + kind] = run(model, docs)
        grads = gradients(model, "grad." + kind + ".")
        golden["grad_norm"][kind] = float(sum(g.double().square().sum() for g in grads.values()).sqrt())
        tensors |= grads
    golden["nested_codes"] = lookup
    save_file({key: value.detach().contiguous() for key, value in tensors.items()},
              os.path.join(folder, "golden.safetensors"))
    write_json(os.path.join(folder, "golden.json"), golden)
    print(name, golden["loss"], golden["grad_norm"], lookup)


def main():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    lookup = use_exact_bitsandbytes()
    for name in sys.argv[1:] or FAMILIES:
        make(name, 100 + list(FAMILIES).index(name), lookup)


if __name__ == "__main__":
    main()
