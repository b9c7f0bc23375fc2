#pragma once

#include "backend/cpu/transpose.h"

/// Products of bf16 pairs. A panel holds, for each pair (k, k + 1) and column, one 32-bit word with
/// k in the low half; `Layout` says where the word goes. The instructions come in as a policy, so
/// that tests can put an emulation in their place on processors that lack them.
namespace qshard::cpu {
namespace {

constexpr int kPairCols = 32;
static_assert(kLanes == 16 || kLanes == 8 || kLanes == 4);

/// Pair lines one after the other: word (pair, column) at pair * 32 + column.
struct LineLayout {
    static constexpr int kStep = 2;
    static constexpr bool kLines = true;
    QSHARD_INLINE static std::int64_t word(std::int64_t pair, std::int64_t col) {
        return pair * kPairCols + col;
    }
};
/// Tiles of 16 pairs by 16 columns, two side by side.
struct TileLayout {
    static constexpr int kStep = 32;
    static constexpr bool kLines = false;
    QSHARD_INLINE static std::int64_t word(std::int64_t pair, std::int64_t col) {
        return (pair / 16 * 2 + col / 16) * 256 + pair % 16 * 16 + col % 16;
    }
};

/// A vector of pair_words() of `low` and `high`.
template <class T>
QSHARD_INLINE void store_pairs(T low, T high, std::uint32_t* out) {
    const Vu words = pair_words(low, high);
    __builtin_memcpy(out, &words, sizeof words);
}

template <class Layout, class T>
QSHARD_INLINE void pack_pair_lines(const T* in, std::int64_t stride, std::int64_t first,
                                   std::int64_t k, std::int64_t cols, std::uint32_t* panel) {
    const std::int64_t end = round_up(k, Layout::kStep);
    std::int64_t j = 0;
    for (; cols == kPairCols && j + 2 <= k; j += 2) {
        const T* row = in + j * stride;
        for (std::int64_t n = 0; n < kPairCols; n += kLanes)
            store_pairs(row + n, row + stride + n, panel + Layout::word((first + j) / 2, n));
    }
    for (; j < end; j += 2) {
        for (std::int64_t n = 0; n < kPairCols; n += kLanes) {
            const std::int64_t left = cols - n;
            const Vf low = j < k && left > 0 ? load(in + j * stride + n, left) : Vf{};
            const Vf high = j + 1 < k && left > 0 ? load(in + (j + 1) * stride + n, left) : Vf{};
            store_pairs(low, high, panel + Layout::word((first + j) / 2, n));
        }
    }
}

template <class Layout>
void pairs_pack_b(In b, std::int64_t stride, std::int64_t k, std::int64_t cols, void* panel) {
    typed(b, [&](auto* in) {
        pack_pair_lines<Layout>(in, stride, 0, k, cols, static_cast<std::uint32_t*>(panel));
    });
}

/// Elements [j, j + 64) as bf16; zero beyond k.
template <class T>
QSHARD_INLINE void stage_row(const T* in, std::int64_t j, std::int64_t k, bf16* out) {
    for (std::int64_t i = 0; i < 64; i += kLanes) {
        store(out + i, j + i < k ? load(in + j + i, k - j - i) : Vf{});
    }
}

/// The pairs of rows of bf16 as lines of kWidth words, one word a row: out[p * kWidth + i] is pair
/// p of row i, zero where i >= rows. Stride in elements, even.
template <int kWidth>
QSHARD_INLINE void emit_words(const bf16* in, std::int64_t stride, std::int64_t rows,
                              std::int64_t pairs, std::uint32_t* out) {
    transpose_strip<kWidth, false>(reinterpret_cast<const float*>(in), stride / 2, rows, pairs,
                                   reinterpret_cast<float*>(out));
}

/// The same of k elements of either dtype, zero beyond.
template <int kWidth>
void emit_rows(In x, std::int64_t stride, std::int64_t rows, std::int64_t k, std::uint32_t* out) {
    const bool whole_words = stride % 2 == 0 && k % 2 == 0 &&
                             reinterpret_cast<std::uintptr_t>(x.data) % sizeof *out == 0;
    if (x.is_bf16 && whole_words) {
        return emit_words<kWidth>(static_cast<const bf16*>(x.data), stride, rows, k / 2, out);
    }
    alignas(64) bf16 lines[kWidth * 64];
    typed(x, [&](auto* in) {
        for (std::int64_t j = 0; j < k; j += 64) {
            for (std::int64_t i = 0; i < rows; ++i)
                stage_row(in + i * stride, j, k, lines + i * 64);
            const std::int64_t pairs = (k - j < 64 ? k - j + 1 : 64) / 2;
            emit_words<kWidth>(lines, 64, rows, pairs, out + j / 2 * kWidth);
        }
    });
}

template <class Layout>
void pairs_pack_b_transposed(In b, std::int64_t stride, std::int64_t k, std::int64_t cols,
                             void* panel) {
    auto* out = static_cast<std::uint32_t*>(panel);
    if constexpr (Layout::kLines) {
        emit_rows<kPairCols>(b, stride, cols, k, out);
    } else {
        constexpr std::int64_t kLines = 64;
        float lines[kLines * kPairCols];
        typed(b, [&](auto* in) {
            for (std::int64_t j = 0; j < k; j += kLines) {
                const std::int64_t count = k - j < kLines ? k - j : kLines;
                transpose_strip<kPairCols, false>(in + j, stride, cols, count, lines);
                pack_pair_lines<Layout>(lines, kPairCols, j, count, kPairCols, out);
            }
        });
    }
}

// vdpbf16ps: strips are words [k / 2][12].

constexpr int kDotRows = 12;

inline void dot_pack_a(In a, std::int64_t stride, std::int64_t rows, std::int64_t k, void* strip) {
    emit_rows<kDotRows>(a, stride, rows, k, static_cast<std::uint32_t*>(strip));
}

inline void dot_pack_a_transposed(In a, std::int64_t stride, std::int64_t rows, std::int64_t k,
                                  void* strip) {
    auto* out = static_cast<std::uint32_t*>(strip);
    typed(a, [&](auto* in) {
        std::uint32_t words[round_up(kDotRows, kLanes)];
        for (std::int64_t j = 0; j < k; j += 2, in += 2 * stride, out += kDotRows) {
            for (std::int64_t m = 0; m < kDotRows; m += kLanes) {
                const Vf low = load(in + m, rows - m);
                const Vf high = j + 1 < k ? load(in + stride + m, rows - m) : Vf{};
                store_pairs(low, high, words + m);
            }
            __builtin_memcpy(out, words, kDotRows * sizeof(std::uint32_t));
        }
    });
}

template <class Dot, int kRows>
void dot_tile(const GemmPart* parts, int count, float* c, bool first) {
    constexpr int kVectors = kPairCols / kLanes;
    Vf sum[kRows][kVectors];
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) {
            sum[i][v] = first ? Vf{} : load(c + i * kPairCols + v * kLanes);
        }
    }
    for (const GemmPart* part = parts; part != parts + count; ++part) {
        const auto* a = static_cast<const std::uint32_t*>(part->strip);
        const auto* b = static_cast<const std::uint32_t*>(part->panel);
        for (std::int64_t j = 0; j < part->k; j += 2, a += kDotRows, b += kPairCols) {
            Vu words[kVectors];  // one by one: GCC 12 keeps an array copied whole in memory
#pragma GCC unroll 8
            for (int v = 0; v < kVectors; ++v)
                __builtin_memcpy(&words[v], b + v * kLanes, sizeof words[v]);
#pragma GCC unroll 16
            for (int i = 0; i < kRows; ++i) {
                const Vu x = a[i] - Vu{};
#pragma GCC unroll 8
                for (int v = 0; v < kVectors; ++v) sum[i][v] = Dot::dot(sum[i][v], x, words[v]);
            }
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) store(c + i * kPairCols + v * kLanes, sum[i][v]);
    }
}

template <class Dot>
void dot_tile_any(const GemmPart* parts, int count, int rows, float* c, bool first) {
    if (rows == 1) return dot_tile<Dot, 1>(parts, count, c, first);
    if (rows == 2) return dot_tile<Dot, 2>(parts, count, c, first);
    if (rows <= 4) return dot_tile<Dot, 4>(parts, count, c, first);
    if (rows <= 8) return dot_tile<Dot, 8>(parts, count, c, first);
    dot_tile<Dot, kDotRows>(parts, count, c, first);
}

template <class Dot>
constexpr GemmKernel dot_gemm() {
    return {kDotRows,
            kPairCols,
            LineLayout::kStep,
            2,
            2,
            false,
            dot_pack_a,
            dot_pack_a_transposed,
            pairs_pack_b<LineLayout>,
            pairs_pack_b_transposed<LineLayout>,
            dot_tile_any<Dot>};
}

// tdpbf16ps: strips are tiles of 16 rows by 32 elements, two one above the other.

constexpr int kTileSide = 16;
constexpr std::int64_t kTileRowBytes = 64, kTileBytesOne = 1024;

inline bf16* tile_row(void* strip, std::int64_t m, std::int64_t k) {
    return static_cast<bf16*>(strip) + (k / 32 * 2 + m / 16) * 512 + m % 16 * 32;
}

inline void amx_pack_a(In a, std::int64_t stride, std::int64_t rows, std::int64_t k, void* strip) {
    typed(a, [&](auto* in) {
        bf16 row[64];
        for (std::int64_t m = 0; m < 2 * kTileSide; ++m) {
            for (std::int64_t j = 0; j < k; j += 64) {
                if (m < rows) {
                    stage_row(in + m * stride, j, k, row);
                } else {
                    __builtin_memset(row, 0, sizeof row);
                }
                __builtin_memcpy(tile_row(strip, m, j), row, kTileRowBytes);
                if (j + 32 < k)
                    __builtin_memcpy(tile_row(strip, m, j + 32), row + 32, kTileRowBytes);
            }
        }
    });
}

inline void amx_pack_a_transposed(In a, std::int64_t stride, std::int64_t rows, std::int64_t k,
                                  void* strip) {
    float lines[32 * 32];
    typed(a, [&](auto* in) {
        for (std::int64_t j = 0; j < k; j += 32) {
            const std::int64_t count = k - j < 32 ? k - j : 32;
            transpose_strip<32, false>(in + j * stride, stride, count, rows, lines);
            for (std::int64_t m = 0; m < 2 * kTileSide; ++m) {
                bf16* out = tile_row(strip, m, j);
                for (std::int64_t i = 0; i < 32; i += kLanes) {
                    store(out + i, m < rows ? load(lines + m * 32 + i) : Vf{});
                }
            }
        }
    });
}

/// Tiles 0..3 are c, 4..5 rows of a, 6..7 columns of b.
template <class Amx, bool kBoth>
void amx_tile(const GemmPart* parts, int count, float* c, bool first) {
    constexpr std::int64_t kLine = kPairCols * sizeof(float);
    float* lower = c + kTileSide * kPairCols;
    if (first) {
        Amx::template zero<0>();
        Amx::template zero<1>();
        if constexpr (kBoth) Amx::template zero<2>();
        if constexpr (kBoth) Amx::template zero<3>();
    } else {
        Amx::template load<0>(c, kLine);
        Amx::template load<1>(c + kTileSide, kLine);
        if constexpr (kBoth) Amx::template load<2>(lower, kLine);
        if constexpr (kBoth) Amx::template load<3>(lower + kTileSide, kLine);
    }
    for (const GemmPart* part = parts; part != parts + count; ++part) {
        const auto* a = static_cast<const std::byte*>(part->strip);
        const auto* b = static_cast<const std::byte*>(part->panel);
        const std::byte* end = b + part->k / 32 * 2 * kTileBytesOne;
        for (; b != end; a += 2 * kTileBytesOne, b += 2 * kTileBytesOne) {
            Amx::template load<4>(a, kTileRowBytes);
            Amx::template load<6>(b, kTileRowBytes);
            Amx::template load<7>(b + kTileBytesOne, kTileRowBytes);
            Amx::template multiply<0, 4, 6>();
            Amx::template multiply<1, 4, 7>();
            if constexpr (kBoth) {
                Amx::template load<5>(a + kTileBytesOne, kTileRowBytes);
                Amx::template multiply<2, 5, 6>();
                Amx::template multiply<3, 5, 7>();
            }
        }
    }
    Amx::template store<0>(c, kLine);
    Amx::template store<1>(c + kTileSide, kLine);
    if constexpr (kBoth) Amx::template store<2>(lower, kLine);
    if constexpr (kBoth) Amx::template store<3>(lower + kTileSide, kLine);
}

template <class Amx>
void amx_tile_any(const GemmPart* parts, int count, int rows, float* c, bool first) {
    Amx::configure();
    if (rows > kTileSide) return amx_tile<Amx, true>(parts, count, c, first);
    amx_tile<Amx, false>(parts, count, c, first);
}

template <class Amx>
constexpr GemmKernel amx_gemm() {
    return {2 * kTileSide,
            kPairCols,
            TileLayout::kStep,
            2,
            2,
            false,
            amx_pack_a,
            amx_pack_a_transposed,
            pairs_pack_b<TileLayout>,
            pairs_pack_b_transposed<TileLayout>,
            amx_tile_any<Amx>};
}

}  // namespace
}  // namespace qshard::cpu
