#include "io/checkpoint/foreign.h"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <string>

#include "base/error.h"
#include "io/checkpoint/atomic_file.h"
#include "io/checkpoint/image.h"

namespace qshard {
namespace {

constexpr rlim_t kCpuSeconds = 60;
constexpr std::size_t kMaxFileBytes = std::size_t{1} << 36;

/// Memory and output to open descriptors; every other system call fails with EPERM.
bool forbid_system_calls() {
    constexpr std::array kAllowed = {
        SYS_read,
        SYS_write,
        SYS_mmap,
        SYS_munmap,
        SYS_mremap,
        SYS_brk,
        SYS_futex,
        SYS_madvise,
        SYS_exit_group,
        SYS_rt_sigreturn,
        SYS_clock_gettime,
        SYS_mprotect,
#if defined(__SANITIZE_ADDRESS__)  // its runtime looks at the signal stack when a process ends
        SYS_sigaltstack,
#endif
    };
#if defined(__x86_64__)
    constexpr std::uint32_t kArchitecture = AUDIT_ARCH_X86_64;
#else
    constexpr std::uint32_t kArchitecture = AUDIT_ARCH_AARCH64;
#endif
    std::array<sock_filter, 2 * kAllowed.size() + 5> program{};
    std::size_t at = 0;
    program[at++] = BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch));
    program[at++] = BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kArchitecture, 1, 0);
    program[at++] = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    program[at++] = BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr));
    for (long call : kAllowed) {
        program[at++] = BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<std::uint32_t>(call), 0, 1);
        program[at++] = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    }
    program[at++] = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
    const sock_fprog filter{static_cast<unsigned short>(at), program.data()};
    return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

void limit(int resource, rlim_t value) {
    const rlimit both{value, value};
    ::setrlimit(static_cast<__rlimit_resource>(resource), &both);
}

bool write_all(int fd, const void* data, std::size_t bytes) {
    const char* at = static_cast<const char*>(data);
    while (bytes > 0) {
        const ssize_t written = ::write(fd, at, bytes);
        if (written <= 0) return false;
        at += written;
        bytes -= static_cast<std::size_t>(written);
    }
    return true;
}

/// In the child: one status byte, then the fresh image or the message.
[[noreturn]] void parse_in_child(int out, const std::vector<std::byte>& image) {
    limit(RLIMIT_CORE, 0);
    limit(RLIMIT_CPU, kCpuSeconds);
#if !defined(__SANITIZE_ADDRESS__)  // whose shadow memory needs the whole address space
    limit(RLIMIT_AS, (rlim_t{1} << 30) + 12 * image.size());
#endif
    char status = 'x';
    std::optional<FileImage> fresh;
    std::string message = "the system has no seccomp, so the file cannot be opened safely";
    if (forbid_system_calls()) {
        try {
            fresh = encode_checkpoint(decode_checkpoint(image));
            status = 'k';
        } catch (const std::exception& error) {
            message = error.what();
        }
    }
    const bool sent = write_all(out, &status, 1) &&
                      (status == 'k' ? write_all(out, fresh->bytes().data(), fresh->size())
                                     : write_all(out, message.data(), message.size()));
    ::_exit(sent ? 0 : 1);
}

std::vector<std::byte> read_answer(int in, std::size_t limit_bytes) {
    std::vector<std::byte> answer;
    std::array<std::byte, 65536> block;
    for (;;) {
        const ssize_t count = ::read(in, block.data(), block.size());
        if (count < 0 && errno == EINTR) continue;
        if (count <= 0 || answer.size() > limit_bytes) break;
        answer.insert(answer.end(), block.begin(), block.begin() + count);
    }
    return answer;
}

}  // namespace

CheckpointState load_foreign_checkpoint(const std::filesystem::path& file) {
    const std::vector<std::byte> image = read_file(file, kMaxFileBytes);
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) throw SystemError("creating a pipe failed");
    const pid_t child = ::fork();
    if (child < 0) throw SystemError(fmt::format("starting a process: {}", std::strerror(errno)));
    if (child == 0) {
        ::close(ends[0]);
        parse_in_child(ends[1], image);
    }
    ::close(ends[1]);
    const std::vector<std::byte> answer =
        read_answer(ends[0], 4 * image.size() + (std::size_t{64} << 20));
    ::close(ends[0]);
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0 || answer.empty()) {
        const std::string how =
            WIFSIGNALED(status)
                ? fmt::format("signal {} ({})", WTERMSIG(status), strsignal(WTERMSIG(status)))
                : "no answer";
        throw UserError(fmt::format("{}: reading it ended its process: {}", file.string(), how));
    }
    const std::span body = std::span(answer).subspan(1);
    if (answer[0] != std::byte{'k'}) {
        throw UserError(
            fmt::format("{}: {}", file.string(),
                        std::string_view(reinterpret_cast<const char*>(body.data()), body.size())));
    }
    return decode_checkpoint(body);
}

}  // namespace qshard
