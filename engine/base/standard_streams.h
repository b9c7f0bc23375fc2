#pragma once

/// What a program does with stdin, stdout and stderr before and after everything else, so that no
/// result is lost without a word.
namespace qshard {

/// First thing in main(): opens /dev/null in the place of descriptors 0 to 2 that the parent
/// closed, so that no file of ours gets their numbers and is written to by a message. Writing to a
/// stdout that was closed still fails. A file grown to its limit (ulimit -f) is a write error from
/// now on, not a signal.
void open_standard_streams();

/// From now on a write to a pipe whose reader is gone is an error, not the end of the process: what
/// works for hours must not end because `| head` or a log's `tee` did.
void outlive_readers();

/// Last thing in main(): what stdout still holds is written. Returns `code`; but kIo, after a
/// message that begins with `program`, if `code` is 0 and something could not be written. A reader
/// that went away is no error after outlive_readers(), and said on stderr.
int finish_stdout(const char* program, int code);

}  // namespace qshard
