#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "io/formats/safetensors.h"
#include "spec/weights.h"

namespace qshard {

/// A tensor and the file it is in.
struct TensorInFile {
    const SafetensorsFile* file = nullptr;
    const SafetensorsTensor* tensor = nullptr;

    /// Bytes [first, first + out.size()) of its data.
    void read(std::size_t first, std::span<std::byte> out) const {
        file->file().read(tensor->offset + first, out.data(), out.size());
    }
};

/// A linear as bitsandbytes saves it: NF4 or FP4 in blocks of 64, absmax values plain or
/// double-quantized ("bnb-4bit" folders), or rows of int8 (LLM.int8).
class BnbWeight {
  public:
    /// Finds a tensor by its full name and marks it as used; an empty result if there is none.
    using Find = std::function<TensorInFile(const std::string& name)>;

    /// The weight whose tensor is `name`, or nothing if it is not quantized. UserError naming
    /// `origin` and the tensor: parts missing, of wrong shape or dtype, more than one quant_state,
    /// block sizes other than 64 (nested: 256), a shape that is not the weight's, unknown keys.
    static std::optional<BnbWeight> find(const WeightSpec& weight, const std::string& name,
                                         const Find& find, const std::string& origin);

    const WeightForm& form() const { return form_; }
    /// Of the weight that was quantized.
    DType source_dtype() const { return source_dtype_; }
    void read(StoredPart part, std::size_t first, std::span<std::byte> out) const;

  private:
    class Finder;
    void rebuild_absmax(std::size_t first, std::span<std::byte> out) const;

    WeightForm form_;
    DType source_dtype_ = DType::kF32;
    TensorInFile data_, absmax_, absmax2_;
    float offset_ = 0;
    /// A nested map that is not the canonical one (of an old torch): absmax values are rebuilt with
    /// it and given as plain ones.
    std::vector<float> own_map_;
};

}  // namespace qshard
