#include "comm/heartbeat.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

#include "base/error.h"
#include "base/hash.h"

namespace qshard {
namespace {

constexpr std::size_t kDigestBytes = 32;
using Datagram = std::array<char, sizeof(Beat) + kDigestBytes>;

[[noreturn]] void fail(const char* doing) {
    throw SystemError(ExitCode::kUnavailable, fmt::format("heartbeats between the ranks: {}: {}",
                                                          doing, std::strerror(errno)));
}

std::string text_of(const sockaddr_in& address, std::uint16_t port) {
    char text[INET_ADDRSTRLEN] = {};
    inet_ntop(AF_INET, &address.sin_addr, text, sizeof text);
    return fmt::format("{}:{}", text, port);
}

}  // namespace

HeartbeatSocket::HeartbeatSocket(std::string job_key, bool loopback_only)
    : job_key_(std::move(job_key)) {
    socket_ = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (socket_ < 0) fail("cannot make a UDP socket");
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(loopback_only ? INADDR_LOOPBACK : INADDR_ANY);
    if (bind(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
        close(socket_);
        fail("cannot bind a UDP port");
    }
}

HeartbeatSocket::~HeartbeatSocket() {
    close(socket_);
}

std::string HeartbeatSocket::addresses() const {
    sockaddr_in bound{};
    socklen_t bytes = sizeof bound;
    if (getsockname(socket_, reinterpret_cast<sockaddr*>(&bound), &bytes) != 0)
        fail("cannot read the port");
    const std::uint16_t port = ntohs(bound.sin_port);
    std::string text = fmt::format("127.0.0.1:{}", port);
    ifaddrs* list = nullptr;
    if (getifaddrs(&list) != 0) return text;
    for (const ifaddrs* device = list; device != nullptr; device = device->ifa_next) {
        if (device->ifa_addr == nullptr || device->ifa_addr->sa_family != AF_INET) continue;
        if ((device->ifa_flags & IFF_UP) == 0 || (device->ifa_flags & IFF_LOOPBACK) != 0) continue;
        sockaddr_in address{};
        std::memcpy(&address, device->ifa_addr, sizeof address);
        text += " " + text_of(address, port);
    }
    freeifaddrs(list);
    return text;
}

std::string HeartbeatSocket::digest(const Beat& beat) const {
    std::string keyed = job_key_;
    keyed.append(reinterpret_cast<const char*>(&beat), sizeof beat);
    return sha256_hex(keyed).substr(0, kDigestBytes);
}

void HeartbeatSocket::send(const Beat& beat, const std::vector<sockaddr_in>& to) const {
    Datagram datagram;
    std::memcpy(datagram.data(), &beat, sizeof beat);
    std::memcpy(datagram.data() + sizeof beat, digest(beat).data(), kDigestBytes);
    for (const sockaddr_in& address : to)
        sendto(socket_, datagram.data(), datagram.size(), MSG_NOSIGNAL,
               reinterpret_cast<const sockaddr*>(&address), sizeof address);
}

std::optional<Beat> HeartbeatSocket::receive() const {
    for (;;) {
        std::array<char, sizeof(Datagram) + 1> datagram;
        const ssize_t bytes = recv(socket_, datagram.data(), datagram.size(), 0);
        // An ICMP refusal of an earlier send is reported here as well and means nothing.
        if (bytes < 0 && (errno == EINTR || errno == ECONNREFUSED)) continue;
        if (bytes < 0) return std::nullopt;
        if (static_cast<std::size_t>(bytes) != sizeof(Datagram)) continue;
        Beat beat;
        std::memcpy(&beat, datagram.data(), sizeof beat);
        if (beat.magic != Beat{}.magic) continue;
        if (std::memcmp(datagram.data() + sizeof beat, digest(beat).data(), kDigestBytes) != 0)
            continue;
        beat.section[sizeof beat.section - 1] = '\0';
        return beat;
    }
}

std::vector<sockaddr_in> parse_addresses(const std::string& addresses, bool same_host) {
    constexpr std::size_t kMost = 8;
    std::vector<sockaddr_in> parsed;
    std::istringstream words(addresses);
    for (std::string word; words >> word && parsed.size() < kMost;) {
        const std::size_t colon = word.rfind(':');
        sockaddr_in address{};
        address.sin_family = AF_INET;
        check(colon != std::string::npos &&
                  inet_pton(AF_INET, word.substr(0, colon).c_str(), &address.sin_addr) == 1,
              "a peer gave an address that is none");
        address.sin_port = htons(narrow<std::uint16_t>(std::stoi(word.substr(colon + 1))));
        const bool loopback = (ntohl(address.sin_addr.s_addr) >> 24) == 127;
        if (loopback == same_host) parsed.push_back(address);
    }
    return parsed;
}

std::string network_identity() {
    std::string boot;
    std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
    char space[64] = {};
    if (readlink("/proc/self/ns/net", space, sizeof space - 1) < 0) space[0] = '\0';
    char host[256] = {};
    gethostname(host, sizeof host - 1);
    return fmt::format("{}/{}/{}", host, boot, space);
}

std::string random_job_key() {
    unsigned char bytes[32];
    if (getrandom(bytes, sizeof bytes, 0) != static_cast<ssize_t>(sizeof bytes))
        fail("no random bytes");
    std::string key;
    for (const unsigned char byte : bytes) key += fmt::format("{:02x}", byte);
    return key;
}

}  // namespace qshard
