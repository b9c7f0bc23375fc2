#include "base/standard_streams.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "base/error.h"

namespace qshard {
namespace {

bool readers_may_leave = false;
bool stdout_was_closed = false;

bool is_closed(int descriptor) {
    return ::fcntl(descriptor, F_GETFD) < 0 && errno == EBADF;
}

/// Whether stdout is a pipe or a socket that nobody reads any more.
bool reader_is_gone() {
    pollfd event{STDOUT_FILENO, POLLOUT, 0};
    return ::poll(&event, 1, 0) == 1 && (event.revents & POLLERR) != 0;
}

/// Why stdout cannot be written; the library forgets the reason of an earlier failure.
std::string reason_of_failure(int error) {
    if (stdout_was_closed) return "it is closed";
    if (error == 0 && ::write(STDOUT_FILENO, "\n", 1) < 0) error = errno;
    return error == 0 ? "an earlier write failed" : std::strerror(error);
}

}  // namespace

void open_standard_streams() {
    for (const int descriptor : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
        if (!is_closed(descriptor)) continue;
        if (descriptor == STDOUT_FILENO) stdout_was_closed = true;
        // The lowest free number is this one. stdout is opened for reading, so that writing fails.
        (void)::open("/dev/null", descriptor == STDERR_FILENO ? O_WRONLY : O_RDONLY);
    }
    ::signal(SIGXFSZ, SIG_IGN);
}

void outlive_readers() {
    ::signal(SIGPIPE, SIG_IGN);
    readers_may_leave = true;
}

int finish_stdout(const char* program, int code) {
    errno = 0;
    const bool failed_before = std::ferror(stdout) != 0;
    const int error = std::fflush(stdout) != 0 ? errno : 0;
    if (!failed_before && error == 0) return code;
    if (readers_may_leave && reader_is_gone()) {
        std::fprintf(stderr, "%s: note: nobody read stdout to its end\n", program);
        return code;
    }
    std::fprintf(stderr, "%s: writing to stdout: %s; what was to be shown there is lost\n", program,
                 reason_of_failure(error).c_str());
    return code == 0 ? static_cast<int>(ExitCode::kIo) : code;
}

}  // namespace qshard
