"""What the golden scripts share: the generator of the inputs, the exact 8-bit rule, versions, file writing."""

import json
import os
import sys
import zlib

import numpy as np


def lcg(n, seed):
    """n outputs of s = s*1664525 + 1013904223 mod 2^32, starting after the seed."""
    with np.errstate(over="ignore"):
        powers = np.cumprod(np.full(n, 1664525, np.uint32), dtype=np.uint32)
        sums = np.cumsum(np.concatenate(([np.uint32(1)], powers[:-1])), dtype=np.uint32)
        return powers * np.uint32(seed) + sums * np.uint32(1013904223)


def generate(n, seed, scale=0.05):
    """G(n, seed): f32(((s >> 8) - 2^23) / 2^23) * f32(scale); both operations round once in f32."""
    unit = ((lcg(n, seed) >> np.uint32(8)).astype(np.int64) - (1 << 23)).astype(np.float64) / (1 << 23)
    return unit.astype(np.float32) * np.float32(scale)


def round_bf16(x):
    """float32 array rounded to the nearest even bfloat16, as float32."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32)


def bf16_bits(x):
    return (np.ascontiguousarray(x, np.float32).view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def crc(array):
    return "%08x" % zlib.crc32(np.ascontiguousarray(array).tobytes())


def hexa(array):
    return np.ascontiguousarray(array).tobytes().hex()


def f32_hex(value):
    """One float32 as the hexadecimal digits of its bit pattern (most significant first)."""
    return "%08x" % np.float32(value).view(np.uint32)


def quantize_8bit_exact(values, table, blocksize=256):
    """bitsandbytes' CUDA rule: binary search over the signed dynamic map, then the nearer neighbour, ties keep the
    pivot. Returns (codes, absmax2). Arithmetic is float32 throughout."""
    values = np.asarray(values, np.float32)
    table = np.asarray(table, np.float32)
    codes = np.zeros(values.size, np.uint8)
    blocks = -(-values.size // blocksize)
    absmax2 = np.zeros(blocks, np.float32)
    for b in range(blocks):
        block = values[b * blocksize : (b + 1) * blocksize]
        top = np.abs(block).max()
        absmax2[b] = top
        with np.errstate(divide="ignore", invalid="ignore"):
            scaled = block * (np.float32(1) / top)  # an all-zero block: inf * 0 = NaN, which the search sends to code 0
        codes[b * blocksize : (b + 1) * blocksize] = nearest_codes(scaled, table)
    return codes, absmax2


def nearest_codes(x, table):
    """dQuantize of bitsandbytes' CUDA kernels for an array: 7 halvings from pivot 127, then one look at a neighbour."""
    pivot = np.full(x.shape, 127)
    upper, lower = np.full(x.shape, 255), np.zeros(x.shape, int)
    for step in (64, 32, 16, 8, 4, 2, 1):
        above = x > table[pivot]
        lower, upper = np.where(above, pivot, lower), np.where(above, upper, pivot)
        pivot = np.where(above, pivot + step, pivot - step)
    value, half = table[pivot], np.float32(0.5)
    above = x > value
    to_upper = above & (x > (table[upper] + value) * half)
    to_lower = ~above & (x < (table[lower] + value) * half)
    return np.where(to_upper, upper, np.where(to_lower, lower, pivot)).astype(np.uint8)


def versions(*names):
    from importlib.metadata import version

    found = {name: version(name) for name in names}
    found["python"] = sys.version.split()[0]
    return found


def write_json(path, value):
    """Compact, one top-level key a line: small and still readable in a diff."""
    with open(path, "w", encoding="utf-8") as out:
        lines = ["%s: %s" % (json.dumps(k), json.dumps(v, separators=(",", ":"))) for k, v in value.items()]
        out.write("{\n" + ",\n".join(lines) + "\n}\n")
    print(path, os.path.getsize(path), "bytes")


class WholeTensors:
    """bitsandbytes' library for CPUs, asked to expand a 4-bit matrix as one long row. Its AVX-512 kernel (0.50.2) takes the
    absmax of other blocks where rows of a multiple of 16 columns are shorter than a block."""

    def __init__(self, library):
        self.library = library

    def __getattr__(self, name):
        function = getattr(self.library, name)
        if not name.startswith(("cdequantize_blockwise_cpu_nf4_", "cdequantize_blockwise_cpu_fp4_")):
            return function

        def whole(codes, absmax, out, blocksize, rows, columns):
            return function(codes, absmax, out, blocksize, type(rows)(1), type(columns)(rows.value * columns.value))

        return whole


def use_exact_bitsandbytes():
    """Makes bitsandbytes on the CPU follow its own rules: the 8-bit codes of double quantization the exact one instead of a
    65,536-entry table, 4-bit blocks whatever the rows' length. Returns a dictionary that counts those codes and how many
    of them the table would have made different."""
    import bitsandbytes.functional as bnb
    import torch
    from bitsandbytes.backends.cpu import ops

    ops.lib = WholeTensors(ops.lib)
    original, counts = bnb.quantize_blockwise, {"codes": 0, "changed": 0}

    def exact(values, *args, **kwargs):
        codes, state = original(values, *args, **kwargs)
        right, absmax2 = quantize_8bit_exact(values.numpy(), state.code.numpy())
        assert np.array_equal(absmax2, state.absmax.numpy())
        counts["codes"] += right.size
        counts["changed"] += int((right != codes.numpy()).sum())
        return torch.from_numpy(right), state

    bnb.quantize_blockwise = exact
    return counts
