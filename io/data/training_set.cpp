#include "io/data/training_set.h"

#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/hash.h"
#include "io/data/packing.h"

namespace qshard {

namespace {

// Streams of Purpose::kShuffle: (epoch, kEpochStream), (0, kPackStream), (0, kWeightStream).
constexpr std::uint32_t kEpochStream = 0, kPackStream = 1, kWeightStream = 2;

std::int64_t divide_up(std::int64_t a, std::int64_t b) {
    return (a + b - 1) / b;
}

void check_sizes(const BatchOptions& options) {
    const std::int64_t micro = options.micro_batch_size, global = options.global_batch_size;
    if (micro < 1 || global < 1) {
        throw UserError(
            ExitCode::kUsage,
            fmt::format("train.micro_batch_size {} and train.global_batch_size {} must be positive",
                        micro, global));
    }
    if (global % micro == 0) return;
    const std::int64_t below = global / micro * micro;
    throw UserError(
        ExitCode::kUsage,
        fmt::format("train.global_batch_size {} is not a multiple of train.micro_batch_size "
                    "{}.\nTry train.global_batch_size {}{}.",
                    global, micro, below > 0 ? fmt::format("{} or ", below) : "", below + micro));
}

}  // namespace

void append_document(Slot& slot, const EncodedRow& row) {
    check(!row.ids.empty(), "a document has tokens");
    if (slot.document_begin.empty()) slot.document_begin.push_back(0);
    slot.tokens.insert(slot.tokens.end(), row.ids.begin(), row.ids.end());
    slot.targets.insert(slot.targets.end(), row.labels.begin() + 1, row.labels.end());
    slot.targets.push_back(kIgnoreIndex);
    slot.document_begin.push_back(narrow<std::int32_t>(slot.tokens.size()));
}

TrainingSet::TrainingSet(Split split, const BatchOptions& options)
    : split_(std::move(split)), options_(options) {
    check_sizes(options_);
    check(!split_.rows.empty() && split_.weights.size() == split_.rows.size(),
          "a training set has rows, each with a weight");
    std::vector<std::int64_t> lengths;
    for (const EncodedRow& row : split_.rows)
        lengths.push_back(static_cast<std::int64_t>(row.ids.size()));
    const std::vector<std::int64_t> order = documents_of_an_epoch();
    if (options_.packing) {
        rows_ = pack_best_fit(order, lengths, options_.max_length);
    } else {
        for (const std::int64_t document : order) rows_.push_back({document});
    }
    Sha256 digest;
    digest.update(fmt::format("{} {} {} {} {} {} {} ", sha256_of(split_), options_.max_length,
                              options_.packing, options_.shuffle, options_.seed,
                              options_.micro_batch_size, options_.global_batch_size));
    sha256_ = digest.hex();
    for (const auto& row : rows_) {
        std::int64_t tokens = 0, supervised = 0;
        for (const std::int64_t document : row) {
            tokens += lengths[static_cast<std::size_t>(document)];
            supervised += split_.rows[static_cast<std::size_t>(document)].supervised();
        }
        check(tokens > 0 && tokens <= options_.max_length, "a row is at most max_length tokens");
        row_tokens_.push_back(tokens);
        row_supervised_.push_back(supervised);
    }
}

namespace {

/// Rows that are drawn together, by their index: those of one source, which lie together (sources
/// of equal weight may as well be one).
std::vector<std::vector<std::int64_t>> groups_of_equal_weight(const Split& split) {
    std::vector<std::vector<std::int64_t>> groups;
    for (std::size_t i = 0; i < split.weights.size(); ++i) {
        if (i == 0 || split.weights[i - 1] != split.weights[i]) groups.emplace_back();
        groups.back().push_back(static_cast<std::int64_t>(i));
    }
    return groups;
}

/// Where rows have weights of their own: each as often as the whole part of its weight says, and of
/// the rows in a seeded order one more whenever the sum of what is left of their weights passes a
/// whole number (systematic sampling), so that the epoch has as many as all weights together say.
std::vector<std::int64_t> documents_by_own_weight(const Split& split, std::uint64_t seed) {
    std::vector<std::int64_t> documents;
    const std::vector<std::int64_t> order =
        shuffled_order(std::ssize(split.weights), seed, Purpose::kShuffle, 0, kWeightStream);
    double sum = 0.5;
    for (const std::int64_t row : order) {
        const double weight = split.weights[static_cast<std::size_t>(row)];
        const double whole = std::floor(weight), before = std::floor(sum);
        documents.insert(documents.end(), static_cast<std::size_t>(whole), row);
        sum += weight - whole;
        if (std::floor(sum) > before) documents.push_back(row);
    }
    if (documents.empty()) documents.push_back(order.front());
    std::ranges::sort(documents);
    return documents;
}

}  // namespace

std::vector<std::int64_t> TrainingSet::documents_by_source() const {
    std::vector<std::int64_t> documents;
    for (const std::vector<std::int64_t>& group : groups_of_equal_weight(split_)) {
        const auto count = static_cast<std::int64_t>(group.size());
        const double weight = split_.weights[static_cast<std::size_t>(group.front())];
        const double whole = std::floor(weight);
        for (int copy = 0; copy < static_cast<int>(whole); ++copy)
            documents.insert(documents.end(), group.begin(), group.end());
        auto extra = std::llround((weight - whole) * static_cast<double>(count));
        if (extra == 0 && whole == 0) extra = 1;
        const auto drawn = shuffled_order(count, options_.seed, Purpose::kShuffle,
                                          narrow<std::uint32_t>(group.front()), kWeightStream);
        for (std::int64_t i = 0; i < extra; ++i)
            documents.push_back(
                group[static_cast<std::size_t>(drawn[static_cast<std::size_t>(i)])]);
    }
    return documents;
}

std::vector<std::int64_t> TrainingSet::documents_of_an_epoch() const {
    std::vector<std::int64_t> documents =
        split_.own_weights ? documents_by_own_weight(split_, options_.seed) : documents_by_source();
    if (!options_.shuffle) {
        std::sort(documents.begin(), documents.end());
        return documents;
    }
    std::vector<std::int64_t> order =
        shuffled_order(static_cast<std::int64_t>(documents.size()), options_.seed,
                       Purpose::kShuffle, 0, kPackStream);
    for (std::int64_t& position : order) position = documents[static_cast<std::size_t>(position)];
    return order;
}

double TrainingSet::packing_efficiency() const {
    const auto tokens = std::accumulate(row_tokens_.begin(), row_tokens_.end(), std::int64_t{0});
    return static_cast<double>(tokens) /
           (static_cast<double>(rows_.size()) * static_cast<double>(options_.max_length));
}

std::int64_t TrainingSet::steps_per_epoch() const {
    return divide_up(rows_per_epoch(), options_.global_batch_size);
}

std::shared_ptr<const TrainingSet::Epoch> TrainingSet::epoch(std::int64_t index) const {
    const std::lock_guard lock(mutex_);
    if (cached_ == nullptr || cached_->index != index) {
        auto made = std::make_shared<Epoch>();
        made->index = index;
        if (options_.shuffle) {
            made->order = shuffled_order(rows_per_epoch(), options_.seed, Purpose::kShuffle,
                                         narrow<std::uint32_t>(index), kEpochStream);
        } else {
            made->order.resize(rows_.size());
            std::iota(made->order.begin(), made->order.end(), 0);
        }
        cached_ = std::move(made);
    }
    return cached_;
}

StepInfo TrainingSet::step(std::int64_t step) const {
    check(step >= 0, "a step is not negative");
    const std::int64_t steps = steps_per_epoch();
    const auto order = epoch(step / steps);
    const std::int64_t begin = step % steps * options_.global_batch_size;
    const std::int64_t end = std::min(begin + options_.global_batch_size, rows_per_epoch());
    StepInfo info;
    info.slot_count = divide_up(end - begin, options_.micro_batch_size);
    for (std::int64_t i = begin; i < end; ++i) {
        const auto row = static_cast<std::size_t>(order->order[static_cast<std::size_t>(i)]);
        info.tokens += row_tokens_[row];
        info.supervised_tokens += row_supervised_[row];
    }
    info.epoch = static_cast<double>(step + 1) / static_cast<double>(steps);
    return info;
}

Slot TrainingSet::slot(std::int64_t step, std::int64_t index) const {
    check(step >= 0 && index >= 0, "a step and a slot are not negative");
    const std::int64_t steps = steps_per_epoch();
    const auto order = epoch(step / steps);
    const std::int64_t first = step % steps * options_.global_batch_size;
    const std::int64_t begin = first + index * options_.micro_batch_size;
    const std::int64_t end = std::min(
        {begin + options_.micro_batch_size, first + options_.global_batch_size, rows_per_epoch()});
    check(begin < end, "the slot is one of its step's");
    Slot slot;
    for (std::int64_t i = begin; i < end; ++i) {
        for (const std::int64_t document :
             rows_[static_cast<std::size_t>(order->order[static_cast<std::size_t>(i)])]) {
            append_document(slot, split_.rows[static_cast<std::size_t>(document)]);
        }
    }
    return slot;
}

std::vector<Slot> evaluation_slots(std::span<const EncodedRow> rows, std::int64_t capacity) {
    std::vector<Slot> slots;
    for (const EncodedRow& row : rows) {
        if (slots.empty() ||
            static_cast<std::int64_t>(slots.back().tokens.size() + row.ids.size()) > capacity)
            slots.emplace_back();
        append_document(slots.back(), row);
    }
    return slots;
}

}  // namespace qshard
