#pragma once

#include <string>
#include <vector>

#include "io/run/run_file.h"

/// What became of a run file between the start that made a checkpoint and this one.
namespace qshard {

/// A resolved run file as a checkpoint records it. A version that knows other keys may have written
/// it, so it is read key by key and never refused for one of them.
struct RecordedRun {
    RunFile run;                       ///< keys that the record lacks have their defaults
    std::vector<std::string> unknown;  ///< keys in it that this version cannot read
};
/// UserError if the text is no YAML mapping.
RecordedRun parse_recorded_run(const std::string& text);

struct ChangedKey {
    std::string path;         ///< "train.learning_rate"
    std::string there, here;  ///< the values, as YAML on one line
    bool fixed = false;       ///< makes another run, if what `shown_by` names differs too
    std::string shown_by;     ///< of RunKey
};
/// The keys whose values differ, in the order of the table. Of paths only file names count, and
/// none of the model's, the tokenizer's and the training files', whose digests say what they hold:
/// a run that moved has no changed keys. `output` is where a run is, not what it is.
std::vector<ChangedKey> changed_keys(const RunFile& there, const RunFile& here);

}  // namespace qshard
