#!/usr/bin/env python3
"""Seed files for the fuzzers: python make_seeds.py FOLDER [CHECKPOINTS] writes a corpus for each, FOLDER/{config,gguf,peft,...}/.
CHECKPOINTS is a small run's folder of them, as `make_sample_checkpoint CHECKPOINTS` of a build's tests writes it."""
import json
import math
import pathlib
import struct
import sys

HERE = pathlib.Path(__file__).resolve().parent


def gguf_string(text):
    return struct.pack("<Q", len(text.encode())) + text.encode()


def gguf_tokenizer(model, pre, tokens, types, scores, merges):
    """A vocabulary without a model."""
    def texts(values):
        return struct.pack("<IQ", 8, len(values)) + b"".join(gguf_string(value) for value in values)
    keys = [("general.architecture", 8, gguf_string("phi3")), ("tokenizer.ggml.model", 8, gguf_string(model)),
            ("tokenizer.ggml.pre", 8, gguf_string(pre)), ("tokenizer.ggml.tokens", 9, texts(tokens)),
            ("tokenizer.ggml.token_type", 9, struct.pack(f"<IQ{len(types)}i", 5, len(types), *types)),
            ("tokenizer.ggml.scores", 9, struct.pack(f"<IQ{len(scores)}f", 6, len(scores), *scores)),
            ("tokenizer.ggml.merges", 9, texts(merges)), ("tokenizer.ggml.bos_token_id", 4, struct.pack("<I", 1)),
            ("tokenizer.ggml.eos_token_id", 4, struct.pack("<I", 2)), ("tokenizer.ggml.unknown_token_id", 4, struct.pack("<I", 0)),
            ("tokenizer.ggml.add_bos_token", 7, b"\1"), ("tokenizer.ggml.add_eos_token", 7, b"\1"),
            ("tokenizer.ggml.add_space_prefix", 7, b"\1")]
    return gguf_part(keys, [])


def gguf(architecture, linear_type, row_bytes, embedding_type=0, embedding_bytes=128, files=1):
    """One layer, C = 32, one head, F = 32, V = 4. Small, so that mutations hit the header. Files lie one behind the other."""
    a = architecture
    keys = [("general.architecture", 8, gguf_string(a)), (f"{a}.block_count", 4, struct.pack("<I", 1)),
            (f"{a}.embedding_length", 4, struct.pack("<I", 32)), (f"{a}.feed_forward_length", 4, struct.pack("<I", 32)),
            (f"{a}.attention.head_count", 4, struct.pack("<I", 1)), (f"{a}.context_length", 4, struct.pack("<I", 64)),
            (f"{a}.rope.freq_base", 6, struct.pack("<f", 10000.0)),
            ("tokenizer.ggml.model", 8, gguf_string("gpt2")),
            ("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 2) + gguf_string("a") + gguf_string("b")),
            ("tokenizer.ggml.scores", 9, struct.pack("<IQff", 6, 2, 0.5, 1.0)),
            ("tokenizer.ggml.token_type", 9, struct.pack("<IQii", 5, 2, 1, 3)),
            ("tokenizer.ggml.add_bos_token", 7, b"\1")]
    tensors = [("token_embd.weight", (32, 4), embedding_type, 4 * embedding_bytes), ("output_norm.weight", (32,), 0, 128)]
    norms = ["attn_norm", "ffn_norm"]
    if a == "gemma2":
        norms += ["post_attention_norm", "post_ffw_norm"]
    tensors += [(f"blk.0.{n}.weight", (32,), 0, 128) for n in norms]
    tensors += [(f"blk.0.{n}.weight", (32, 32), linear_type, 32 * row_bytes)
                for n in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")]
    out = b""
    for i in range(files):
        if files > 1:
            keys += [("split.no", 2, struct.pack("<H", i)), ("split.count", 2, struct.pack("<H", files)),
                     ("split.tensors.count", 5, struct.pack("<i", len(tensors)))]
        out += gguf_part(keys, tensors[i * len(tensors) // files:(i + 1) * len(tensors) // files])
        keys = []
    return out


def gguf_part(keys, tensors):
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    for name, kind, value in keys:
        out += gguf_string(name) + struct.pack("<I", kind) + value
    offset = 0
    for name, shape, kind, size in tensors:
        out += gguf_string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
        offset += (size + 31) // 32 * 32
    out += b"\0" * (-len(out) % 32)
    return out + b"\x11" * offset


def safetensors(tensors, metadata=None):
    header, data = {}, b""
    if metadata:
        header["__metadata__"] = metadata
    for name, dtype, shape, size in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + size]}
        data += b"x" * size
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + data


LINEARS = {"self_attn.q_proj": (8, 8), "self_attn.k_proj": (4, 8), "self_attn.v_proj": (4, 8), "self_attn.o_proj": (8, 8),
           "mlp.gate_proj": (12, 8), "mlp.up_proj": (12, 8), "mlp.down_proj": (8, 12)}


def quantized(kind, nested):
    """Tensors (name, dtype, shape, bytes) of a one-layer Llama as bitsandbytes saves it; kind None: plain."""
    tensors = [("model.embed_tokens.weight", "BF16", [6, 8], bytes(96)), ("lm_head.weight", "BF16", [6, 8], bytes(96)),
               ("model.norm.weight", "F32", [8], bytes(32))]
    layer = "model.layers.0."
    tensors += [(layer + n + ".weight", "BF16", [8], bytes(16)) for n in ("input_layernorm", "post_attention_layernorm")]
    for module, (rows, cols) in LINEARS.items():
        name, count, blocks = layer + module + ".weight", rows * cols, -(-rows * cols // 64)
        if kind is None:
            tensors.append((name, "BF16", [rows, cols], bytes(2 * count)))
        elif kind == "int8":
            tensors += [(name, "I8", [rows, cols], bytes(count)), (layer + module + ".SCB", "F32", [rows], bytes(4 * rows)),
                        (layer + module + ".weight_format", "U8", [], b"\0")]
        else:
            state = {"quant_type": kind, "blocksize": 64, "dtype": "bfloat16", "shape": [rows, cols]}
            if nested:
                state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.5}
                tensors += [(name + ".nested_absmax", "F32", [1], bytes(4)),
                            (name + ".nested_quant_map", "F32", [256], bytes(1024))]
            text = json.dumps(state).encode()
            tensors += [(name, "U8", [count // 2, 1], bytes(count // 2)), (name + ".quant_map", "F32", [16], bytes(64)),
                        (name + ".absmax", "U8" if nested else "F32", [blocks], bytes(blocks if nested else 4 * blocks)),
                        (name + ".quant_state.bitsandbytes__" + kind, "U8", [len(text)], text)]
    return tensors


def safetensors_of(tensors):
    header, data = {}, b""
    for name, dtype, shape, content in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + data


def store():
    kept = b'{"model_type":"llama"}'
    table = {"format": "qshard weight store", "made_by": "seed", "created": "", "source_kind": "safetensors",
             "source_name": "m", "source_sha256": "0", "quantization": "nf4", "double_quant": True,
             "plain_dtype": "bfloat16", "layout_sha256": "0",
             "units": [{"name": "embed", "offset": 4096, "bytes": 8, "sum": "0" * 32}],
             "files": {"config.json": {"bytes": len(kept), "pieces": [[0, len(kept), 4104]]}}}
    text = json.dumps(table, separators=(",", ":")).encode()
    return struct.pack("<H", len(text)) + text + bytes(8) + kept


def peft_folder(more, tensors):
    """Configuration and tensors (name without its prefix, shape) of an adapter folder."""
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "m", "bias": "none", "r": 2, "lora_alpha": 4,
              "lora_dropout": 0.0, "init_lora_weights": True, "target_modules": ["q_proj", "v_proj"]} | more
    text = json.dumps(config, separators=(",", ":")).encode()
    prefix = "base_model.model.model.layers.0."
    file = safetensors_of([(prefix + name, "F32", shape, bytes(4 * math.prod(shape))) for name, shape in tensors])
    return struct.pack("<H", len(text)) + text + file


def pair(module, rows, cols, r=2):
    return [(module + ".lora_A.weight", [r, cols]), (module + ".lora_B.weight", [rows, r])]


def peft_folders():
    """Every key of adapter_config.json that is read, for the models of fuzz_peft.cpp: a Llama and a Mixtral of one layer."""
    q, v = pair("self_attn.q_proj", 8, 8), pair("self_attn.v_proj", 4, 8)
    experts = pair("mlp.experts.base_layer", 24, 8, 2 * 4) + pair("mlp.experts", 8, 12, 2 * 2)
    gate_up = pair("mlp.experts", 24, 8, 2 * 4)
    former = [tensor for expert in range(2) for name, rows, cols in (("w1", 12, 8), ("w2", 8, 12), ("w3", 12, 8))
              for tensor in pair(f"block_sparse_moe.experts.{expert}.{name}", rows, cols)]
    return {
        "names": peft_folder({}, q + v),
        "all": peft_folder({"target_modules": "all-linear", "exclude_modules": ["o_proj", "mlp.gate_proj"], "revision": "main",
                            "layers_to_transform": [0], "layers_pattern": "layers", "use_rslora": True,
                            "peft_version": "0.21.2", "inference_mode": True, "fan_in_fan_out": False}, q + v),
        "patterns": peft_folder({"target_modules": r".*\.self_attn\.(q|v)_proj", "exclude_modules": r".*layers\.[1-5]\..*",
                                 "rank_pattern": {"q_proj": 3, r"model\.layers\.0\..*": 2}, "alpha_pattern": {"(q|k)_proj": 0.5},
                                 "init_lora_weights": "gaussian", "layers_to_transform": 0},
                                pair("self_attn.q_proj", 8, 8, 3) + v),
        "dora": peft_folder({"use_dora": True}, q + v + [("self_attn.q_proj.lora_magnitude_vector", [8]),
                                                         ("self_attn.v_proj.lora_magnitude_vector.weight", [1, 4])]),
        "whole": peft_folder({"modules_to_save": ["o_proj", "mlp.gate_proj"]}, q + v + [("self_attn.o_proj.weight", [8, 8])]),
        "bias_all": peft_folder({"bias": "all"}, q + v + [("self_attn.q_proj.bias", [8]), ("input_layernorm.bias", [8])]),
        "bias_lora_only": peft_folder({"bias": "lora_only"}, q + v + [("self_attn.q_proj.base_layer.bias", [8])]),
        "experts": peft_folder({"target_parameters": ["mlp.experts.gate_up_proj", "down_proj", "gate.weight"],
                                "rank_pattern": {r".*\.gate_up_proj": 4}, "alpha_pattern": {r".*\.gate_up_proj": 8}},
                               q + v + experts + pair("mlp.gate", 2, 8)),
        "gate_up": peft_folder({"target_modules": [], "target_parameters": ["gate_up_proj"], "rank_pattern": {"gate_up_proj": 4}},
                               gate_up),
        "former_experts": peft_folder({"target_modules": ["q_proj", "v_proj", "w1", "w2", "w3", "gate"]},
                                      q + v + former + pair("block_sparse_moe.gate", 2, 8)),
    }


def main():
    root = pathlib.Path(sys.argv[1])
    for name in ("config", "gguf", "gguf_tokenizer", "safetensors", "hf_model", "weight_store", "peft", "tokenizer", "template", "rows", "run"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for path in sorted(pathlib.Path(sys.argv[2]).glob("*.h5*") if len(sys.argv) > 2 else []):
        (root / "checkpoint").mkdir(exist_ok=True)
        kind = b"m" if path.suffix == ".json" else b"c"  # the harness's first byte: manifest or checkpoint
        (root / "checkpoint" / path.name).write_bytes(kind + path.read_bytes())
    for path in sorted((HERE.parent / "golden" / "tiny").glob("*/config.json")):
        (root / "config" / path.parent.name).write_bytes(path.read_bytes())
    kinds = {"q4_1": (3, 20), "q4_0": (2, 18), "q5_1": (7, 24), "q8_0": (8, 34), "iq4_nl": (20, 18), "f16": (1, 64)}
    for name, (kind, row_bytes) in kinds.items():
        (root / "gguf" / name).write_bytes(gguf("llama", kind, row_bytes))
    pieces = ["<unk>", "<s>", "</s>", "\u2581", "a", "b", "ab", "\u2581ab", "ba"]
    for count in (0, 256):
        data = [f"<0x{byte:02X}>" for byte in range(count)]
        (root / "gguf_tokenizer" / f"llama{count}").write_bytes(
            gguf_tokenizer("llama", "default", pieces + data, [2, 3, 4] + [1] * 6 + [6] * count, [-float(i) for i in range(9)] + [0.0] * count, []))
    words = ["<unk>", "<s>", "</s>", "\u0120", "a", "b", "ab", "\u0120ab", "1"]
    for pre in ("gpt-2", "llama-bpe", "qwen2", "deepseek-llm", "falcon", "smollm", "tekken"):
        (root / "gguf_tokenizer" / pre).write_bytes(
            gguf_tokenizer("gpt2", pre, words, [3, 3, 4, 1, 1, 1, 1, 1, 1], [], ["a b", "\u0120 ab"]))
    (root / "gguf" / "gemma2").write_bytes(gguf("gemma2", 8, 34, 8, 34))
    (root / "gguf" / "three_files").write_bytes(gguf("llama", 8, 34, files=3))
    (root / "safetensors" / "plain").write_bytes(
        safetensors([("a", "F32", [2, 3], 24), ("b", "BF16", [], 2), ("c", "I64", [0, 7], 0)], {"format": "pt"}))
    (root / "safetensors" / "small").write_bytes(safetensors([("f4", "F4", [4], 2), ("f8", "F8_E4M3", [3], 3)]))
    golden = HERE.parent / "golden"
    for path in sorted((golden / "tokenizer").glob("*.json")):
        if b'"model"' in path.read_bytes()[:1 << 20] and path.stat().st_size < 1 << 17:
            (root / "tokenizer" / path.name).write_bytes(path.read_bytes())
    for path in sorted((golden / "chat" / "templates").iterdir()):
        (root / "template" / path.name).write_bytes(path.read_bytes())
    for name, data in peft_folders().items():
        (root / "peft" / name).write_bytes(data)
    rows = {"jsonl": b'\0{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}\n'
                     b'{"prompt":"p","completion":"c"}\n{"input_ids":[1,2],"labels":[-100,2]}\n',
            "pairs": b'\0{"prompt":"p","chosen":"c","rejected":"r"}\n'
                     b'{"prompt":[{"role":"user","content":"p"}],"chosen":[{"role":"assistant","content":"c"}],'
                     b'"rejected":[{"role":"assistant","content":"r"}]}\n'
                     b'{"chosen":[{"role":"user","content":"p"},{"role":"assistant","content":"c"}],'
                     b'"rejected":[{"role":"user","content":"p"},{"role":"assistant","content":"r"}]}\n',
            "json": b'\1[{"instruction":"i","input":"x","output":"o"},{"conversations":[{"from":"human","value":"v"}]}]',
            "csv": b'\2text,completion\r\n"a ""quoted"", one",b\r\n'}
    for name, data in rows.items():
        (root / "rows" / name).write_bytes(data)
    (root / "run" / "quickstart").write_bytes((HERE.parent.parent / "jobs" / "quickstart.yaml").read_bytes())
    for name, tensors in {"plain": quantized(None, False), "nf4": quantized("nf4", True), "fp4": quantized("fp4", False),
                          "int8": quantized("int8", False)}.items():
        file = safetensors_of(tensors)
        index = json.dumps({"weight_map": {t[0]: "model-1.safetensors" for t in tensors}}).encode()
        (root / "hf_model" / name).write_bytes(struct.pack("<H", 0) + file)
        (root / "hf_model" / (name + "_index")).write_bytes(struct.pack("<H", len(index)) + index + file)
    (root / "weight_store" / "store").write_bytes(store())


main()
