#!/usr/bin/env python3
"""Seed files for the fuzzers: python make_seeds.py FOLDER writes FOLDER/{config,gguf,safetensors,tokenizer,template,rows,run}/."""
import json
import pathlib
import struct
import sys

HERE = pathlib.Path(__file__).resolve().parent


def gguf_string(text):
    return struct.pack("<Q", len(text)) + text.encode()


def gguf(architecture, linear_type, row_bytes, embedding_type=0, embedding_bytes=128):
    """One layer, C = 32, one head, F = 32, V = 4. Small, so that mutations hit the header."""
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


def main():
    root = pathlib.Path(sys.argv[1])
    for name in ("config", "gguf", "safetensors", "tokenizer", "template", "rows", "run"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for path in sorted((HERE.parent / "golden" / "tiny").glob("*/config.json")):
        (root / "config" / path.parent.name).write_bytes(path.read_bytes())
    kinds = {"q4_1": (3, 20), "q4_0": (2, 18), "q5_1": (7, 24), "q8_0": (8, 34), "iq4_nl": (20, 18), "f16": (1, 64)}
    for name, (kind, row_bytes) in kinds.items():
        (root / "gguf" / name).write_bytes(gguf("llama", kind, row_bytes))
    (root / "gguf" / "gemma2").write_bytes(gguf("gemma2", 8, 34, 8, 34))
    (root / "safetensors" / "plain").write_bytes(
        safetensors([("a", "F32", [2, 3], 24), ("b", "BF16", [], 2), ("c", "I64", [0, 7], 0)], {"format": "pt"}))
    (root / "safetensors" / "small").write_bytes(safetensors([("f4", "F4", [4], 2), ("f8", "F8_E4M3", [3], 3)]))
    golden = HERE.parent / "golden"
    for path in sorted((golden / "tokenizer").glob("*.json")):
        if b'"model"' in path.read_bytes()[:1 << 20] and path.stat().st_size < 1 << 17:
            (root / "tokenizer" / path.name).write_bytes(path.read_bytes())
    for path in sorted((golden / "chat" / "templates").iterdir()):
        (root / "template" / path.name).write_bytes(path.read_bytes())
    rows = {"jsonl": b'\0{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}\n'
                     b'{"prompt":"p","completion":"c"}\n{"input_ids":[1,2],"labels":[-100,2]}\n',
            "json": b'\1[{"instruction":"i","input":"x","output":"o"},{"conversations":[{"from":"human","value":"v"}]}]',
            "csv": b'\2text,completion\r\n"a ""quoted"", one",b\r\n'}
    for name, data in rows.items():
        (root / "rows" / name).write_bytes(data)
    (root / "run" / "quickstart").write_bytes((HERE.parent.parent / "jobs" / "quickstart.yaml").read_bytes())


main()
