#include "io/checkpoint/folder_lock.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "base/error.h"
#include "io/checkpoint/atomic_file.h"
#include "io/checkpoint/state.h"

namespace qshard {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using std::chrono::seconds;
using Clock = std::chrono::steady_clock;

constexpr seconds kWait{2};         ///< for whoever it is
constexpr seconds kWaitEnding{60};  ///< for one that is known to be ending
constexpr milliseconds kPause{50};

std::string host_name() {
    char host[256] = "unknown";
    ::gethostname(host, sizeof host - 1);
    return host;
}

/// What the file says: "host n07\npid 411\njob 1234\nsince 2026-01-31T12:00:00Z\n".
struct Holder {
    std::string host, job, since;
    long pid = 0;
};

std::string text_of(const Holder& holder) {
    return fmt::format("host {}\npid {}\njob {}\nsince {}\n", holder.host, holder.pid, holder.job,
                       holder.since);
}

Holder read_holder(int descriptor) {
    char text[1024] = {};
    const ssize_t count = ::pread(descriptor, text, sizeof text - 1, 0);
    Holder holder;
    std::string_view rest(text, count > 0 ? static_cast<std::size_t>(count) : 0);
    while (!rest.empty()) {
        const std::string_view line = rest.substr(0, rest.find('\n'));
        rest.remove_prefix(std::min(rest.size(), line.size() + 1));
        const std::size_t space = std::min(line.find(' '), line.size());
        const std::string_view name = line.substr(0, space);
        const std::string value(line.substr(std::min(space + 1, line.size())));
        if (name == "host") holder.host = value;
        if (name == "pid") holder.pid = std::strtol(value.c_str(), nullptr, 10);
        if (name == "job") holder.job = value;
        if (name == "since") holder.since = value;
    }
    return holder;
}

/// "host n07, pid 411, job 1234, since ...", as far as it is known.
std::string describe(const Holder& holder) {
    if (holder.host.empty()) return "its lock file does not say whose it is";
    std::string text = fmt::format("host {}, pid {}", holder.host, holder.pid);
    if (!holder.job.empty()) text += ", job " + holder.job;
    return text + ", since " + holder.since;
}

/// Whether the holder was a process of this host that is no more: the kernel is about to let go.
bool is_gone(const Holder& holder) {
    return holder.pid > 0 && holder.host == host_name() &&
           ::kill(static_cast<pid_t>(holder.pid), 0) != 0 && errno == ESRCH;
}

bool same_file(int descriptor, const fs::path& path) {
    struct stat opened {
    }, named{};
    return ::fstat(descriptor, &opened) == 0 && ::lstat(path.c_str(), &named) == 0 &&
           opened.st_ino == named.st_ino && opened.st_dev == named.st_dev;
}

}  // namespace

FolderLock::FolderLock(fs::path folder, const std::string& job,
                       const std::function<void(const std::string&)>& on_wait)
    : folder_(std::move(folder)), file_(folder_ / "run.lock"), job_(job) {
    std::error_code ignored;
    made_folder_ = !fs::exists(folder_, ignored);
    make_folder(folder_);
    const Clock::time_point begin = Clock::now();
    for (bool told = false; !try_lock();) {
        const Holder holder = read_holder(descriptor_);
        const bool ending = is_gone(holder) || (!job_.empty() && holder.job == job_);
        if (Clock::now() - begin > (ending ? kWaitEnding : kWait)) refuse();
        if (ending && !told) on_wait(describe(holder));
        told |= ending;
        std::this_thread::sleep_for(kPause);
    }
    const std::string text = text_of({host_name(), job_, utc_now(), ::getpid()});
    if (::ftruncate(descriptor_, 0) != 0 ||
        ::pwrite(descriptor_, text.data(), text.size(), 0) != std::ssize(text)) {
        const int error = errno;
        ::close(std::exchange(descriptor_, -1));
        throw SystemError(fmt::format("writing {}: {}", file_.string(), std::strerror(error)));
    }
}

FolderLock::~FolderLock() {
    // While the lock is held, so that it is this file that goes; whoever waits for it sees that and
    // opens the next one.
    if (descriptor_ >= 0 && same_file(descriptor_, file_)) ::unlink(file_.c_str());
    if (descriptor_ >= 0) ::close(descriptor_);
    if (made_folder_) ::rmdir(folder_.c_str());
}

/// False: another process has it, and descriptor_ is open to be read.
bool FolderLock::try_lock() {
    if (descriptor_ >= 0 && !same_file(descriptor_, file_)) {
        ::close(std::exchange(descriptor_, -1));
    }
    if (descriptor_ < 0) {
        descriptor_ =
            ::open(file_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0644);
    }
    if (descriptor_ < 0) {
        throw SystemError(ExitCode::kCannotCreate,
                          fmt::format("creating {}: {}", file_.string(), std::strerror(errno)));
    }
    // A lock of the open file: other descriptors of this process neither share nor end it.
    struct flock whole {};
    whole.l_type = F_WRLCK;
    whole.l_whence = SEEK_SET;
    if (::fcntl(descriptor_, F_OFD_SETLK, &whole) != 0) {
        if (errno == EAGAIN || errno == EACCES || errno == EINTR) return false;
        warning_ = fmt::format(
            "the file system of {} has no locks ({}): a second run on this folder would not be "
            "noticed",
            folder_.string(), std::strerror(errno));
        return true;
    }
    if (same_file(descriptor_, file_)) return true;
    ::close(std::exchange(descriptor_, -1));  // its holder removed it meanwhile
    return try_lock();
}

void FolderLock::refuse() const {
    const std::string holder = describe(read_holder(descriptor_));
    ::close(descriptor_);
    throw SystemError(
        ExitCode::kPeerLost,
        fmt::format("{} is in use by another run: {}.\n        Wait for its end and start again to "
                    "go on from it, or choose another output folder.",
                    folder_.string(), holder));
}

std::string scheduler_job() {
    for (const char* name : {"SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID"}) {
        const char* job = std::getenv(name);
        if (job != nullptr && *job != '\0') return job;
    }
    return "";
}

}  // namespace qshard
