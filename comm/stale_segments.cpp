#include "comm/stale_segments.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <vector>

namespace qshard {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> candidates(const std::string& shared) {
    std::vector<std::string> found;
    std::error_code error;
    for (const fs::directory_entry& entry : fs::directory_iterator(shared, error)) {
        const std::string path = entry.path().string();
        struct stat info {};
        if (!entry.path().filename().string().starts_with("vader_segment.")) continue;
        if (lstat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) continue;
        if (info.st_uid == geteuid() && info.st_mtime < std::time(nullptr) - 60)
            found.push_back(path);
    }
    return found;
}

}  // namespace

int remove_stale_segments(const std::string& shared, const std::string& proc) noexcept try {
    std::vector<std::string> stale = candidates(shared);
    std::error_code error;
    for (const fs::directory_entry& entry : fs::directory_iterator(proc, error)) {
        if (stale.empty()) return 0;
        const std::string pid = entry.path().filename().string();
        if (!std::all_of(pid.begin(), pid.end(), [](unsigned char c) { return std::isdigit(c); }))
            continue;
        std::ifstream maps(entry.path() / "maps");
        for (std::string line; std::getline(maps, line);)
            std::erase_if(stale, [&](const std::string& path) { return line.ends_with(path); });
    }
    if (error) return 0;
    int removed = 0;
    for (const std::string& path : stale) removed += unlink(path.c_str()) == 0 ? 1 : 0;
    return removed;
} catch (...) {
    return 0;
}

}  // namespace qshard
