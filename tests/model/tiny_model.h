#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "backend/device_arena.h"
#include "backend/device_buffer.h"
#include "golden_files.h"
#include "io/data/training_set.h"
#include "io/formats/model_reader.h"
#include "io/peft/adapter_folder.h"
#include "io/peft/expert_tensors.h"
#include "place/frozen_base.h"
#include "place/slot_runner.h"
#include "synthetic.h"
#include "train/inference.h"

/// The models of tests/golden/tiny, and comparisons with what is recorded of them.
namespace qshard::test {

/// A golden model on one backend with the adapter of a folder in its own ("adapter", "dora",
/// "dropped", "whole" or "experts"), or without one.
class TinyModel {
  public:
    TinyModel(const std::string& name, Quantization quantization, const std::string& adapter,
              DType compute = DType::kF32)
        : folder_(std::string(QSHARD_TEST_DATA "/golden/tiny/") + name),
          backend_(make_backend(2)),
          arena_(*backend_) {
        reader_ = open_model(folder_);
        const LayoutOptions options{quantization, true, compute, {}};
        layout_ = make_layout(config(), options);
        if (!adapter.empty()) read_adapter(folder_ + "/" + adapter);
        base_ = std::make_unique<FrozenBase>(*backend_, *group_, layout_,
                                             PlacementMode::kReplicated, arena_);
        arena_.commit();
        base_->load(*reader_, options, 2, {});
        device_values_ = std::make_unique<DeviceBuffer>(*backend_, values_.size() * sizeof(float));
        backend_->upload(device_values_->get(), values_.data(), values_.size() * sizeof(float));
    }

    const ModelConfig& config() const { return reader_->config(); }
    const std::string& folder() const { return folder_; }
    const AdapterLayout* adapter() const { return adapter_.targets.empty() ? nullptr : &adapter_; }
    Backend& backend() { return *backend_; }
    const ModelLayout& layout() const { return layout_; }
    WeightSource& source() { return base_->source(); }
    std::span<const float> host_values() const { return values_; }
    /// The adapter's flat vector, on the backend.
    const float* values() const { return static_cast<const float*>(device_values_->get()); }

  private:
    void read_adapter(const std::string& folder) {
        const PeftAdapter peft = read_peft_adapter(folder);
        adapter_ = make_adapter_layout(config(), adapter_options(peft.config, peft.tensors));
        values_.resize(static_cast<std::size_t>(adapter_.count));
        std::int64_t copied = 0;
        for (const AdapterTensor& mine : tensors_of(adapter_)) {
            for (const NamedTensor& tensor : peft.tensors) {
                if (tensor.name != mine.name) continue;
                std::copy_n(peft.values.begin() + tensor.offset, tensor.count(),
                            values_.begin() + mine.offset);
                copied += tensor.count();
            }
        }
        EXPECT_EQ(copied, adapter_.count) << "every adapter tensor has its place";
    }

    std::string folder_;
    std::unique_ptr<Backend> backend_;
    std::unique_ptr<WeightReader> reader_;
    ModelLayout layout_;
    AdapterLayout adapter_;
    std::vector<float> values_;
    std::unique_ptr<Communicator> group_ = make_self_communicator();
    DeviceArena arena_;
    std::unique_ptr<FrozenBase> base_;
    std::unique_ptr<DeviceBuffer> device_values_;
};

inline std::vector<EncodedRow> documents_of(const boost::json::value& golden) {
    std::vector<EncodedRow> rows;
    for (const auto& document : golden.at("documents").as_array()) {
        rows.push_back({int_list(document.at("input_ids")), int_list(document.at("labels")), ""});
    }
    return rows;
}

/// The documents of the golden files in `folder` of a model, which may be the model's.
inline std::vector<EncodedRow> documents_of(const TinyModel& model, const std::string& folder) {
    const auto golden = read_json(model.folder() + folder + "/golden.json");
    if (golden.as_object().contains("documents")) return documents_of(golden);
    return documents_of(read_json(model.folder() + "/golden.json"));
}

/// Of the documents of the golden files in `folder` (of the model's own), one after the other.
inline std::vector<float> logits_of(TinyModel& model, const std::string& folder, DType compute) {
    DeviceArena arena(model.backend());
    Inference inference(model.backend(), model.config(), model.layout(), model.adapter(),
                        {compute, 1, 32, 5}, arena);
    arena.commit();
    inference.start(model.source(), model.values());
    std::vector<float> all;
    for (EncodedRow& row : documents_of(model, folder)) {
        row.ids.push_back(0);  // the last position has no logits
        inference.score(row.ids, [&](std::int64_t, std::span<const float> logits) {
            all.insert(all.end(), logits.begin(), logits.end());
        });
    }
    return all;
}

/// `key` names the tensor of the golden files in `folder` (of the model's own).
inline void compare_logits(const std::string& family, Quantization quantization,
                           const std::string& adapter, const std::string& folder,
                           const std::string& key) {
    TinyModel model(family, quantization, adapter);
    const std::vector<float> want =
        read_floats(model.folder() + folder + "/golden.safetensors").at("logits." + key);
    const std::vector<float> got = logits_of(model, folder, DType::kF32);
    ASSERT_EQ(got.size(), want.size());
    float largest = 0, worst = 0;
    for (std::size_t i = 0; i < want.size(); ++i) {
        largest = std::max(largest, std::abs(want[i]));
        worst = std::max(worst, std::abs(got[i] - want[i]));
    }
    EXPECT_LE(worst, 1e-4f * largest) << family << " " << key;
}

/// Of one slot with the documents of the golden files in `folder` (of the model's own).
struct SlotResult {
    double loss = 0;
    LooseTensors gradients;  ///< by PEFT's names
};
inline SlotResult train_slot(TinyModel& model, const std::string& folder, DType compute) {
    const std::vector<Slot> slots = evaluation_slots(documents_of(model, folder), 64);
    EXPECT_EQ(slots.size(), 1u);
    DeviceArena arena(model.backend());
    RunnerOptions options;
    options.compute = compute;
    options.max_tokens = 64;
    options.recomputed_layers = 2;  // of two or three: one after another in the same memory
    SlotRunner runner(model.backend(), model.config(), model.layout(), model.adapter(), options,
                      arena);
    arena.commit();
    runner.start(model.source(), model.values());
    const AdapterLayout& adapter = *model.adapter();
    std::vector<float> gradient(static_cast<std::size_t>(adapter.count));
    SlotResult result;
    const auto supervised = static_cast<double>(slots[0].supervised());
    runner.train(
        slots, {}, static_cast<float>(-1.0 / supervised),
        [&](std::size_t, std::span<const float> logprob) {
            for (float value : logprob) result.loss -= double{value} / supervised;
        },
        [&](std::size_t range, std::size_t, const float* values) {
            model.backend().download(
                gradient.data() + adapter.range_begin[range], values,
                static_cast<std::size_t>(adapter.range_count(range)) * sizeof(float));
        });
    std::vector<NamedTensor> tensors;
    for (const AdapterTensor& tensor : tensors_of(adapter))
        tensors.push_back({tensor.name, tensor.shape, tensor.offset});
    result.gradients = peft_tensors(tensors, gradient);
    return result;
}

/// Sums of squares: of the difference, and of what is wanted.
struct Squares {
    double difference = 0, wanted = 0;

    void add(std::span<const float> got, std::span<const float> want) {
        for (std::size_t i = 0; i < want.size(); ++i) {
            difference += std::pow(double{got[i]} - double{want[i]}, 2);
            wanted += std::pow(double{want[i]}, 2);
        }
    }
    double relative() const { return std::sqrt(difference / wanted); }
};

/// Loss and gradients of one slot are those of the golden files in `folder` (of the model's own).
inline void compare_gradients(const std::string& family, Quantization quantization,
                              const std::string& adapter, const std::string& folder,
                              const std::string& loss_key, const std::string& key) {
    TinyModel model(family, quantization, adapter);
    const auto wanted = read_json(model.folder() + folder + "/golden.json");
    const auto floats = read_floats(model.folder() + folder + "/golden.safetensors");
    const SlotResult result = train_slot(model, folder, DType::kF32);
    EXPECT_NEAR(result.loss, wanted.at("loss").at(loss_key).to_number<double>(),
                2e-5 * result.loss);
    for (const auto& [name, got] : result.gradients) {
        const std::vector<float>& want = floats.at("grad." + key + "." + name);
        ASSERT_EQ(got.values.size(), want.size()) << family << " " << name;
        Squares squares;
        squares.add(got.values, want);
        EXPECT_LE(squares.difference, 1e-6 * squares.wanted) << family << " " << name;
    }
}

}  // namespace qshard::test
