#include "backend/cpu/isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <vector>

namespace qshard {
namespace cpu {
namespace {

struct Isa {
    std::string_view name;
    const Kernels& (*kernels)();
    bool (*present)();
};

#if defined(__x86_64__)
/// Linux gives the AMX tile registers to a process that asks for them.
bool request_amx() {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
    constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24;
    if ((edx & kBf16) == 0 || (edx & kTile) == 0) return false;
    constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
bool has_avx2() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
bool has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
bool has_avx512_bf16() {
    return has_avx512() && __builtin_cpu_supports("avx512bf16");
}
bool has_amx_bf16() {
    return has_avx512() && request_amx();
}
#endif
bool always() {
    return true;
}

/// Best first, but see cpu_isas.
constexpr Isa kIsas[] = {
#if defined(__x86_64__)
    {"amx_bf16", amx_bf16_kernels, has_amx_bf16},
    {"avx512_bf16", avx512_bf16_kernels, has_avx512_bf16},
    {"avx512", avx512_kernels, has_avx512},
    {"avx2", avx2_kernels, has_avx2},
#endif
    {"sse", sse_kernels, always},
};

}  // namespace

const Kernels& kernels_for(std::string_view name) {
    const std::string_view wanted = name == "auto" ? cpu_isas().front() : name;
    for (const Isa& isa : kIsas) {
        if (isa.name != wanted) continue;
        if (isa.present()) return isa.kernels();
        std::string offered;
        for (std::string_view other : cpu_isas()) offered += fmt::format(" {}", other);
        throw UserError(ExitCode::kUnavailable,
                        fmt::format("choosing the CPU kernels: this processor lacks '{}'.\n"
                                    "It offers:{}. Leave the choice to 'auto', or use nodes that "
                                    "have it.",
                                    name, offered));
    }
    std::string known;
    for (const Isa& isa : kIsas) known += fmt::format(" {}", isa.name);
    throw UserError(ExitCode::kUnavailable,
                    fmt::format("choosing the CPU kernels: expected auto or one of{}, found '{}'.",
                                known, name));
}

}  // namespace cpu

std::span<const std::string_view> cpu_isas() {
    static const std::vector<std::string_view> offered = [] {
        std::vector<std::string_view> names;
        for (const cpu::Isa& isa : cpu::kIsas) {
            if (isa.present()) names.push_back(isa.name);
        }
#if defined(__x86_64__)
        // Intel's vdpbf16ps is slower than fp32 (Sapphire Rapids: 0.078 against 0.14 TFLOP/s a
        // core); AMD's is twice as fast.
        const auto bf16 = std::find(names.begin(), names.end(), "avx512_bf16");
        if (__builtin_cpu_is("intel") && bf16 != names.end()) std::swap(bf16[0], bf16[1]);
#endif
        return names;
    }();
    return offered;
}

}  // namespace qshard
