#include "comm/watchdog.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <fstream>

#include "base/threads.h"
#include "comm/heartbeat.h"
#include "comm/verdict.h"

namespace qshard {
namespace {

using Clock = std::chrono::steady_clock;
constexpr SectionKind kStart{"start", 0};
constexpr double kQuietSeconds = 5;

double seconds_between(Clock::time_point from, Clock::time_point to) {
    return std::chrono::duration<double>(to - from).count();
}

struct Peer {
    std::string host;
    std::int64_t pid = 0;
    bool same_host = false;
    std::vector<sockaddr_in> addresses;
    RankState state;
    std::string section = kStart.name;
    std::uint64_t sequence = 0;
    int process = -1;  ///< pidfd of a peer on this host; readable once it has ended
};

/// What /proc says of a process of this host, for the message.
std::string process_condition(std::int64_t pid) {
    std::string stat;
    std::ifstream file(fmt::format("/proc/{}/stat", pid));
    if (!std::getline(file, stat)) return "its process is gone (killed or crashed)";
    const std::size_t name_end = stat.rfind(") ");
    const char state =
        name_end != std::string::npos && name_end + 2 < stat.size() ? stat[name_end + 2] : '?';
    switch (state) {
        case 'T':
        case 't':
            return "its process is stopped (SIGSTOP or a debugger)";
        case 'D':
            return "its process hangs in the kernel (disk or network file system)";
        case 'Z':
        case 'X':
            return "its process is gone (killed or crashed)";
        default:
            return "its process is there but sends nothing";
    }
}

std::string reason_of(Loss loss, const Peer& peer, bool other_process) {
    const RankState& state = peer.state;
    switch (loss) {
        case Loss::kEnded:
            return "its process is gone (killed or crashed)";
        case Loss::kSilent:
            return fmt::format("no heartbeat for {:.1f} s; {}", state.silent_seconds,
                               peer.same_host && other_process
                                   ? process_condition(peer.pid)
                                   : "the node or its network may be down");
        case Loss::kOverrun:
            return fmt::format("stuck for {:.1f} s where {:.1f} s are allowed",
                               state.working_seconds, state.section_limit);
        case Loss::kDeadlock:
            return fmt::format("all ranks wait for each other, this one for {:.1f} s",
                               state.section_seconds);
    }
    return {};
}

}  // namespace

std::string Culprit::message() const {
    return fmt::format("rank {} on {} (pid {}) is lost at step {} in section {}: {}", rank, host,
                       pid, step, section, reason);
}

/// The watchdog's thread and what only it touches.
struct Watchdog::Thread {
    Thread(Watchdog& owner, Options options, OnLost on_lost);
    ~Thread();

    void meet_peers(Communicator& communicator);
    void loop();
    void wait_for_events(double seconds);
    void hear();
    void observe_own_section(double awake);
    Beat next_beat();
    void send_beats();
    void announce_end();
    bool check_peers();
    bool watches(int rank) const { return rank != self && (self == 0 || rank == 0); }
    int count_unheard() const;

    Watchdog& owner;
    const Options options;
    const OnLost on_lost;
    const double period;
    const int self;
    std::vector<Peer> peers;
    std::unique_ptr<HeartbeatSocket> socket;
    int wake = -1;
    std::uint64_t seen_changes = 0;
    std::uint64_t sequence = 0;
    double quiet_seconds = 0;  ///< somebody reports an error: no verdicts meanwhile
    bool arrived = false;      ///< by stop(): all ranks are done
    std::atomic<bool> stopping{false};
    std::atomic<bool> greeted{false};  ///< every watched peer was heard once, or never will be
    std::thread thread;
};

Watchdog::Thread::Thread(Watchdog& watchdog, Options chosen, OnLost callback)
    : owner(watchdog),
      options(chosen),
      on_lost(std::move(callback)),
      period(std::min(0.5, chosen.limit_seconds / 8)),
      self(watchdog.communicator_.rank()) {
    wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (wake < 0) throw SystemError(fmt::format("no event descriptor: {}", std::strerror(errno)));
    meet_peers(watchdog.communicator_);
    thread = start_thread("for heartbeats", [this] { loop(); });
}

Watchdog::Thread::~Thread() {
    stopping = true;
    const std::uint64_t one = 1;
    if (write(wake, &one, sizeof one) < 0) std::abort();  // cannot be: the counter is nearly zero
    if (thread.joinable()) thread.join();
    if (!arrived) announce_end();
    for (const Peer& peer : peers)
        if (peer.process >= 0) close(peer.process);
    close(wake);
}

void Watchdog::Thread::meet_peers(Communicator& communicator) {
    const std::vector<std::string> networks = communicator.all_gather_strings(network_identity());
    const std::string& mine = networks[static_cast<std::size_t>(self)];
    const bool one_host = std::all_of(networks.begin(), networks.end(),
                                      [&](const std::string& other) { return other == mine; });
    std::string key = self == 0 ? random_job_key() : "";
    communicator.broadcast_string(key, 0);
    socket = std::make_unique<HeartbeatSocket>(key, one_host);
    char host[256] = "unknown";
    gethostname(host, sizeof host - 1);
    const auto hosts = communicator.all_gather_strings(host);
    const auto pids = communicator.all_gather_value<std::int64_t>(getpid());
    const auto addresses = communicator.all_gather_strings(socket->addresses());
    peers.resize(hosts.size());
    for (std::size_t i = 0; i < peers.size(); ++i) {
        Peer& peer = peers[i];
        peer.host = hosts[i];
        peer.pid = pids[i];
        peer.same_host = networks[i] == mine;
        peer.addresses = parse_addresses(addresses[i], peer.same_host);
        if (peer.same_host && peer.pid != getpid() && watches(static_cast<int>(i)))
            peer.process = static_cast<int>(syscall(SYS_pidfd_open, peer.pid, 0));
    }
}

int Watchdog::Thread::count_unheard() const {
    int unheard = 0;
    for (std::size_t i = 0; i < peers.size(); ++i)
        if (watches(static_cast<int>(i)) && !peers[i].state.heard) ++unheard;
    return unheard;
}

void Watchdog::Thread::loop() {
    const Clock::time_point start = Clock::now();
    Clock::time_point last = start;
    double beat_in = 0;
    bool hurry = true;
    while (!stopping) {
        wait_for_events(hurry ? std::min(period, 0.05) : period);
        const Clock::time_point now = Clock::now();
        // A gap beyond that is our own sleep (a stopped job, a paused machine), which nobody else
        // is to blame for.
        const double awake = std::min(seconds_between(last, now), 2 * period);
        last = now;
        observe_own_section(awake);
        for (Peer& peer : peers) {
            peer.state.silent_seconds += awake;
            if (peer.state.ended_seconds >= 0) peer.state.ended_seconds += awake;
        }
        hear();
        beat_in -= awake;
        quiet_seconds -= awake;
        if (!greeted || beat_in <= 0) {
            send_beats();
            beat_in = period * 0.9;
        }
        if (!greeted &&
            (count_unheard() == 0 || seconds_between(start, now) > options.handshake_seconds)) {
            owner.unheard_ = count_unheard();
            greeted = true;
            greeted.notify_all();
        }
        if (greeted && quiet_seconds <= 0 && check_peers()) return;
        hurry = !greeted || std::any_of(peers.begin(), peers.end(), [](const Peer& peer) {
            return peer.state.ended_seconds >= 0;
        });
    }
    greeted = true;
    greeted.notify_all();
}

void Watchdog::Thread::wait_for_events(double seconds) {
    std::vector<pollfd> events{{wake, POLLIN, 0}, {socket->descriptor(), POLLIN, 0}};
    std::vector<Peer*> processes;
    for (Peer& peer : peers) {
        if (peer.process < 0) continue;
        events.push_back({peer.process, POLLIN, 0});
        processes.push_back(&peer);
    }
    poll(events.data(), events.size(), std::max(1, static_cast<int>(seconds * 1000)));
    for (std::size_t i = 0; i < processes.size(); ++i) {
        if ((events[i + 2].revents & POLLIN) == 0) continue;
        processes[i]->state.ended_seconds = 0;
        close(processes[i]->process);
        processes[i]->process = -1;
    }
}

void Watchdog::Thread::hear() {
    while (const std::optional<Beat> beat = socket->receive()) {
        if (beat->rank < 0 || beat->rank >= static_cast<int>(peers.size())) continue;
        if (beat->ending != 0) quiet_seconds = kQuietSeconds;
        Peer& peer = peers[static_cast<std::size_t>(beat->rank)];
        if (!watches(beat->rank) || beat->sequence <= peer.sequence) continue;
        peer.sequence = beat->sequence;
        peer.section = beat->section;
        peer.state.heard = true;
        peer.state.silent_seconds = 0;
        peer.state.step = beat->step;
        peer.state.section_seconds = beat->section_seconds;
        peer.state.working_seconds = beat->working_seconds;
        peer.state.section_limit = beat->section_limit;
        peer.state.waiting = beat->waiting != 0;
    }
}

void Watchdog::Thread::observe_own_section(double awake) {
    Peer& own = peers[static_cast<std::size_t>(self)];
    // The section before the counter: the owner stores them the other way round, so that a new
    // section is never charged with the time of the old one.
    const SectionKind* kind = owner.section_.load(std::memory_order_acquire);
    const std::uint64_t changes = owner.changes_.load(std::memory_order_relaxed);
    if (changes != seen_changes) own.state.section_seconds = own.state.working_seconds = -awake;
    seen_changes = changes;
    own.state.waiting = owner.communicator_.waiting();
    own.state.section_seconds += awake;
    own.state.working_seconds = own.state.waiting ? 0 : own.state.working_seconds + awake;
    own.section = kind->name;
    own.state.section_limit = kind->limit_seconds;
    own.state.step = owner.step_.load(std::memory_order_relaxed);
    own.state.silent_seconds = 0;
}

void Watchdog::Thread::send_beats() {
    const Beat beat = next_beat();
    for (std::size_t i = 0; i < peers.size(); ++i)
        if (watches(static_cast<int>(i))) socket->send(beat, peers[i].addresses);
}

void Watchdog::Thread::announce_end() {
    Beat beat = next_beat();
    beat.ending = 1;
    for (std::size_t i = 0; i < peers.size(); ++i)
        if (static_cast<int>(i) != self) socket->send(beat, peers[i].addresses);
}

Beat Watchdog::Thread::next_beat() {
    const Peer& own = peers[static_cast<std::size_t>(self)];
    Beat beat;
    beat.rank = self;
    beat.sequence = ++sequence;
    beat.step = own.state.step;
    beat.section_seconds = own.state.section_seconds;
    beat.working_seconds = own.state.working_seconds;
    beat.section_limit = own.state.section_limit;
    beat.waiting = own.state.waiting ? 1 : 0;
    own.section.copy(beat.section, sizeof beat.section - 1);
    return beat;
}

/// True when somebody was found and reported.
bool Watchdog::Thread::check_peers() {
    std::vector<RankState> states;
    for (const Peer& peer : peers) states.push_back(peer.state);
    double patience = 0;
    if (self != 0) {
        // Rank 0 judges sections, and speaks first where it can.
        patience = 0.5 + std::min(5.0, 0.25 * (self - 1));
        states.resize(1);
        states[0].section_limit = 0;
        states[0].ended_seconds -= std::min(patience - 0.5, 0.3);
    }
    const std::optional<Verdict> verdict = judge(states, options.limit_seconds + patience);
    if (!verdict) return false;
    const Peer& peer = peers[static_cast<std::size_t>(verdict->rank)];
    Culprit culprit;
    culprit.rank = verdict->rank;
    culprit.host = peer.host;
    culprit.pid = peer.pid;
    culprit.step = peer.state.step;
    culprit.section = peer.section;
    culprit.section_seconds = peer.state.section_seconds;
    culprit.silent_seconds = peer.state.silent_seconds;
    culprit.reason = reason_of(verdict->loss, peer, peer.pid != getpid());
    announce_end();
    on_lost(culprit);
    return true;
}

Watchdog::Watchdog(Communicator& communicator, Options options, OnLost on_lost)
    : communicator_(communicator), section_(&kStart) {
    check(options.limit_seconds > 0, "a watchdog needs a limit");
    thread_ = std::make_unique<Thread>(*this, options, std::move(on_lost));
    thread_->greeted.wait(false);
}

Watchdog::~Watchdog() = default;

void Watchdog::stop() {
    communicator_.barrier();
    thread_->arrived = true;
    thread_.reset();
}

void Watchdog::enter(const SectionKind& kind, std::int64_t step) {
    step_.store(step, std::memory_order_relaxed);
    changes_.fetch_add(1, std::memory_order_relaxed);
    section_.store(&kind, std::memory_order_release);
}

}  // namespace qshard
