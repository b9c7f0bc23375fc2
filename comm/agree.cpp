#include "comm/agree.h"

#include <unistd.h>

namespace qshard {
namespace {

struct Outcome {
    int code = 0;
    std::string message;
};

Outcome outcome_of(const std::string& section, const std::function<void()>& body) {
    try {
        body();
        return {};
    } catch (const Error& error) {
        return {static_cast<int>(error.code()), error.what()};
    } catch (const std::exception& error) {
        const Failure failure = failure_of(error);
        return {static_cast<int>(failure.code), fmt::format("{}: {}", section, failure.message)};
    } catch (...) {
        return {static_cast<int>(ExitCode::kBug), fmt::format("{}: unknown error", section)};
    }
}

}  // namespace

void agree(Communicator& communicator, const std::string& section,
           const std::function<void()>& body) {
    const Outcome mine = outcome_of(section, body);
    std::vector<int> codes;
    try {
        codes = communicator.all_gather_value(mine.code);
    } catch (const Error&) {
        // The group is broken, perhaps because of this very error, which then says more.
        if (mine.code == 0) throw;
        throw Error(static_cast<ExitCode>(mine.code), mine.message);
    }
    int failed = 0;
    while (failed < communicator.count() && codes[static_cast<std::size_t>(failed)] == 0) ++failed;
    if (failed == communicator.count()) return;
    std::string message = mine.message;
    if (failed != 0 && failed == communicator.rank()) {
        char host[256] = "unknown";
        gethostname(host, sizeof host - 1);
        message = fmt::format("rank {} on {}: {}", failed, host, mine.message);
    }
    communicator.broadcast_string(message, failed);
    throw AgreedError(static_cast<ExitCode>(codes[static_cast<std::size_t>(failed)]), message);
}

Peers peers_with_same(Communicator& communicator, const std::string& text) {
    const std::vector<std::string> all = communicator.all_gather_strings(text);
    Peers peers{0, 0};
    for (int rank = 0; rank < communicator.count(); ++rank) {
        if (all[static_cast<std::size_t>(rank)] != text) continue;
        if (rank < communicator.rank()) ++peers.place;
        ++peers.count;
    }
    return peers;
}

}  // namespace qshard
