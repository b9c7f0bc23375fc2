#pragma once

#include <string>
#include <vector>

#include "comm/communicator.h"

namespace qshard {

/// One line of the link benchmark. gigabytes_per_second is what one rank receives from the others,
/// in 10^9 bytes.
struct LinkSpeed {
    std::string operation;
    std::size_t bytes =
        0;  ///< of one rank: its block of an all-gather, or what it sends to each peer
    double microseconds = 0;
    double gigabytes_per_second = 0;
};

/// Times barriers, all-gathers and exchanges from 8 bytes to `largest_bytes`; each figure is the
/// best of several rounds, a round being as slow as its slowest rank. Collective; all ranks get the
/// same figures.
std::vector<LinkSpeed> bench_comm(Communicator& communicator, std::size_t largest_bytes = 16 << 20);

/// The figures as a table for people.
std::string link_table(const Communicator& communicator, const std::vector<LinkSpeed>& speeds);

}  // namespace qshard
