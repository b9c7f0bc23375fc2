#include "io/report/html_report.h"

#include <fmt/format.h>

#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <fstream>

namespace qshard {
namespace {

constexpr const char* kHead = R"(<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root{color-scheme:light dark;--line:#8885;--soft:#8881;--dim:#888}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;max-width:76rem;margin:2rem auto;padding:0 1rem}
h1{margin:0 0 .2rem;overflow-wrap:anywhere}h2{margin-top:2.2rem;border-bottom:1px solid var(--line)}
h3{margin:1.2rem 0 .3rem;font-size:1rem}.groups h3{margin-top:0}
table{border-collapse:collapse;max-width:100%}.groups table{width:100%}
th,td{text-align:left;padding:.25rem .9rem .25rem 0;border-bottom:1px solid var(--line);vertical-align:top;
overflow-wrap:anywhere}
th{font-weight:600}td:first-child,th{white-space:nowrap}
.numbers td+td,.numbers th+th{text-align:right;padding:.25rem 0 .25rem 1.4rem;font-variant-numeric:tabular-nums;white-space:nowrap}
.numbers th{white-space:normal;vertical-align:bottom}.numbers td:first-child{white-space:normal}
.wide{overflow-x:auto;margin-bottom:.8rem}
pre{background:var(--soft);padding:.8rem;border-radius:6px;overflow-x:auto;white-space:pre-wrap;overflow-wrap:anywhere;margin:.2rem 0 .6rem}
.tiles{display:flex;flex-wrap:wrap;gap:.7rem;margin:1rem 0}
.tile{background:var(--soft);border-radius:6px;padding:.5rem .9rem;max-width:100%;overflow-wrap:anywhere}
.tile span{display:block;font-size:.8rem;opacity:.75}.tile b{font-size:1.1rem;font-weight:600}
.charts,.groups{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(28rem,100%),1fr));gap:1rem}
.groups{gap:1.6rem}
svg{display:block;width:100%;height:auto;background:var(--soft);border-radius:6px}
svg text{fill:currentColor;font:11px system-ui,sans-serif}svg .title{font-weight:600;font-size:13px}
svg .grid{stroke:var(--line)}svg .axis{stroke:var(--dim)}
.verdict{font-size:1.1rem;margin:0}.note{opacity:.8;margin:.4rem 0 1rem}
.examples{display:grid;gap:1.4rem}
.example{border-left:3px solid var(--line);padding-left:.8rem;min-width:0}.example b{display:block;margin-top:.4rem}
.sides{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(20rem,100%),1fr));gap:0 1rem}.sides>div{min-width:0}
summary{cursor:pointer}
</style>
)";

// Between these comments stand the evaluations, so that later ones can be added.
constexpr const char* kEvaluations = "<!--evaluations-->";
constexpr const char* kEvaluationsEnd = "<!--/evaluations-->";
constexpr const char* kEvaluationTitle = "<h2>Evaluation, before and after</h2>\n";

std::string facts_table(const Report::Facts& facts) {
    std::string html = "<table>";
    for (const auto& [name, value] : facts) {
        html +=
            fmt::format("<tr><td>{}</td><td>{}</td></tr>", html_escaped(name), html_escaped(value));
    }
    return html + "</table>\n";
}

std::string section(const char* title, const std::string& body) {
    return body.empty() ? "" : fmt::format("<h2>{}</h2>\n{}\n", title, body);
}

std::string numbers_table(const Report::Table& rows) {
    if (rows.empty()) return "";
    std::string html = "<div class=\"wide\"><table class=\"numbers\">";
    const char* cell = "th";
    for (const auto& row : rows) {
        html += "<tr>";
        for (const std::string& text : row)
            html += fmt::format("<{0}>{1}</{0}>", cell, html_escaped(text));
        html += "</tr>";
        cell = "td";
    }
    return html + "</table></div>\n";
}

std::string note(const std::string& text) {
    return text.empty() ? "" : fmt::format("<p class=\"note\">{}</p>\n", html_escaped(text));
}

/// A label and a text, unless there is none.
std::string labelled(const char* label, const std::string& text) {
    if (text.empty()) return "";
    return fmt::format("<div><b>{}</b><pre>{}</pre></div>", label, html_escaped(text));
}

std::string examples_list(const std::vector<Report::Example>& examples) {
    std::string html;
    for (const Report::Example& example : examples) {
        html +=
            fmt::format("<div class=\"example\">{}<div class=\"sides\">{}{}{}</div></div>",
                        labelled("Prompt", example.prompt), labelled("Expected", example.expected),
                        labelled("Before", example.before), labelled("After", example.after));
    }
    return html.empty() ? "" : "<div class=\"examples\">" + html + "</div>";
}

std::string tiles(const Report::Facts& facts) {
    std::string html;
    for (const auto& [name, value] : facts) {
        html += fmt::format("<div class=\"tile\"><span>{}</span><b>{}</b></div>",
                            html_escaped(name), html_escaped(value));
    }
    return html.empty() ? "" : "<div class=\"tiles\">" + html + "</div>\n";
}

std::string groups(const std::vector<Report::Group>& settings) {
    std::string html;
    for (const Report::Group& group : settings) {
        html += fmt::format("<div><h3>{}</h3>\n{}</div>", html_escaped(group.title),
                            facts_table(group.facts));
    }
    return html.empty() ? "" : "<div class=\"groups\">" + html + "</div>";
}

std::string preformatted(const std::string& text) {
    return text.empty() ? "" : "<pre>" + html_escaped(text) + "</pre>";
}

}  // namespace

std::vector<Report::Chart> charts_of_metrics(const std::filesystem::path& metrics_jsonl) {
    std::vector<Report::Chart> charts = {{"loss", {{"training", {}, {}}, {"evaluation", {}, {}}}},
                                         {"learning rate", {{"learning_rate", {}, {}}}},
                                         {"gradient norm", {{"grad_norm", {}, {}}}},
                                         {"tokens per second", {{"tokens_per_second", {}, {}}}}};
    const std::pair<const char*, Series*> wanted[] = {{"loss", &charts[0].series[0]},
                                                      {"eval_loss", &charts[0].series[1]},
                                                      {"learning_rate", &charts[1].series[0]},
                                                      {"grad_norm", &charts[2].series[0]},
                                                      {"tokens_per_second", &charts[3].series[0]}};
    std::ifstream file(metrics_jsonl);
    for (std::string line; std::getline(file, line);) {
        boost::system::error_code error;
        const boost::json::value value = boost::json::parse(line, error);
        const boost::json::object* object = error ? nullptr : value.if_object();
        const boost::json::value* step = object == nullptr ? nullptr : object->if_contains("step");
        if (step == nullptr || !step->is_number()) continue;
        for (const auto& [key, series] : wanted) {
            const boost::json::value* found = object->if_contains(key);
            if (found == nullptr || !found->is_number()) continue;
            series->steps.push_back(step->to_number<double>());
            series->values.push_back(found->to_number<double>());
        }
    }
    if (charts[0].series[1].steps.empty()) charts[0].series.pop_back();
    return charts;
}

std::string html_report(const Report& report) {
    std::string charts;
    for (const Report::Chart& chart : report.charts) charts += svg_chart(chart.title, chart.series);
    if (!charts.empty()) charts = "<div class=\"charts\">" + charts + "</div>";
    const std::string title = html_escaped(report.title);
    std::string evaluation = numbers_table(report.evaluation);
    if (!evaluation.empty())
        evaluation = kEvaluationTitle + evaluation + note(report.evaluation_note);
    std::string run_file = preformatted(report.run_yaml);
    if (!run_file.empty())
        run_file =
            fmt::format("<details><summary>run.yaml, every key</summary>{}</details>", run_file);
    return fmt::format(
               "{}<title>{}</title></head><body>\n<h1>{}</h1>\n<p class=\"verdict\">{}</p>\n",
               kHead, title, title, html_escaped(report.verdict)) +
           tiles(report.summary) + kEvaluations + evaluation + kEvaluationsEnd + "\n" +
           section("Curves", charts) + section("Examples", examples_list(report.examples)) +
           section("Settings", groups(report.settings)) +
           section("Memory", report.memory.empty() ? "" : facts_table(report.memory)) +
           section("Use it", preformatted(report.how_to_use)) + section("The run file", run_file) +
           "</body></html>\n";
}

std::optional<std::string> with_evaluation(const std::string& html,
                                           const LaterEvaluation& evaluation) {
    const std::string key = html_escaped(evaluation.key);
    const std::string begin = fmt::format("<!--split {}-->", key),
                      end = fmt::format("<!--/split {}-->\n", key);
    const std::size_t first = html.find(kEvaluations);
    const std::size_t last = html.find(kEvaluationsEnd, first == std::string::npos ? 0 : first);
    if (first == std::string::npos || last == std::string::npos) return std::nullopt;
    const std::size_t inside = first + std::string_view(kEvaluations).size();
    std::string part = html.substr(inside, last - inside);
    if (part.empty()) part = kEvaluationTitle;
    const std::size_t old = part.find(begin), old_end = part.find(end);
    if (old != std::string::npos && old_end != std::string::npos && old < old_end)
        part.erase(old, old_end + end.size() - old);
    part += begin + fmt::format("<h3>{}</h3>\n", html_escaped(evaluation.caption));
    for (const Report::Table& table : evaluation.tables) part += numbers_table(table);
    return html.substr(0, inside) + part + end + html.substr(last);
}

}  // namespace qshard
