#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

/// Settings that are words: what each word means, for the run file, flags and messages alike.
namespace qshard {

template <class Value>
struct Word {
    std::string_view name;
    Value value;
};
// clang finds it out by itself only from version 17 on.
template <class Value>
Word(const char*, Value) -> Word<Value>;

enum class OptimizerKind : std::uint8_t { kAdamW, kSgd, kRmsProp };
inline constexpr std::array kOptimizerWords{Word{"adamw", OptimizerKind::kAdamW},
                                            Word{"sgd", OptimizerKind::kSgd},
                                            Word{"rmsprop", OptimizerKind::kRmsProp}};

enum class LrScheduler : std::uint8_t { kConstant, kConstantWithWarmup, kLinear, kCosine };
inline constexpr std::array kLrSchedulerWords{
    Word{"constant", LrScheduler::kConstant}, Word{"linear", LrScheduler::kLinear},
    Word{"cosine", LrScheduler::kCosine},
    Word{"constant_with_warmup", LrScheduler::kConstantWithWarmup}};

enum class Recompute : std::uint8_t { kAuto, kAlways, kNever };
inline constexpr std::array kRecomputeWords{Word{"auto", Recompute::kAuto},
                                            Word{"always", Recompute::kAlways},
                                            Word{"never", Recompute::kNever}};

enum class PlacementMode : std::uint8_t { kReplicated, kGathered, kHostStreamed };
inline constexpr std::array kPlacementWords{Word{"replicated", PlacementMode::kReplicated},
                                            Word{"gathered", PlacementMode::kGathered},
                                            Word{"host_streamed", PlacementMode::kHostStreamed}};

/// PEFT's init_lora_weights, of those that leave the base as it is.
enum class AdapterInit : std::uint8_t {
    kDefault,   ///< true: A uniform in [-1/sqrt(in), 1/sqrt(in)) (kaiming_uniform, a = sqrt 5), B
                ///< zero
    kGaussian,  ///< A normal with deviation 1/r, B zero
    kRandom,  ///< false: B uniform in [-1/sqrt(r), 1/sqrt(r)) too; the adapter changes the model at
              ///< once
};
inline constexpr std::array kAdapterInitWords{Word{"true", AdapterInit::kDefault},
                                              Word{"gaussian", AdapterInit::kGaussian},
                                              Word{"false", AdapterInit::kRandom}};

/// PEFT's bias: which biases of the base are trained.
enum class AdapterBias : std::uint8_t {
    kNone,
    kAll,       ///< all: of linears, adapted or not, and of norms
    kLoraOnly,  ///< lora_only: of adapted linears
};
inline constexpr std::array kAdapterBiasWords{Word{"none", AdapterBias::kNone},
                                              Word{"all", AdapterBias::kAll},
                                              Word{"lora_only", AdapterBias::kLoraOnly}};

/// What a table's word means. BugError for another word: those of users are checked before.
template <class Value, std::size_t kCount>
Value meaning(const std::array<Word<Value>, kCount>& words, std::string_view name) {
    for (const Word<Value>& word : words) {
        if (word.name == name) return word.value;
    }
    throw BugError(fmt::format("no setting has the word \"{}\"", name));
}

/// The word of a value.
template <class Value, std::size_t kCount>
const char* word_of(const std::array<Word<Value>, kCount>& words, Value value) {
    for (const Word<Value>& word : words) {
        if (word.value == value) return word.name.data();
    }
    throw BugError("a setting has no word");
}

/// All words, after `first` ones that stand for none of the values ("auto").
template <class Value, std::size_t kCount>
std::vector<std::string> words_in(const std::array<Word<Value>, kCount>& words,
                                  std::vector<std::string> first = {}) {
    for (const Word<Value>& word : words) first.emplace_back(word.name);
    return first;
}

/// Types to compute in, backends and kernel sets of CPUs, as their makers know them.
inline std::vector<std::string> compute_dtype_words() {
    return {"bfloat16", "float32"};
}
inline std::vector<std::string> backend_words() {
    return {"auto", "cpu", "cuda", "reference"};
}
inline std::vector<std::string> cpu_isa_words() {
    return {"auto", "amx_bf16", "avx512_bf16", "avx512", "avx2", "sse"};
}

}  // namespace qshard
