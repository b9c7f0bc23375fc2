#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "backend/reference/reference.h"

namespace qshard::reference {
namespace {

/// Scores of one query against its visible keys, and their derivative factor (soft cap), both fp32.
struct Row {
    std::int64_t first = 0;    ///< first visible key row
    std::vector<float> score;  ///< after scale and soft cap
    std::vector<float> dcap;   ///< d score / d (scale q.k)
};

Row scores(const AttentionShape& s, const AttentionSequence& sequence, const Tensor& q,
           const Tensor& k, std::int64_t i, std::int64_t head) {
    const std::int64_t d = s.head_width, kv_head = head / (s.heads / s.kv_heads);
    const std::int64_t visible = sequence.k_count - sequence.q_count + i + 1;
    const std::int64_t count = s.window > 0 ? std::min(s.window, visible) : visible;
    Row row;
    row.first = sequence.k_begin + visible - count;
    for (std::int64_t j = 0; j < count; ++j) {
        float dot = 0;
        for (std::int64_t c = 0; c < d; ++c) {
            dot += load(q, ((sequence.q_begin + i) * s.heads + head) * d + c) *
                   load(k, ((row.first + j) * s.kv_heads + kv_head) * d + c);
        }
        float z = dot * s.scale, slope = 1.0f;
        if (s.softcap > 0) {
            const float t = std::tanh(z / s.softcap);
            z = s.softcap * t;
            slope = 1.0f - t * t;
        }
        row.score.push_back(z);
        row.dcap.push_back(slope);
    }
    return row;
}

}  // namespace

void attention(const AttentionShape& s, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse) {
    const std::int64_t d = s.head_width;
    for (const AttentionSequence& sequence : s.sequences) {
        for (std::int64_t i = 0; i < sequence.q_count; ++i) {
            for (std::int64_t head = 0; head < s.heads; ++head) {
                const std::int64_t kv_head = head / (s.heads / s.kv_heads),
                                   n = sequence.q_begin + i;
                const Row row = scores(s, sequence, q, k, i, head);
                const float top = *std::max_element(row.score.begin(), row.score.end());
                float sum = 0;
                for (float z : row.score) sum += std::exp(z - top);
                for (std::int64_t c = 0; c < d; ++c) {
                    float value = 0;
                    for (std::size_t j = 0; j < row.score.size(); ++j) {
                        const std::int64_t key = row.first + static_cast<std::int64_t>(j);
                        value += std::exp(row.score[j] - top) *
                                 load(v, (key * s.kv_heads + kv_head) * d + c);
                    }
                    store(out, (n * s.heads + head) * d + c, value / sum);
                }
                if (!lse.empty()) store(lse, n * s.heads + head, top + std::log(sum));
            }
        }
    }
}

void attention_backward(const AttentionShape& s, Tensor q, Tensor k, Tensor v, Tensor lse,
                        Tensor dout, Tensor dq, Tensor dk, Tensor dv) {
    const std::int64_t d = s.head_width;
    for (const AttentionSequence& sequence : s.sequences) {
        for (std::int64_t n = sequence.q_begin; n < sequence.q_begin + sequence.q_count; ++n) {
            for (std::int64_t c = 0; c < s.heads * d; ++c) store(dq, n * s.heads * d + c, 0);
        }
        for (std::int64_t n = sequence.k_begin; n < sequence.k_begin + sequence.k_count; ++n) {
            for (std::int64_t c = 0; c < s.kv_heads * d; ++c) {
                store(dk, n * s.kv_heads * d + c, 0);
                store(dv, n * s.kv_heads * d + c, 0);
            }
        }
        for (std::int64_t i = 0; i < sequence.q_count; ++i) {
            for (std::int64_t head = 0; head < s.heads; ++head) {
                const std::int64_t kv_head = head / (s.heads / s.kv_heads),
                                   n = sequence.q_begin + i;
                const std::int64_t q0 = (n * s.heads + head) * d;
                const Row row = scores(s, sequence, q, k, i, head);
                std::vector<float> p(row.score.size()), dp(row.score.size());
                float mean = 0;  // sum_j p_j dp_j
                for (std::size_t j = 0; j < p.size(); ++j) {
                    const std::int64_t k0 =
                        ((row.first + static_cast<std::int64_t>(j)) * s.kv_heads + kv_head) * d;
                    p[j] = std::exp(row.score[j] - load(lse, n * s.heads + head));
                    for (std::int64_t c = 0; c < d; ++c)
                        dp[j] += load(dout, q0 + c) * load(v, k0 + c);
                    mean += p[j] * dp[j];
                }
                for (std::size_t j = 0; j < p.size(); ++j) {
                    const std::int64_t k0 =
                        ((row.first + static_cast<std::int64_t>(j)) * s.kv_heads + kv_head) * d;
                    const float ds = p[j] * (dp[j] - mean) * row.dcap[j] * s.scale;
                    for (std::int64_t c = 0; c < d; ++c) {
                        store(dq, q0 + c, load(dq, q0 + c) + ds * load(k, k0 + c));
                        store(dk, k0 + c, load(dk, k0 + c) + ds * load(q, q0 + c));
                        store(dv, k0 + c, load(dv, k0 + c) + p[j] * load(dout, q0 + c));
                    }
                }
            }
        }
    }
}

}  // namespace qshard::reference
