#include "io/data/dataset.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/hash.h"
#include "io/data/packing.h"
#include "io/data/rows.h"

namespace qshard {
namespace {

void encode_into(Split& split, const RowEncoder& encoder, const DataRow& row, double weight) {
    RowEncoder::Outcome outcome = encoder.encode(row);
    if (outcome.weight == 0) {
        ++split.stats.weightless;
        return;
    }
    if (!outcome.row && !outcome.pair) {
        ++split.stats.skipped;
        return;
    }
    if (outcome.pair ? !split.rows.empty() : !split.pairs.empty()) {
        throw UserError(fmt::format(
            "{}: preference pairs and other rows are mixed. Put them into files of their own.",
            row.place));
    }
    std::vector<const EncodedRow*> documents;
    if (outcome.pair) {
        documents = {&outcome.pair->chosen, &outcome.pair->rejected};
    } else {
        documents = {&*outcome.row};
    }
    for (const EncodedRow* document : documents) {
        if (document->supervised() > 0) continue;
        ++split.stats.untrained;
        return;
    }
    for (const EncodedRow* document : documents) {
        const auto tokens = static_cast<std::int64_t>(document->ids.size());
        split.stats.tokens += tokens;
        split.stats.supervised += document->supervised();
        split.stats.longest = std::max(split.stats.longest, tokens);
    }
    ++split.stats.rows;
    split.stats.truncated += outcome.truncated ? 1 : 0;
    if (outcome.row) split.rows.push_back(std::move(*outcome.row));
    if (outcome.pair) split.pairs.push_back(std::move(*outcome.pair));
    split.stats.notes.add(outcome.notes);
    split.weights.push_back(weight * outcome.weight);
    split.own_weights = split.own_weights || outcome.weight != 1;
}

Split read_split(const std::string& path, const RowEncoder& encoder) {
    Split split;
    if (path.empty()) return split;
    for (const DataRow& row : read_rows(path)) encode_into(split, encoder, row, 1);
    return split;
}

void check_options(const DatasetOptions& options) {
    const double fraction = options.validation_fraction;
    if (!(fraction >= 0 && fraction < 1)) {
        throw UserError(
            ExitCode::kUsage,
            fmt::format("data.validation is {}, expected a file or a fraction in [0, 1)",
                        fraction));
    }
    if (fraction > 0 && !options.validation_file.empty()) {
        throw UserError(ExitCode::kUsage, "data.validation is both a fraction and a file");
    }
    if (options.train.empty()) throw UserError(ExitCode::kUsage, "data.train names no file");
    for (const DataSource& source : options.train) {
        if (!(source.weight > 0 && source.weight <= 1000)) {
            throw UserError(
                ExitCode::kUsage,
                fmt::format("data.train: the weight of {} is {}, expected a number in (0, 1000]",
                            source.path, source.weight));
        }
    }
}

}  // namespace

std::vector<bool> draw_validation(std::int64_t count, double fraction, std::uint64_t seed) {
    std::vector<bool> held(static_cast<std::size_t>(count), false);
    if (fraction <= 0 || count < 2) return held;
    const auto wanted =
        std::clamp<std::int64_t>(std::llround(fraction * static_cast<double>(count)), 1, count - 1);
    const auto order = shuffled_order(count, seed, Purpose::kSplit);
    for (std::int64_t i = 0; i < wanted; ++i)
        held[static_cast<std::size_t>(order[static_cast<std::size_t>(i)])] = true;
    return held;
}

Dataset load_dataset(const DatasetOptions& options, const RowEncoder& encoder) {
    check_options(options);
    std::vector<DataRow> rows;
    std::vector<double> weights;
    for (const DataSource& source : options.train) {
        for (DataRow& row : read_rows(source.path)) rows.push_back(std::move(row));
        weights.resize(rows.size(), source.weight);
    }
    const auto held = draw_validation(static_cast<std::int64_t>(rows.size()),
                                      options.validation_fraction, options.seed);
    Dataset data;
    for (std::size_t i = 0; i < rows.size(); ++i) {
        encode_into(held[i] ? data.validation : data.train, encoder, rows[i],
                    held[i] ? 1 : weights[i]);
        rows[i].columns = {};  // both copies of a large data set need not fit at once
    }
    if (data.train.stats.rows == 0) {
        throw UserError(fmt::format(
            "{}: no row is left to train on: {} of {} rows longer than data.max_length {} were "
            "skipped, {} have no "
            "token that carries loss. Raise data.max_length, or set data.loss_on to all.",
            options.train.front().path, data.train.stats.skipped, rows.size(),
            encoder.options().max_length, data.train.stats.untrained));
    }
    if (!options.validation_file.empty())
        data.validation = read_split(options.validation_file, encoder);
    data.test = read_split(options.test_file, encoder);
    return data;
}

std::string sha256_of(const Split& split) {
    Sha256 digest;
    const auto add = [&](const auto& values) { digest.update(std::as_bytes(std::span(values))); };
    for (std::size_t i = 0; i < split.rows.size(); ++i) {
        const std::uint64_t count[1] = {split.rows[i].ids.size()};
        const double weight[1] = {split.weights[i]};
        add(count);
        add(weight);
        add(split.rows[i].ids);
        add(split.rows[i].labels);
    }
    return digest.hex();
}

}  // namespace qshard
