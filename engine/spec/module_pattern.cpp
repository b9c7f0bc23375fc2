#include "spec/module_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/error.h"

namespace qshard {
namespace {

constexpr std::size_t kMaxBytes = 4096;
constexpr std::uint32_t kMaxSteps = 1000000;  // of backtracking, milliseconds

struct FreeCode {
    void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
struct FreeMatch {
    void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};
struct FreeContext {
    void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};

}  // namespace

struct ModulePattern::Code {
    std::unique_ptr<pcre2_code, FreeCode> compiled;
};

ModulePattern::ModulePattern(std::string_view pattern, std::string key)
    : pattern_(pattern), key_(std::move(key)) {
    int error = PCRE2_ERROR_NOMEMORY;
    PCRE2_SIZE at = 0;
    auto code = std::make_shared<Code>();
    if (pattern.size() <= kMaxBytes) {
        code->compiled.reset(
            pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern_.data()), pattern_.size(),
                          PCRE2_ANCHORED | PCRE2_ENDANCHORED | PCRE2_UTF, &error, &at, nullptr));
    }
    if (code->compiled == nullptr) {
        PCRE2_UCHAR reason[200] = "longer than 4096 bytes";
        if (pattern.size() <= kMaxBytes) pcre2_get_error_message(error, reason, sizeof reason);
        throw UserError(
            ExitCode::kUsage,
            fmt::format("{}: \"{}\" is no regular expression: {} (at character {})", key_,
                        pattern_.substr(0, 80), reinterpret_cast<char*>(reason), at));
    }
    code_ = std::move(code);
}

ModulePattern ModulePattern::at_the_end(std::string_view pattern, std::string key) {
    return ModulePattern(fmt::format("(?:.*\\.)?(?:{})", pattern), std::move(key));
}

bool ModulePattern::matches(std::string_view path) const {
    const std::unique_ptr<pcre2_match_data, FreeMatch> data(pcre2_match_data_create(1, nullptr));
    const std::unique_ptr<pcre2_match_context, FreeContext> context(
        pcre2_match_context_create(nullptr));
    check(data != nullptr && context != nullptr, "a match has memory");
    pcre2_set_match_limit(context.get(), kMaxSteps);
    const int result = pcre2_match(code_->compiled.get(), reinterpret_cast<PCRE2_SPTR>(path.data()),
                                   path.size(), 0, PCRE2_NO_UTF_CHECK, data.get(), context.get());
    if (result == PCRE2_ERROR_NOMATCH) return false;
    if (result < 0) {
        throw UserError(ExitCode::kUsage,
                        fmt::format("{}: the regular expression \"{}\" takes too long on \"{}\"",
                                    key_, pattern_.substr(0, 80), path));
    }
    return true;
}

}  // namespace qshard
