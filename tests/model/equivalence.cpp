#include "equivalence.h"

#include <cstring>
#include <mutex>

#include "base/hash.h"
#include "comm/threads.h"

namespace qshard::test {
namespace {

/// The sections are parts of the whole, whoever's clock they are by.
void expect_sections(const StepSeconds& s, bool computes) {
    for (double section : {s.expand, s.forward, s.head, s.backward})
        EXPECT_TRUE(section > 0 || !computes);
    const double sum = s.data + s.gather + s.expand + s.forward + s.head + s.backward + s.reduce +
                       s.optimizer + s.other;
    EXPECT_NEAR(sum, s.total, 1e-3 * s.total + 1e-5);
}

}  // namespace

Outcome run(const Variant& variant, int steps, DType compute, OptimizerKind optimizer,
            Quantization quantization, const ModelConfig& config) {
    const SyntheticReader reader(config);
    const SyntheticBatches batches(config.vocabulary, 7, 24);
    Outcome outcome;
    std::mutex mutex;
    run_threads(variant.ranks, [&](Communicator& group) {
        const auto backend = make_backend(variant.threads, variant.backend);
        TrainerOptions options;
        options.compute = compute;
        options.placement = variant.placement;
        options.recompute = variant.recompute;
        options.memory_limit = variant.memory_limit;
        options.max_slot_tokens = 24;
        options.max_step_slots = 7;
        options.optimizer.kind = optimizer;
        options.schedule = {LrScheduler::kCosine, 5e-3, 0, steps};
        AdapterOptions adapter;
        adapter.r = 4;
        adapter.alpha = 8;
        adapter.target_modules = {"all-linear"};
        adapter.dropout = variant.dropout;
        adapter.use_dora = variant.dora;
        if (variant.dora) adapter.init = AdapterInit::kRandom;  // rows change their lengths
        adapter.rank_pattern = {{"down_proj", 2}, {"k_proj", 7}};
        adapter.modules_to_save = variant.modules_to_save;
        adapter.bias = variant.bias;
        // Experts and routers go without DoRA and dropout.
        if ((variant.dora || variant.dropout > 0) && config.experts > 0)
            adapter.target_modules = {"q_proj", "k_proj", "v_proj", "o_proj"};
        options.seed = variant.seed;
        LayoutOptions layout;
        layout.quantization = quantization;
        Trainer trainer(*backend, group, config, layout, adapter, options);
        trainer.load(reader, 1, {});
        std::vector<float> values(static_cast<std::size_t>(trainer.adapter_layout().count));
        initialize_adapter(trainer.adapter_layout(), 42, values);
        trainer.fill_from_base(values);
        trainer.set_adapter(values);
        const Traffic before = group.traffic();
        std::vector<double> losses;
        std::uint64_t received = 0;
        for (int s = 0; s < steps; ++s) {
            const StepResult result = trainer.step(batches, s, s, nullptr);
            losses.push_back(result.loss);
            const StepTraffic planned = trainer.planned_traffic(result.info.slot_count);
            EXPECT_EQ(result.received.gather, planned.gather);
            EXPECT_EQ(result.received.reduce, planned.reduce);
            received = result.received.gather;
            const SlotRange mine = slots_of(group.rank(), group.count(), result.info.slot_count);
            expect_sections(result.seconds, mine.count() > 0);
        }
        const Traffic after = group.traffic();
        const std::vector<Slot> slots = {batches.slot(90, 0), batches.slot(91, 1)};
        const double evaluated = trainer.evaluate(slots).loss;
        const std::vector<float> trained = trainer.adapter();
        const std::string base = trainer.base_fingerprint();
        const std::string sha = sha256_hex(std::as_bytes(std::span(trained)));
        for (const std::string& other : group.all_gather_strings(sha)) EXPECT_EQ(other, sha);
        EXPECT_NE(std::memcmp(values.data(), trained.data(), values.size() * sizeof(float)), 0);
        if (group.rank() == 0) {
            const std::lock_guard lock(mutex);
            outcome = {sha,
                       base,
                       losses,
                       after.all_gathers - before.all_gathers,
                       after.exchanges - before.exchanges,
                       trainer.resident_base_bytes(),
                       trainer.planned_bytes(),
                       trainer.host_bytes(),
                       trainer.group_slots(),
                       trainer.batch_slots(),
                       received,
                       evaluated};
        }
    });
    return outcome;
}

std::string_view gpu() {
    return backend_under_test() == "cuda" ? "cuda" : "emulated_cuda";
}
std::string_view guarded() {
    return backend_under_test() == "cpu" ? "guarded" : backend_under_test();
}

}  // namespace qshard::test
