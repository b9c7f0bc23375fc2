#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "io/checkpoint/state.h"

namespace qshard {

/// One saved file: step-00000200.h5, or step-00000200.1.h5 if the same step was saved again with
/// other content.
struct Generation {
    std::int64_t step = 0;
    int revision = 0;
    std::filesystem::path file;
    bool has_manifest = false;

    std::filesystem::path manifest() const { return file.string() + ".json"; }
};

struct LoadedCheckpoint {
    CheckpointState state;
    std::filesystem::path file;
};

/// The checkpoints of one run in one folder (checkpoints/ of the output folder). One writer at a
/// time: rank 0. A crash at any moment leaves every generation that save() has returned loadable,
/// until `keep` newer ones are.
class CheckpointStore {
  public:
    /// Called with the file and the reason for every generation that is passed over.
    using OnRejected = std::function<void(const std::filesystem::path&, const std::string&)>;

    explicit CheckpointStore(std::filesystem::path folder);

    /// Writes, reads back, compares, and only then publishes; then removes all but the newest
    /// max(keep, 3) verified generations and those of `best_step`. Returns the file once it is
    /// durable. An identical save of the same step is left as it is. SystemError: kCannotCreate, or
    /// kIo (disk full, failed fsync, what was read back differs).
    std::filesystem::path save(CheckpointState state, int keep = 3, std::int64_t best_step = 0);

    /// Makes `chosen`, read from `file`, the newest: saves it here if `file` lies elsewhere, and
    /// moves whatever is newer, with its manifest, into abandoned-1/, abandoned-2/, ... here,
    /// beside a copy of `log` as far as there is one. A kill at any moment leaves `chosen` and all
    /// of the moved ones loadable. Returns the folder that was made, or nothing if nothing was
    /// newer.
    std::optional<std::filesystem::path> go_back_to(const CheckpointState& chosen,
                                                    const std::filesystem::path& file,
                                                    const std::filesystem::path& log);
    /// Ends what a go_back_to() that was killed has begun; else nothing. Before load_newest().
    std::optional<std::filesystem::path> finish_going_back();

    /// The newest usable generation of `step`.
    std::optional<LoadedCheckpoint> load_step(std::int64_t step) const;

    /// Newest first; files of other names are not listed.
    std::vector<Generation> list() const;

    /// The newest generation whose digest matches. Nothing if the folder holds no checkpoint.
    /// UserError if it holds some and none can be used: a run never starts from scratch silently
    /// over results.
    std::optional<LoadedCheckpoint> load_newest(const OnRejected& on_rejected) const;

    /// One file with its manifest beside it; the digest is verified before libhdf5 sees a byte.
    /// UserError says why not.
    static CheckpointState load(const std::filesystem::path& file);

    /// Reads the file and checks it against its manifest; UserError says what is wrong.
    static std::vector<std::byte> read_verified(const std::filesystem::path& file);

  private:
    void publish(CheckpointState state, const std::filesystem::path& file) const;
    std::filesystem::path intent() const { return folder_ / "going-back-to"; }
    /// All but `file`, one of this folder, that are of its step or later.
    std::vector<Generation> newer_than(const std::filesystem::path& file) const;
    void prune(int keep, std::int64_t best_step);

    std::filesystem::path folder_;
    std::set<std::filesystem::path> verified_;  // by this object; spares prune() the reading
};

}  // namespace qshard
