#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>

#include <csignal>
#include <fstream>
#include <random>
#include <set>

#include "base/error.h"
#include "io/checkpoint/atomic_file.h"
#include "io/checkpoint/image.h"
#include "io/checkpoint/store.h"
#include "sample_state.h"

namespace qshard {
namespace {

namespace fs = std::filesystem;
using test::sample_state;
using test::TempFolder;

/// Memory files: a SIGKILL loses nothing that was written, whatever the file system, and fsync is
/// free there.
fs::path fast_folder() {
    return fs::exists("/dev/shm") ? "/dev/shm" : fs::temp_directory_path();
}

const auto kIgnoreRejected = [](const fs::path&, const std::string&) {};

/// Number of trials: QSHARD_TRIALS for a campaign, else `everyday`.
std::size_t trials(std::size_t everyday) {
    const char* wanted = std::getenv("QSHARD_TRIALS");
    return wanted == nullptr ? everyday : std::stoul(wanted);
}

void copy_files(const fs::path& from, const fs::path& to) {
    fs::remove_all(to);
    fs::copy(from, to);
}

/// The calls that change what is on disk.
bool changes_files(long call) {
    static const std::set<long> kCalls = {SYS_openat,    SYS_write,    SYS_fsync,   SYS_close,
                                          SYS_renameat2, SYS_unlinkat, SYS_open,    SYS_rename,
                                          SYS_unlink,    SYS_rmdir,    SYS_renameat};
    return kCalls.contains(call);
}

/// Where to kill: at the entry or exit of the k-th call, or, for a write, after its first
/// `torn_bytes` bytes.
struct KillPoint {
    std::size_t call = SIZE_MAX;
    bool after = false;
    std::size_t torn_bytes = SIZE_MAX;
};

struct Call {
    long number = 0;
    std::size_t bytes = 0;
};

/// Runs `work` in a child under ptrace and kills it at the point; returns the calls it got to.
std::vector<Call> run_and_kill(const std::function<void()>& work, const KillPoint& point) {
    const pid_t child = ::fork();
    if (child == 0) {
        ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
        ::raise(SIGSTOP);
        work();
        ::_exit(0);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    ::ptrace(PTRACE_SETOPTIONS, child, nullptr, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL);
    std::vector<Call> calls;
    bool entering = true, doomed = false;
    for (;;) {
        ::ptrace(PTRACE_SYSCALL, child, nullptr, nullptr);
        ::waitpid(child, &status, 0);
        if (WIFEXITED(status) || WIFSIGNALED(status)) break;
        if (!WIFSTOPPED(status) || WSTOPSIG(status) != (SIGTRAP | 0x80)) continue;
        if (doomed) {
            ::kill(child, SIGKILL);
        } else if (entering) {
            user_regs_struct registers{};
            ::ptrace(PTRACE_GETREGS, child, nullptr, &registers);
            const long number = static_cast<long>(registers.orig_rax);
            if (changes_files(number)) {
                if (calls.size() == point.call) {
                    if (point.torn_bytes < registers.rdx && number == SYS_write) {
                        registers.rdx = point.torn_bytes;
                        ::ptrace(PTRACE_SETREGS, child, nullptr, &registers);
                        doomed = true;
                    } else if (point.after) {
                        doomed = true;
                    } else {
                        ::kill(child, SIGKILL);
                    }
                }
                calls.push_back({number, number == SYS_write ? registers.rdx : 0});
            }
        }
        entering = !entering;
    }
    return calls;
}

/// Folder with generations 1..3; the work saves 4 and 5, each of which removes the oldest one.
class KillTest : public testing::Test {
  protected:
    KillTest() : scratch_(fast_folder()) {
        CheckpointStore store(before_);
        for (int step = 1; step <= 3; ++step) store.save(sample_state(step));
        durable_ = static_cast<std::int64_t*>(
            ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    }
    ~KillTest() override { ::munmap(durable_, 4096); }

    std::vector<Call> trial(const KillPoint& point) {
        copy_files(before_, folder_);
        *durable_ = 3;
        return run_and_kill(
            [this] {
                CheckpointStore store(folder_);
                for (int step = 4; step <= 5; ++step) {
                    store.save(sample_state(step));
                    *durable_ = step;
                }
            },
            point);
    }

    /// The newest loadable state is the last durable one or the one being saved, and a resumed run
    /// saves again.
    void expect_nothing_lost(const KillPoint& point) {
        const std::string where =
            fmt::format("call {} after {} torn {}", point.call, point.after, point.torn_bytes);
        CheckpointStore store(folder_);
        const auto loaded = store.load_newest(kIgnoreRejected);
        ASSERT_TRUE(loaded.has_value()) << where;
        const std::int64_t step = loaded->state.step;
        ASSERT_TRUE(step == *durable_ || step == *durable_ + 1) << where << ": step " << step;
        ASSERT_EQ(loaded->state, sample_state(step)) << where;
        std::size_t good = 0;
        for (const Generation& generation : store.list()) {
            if (!generation.has_manifest) continue;
            ASSERT_NO_THROW(CheckpointStore::load(generation.file)) << where;
            ++good;
        }
        ASSERT_GE(good, 3u) << where;
        store.save(sample_state(step + 1));
        ASSERT_EQ(store.load_newest(kIgnoreRejected)->state.step, step + 1) << where;
        for (const auto& entry : fs::directory_iterator(folder_)) {
            ASSERT_EQ(entry.path().filename().string().find(".tmp-"), std::string::npos) << where;
        }
    }

    TempFolder scratch_;
    fs::path before_ = scratch_.path() / "before", folder_ = scratch_.path() / "run";
    std::int64_t* durable_ = nullptr;
};

TEST_F(KillTest, NothingIsLostAtAnyCallOrTornWrite) {
    const std::vector<Call> calls = trial({});
    ASSERT_EQ(*durable_, 5) << "the child could not be traced, or its save failed";
    std::vector<KillPoint> points;
    std::mt19937_64 random(1);
    std::vector<std::size_t> writes;
    for (std::size_t k = 0; k < calls.size(); ++k) {
        points.push_back({k, false, SIZE_MAX});
        points.push_back({k, true, SIZE_MAX});
        if (calls[k].number == SYS_write && calls[k].bytes > 0) writes.push_back(k);
    }
    ASSERT_GE(writes.size(), 4u) << "two files in each of two saves";
    const std::size_t total = trials(150);
    std::set<std::pair<std::size_t, std::size_t>> torn;
    while (points.size() < total && torn.size() < 10'000'000) {
        const std::size_t k = writes[random() % writes.size()];
        const std::size_t bytes = random() % calls[k].bytes;
        if (torn.emplace(k, bytes).second) points.push_back({k, false, bytes});
    }
    for (const KillPoint& point : points) {
        trial(point);
        expect_nothing_lost(point);
        if (HasFatalFailure()) return;
    }
    std::printf("%zu kill points over %zu calls, 0 lost\n", points.size(), calls.size());
}

/// A damaged newest file: refused, and the older one used.
class DamageTest : public testing::Test {
  protected:
    DamageTest() : folder_(fast_folder()), store_(folder_.path()) {
        store_.save(tiny(1));
        newest_ = store_.save(tiny(2));
        const std::vector<std::byte> bytes = read_file(newest_, std::size_t{1} << 20);
        good_.assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    }
    static CheckpointState tiny(std::int64_t step) { return sample_state(step, 1, 2); }

    void put(const std::string& bytes) { std::ofstream(newest_, std::ios::binary) << bytes; }
    void expect_older_used() {
        int rejected = 0;
        const auto loaded = store_.load_newest([&](auto&&...) { ++rejected; });
        ASSERT_EQ(loaded->state, tiny(1));
        ASSERT_EQ(rejected, 1);
    }

    TempFolder folder_;
    CheckpointStore store_;
    fs::path newest_;
    std::string good_;
};

TEST_F(DamageTest, EverySingleBitFlipIsRefused) {
    const int fd = ::open(newest_.c_str(), O_WRONLY);
    ASSERT_GE(fd, 0);
    for (std::size_t bit = 0; bit < good_.size() * 8; ++bit) {
        const auto at = static_cast<off_t>(bit / 8);
        const char damaged = static_cast<char>(good_[bit / 8] ^ (1 << (bit % 8)));
        ASSERT_EQ(::pwrite(fd, &damaged, 1, at), 1);
        ASSERT_THROW(CheckpointStore::load(newest_), UserError) << "bit " << bit;
        if (bit % 997 == 0) expect_older_used();
        ASSERT_EQ(::pwrite(fd, &good_[bit / 8], 1, at), 1);
    }
    ::close(fd);
    EXPECT_EQ(CheckpointStore::load(newest_), tiny(2));
    std::printf("%zu bit flips refused\n", good_.size() * 8);
}

TEST_F(DamageTest, EveryTruncationIsRefused) {
    for (std::size_t bytes = good_.size(); bytes-- > 0;) {
        fs::resize_file(newest_, bytes);
        ASSERT_THROW(CheckpointStore::load(newest_), UserError) << bytes;
        if (bytes % 499 == 0) expect_older_used();
    }
    put(good_ + "x");
    expect_older_used();
}

TEST_F(DamageTest, TornAndReorderedSectorsAreRefused) {
    std::mt19937_64 random(2);
    constexpr std::size_t kSector = 512;
    const std::size_t total = trials(1000);
    for (std::size_t trial = 0; trial < total; ++trial) {
        std::string bytes = good_;
        for (std::size_t change = random() % 4 + 1; change > 0; --change) {
            const std::size_t to = random() % (bytes.size() / kSector) * kSector;
            const std::size_t from = random() % (bytes.size() / kSector) * kSector;
            random() % 2 == 0 ? bytes.replace(to, kSector, kSector, '\0')
                              : bytes.replace(to, kSector, good_, from, kSector);
        }
        put(bytes);
        if (bytes == good_) continue;
        ASSERT_THROW(CheckpointStore::load(newest_), UserError);
    }
    expect_older_used();
}

/// What a power cut may leave of the two renames, before the folder is synced.
TEST_F(DamageTest, AnySubsetOfTheRenamesIsHandled) {
    const fs::path manifest = newest_.string() + ".json";
    fs::rename(manifest, folder_.path() / "kept");
    expect_older_used();
    fs::rename(folder_.path() / "kept", manifest);
    fs::remove(newest_);
    expect_older_used();
    put("");
    expect_older_used();
    put(std::string(good_.size(), '\0'));
    expect_older_used();
    put(good_);
    EXPECT_EQ(store_.load_newest(kIgnoreRejected)->state, tiny(2));
}

/// libhdf5 without the digest in front of it: with these format settings a flipped bit is an error
/// or harmless.
TEST_F(DamageTest, TheFormatItselfNeverGivesWrongValues) {
    std::size_t refused = 0;
    for (std::size_t at = 0; at < good_.size(); at += 3) {
        std::string bytes = good_;
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << (at % 8)));
        try {
            const auto image = std::as_bytes(std::span(bytes.data(), bytes.size()));
            ASSERT_EQ(decode_checkpoint(image), tiny(2)) << "byte " << at;
        } catch (const UserError&) {
            ++refused;
        }
    }
    EXPECT_GT(refused, good_.size() / 6) << "most flips hit something that matters";
}

/// Runs `work` in a child with limits of its own; its return value is the exit status.
int in_child(const std::function<int()>& work) {
    const pid_t child = ::fork();
    if (child == 0) ::_exit(work());
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 256;
}

bool has_leftovers(const fs::path& folder) {
    for (const auto& entry : fs::directory_iterator(folder)) {
        if (entry.path().filename().string().starts_with(".")) return true;
    }
    return false;
}

TEST_F(DamageTest, AFileLimitIsAnErrorAndKeepsTheOlderOne) {
    for (std::size_t limit = 0; limit < good_.size(); limit += good_.size() / 8 + 1) {
        EXPECT_EQ(in_child([&] {
                      std::signal(SIGXFSZ, SIG_IGN);
                      const rlimit both{limit, limit};
                      ::setrlimit(RLIMIT_FSIZE, &both);
                      try {
                          store_.save(tiny(3));
                      } catch (const SystemError& error) {
                          return error.code() == ExitCode::kIo ? 7 : 8;
                      }
                      return 0;
                  }),
                  7)
            << limit;
        EXPECT_FALSE(has_leftovers(folder_.path()));
        EXPECT_EQ(store_.load_newest(kIgnoreRejected)->state, tiny(2));
    }
}

TEST(DiskFull, IsAnErrorAndKeepsTheOlderOne) {
    constexpr int kNoRight = 77;
    const TempFolder folder;
    const int status = in_child([&] {
        if (::unshare(CLONE_NEWNS) != 0 ||
            ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
            ::mount("tmpfs", folder.path().c_str(), "tmpfs", 0, "size=1200k") != 0) {
            return kNoRight;
        }
        CheckpointStore store(folder.path());
        int step = 1;
        try {
            for (; step < 100; ++step) store.save(sample_state(step, 8, 64));
            return 1;
        } catch (const SystemError& error) {
            if (error.code() != ExitCode::kIo || step < 2) return 2;
        }
        if (has_leftovers(folder.path())) return 3;
        return store.load_newest(kIgnoreRejected)->state.step == step - 1 ? 7 : 4;
    });
    if (status == kNoRight) GTEST_SKIP() << "no right to mount a small file system";
    EXPECT_EQ(status, 7);
}

}  // namespace
}  // namespace qshard
