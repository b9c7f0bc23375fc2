#pragma once

#include <netinet/in.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace qshard {

/// One heartbeat, as it travels.
struct Beat {
    std::uint32_t magic = 0x51534842;
    std::int32_t rank = 0;
    std::uint64_t sequence = 0;
    std::int64_t step = 0;
    double section_seconds = 0;
    double working_seconds = 0;
    double section_limit = 0;
    std::uint8_t waiting = 0;
    std::uint8_t ending = 0;  ///< an error is being reported and the job is about to be aborted
    char section[30] = {};
};
static_assert(sizeof(Beat) == 80, "a datagram has no padding");

/// A UDP socket for heartbeats (IPv4). A datagram ends with a digest of the job's key and the beat,
/// so that strays, and beats of other jobs, are dropped.
class HeartbeatSocket {
  public:
    /// Binds a free port, on the loopback device only or on all.
    HeartbeatSocket(std::string job_key, bool loopback_only);
    ~HeartbeatSocket();
    HeartbeatSocket(const HeartbeatSocket&) = delete;
    HeartbeatSocket& operator=(const HeartbeatSocket&) = delete;

    int descriptor() const { return socket_; }
    /// Where this socket can be reached: "address:port ..." of every device that is up, loopback
    /// first.
    std::string addresses() const;
    /// Never blocks and never fails: a beat that cannot be sent is a beat that is not heard.
    void send(const Beat& beat, const std::vector<sockaddr_in>& to) const;
    /// The next genuine beat that has arrived, if any. Never blocks.
    std::optional<Beat> receive() const;

  private:
    std::string digest(const Beat& beat) const;
    std::string job_key_;
    int socket_ = -1;
};

/// Where to send to a peer that gave `addresses`: its loopback address if it is on the same host,
/// else the others.
std::vector<sockaddr_in> parse_addresses(const std::string& addresses, bool same_host);

/// Equal for two processes exactly if they share a kernel and a network namespace, so that loopback
/// connects them.
std::string network_identity();

/// 64 random hexadecimal digits.
std::string random_job_key();

}  // namespace qshard
