"""Writes a folder of make_field_models.py as a GGUF file with the metadata keys and tensor names of llama.cpp's converter."""

import json
import pathlib

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type

from make_field_models import MODELS, WRAPPED, saved_tensors

ARCHITECTURES = {"mistral": "llama", "mixtral": "llama", "gemma3_text": "gemma3", "qwen3_moe": "qwen3moe"}
PERMUTED = ("llama", "granite", "smollm3")
PRE = {"llama3": "llama-bpe", "qwen3": "qwen2", "gpt4o": "gpt-4o", "cl100k": "dbrx", "gpt2": "gpt-2", "starcoder": "starcoder",
       "granite": "refact"}
# Fields of a random block that are fp16 scales, and values that give weights of the usual size.
SCALES = {Type.Q2_K: {80: 2e-3, 82: 3e-3}, Type.Q3_K: {108: 2e-4}, Type.Q4_K: {0: 4e-4, 2: 3e-3}, Type.Q5_K: {0: 2e-4, 2: 3e-3},
          Type.Q6_K: {208: 5e-5}, Type.IQ4_XS: {0: 5e-5}, Type.IQ4_NL: {0: 1e-3}}


def random_blocks(rows, cols, kind, seed):
    """What gguf cannot quantize to is made of random codes instead."""
    per_block, size = gguf.GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(seed).integers(0, 256, (rows * cols // per_block, size), dtype=np.uint8)
    for offset, scale in SCALES[kind].items():
        raw[:, offset:offset + 2] = np.frombuffer(np.float16(scale).tobytes(), np.uint8)
    return raw.reshape(rows, -1)


def kind_of(name, cols, types):
    if types != "K":
        return Type[types]
    wide = cols % 256 == 0
    if "exps" in name:
        return Type.IQ4_XS if wide else Type.IQ4_NL
    if "attn_v" in name or "ffn_down" in name or "token_embd" in name or name == "output.weight":
        return Type.Q6_K if wide else Type.Q8_0
    if "attn_output" in name:
        return Type.Q5_K if wide else Type.Q5_1
    if "ffn_gate" in name or "attn_k" in name:
        return Type.Q3_K if wide else Type.Q4_1
    if "ffn_up" in name:
        return Type.Q2_K if wide else Type.Q4_0
    return Type.Q4_K if wide else Type.Q5_0


def permuted(values, heads):
    return values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def unpermuted(values, heads):
    return values.reshape(heads, values.shape[0] // heads // 2, 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def bf16(values):
    return torch.from_numpy(np.ascontiguousarray(values)).to(torch.bfloat16).float()


def add_metadata(writer, config, arch):
    get = config.get
    heads = get("num_attention_heads", get("n_head"))
    width = get("hidden_size", get("n_embd"))
    writer.add_context_length(get("max_position_embeddings", get("n_positions")))
    writer.add_embedding_length(width)
    writer.add_block_count(get("num_hidden_layers", get("n_layer")))
    writer.add_feed_forward_length(get("intermediate_size", 4 * width))
    writer.add_head_count(heads)
    writer.add_file_type(1)
    if arch != "gpt2":
        writer.add_head_count_kv(get("num_key_value_heads", heads))
        writer.add_rope_freq_base(get("rope_theta", 10000.0))
        writer.add_rope_dimension_count(int(get("head_dim", width // heads) * get("partial_rotary_factor", 1)))
    if "rms_norm_eps" in config:
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if get("norm_epsilon", get("layer_norm_epsilon")):
        writer.add_layer_norm_eps(get("norm_epsilon", get("layer_norm_epsilon")))
    if get("head_dim"):
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    if arch in ("llama", "granite", "smollm3", "phi3"):
        writer.add_vocab_size(config["vocab_size"])
    if arch in ("gemma2", "gemma3", "phi3"):
        writer.add_sliding_window(get("sliding_window") or 0)
    if arch == "gemma2":
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    if arch == "granite":
        writer.add_attention_scale(config["attention_multiplier"])
        writer.add_embedding_scale(config["embedding_multiplier"])
        writer.add_residual_scale(config["residual_multiplier"])
        writer.add_logit_scale(config["logits_scaling"])
    experts = get("num_local_experts", get("num_experts"))
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(config["num_experts_per_tok"])
        if get("moe_intermediate_size"):
            writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    scaling = get("rope_scaling") or {}
    if scaling.get("rope_type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scaling["factor"])
    if scaling.get("type") == "longrope":
        scale = config["max_position_embeddings"] / config["original_max_position_embeddings"]
        writer.add_rope_scaling_orig_ctx_len(config["original_max_position_embeddings"])
        writer.add_rope_scaling_attn_factors((1 + np.log(scale) / np.log(config["original_max_position_embeddings"])) ** 0.5)


def rope_tensors(config):
    scaling = config.get("rope_scaling") or {}
    if scaling.get("type") == "longrope":
        return {f"rope_factors_{kind}.weight": np.array(scaling[f"{kind}_factor"], np.float32) for kind in ("long", "short")}
    if scaling.get("rope_type") != "llama3":
        return {}
    width, old = config["head_dim"], scaling["original_max_position_embeddings"]
    low, high, factors = old / scaling["low_freq_factor"], old / scaling["high_freq_factor"], []
    for frequency in 1.0 / config["rope_theta"] ** (np.arange(0, width, 2, dtype=np.float32) / width):
        wavelength = 2 * np.pi / frequency
        smooth = (old / wavelength - scaling["low_freq_factor"]) / (scaling["high_freq_factor"] - scaling["low_freq_factor"])
        factors.append(1 if wavelength < high else scaling["factor"] if wavelength > low else
                       1 / ((1 - smooth) / scaling["factor"] + smooth))
    return {"rope_freqs.weight": np.array(factors, np.float32)}


def add_tokenizer(writer, folder, config, kind):
    document = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    model, added = document["model"], {token["id"]: token for token in document["added_tokens"]}
    names = {token_id: token for token, token_id in model["vocab"].items()} | {i: t["content"] for i, t in added.items()}
    pieces = bool(model.get("byte_fallback"))
    tokens, kinds = [], []
    for i in range(max(config["vocab_size"], max(names) + 1)):
        token = names.get(i)
        tokens.append(f"[PAD{i}]" if token is None else token)
        if token is None:
            kinds.append(gguf.TokenType.UNUSED)
        elif pieces and token == "<unk>":
            kinds.append(gguf.TokenType.UNKNOWN)
        elif pieces and len(token) == 6 and token.startswith("<0x"):
            kinds.append(gguf.TokenType.BYTE)
        elif i in added:
            kinds.append(gguf.TokenType.CONTROL if added[i]["special"] else gguf.TokenType.USER_DEFINED)
        else:
            kinds.append(gguf.TokenType.NORMAL)
    writer.add_tokenizer_model("llama" if pieces else "gpt2")
    writer.add_tokenizer_pre("default" if pieces else PRE[kind])
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    if pieces:
        scores = [-1e6] * len(tokens)
        for rank, merge in reversed(list(enumerate(model["merges"]))):
            scores[model["vocab"]["".join(merge.split(" ") if isinstance(merge, str) else merge)]] = -float(rank)
        writer.add_token_scores(scores)
        writer.add_add_space_prefix(document["normalizer"]["type"] == "Sequence")
    else:
        writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]])
    ids = {token: i for i, token in names.items()}
    for key, add in (("bos_token", writer.add_bos_token_id), ("eos_token", writer.add_eos_token_id), ("pad_token", writer.add_pad_token_id)):
        if settings.get(key):
            add(ids[settings[key]])
    post = document.get("post_processor") or {}
    writer.add_add_bos_token("SpecialToken" in json.dumps(post))
    chat = settings.get("chat_template")
    if chat:
        writer.add_chat_template(chat)


def write_gguf(folder, path, types, tensors_per_file=0):
    """Writes the file, or several whose names the gguf package numbers. Returns what a program reads of it, matrices rounded to
    bfloat16, by transformers' names."""
    folder = pathlib.Path(folder)
    wrapper = WRAPPED.get(folder.name)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if wrapper:
        config = MODELS[wrapper["wraps"]]["config"] | config["text_config"]
    kind = MODELS[wrapper["wraps"] if wrapper else folder.name]["tokenizer"]
    arch = ARCHITECTURES.get(config["model_type"], config["model_type"])
    writer = gguf.GGUFWriter(path, arch, split_max_tensors=tensors_per_file)
    writer.add_type("model")
    writer.add_name(folder.name)
    add_metadata(writer, config, arch)
    add_tokenizer(writer, folder, config, kind)
    number = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)
    layers = config.get("num_hidden_layers", config.get("n_layer"))
    names = gguf.get_tensor_name_map(number, layers)
    heads = {"q_proj": config.get("num_attention_heads"), "k_proj": config.get("num_key_value_heads")}
    result = {}

    def put(name, values, seed):
        """Values as the file gives them back."""
        if values.ndim == 1 or name.endswith("ffn_gate_inp.weight"):
            writer.add_tensor(name, values.astype(np.float32))
            return values
        chosen = kind_of(name, values.shape[-1], types)
        flat = values.reshape(-1, values.shape[-1])
        raw = random_blocks(*flat.shape, chosen, seed) if chosen in SCALES else gguf.quants.quantize(flat, chosen)
        if chosen in (Type.F16, Type.F32):
            writer.add_tensor(name, raw.reshape(values.shape))
        else:
            writer.add_tensor(name, raw.reshape(*values.shape[:-1], -1), raw_dtype=chosen)
        return gguf.quants.dequantize(raw, chosen).reshape(values.shape)

    for name, values in rope_tensors(config).items():
        writer.add_tensor(name, values)
    experts, seed = {}, 0
    for key, tensor in sorted(saved_tensors(folder).items()):
        if key.startswith(("vision_tower", "multi_modal", "layers.")) or key.endswith((".inv_freq", ".attn.bias")):
            continue
        key = key.replace("language_model.", "")
        if key == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue
        seed += 1
        values = tensor.float().numpy()
        if ".experts." in key:
            before, after = key.split(".experts.")
            number_of, module = after.split(".", 1)
            experts.setdefault((before, module), {})[int(number_of)] = values
            continue
        name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        transposed = arch == "gpt2" and values.ndim == 2 and (".attn." in key or ".mlp." in key)
        if transposed:
            values = np.ascontiguousarray(values.T)
        module = key.split(".")[-2]
        turn = arch in PERMUTED and module in heads
        if turn:
            values = permuted(values, heads[module])
        plus = 1.0 if arch.startswith("gemma") and key.endswith("norm.weight") else 0.0
        back = put(name, values + np.float32(plus), seed) - np.float32(plus)
        if turn:
            back = unpermuted(back, heads[module])
        if transposed:
            back = back.T
        own = "transformer." + key if arch == "gpt2" else key.replace("block_sparse_moe.", "mlp.")
        if wrapper:
            own = own.replace("model.", "model.language_model.", 1)
        result[own] = bf16(back) if back.ndim == 2 else torch.from_numpy(np.ascontiguousarray(back))
    fused = {}
    for (before, module), parts in sorted(experts.items()):
        short = {"w1": "gate", "w3": "up", "w2": "down"}.get(module.split(".")[0], module.split("_")[0])
        layer = before.split(".")[2]
        seed += 1
        back = put(f"blk.{layer}.ffn_{short}_exps.weight", np.stack([parts[i] for i in range(len(parts))]), seed)
        fused.setdefault(layer, {})[short] = bf16(back)
    for layer, parts in fused.items():
        result[f"model.layers.{layer}.mlp.experts.gate_up_proj"] = torch.cat([parts["gate"], parts["up"]], dim=1)
        result[f"model.layers.{layer}.mlp.experts.down_proj"] = parts["down"]
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return result
