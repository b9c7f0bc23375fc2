"""Random blocks of GGUF's types, dequantized by the gguf package: prints the table of tests/unit/formats/test_gguf_dequant.cpp.

    python tests/golden/gguf/make.py

Each row: type, CRC-32 of 2048 elements' blocks and of their fp32 values, values 0, 1, 17 and 33, the offsets of the blocks' fp16
fields (0: there is no second) and whether the second is negative. Made with gguf 0.19.0, numpy 2.4.6.
"""

import zlib

import numpy as np
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize

ELEMENTS = 2048
FIELDS = {"Q4_0": (0, 0, False), "Q4_1": (0, 2, True), "Q5_0": (0, 0, False), "Q5_1": (0, 2, True), "Q8_0": (0, 0, False),
          "Q2_K": (80, 82, False), "Q3_K": (108, 0, False), "Q4_K": (0, 2, False), "Q5_K": (0, 2, False), "Q6_K": (208, 0, False),
          "IQ4_NL": (0, 0, False), "IQ4_XS": (0, 0, False)}


def random_bytes(count):
    state, out = 2024, bytearray()
    for _ in range(count):
        state = (state * 1664525 + 1013904223) % 2**32
        out.append(state >> 24)
    return out


def main():
    for name, (first, second, negative) in FIELDS.items():
        per_block, size = GGML_QUANT_SIZES[Type[name]]
        raw = random_bytes(ELEMENTS // per_block * size)
        for block in range(ELEMENTS // per_block):
            at = block * size
            raw[at + first:at + first + 2] = (0x2000 + 37 * block % 1024).to_bytes(2, "little")
            if second:
                value = 0x2000 + (37 * block + 11) % 1024 | (0x8000 if negative else 0)
                raw[at + second:at + second + 2] = value.to_bytes(2, "little")
        values = dequantize(np.frombuffer(bytes(raw), np.uint8).reshape(1, -1), Type[name]).astype(np.float32).ravel()
        shown = ", ".join(f"{np.format_float_positional(values[i], unique=True, trim='0')}f" for i in (0, 1, 17, 33))
        print(f"    {{GgmlType::k{name}, {zlib.crc32(bytes(raw)):#010x}, {zlib.crc32(values.tobytes()):#010x}, {shown}, {first}, {second}, "
              f"{str(negative).lower()}}},")


main()
