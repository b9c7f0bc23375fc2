#include "io/checkpoint/folder_lock.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <mutex>
#include <system_error>
#include <thread>
#include <tuple>

#include "base/error.h"
#include "io/checkpoint/atomic_file.h"
#include "io/checkpoint/state.h"

namespace qshard {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

constexpr milliseconds kPause{50};

std::string host_name() {
    char host[256] = "unknown";
    ::gethostname(host, sizeof host - 1);
    return host;
}

/// Which start of which machine this is; the host's name where the system does not say.
std::string boot_id() {
    std::ifstream file("/proc/sys/kernel/random/boot_id");
    std::string id;
    return file >> id ? id : host_name();
}

/// What the file says: "host n07\npid 411\njob 1234\nsince 2026-01-31T12:00:00Z\nboot ...\n".
struct Holder {
    std::string host, job, since, boot;
    long pid = 0;
};

std::string text_of(const Holder& holder) {
    return fmt::format("host {}\npid {}\njob {}\nsince {}\nboot {}\n", holder.host, holder.pid,
                       holder.job, holder.since, holder.boot);
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
        if (name == "boot") holder.boot = value;
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

/// Whether the holder was a process of this machine that is no more: the kernel is about to let go.
bool is_gone(const Holder& holder) {
    return holder.pid > 0 && holder.boot == boot_id() &&
           ::kill(static_cast<pid_t>(holder.pid), 0) != 0 && errno == ESRCH;
}

bool same_file(int descriptor, const fs::path& path) {
    struct stat opened {
    }, named{};
    return ::fstat(descriptor, &opened) == 0 && ::lstat(path.c_str(), &named) == 0 &&
           opened.st_ino == named.st_ino && opened.st_dev == named.st_dev;
}

}  // namespace

FolderLock::FolderLock(fs::path folder, const std::string& job, const OnWait& on_wait, Times times)
    : folder_(std::move(folder)), file_(folder_ / "run.lock"), job_(job), times_(times) {
    std::error_code ignored;
    made_folder_ = !fs::exists(folder_, ignored);
    make_folder(folder_);
    acquire(on_wait);
    write_holder();
    try {
        beating_ = std::jthread([this](const std::stop_token& stop) { beat(stop); });
    } catch (const std::system_error& error) {
        warning_ = fmt::format(
            "no thread for the lock of {} ({}): runs on other nodes may take it "
            "for dead",
            folder_.string(), error.what());
    }
}

FolderLock::~FolderLock() {
    if (beating_.joinable()) {
        beating_.request_stop();
        beating_.join();
    }
    // While the lock is held, so that it is this file that goes; whoever waits for it sees that and
    // opens the next one.
    if (descriptor_ >= 0 && same_file(descriptor_, file_)) ::unlink(file_.c_str());
    if (descriptor_ >= 0) ::close(descriptor_);
    if (made_folder_) ::rmdir(folder_.c_str());
}

void FolderLock::acquire(const OnWait& on_wait) {
    const Clock::time_point begin = Clock::now();
    for (bool told = false;;) {
        const Outcome outcome = try_lock();
        const Holder holder = read_holder(descriptor_);
        const bool elsewhere = !holder.boot.empty() && holder.boot != boot_id();
        const bool unlocked_here =
            outcome == Outcome::kNoLocks && !holder.boot.empty() && !is_gone(holder);
        const bool ending = is_gone(holder) || (!job_.empty() && holder.job == job_);
        const bool must_watch = elsewhere || unlocked_here;
        if (!told && (must_watch || (ending && outcome == Outcome::kHeld))) {
            on_wait(describe(holder));
            told = true;
        }
        if (must_watch) {  // only its beats say whether it lives
            if (beats()) refuse();
            if (outcome != Outcome::kHeld) return;
            ::unlink(file_.c_str());  // the lock of a dead node
        } else if (outcome != Outcome::kHeld) {
            return;
        } else if (Clock::now() - begin > (ending ? times_.wait_ending : times_.wait)) {
            refuse();
        }
        std::this_thread::sleep_for(kPause);
    }
}

/// Opens the file, which stays open to be read, and asks for the lock.
FolderLock::Outcome FolderLock::try_lock() {
    for (;;) {
        if (descriptor_ >= 0 && !same_file(descriptor_, file_))
            ::close(std::exchange(descriptor_, -1));
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
            if (errno == EAGAIN || errno == EACCES || errno == EINTR) return Outcome::kHeld;
            warning_ = fmt::format(
                "the file system of {} has no locks ({}): a second run that starts at the same "
                "time "
                "would not be noticed",
                folder_.string(), std::strerror(errno));
            return Outcome::kNoLocks;
        }
        if (same_file(descriptor_, file_)) return Outcome::kTaken;
        // Its holder removed it meanwhile.
    }
}

/// Watches the file for as long as a living holder would need to touch it.
bool FolderLock::beats() const {
    // Opened each time: network file systems ask their server then.
    const auto touched = [this] {
        const int fd = ::open(file_.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        struct stat info {};
        const bool known = fd >= 0 && ::fstat(fd, &info) == 0;
        if (fd >= 0) ::close(fd);
        return known ? std::tuple(info.st_ino, info.st_mtim.tv_sec, info.st_mtim.tv_nsec)
                     : std::tuple(ino_t{0}, time_t{0}, long{0});
    };
    const auto before = touched();
    const Clock::time_point begin = Clock::now();
    while (Clock::now() - begin < times_.silence) {
        std::this_thread::sleep_for(kPause);
        const auto now = touched();
        if (now != before) return std::get<0>(now) != 0;  // gone: it ended in order
    }
    return false;
}

void FolderLock::write_holder() {
    const std::string text = text_of({host_name(), job_, utc_now(), boot_id(), ::getpid()});
    if (::ftruncate(descriptor_, 0) == 0 &&
        ::pwrite(descriptor_, text.data(), text.size(), 0) == std::ssize(text)) {
        return;
    }
    const int error = errno;
    ::close(std::exchange(descriptor_, -1));
    throw SystemError(fmt::format("writing {}: {}", file_.string(), std::strerror(error)));
}

void FolderLock::beat(const std::stop_token& stop) {
    std::mutex mutex;
    std::condition_variable_any wake;
    std::unique_lock<std::mutex> lock(mutex);
    while (!wake.wait_for(lock, stop, times_.beat, [] { return false; }) && !stop.stop_requested())
        ::futimens(descriptor_, nullptr);
}

void FolderLock::check_held() const {
    if (same_file(descriptor_, file_)) return;
    throw SystemError(
        ExitCode::kPeerLost,
        fmt::format("another run took over {}: this one stood still, or its lock file was removed",
                    folder_.string()));
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
