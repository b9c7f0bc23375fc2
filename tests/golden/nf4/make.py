"""Golden bytes of bitsandbytes' NF4, FP4, double quantization and LLM.int8: writes nf4.json beside this file.

Inputs are not stored: common.generate(n, seed) rounded to bfloat16, then the case's steps (see `input_of`).
The 8-bit codes of the absmax values come from the exact rule (common.quantize_8bit_exact); bitsandbytes' CPU build
uses a 65,536-entry table instead, and `lut_deviations` counts where the two differ.
"""

import os
import sys

import numpy as np
import torch

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from common import (bf16_bits, crc, f32_hex, generate, hexa, nearest_codes, quantize_8bit_exact, round_bf16,
                    versions, write_json)

import bitsandbytes.functional as bnb

FULL_BYTES = 4096  # arrays up to this many bytes are stored whole, larger ones as CRC32 only

# name, rows, cols, seed, exponent (values times 2^exponent), block_scale (k[b] of formats A.3), zero_blocks
CASES = [
    ("vector_160", 1, 160, 12345, 0, False, []),
    ("odd_7x100", 7, 100, 1, 0, False, []),
    ("odd_count_3x33", 3, 33, 2, 0, False, []),
    ("one_element", 1, 1, 3, 0, False, []),
    ("one_block_64x1", 64, 1, 4, 0, False, []),
    ("square_64x64", 64, 64, 5, 0, False, []),
    ("blocks_300", 300, 64, 777, 0, True, []),
    ("smollm2_192x576", 192, 576, 6, 0, True, []),
    ("zero_block_8x64", 8, 64, 7, 0, True, [3]),
    ("tiny_magnitude_16x64", 16, 64, 8, -100, True, []),
    ("huge_magnitude_16x64", 16, 64, 9, 100, True, []),
    ("partial_nested_257_blocks", 257, 64, 10, 0, True, []),
    ("partial_both_259x63", 259, 63, 11, 0, True, []),
]


def input_of(rows, cols, seed, exponent, block_scale, zero_blocks):
    """x = bf16(G(rows*cols, seed)); block_scale: x = bf16(f32(x * k[b])), k[b] = f32(1 + ((b*7919) mod 97)/97.0) for
    the block b = element / 64; then times 2^exponent (exact); then the listed blocks of 64 become zero."""
    x = round_bf16(generate(rows * cols, seed))
    blocks = np.arange(rows * cols) // 64
    if block_scale:
        x = round_bf16(x * (1 + ((blocks * 7919) % 97) / 97.0).astype(np.float32))
    x = np.ldexp(x, exponent).astype(np.float32)
    x[np.isin(blocks, zero_blocks)] = 0
    assert np.array_equal(round_bf16(x), x)
    return x.reshape(rows, cols)


def stored(array):
    array = np.ascontiguousarray(array)
    entry = {"count": int(array.size), "crc32": crc(array)}
    if array.nbytes <= FULL_BYTES:
        entry["hex"] = hexa(array)
    return entry


def nested(state, absmax):
    """Double quantization of absmax: bitsandbytes' offset, exact codes; the state is given the exact codes."""
    offset = state.offset.numpy()
    table = state.state2.code.numpy()
    codes, absmax2 = quantize_8bit_exact(absmax - offset, table)
    assert np.array_equal(absmax2, state.state2.absmax.numpy())
    deviations = int((codes != state.absmax.numpy()).sum())
    state.absmax = torch.from_numpy(codes)
    rebuilt = (table[codes] * np.repeat(absmax2, 256)[: codes.size]).astype(np.float32) + offset
    return {
        "offset": f32_hex(offset),
        "offset_from_double_mean": f32_hex(np.float32(absmax.astype(np.float64).mean())),
        "codes": stored(codes),
        "absmax2": stored(absmax2),
        "lut_deviations": deviations,
        "rebuilt_absmax": stored(rebuilt),
    }


def four_bit(x, kind):
    weight = torch.from_numpy(x).to(torch.bfloat16)
    packed, plain = bnb.quantize_4bit(weight, blocksize=64, quant_type=kind)
    absmax = plain.absmax.numpy()
    result = {"packed": stored(packed.numpy()), "absmax": stored(absmax)}
    result["dequantized_bf16"] = stored(bf16_bits(bnb.dequantize_4bit(packed, plain).float().numpy()))
    again, state = bnb.quantize_4bit(weight, blocksize=64, quant_type=kind, compress_statistics=True)
    assert torch.equal(again, packed)
    result["double"] = nested(state, absmax)
    values = bnb.dequantize_4bit(packed, state)
    result["double"]["dequantized_bf16"] = stored(bf16_bits(values.float().numpy()))
    state.dtype = torch.float32
    result["double"]["dequantized_f32"] = stored(bnb.dequantize_4bit(packed, state).numpy())
    state.dtype = torch.bfloat16
    if x.size <= 700:
        key = "quant_state.bitsandbytes__" + kind
        result["double"]["state_json"] = bytes(state.as_dict(packed=True)[key].tolist()).decode()
    return result


FP4_CUDA_BOUNDS = np.array([0.00260417, 0.0859375, 0.20833333, 0.29166667, 0.4166667, 0.583333, 0.8333333], np.float32)
FP4_CUDA_CODES = np.array([0, 1, 6, 7, 4, 5, 2, 3], np.uint8)


def fp4_cuda(x, absmax):
    """Packed bytes of the CUDA kernel's rule: thresholds on |x|, strict, ties toward zero; x < 0 sets bit 3, also on code 0."""
    flat = x.reshape(-1)
    with np.errstate(divide="ignore"):
        inverse = np.where(absmax > 0, np.float32(1) / absmax, np.float32(0)).astype(np.float32)
    scaled = flat * np.repeat(inverse, 64)[: flat.size]
    codes = FP4_CUDA_CODES[(np.abs(scaled)[:, None] > FP4_CUDA_BOUNDS).sum(axis=1)]
    codes = codes | (scaled < 0).astype(np.uint8) * np.uint8(8)
    if codes.size % 2:
        codes = np.append(codes, np.uint8(0))
    return (codes[0::2] << 4) | codes[1::2]


def int8(x):
    weight = torch.from_numpy(x).to(torch.float16)
    codes, scale, _ = bnb.int8_vectorwise_quant(weight)
    values = bnb.int8_vectorwise_dequant(codes, scale)
    return {"codes": stored(codes.numpy()), "scb": stored(scale.numpy()), "dequantized_f32": stored(values.numpy())}


def main():
    table = bnb.create_dynamic_map().numpy()
    probes = round_bf16(generate(512, 99, 1.0)).tolist() + [0.0, 1.0, -1.0] + table.tolist()
    probes += ((table[1:] + table[:-1]) * np.float32(0.5)).tolist()
    probes = np.array(probes, np.float32)
    golden = {
        "about": "see make.py; arrays are little-endian; odd element counts end in the code of a 0.0 pad",
        "versions": versions("bitsandbytes", "torch", "numpy"),
        "nf4_table": stored(bnb.get_4bit_type("nf4", device="cpu").numpy()),
        "fp4_table": stored(bnb.get_4bit_type("fp4", device="cpu").numpy()),
        "dynamic_map": stored(table),
        "exact_8bit": {
            "probes": stored(probes) | {"hex": hexa(probes)},
            "codes": stored(nearest_codes(probes, table)),
        },
        "cases": [],
    }
    for name, rows, cols, seed, exponent, block_scale, zero_blocks in CASES:
        x = input_of(rows, cols, seed, exponent, block_scale, zero_blocks)
        case = {"name": name, "rows": rows, "cols": cols, "seed": seed, "exponent": exponent,
                "block_scale": block_scale, "zero_blocks": zero_blocks, "input_bf16": {"crc32": crc(bf16_bits(x))}}
        case["nf4"] = four_bit(x, "nf4")
        if name in ("vector_160", "odd_7x100", "square_64x64", "zero_block_8x64"):
            case["fp4"] = four_bit(x, "fp4")
            absmax = np.abs(np.pad(x.reshape(-1), (0, -x.size % 64)).reshape(-1, 64)).max(axis=1)
            case["fp4"]["packed_cuda_rule"] = stored(fp4_cuda(x, absmax))
        if name in ("odd_7x100", "square_64x64", "smollm2_192x576"):
            case["int8"] = int8(x)
        golden["cases"].append(case)
        double = case["nf4"]["double"]
        print(name, "lut deviations", double["lut_deviations"], "offset", double["offset"],
              double["offset_from_double_mean"])
    write_json(os.path.join(os.path.dirname(os.path.abspath(__file__)), "nf4.json"), golden)


if __name__ == "__main__":
    main()
