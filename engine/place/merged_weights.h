#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "spec/adapter.h"
#include "spec/layout.h"
#include "spec/weights.h"

/// Weights seen through what training did to them, for export: read part by part like any model's.
namespace qshard {

/// W + scale * (B A) wherever the adapter has a target (with DoRA each row of it scaled to the
/// length of its magnitude), its own values of a trained weight, W elsewhere, in fp32: the caller
/// rounds once, as PEFT's merge_and_unload() does with an fp32 adapter on a 16-bit base. W is
/// rounded to `base` first, the dtype that base would be loaded in; values of kBF16 sources always
/// to bf16. Products of a mixture's parameters are rounded to `base` too, as PEFT's ParamWrapper
/// has it.
class MergedWeights final : public WeightReader {
  public:
    /// All three must outlive it.
    MergedWeights(const WeightReader& weights, const AdapterLayout& adapter,
                  std::span<const float> values, DType base);

    /// Of the base; but a head that was tied to the embedding is not if either is trained.
    const ModelConfig& config() const override { return config_; }
    /// Sums and trained weights are fp32 values.
    DType source_dtype(const WeightSpec& weight) const override;
    void read(const WeightSpec& weight, std::int64_t first, std::span<float> out) const override;
    std::string sha256() const override { return weights_.sha256(); }
    bool has_sha256(const std::string& recorded) const override {
        return weights_.has_sha256(recorded);
    }
    std::int64_t file_bytes() const override { return weights_.file_bytes(); }

  private:
    AdapterPart part_of(const WeightSpec& weight) const;
    const TrainedWeight* trained(const WeightSpec& weight) const;
    WeightSpec in_base(const WeightSpec& weight) const;
    void read_base(const WeightSpec& weight, std::int64_t first, std::span<float> out) const;
    void add_product(const AdapterPart& part, std::int64_t row, std::int64_t first,
                     std::span<float> out) const;

    const WeightReader& weights_;
    ModelConfig config_;
    const AdapterLayout& adapter_;
    std::map<std::string, AdapterPart> parts_;  ///< by the weight's name
    const std::span<const float> values_;
    const DType base_;
};

/// The weights as the decoder computed with them in training: linears quantized and expanded, all
/// others, and what the source has quantized itself, as they are. Keeps the codes of one weight at
/// a time; reads of one weight from several threads are fine, reads of two in turn are slow.
class QuantizedWeights final : public WeightReader {
  public:
    QuantizedWeights(const WeightReader& weights, const LayoutOptions& options, int threads);

    const ModelConfig& config() const override { return weights_.config(); }
    DType source_dtype(const WeightSpec& weight) const override {
        return quantizes(weight) ? DType::kF32 : weights_.source_dtype(weight);
    }
    void read(const WeightSpec& weight, std::int64_t first, std::span<float> out) const override;
    std::string sha256() const override { return weights_.sha256(); }
    bool has_sha256(const std::string& recorded) const override {
        return weights_.has_sha256(recorded);
    }
    std::int64_t file_bytes() const override { return weights_.file_bytes(); }

  private:
    struct Codes {
        std::string name;
        std::vector<std::uint8_t> codes;  ///< int8 codes are signed
        std::vector<float> absmax;        ///< of blocks, or of int8 rows
    };
    bool quantizes(const WeightSpec& weight) const {
        return weight.linear && options_.quantization != Quantization::kNone &&
               !options_.taken.contains(weight.name) &&
               weights_.form(weight).storage == Storage::kPlain;
    }
    void quantize_blocks(const WeightSpec& weight, Codes& made) const;
    void quantize_rows(const WeightSpec& weight, Codes& made) const;
    std::shared_ptr<const Codes> codes_of(const WeightSpec& weight) const;

    const WeightReader& weights_;
    const LayoutOptions options_;
    const int threads_;
    mutable std::mutex mutex_;
    mutable std::shared_ptr<const Codes> last_;
};

}  // namespace qshard
