#include <gtest/gtest.h>
#include <zlib.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "comm/threads.h"
#include "golden_files.h"
#include "io/data/training_set.h"
#include "io/formats/model_reader.h"
#include "synthetic.h"
#include "train/trainer.h"

/// Fifty training steps of the real model against transformers + PEFT + bitsandbytes (rules in
/// golden/README.md).
namespace qshard {
namespace {

const char* model_path() {
    return std::getenv("QSHARD_TEST_MODEL");
}

const boost::json::value& golden() {
    static const boost::json::value value =
        test::read_json(QSHARD_TEST_DATA "/golden/train50/train50.json");
    return value;
}

std::vector<double> numbers(const boost::json::value& list) {
    std::vector<double> values;
    for (const auto& item : list.as_array()) values.push_back(item.to_number<double>());
    return values;
}

/// The golden's steps: two rows each, a row a slot.
class GoldenBatches final : public BatchSource {
  public:
    GoldenBatches() {
        for (const auto& step : golden().at("steps").as_array()) {
            std::vector<Slot> slots;
            for (const auto& row : step.as_array()) {
                std::vector<EncodedRow> rows;
                for (const auto& document : row.as_array()) {
                    rows.push_back({test::int_list(document.at("input_ids")),
                                    test::int_list(document.at("labels")), ""});
                }
                const std::vector<Slot> packed = evaluation_slots(rows, 1 << 20);
                slots.push_back(packed.at(0));
                longest_ =
                    std::max(longest_, static_cast<std::int64_t>(slots.back().tokens.size()));
            }
            steps_.push_back(std::move(slots));
        }
    }
    std::int64_t steps_per_epoch() const override {
        return static_cast<std::int64_t>(steps_.size());
    }
    StepInfo step(std::int64_t step) const override {
        StepInfo info;
        for (const Slot& slot : steps_.at(static_cast<std::size_t>(step))) {
            ++info.slot_count;
            info.supervised_tokens += slot.supervised();
            info.tokens += static_cast<std::int64_t>(slot.tokens.size());
        }
        return info;
    }
    Slot slot(std::int64_t step, std::int64_t index) const override {
        return steps_.at(static_cast<std::size_t>(step)).at(static_cast<std::size_t>(index));
    }
    std::string sha256() const override { return "golden"; }
    std::int64_t longest() const { return longest_; }

  private:
    std::vector<std::vector<Slot>> steps_;
    std::int64_t longest_ = 0;
};

/// A of module m of layer l by the golden's generator, B zero.
std::vector<float> golden_adapter(const AdapterLayout& layout) {
    constexpr Role kOrder[] = {Role::kQ,    Role::kK,  Role::kV,   Role::kO,
                               Role::kGate, Role::kUp, Role::kDown};
    std::vector<float> values(static_cast<std::size_t>(layout.count));
    uLong crc = crc32(0, nullptr, 0);
    for (const AdapterTarget& t : layout.targets) {
        const auto m = std::find(std::begin(kOrder), std::end(kOrder), t.role) - std::begin(kOrder);
        auto s = static_cast<std::uint32_t>(1000 + 7 * t.layer + m);
        const auto bound = static_cast<float>(1.0 / std::sqrt(static_cast<double>(t.in)));
        float* a = values.data() + t.a;
        for (std::int64_t i = 0; i < t.r * t.in; ++i) {
            s = s * 1664525u + 1013904223u;
            const float u =
                static_cast<float>(static_cast<std::int64_t>(s >> 8) - (1 << 23)) / 0x1p23f;
            a[i] = u * bound;
        }
        crc = crc32(crc, reinterpret_cast<const Bytef*>(a), static_cast<uInt>(t.r * t.in * 4));
    }
    EXPECT_EQ(fmt::format("{:08x}", crc), golden().at("initial_a").at("crc32").as_string());
    return values;
}

struct Curve {
    std::vector<double> loss, grad_norm;
};

Curve train(DType compute) {
    const auto reader = open_model(model_path());
    const GoldenBatches batches;
    Curve curve;
    run_threads(1, [&](Communicator& group) {
        const auto backend = test::make_backend(2);
        TrainerOptions options;
        options.compute = compute;
        options.max_slot_tokens = batches.longest();
        options.max_step_slots = 2;
        options.schedule = {LrScheduler::kLinear, 2e-4, 0, 50};
        AdapterOptions adapter;
        adapter.target_modules = {"all-linear"};
        LayoutOptions layout;
        layout.plain_dtype = compute;
        Trainer trainer(*backend, group, reader->config(), layout, adapter, options);
        trainer.load(*reader, 2, {});
        trainer.set_adapter(golden_adapter(trainer.adapter_layout()));
        for (int s = 0; s < 50; ++s) {
            const StepResult result = trainer.step(batches, s, s, nullptr);
            curve.loss.push_back(result.loss);
            curve.grad_norm.push_back(result.grad_norm);
        }
    });
    return curve;
}

TEST(Train50, Fp32FollowsThePeerWithinOneThousandth) {
    if (model_path() == nullptr)
        GTEST_SKIP() << "QSHARD_TEST_MODEL is not set: the real model is needed";
    const Curve curve = train(DType::kF32);
    const std::vector<double> want = numbers(golden().at("fp32").at("loss"));
    const std::vector<double> norms = numbers(golden().at("fp32").at("grad_norm"));
    double worst = 0;
    for (std::size_t s = 0; s < want.size(); ++s) {
        EXPECT_NEAR(curve.loss[s], want[s], 1e-3) << "step " << s;
        EXPECT_NEAR(curve.grad_norm[s], norms[s], 1e-2 * norms[s]) << "step " << s;
        worst = std::max(worst, std::abs(curve.loss[s] - want[s]));
    }
    std::printf("fp32: largest difference of a loss %.2e\n", worst);
}

TEST(Train50, Bf16IsNoFartherFromFp32ThanThePeersOwn) {
    if (model_path() == nullptr)
        GTEST_SKIP() << "QSHARD_TEST_MODEL is not set: the real model is needed";
    const Curve curve = train(DType::kBF16);
    const std::vector<double> exact = numbers(golden().at("fp32").at("loss"));
    const std::vector<double> peer = numbers(golden().at("peer_bf16").at("loss"));
    double ours_max = 0, peer_max = 0, ours_mean = 0, peer_mean = 0;
    for (std::size_t s = 0; s < exact.size(); ++s) {
        ours_max = std::max(ours_max, std::abs(curve.loss[s] - exact[s]));
        peer_max = std::max(peer_max, std::abs(peer[s] - exact[s]));
        ours_mean += std::abs(curve.loss[s] - exact[s]) / static_cast<double>(exact.size());
        peer_mean += std::abs(peer[s] - exact[s]) / static_cast<double>(exact.size());
    }
    std::printf(
        "bf16: distance from the fp32 losses, largest %.4f (peer %.4f), mean %.4f (peer %.4f)\n",
        ours_max, peer_max, ours_mean, peer_mean);
    EXPECT_LE(ours_max, 1.25 * peer_max);
    EXPECT_LE(ours_mean, 1.25 * peer_mean);
}

std::string crc_of(std::span<const std::byte> bytes) {
    return fmt::format("{:08x}", crc32(0, reinterpret_cast<const Bytef*>(bytes.data()),
                                       static_cast<uInt>(bytes.size())));
}

TEST(Train50, EveryQuantizedTensorIsBitsandbytesByteForByte) {
    if (model_path() == nullptr)
        GTEST_SKIP() << "QSHARD_TEST_MODEL is not set: the real model is needed";
    const auto reader = open_model(model_path());
    const LayoutOptions options;
    const ModelLayout layout = make_layout(reader->config(), options);
    const auto& linears = golden().at("linears").as_object();
    std::size_t compared = 0;
    run_threads(1, [&](Communicator& group) {
        std::vector<std::vector<std::byte>> storage;
        std::vector<std::span<std::byte>> shards;
        for (const UnitLayout& unit : layout.units)
            shards.emplace_back(storage.emplace_back(unit.shard_bytes(1)));
        for (std::size_t u = 0; u < layout.units.size(); ++u) {
            import_unit(*reader, layout.units[u], options, group, 2, shards[u]);
            for (const Field& field : layout.units[u].fields) {
                if (field.storage != Storage::kNf4) continue;
                const auto& want = linears.at(field.weight.name).as_array();
                const std::span<const std::byte> unit = shards[u];
                const auto blocks = static_cast<std::size_t>(field.blocks);
                EXPECT_EQ(crc_of(unit.subspan(field.data, field.data_bytes)),
                          want.at(1).as_string());
                EXPECT_EQ(crc_of(unit.subspan(field.absmax, blocks)), want.at(2).as_string());
                EXPECT_EQ(crc_of(unit.subspan(field.absmax2, (blocks + 255) / 256 * 4)),
                          want.at(3).as_string());
                const auto* offset =
                    reinterpret_cast<const std::uint32_t*>(unit.data() + field.offset);
                EXPECT_EQ(fmt::format("{:08x}", *offset), want.at(4).as_string());
                ++compared;
            }
        }
    });
    EXPECT_EQ(compared, linears.size());
}

}  // namespace
}  // namespace qshard
