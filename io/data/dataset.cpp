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
    SplitStats& stats = split.stats;
    if (outcome.weight == 0) {
        stats.weightless.add(row.place);
        return;
    }
    stats.longest_given = std::max(stats.longest_given, outcome.given_tokens);
    stats.supervised_lost += outcome.supervised_lost;
    if (!outcome.row && !outcome.pair) {
        stats.skipped.add(row.place);
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
        const bool cut = outcome.truncated && outcome.supervised_lost > 0;
        (cut ? stats.answer_cut : stats.without_loss).add(row.place);
        return;
    }
    for (const EncodedRow* document : documents) {
        const auto tokens = static_cast<std::int64_t>(document->ids.size());
        stats.tokens += tokens;
        stats.supervised += document->supervised();
        stats.longest = std::max(stats.longest, tokens);
    }
    ++stats.rows;
    if (outcome.truncated) stats.truncated.add(row.place);
    if (outcome.row) split.rows.push_back(std::move(*outcome.row));
    if (outcome.pair) split.pairs.push_back(std::move(*outcome.pair));
    stats.notes.add(outcome.notes);
    split.weights.push_back(weight * outcome.weight);
    split.own_weights = split.own_weights || outcome.weight != 1;
}

/// Throws if a split had rows and none is left.
void refuse_empty(const SplitStats& stats, const std::string& file, const std::string& what,
                  std::int64_t max_length) {
    if (stats.rows > 0 || stats.rows_read() == 0) return;
    std::string reasons;
    const auto add = [&](const RowPlaces& rows, const std::string& reason) {
        if (rows.count == 0) return;
        reasons += fmt::format("{}{} of {} rows {} ({})", reasons.empty() ? "" : ", ", rows.count,
                               stats.rows_read(), reason, rows.examples(1));
    };
    add(stats.skipped, fmt::format("longer than data.max_length {} were skipped", max_length));
    add(stats.answer_cut,
        fmt::format("have their whole answer beyond data.max_length {}", max_length));
    add(stats.without_loss, "have no token that carries loss");
    add(stats.weightless, "have the weight 0");
    throw UserError(fmt::format(
        "{}: no row is left {}: {}.\n{}Look at them with qshard data.", file, what, reasons,
        stats.skipped.count + stats.answer_cut.count > 0
            ? fmt::format("Raise data.max_length (the longest row has {} tokens). ",
                          stats.longest_given)
            : "Set data.loss_on to all if their prompts are to be learnt. "));
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

Split load_split(const std::string& path, const std::string& name, const RowEncoder& encoder,
                 bool may_be_empty) {
    Split split;
    for (const DataRow& row : read_rows(path)) encode_into(split, encoder, row, 1);
    if (!may_be_empty)
        refuse_empty(split.stats, path, "of data." + name, encoder.options().max_length);
    return split;
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
    if (!options.may_be_empty) {
        const std::string& file = options.train.front().path;
        const std::int64_t length = encoder.options().max_length;
        refuse_empty(data.train.stats, file, "to train on", length);
        refuse_empty(data.validation.stats, file, "of data.validation", length);
    }
    const auto load = [&](const std::string& file, const char* name, Split& split) {
        if (!file.empty()) split = load_split(file, name, encoder, options.may_be_empty);
    };
    load(options.validation_file, "validation", data.validation);
    load(options.test_file, "test", data.test);
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
