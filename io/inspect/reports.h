#pragma once

#include <filesystem>

/// One function a subcommand. Each prints to stdout, as JSON if asked, and returns the exit code.
namespace qshard::inspect {

struct Options {
    std::filesystem::path path, other;
    bool json = false;
};

int print_summary(const Options& options);
int print_tree(const Options& options);
int print_tensors(const Options& options);
int print_stats(const Options& options);
/// Every generation of a folder, or one file; kBadInput if one is damaged.
int print_verify(const Options& options);
/// Like diff(1): 0 if the same, 1 if not.
int print_diff(const Options& options);
int print_log(const Options& options);
int export_peft(const Options& options);

}  // namespace qshard::inspect
