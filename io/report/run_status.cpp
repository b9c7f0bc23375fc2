#include "io/report/run_status.h"

#include <boost/json/object.hpp>
#include <limits>

#include "base/error.h"
#include "io/checkpoint/atomic_file.h"
#include "io/checkpoint/json_text.h"
#include "io/checkpoint/state.h"
#include "spec/json.h"
#include "spec/json_keys.h"

namespace qshard {
namespace {

constexpr std::int64_t kAny = std::numeric_limits<std::int64_t>::max();

RunCause cause_of(const boost::json::object& object, const std::string& origin) {
    JsonKeys keys(object, origin);
    RunCause cause;
    cause.rank = static_cast<int>(keys.integer("rank", -1, 1 << 24).value_or(-1));
    cause.host = keys.text("host").value_or("");
    cause.pid = keys.integer("pid", 0, kAny).value_or(0);
    cause.signal = static_cast<int>(keys.integer("signal", 0, 128).value_or(0));
    cause.section = keys.text("section").value_or("");
    cause.message = keys.text("message").value_or("");
    return cause;
}

}  // namespace

void write_run_status(const std::filesystem::path& file, RunStatus status) {
    if (status.updated.empty()) status.updated = utc_now();
    boost::json::object object = {{"state", status.state},
                                  {"step", status.step},
                                  {"total_steps", status.total_steps},
                                  {"exit_code", status.exit_code},
                                  {"starts_without_progress", status.starts_without_progress},
                                  {"saved_step", status.saved_step},
                                  {"updated", status.updated},
                                  {"cause", nullptr}};
    if (status.cause) {
        const RunCause& cause = *status.cause;
        object["cause"] = boost::json::object{
            {"rank", cause.rank},     {"host", cause.host},       {"pid", cause.pid},
            {"signal", cause.signal}, {"section", cause.section}, {"message", cause.message}};
    }
    write_file_atomic(file, python_json(object) + "\n");
}

std::optional<RunStatus> read_run_status(const std::filesystem::path& file) {
    if (!std::filesystem::exists(file)) return {};
    const std::vector<std::byte> bytes = read_file(file, std::size_t{1} << 20);
    const std::string origin = file.string();
    const boost::json::value document =
        parse_strict_json({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, origin);
    if (!document.is_object()) throw UserError(origin + ": expected a JSON object");
    JsonKeys keys(document.get_object(), origin);
    RunStatus status;
    status.state = keys.text("state").value_or("");
    status.step = keys.integer("step", 0, kAny).value_or(0);
    status.total_steps = keys.integer("total_steps", 0, kAny).value_or(0);
    status.exit_code = static_cast<int>(keys.integer("exit_code", 0, 255).value_or(0));
    status.starts_without_progress = keys.integer("starts_without_progress", 0, kAny).value_or(0);
    status.saved_step = keys.integer("saved_step", 0, kAny).value_or(0);
    status.updated = keys.text("updated").value_or("");
    if (const boost::json::object* cause = keys.object("cause")) {
        status.cause = cause_of(*cause, origin + ": cause");
    }
    return status;
}

}  // namespace qshard
