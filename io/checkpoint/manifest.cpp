#include "io/checkpoint/manifest.h"

#include <boost/json/object.hpp>

#include "base/error.h"
#include "base/hash.h"
#include "io/checkpoint/json_text.h"
#include "spec/json.h"

namespace qshard {
namespace {

constexpr std::string_view kFormat = "qshard-checkpoint-manifest";

std::string body_text(const Manifest& manifest) {
    return fmt::format(
        "{{\n  \"format\": \"{}\",\n  \"version\": 1,\n  \"file\": {},\n  \"bytes\": {},\n"
        "  \"sha256\": {},\n  \"step\": {},\n  \"adapter_sha256\": {},\n  \"created\": {},\n"
        "  \"engine_version\": {}",
        kFormat, json_quoted(manifest.file), manifest.bytes, json_quoted(manifest.sha256),
        manifest.step, json_quoted(manifest.adapter_sha256), json_quoted(manifest.created),
        json_quoted(manifest.engine_version));
}

}  // namespace

std::string manifest_text(const Manifest& manifest) {
    const std::string body = body_text(manifest);
    return fmt::format("{},\n  \"manifest_sha256\": \"{}\"\n}}\n", body, sha256_hex(body));
}

Manifest parse_manifest(std::string_view text) {
    constexpr const char* kDamaged = "the manifest is damaged";
    const std::size_t last_line = text.rfind(",\n  \"manifest_sha256\"");
    if (last_line == std::string_view::npos) throw UserError(kDamaged);
    const std::string body(text.substr(0, last_line));
    if (text != fmt::format("{},\n  \"manifest_sha256\": \"{}\"\n}}\n", body, sha256_hex(body))) {
        throw UserError(kDamaged);
    }
    const boost::json::value value = parse_strict_json(text, "manifest");
    const auto member = [&](const char* name) -> const boost::json::value& {
        const boost::json::object* object = value.if_object();
        const boost::json::value* found = object == nullptr ? nullptr : object->if_contains(name);
        if (found == nullptr) throw UserError(fmt::format("the manifest lacks \"{}\"", name));
        return *found;
    };
    const auto text_of = [&](const char* name) {
        const boost::json::string* found = member(name).if_string();
        if (found == nullptr) throw UserError(fmt::format("the manifest's {} is no text", name));
        return std::string(found->data(), found->size());
    };
    const auto count_of = [&](const char* name) {
        const std::int64_t* found = member(name).if_int64();
        if (found == nullptr || *found < 0) {
            throw UserError(fmt::format("the manifest's {} is no count", name));
        }
        return *found;
    };
    if (text_of("format") != kFormat || count_of("version") != 1) {
        throw UserError(fmt::format("the manifest is not a {} of version 1", kFormat));
    }
    return {text_of("file"),           static_cast<std::uint64_t>(count_of("bytes")),
            text_of("sha256"),         count_of("step"),
            text_of("adapter_sha256"), text_of("created"),
            text_of("engine_version")};
}

}  // namespace qshard
