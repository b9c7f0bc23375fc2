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
:root{color-scheme:light dark;--line:#8884;--soft:#8881}
body{font:15px/1.5 system-ui,sans-serif;max-width:76rem;margin:2rem auto;padding:0 1rem}
h1{margin-bottom:.2rem}h2{margin-top:2.2rem;border-bottom:1px solid var(--line)}
table{border-collapse:collapse}th,td{text-align:left;padding:.25rem .9rem .25rem 0;border-bottom:1px solid var(--line);
vertical-align:top}td:first-child{white-space:nowrap}
pre{background:var(--soft);padding:.8rem;border-radius:6px;overflow-x:auto;white-space:pre-wrap}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(28rem,1fr));gap:1rem}
svg{width:100%;height:auto;background:var(--soft);border-radius:6px}
svg text{fill:currentColor;font:11px system-ui,sans-serif}svg .title{font-weight:600;font-size:13px}
svg .grid{stroke:var(--line)}.verdict{font-size:1.1rem}.examples{display:grid;gap:1rem}
.example{border-left:3px solid var(--line);padding-left:.8rem}.example b{display:block;margin-top:.4rem}
</style>
)";

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

std::string evaluation_table(const std::vector<std::vector<std::string>>& rows) {
    if (rows.empty()) return "";
    std::string html = "<table>";
    const char* cell = "th";
    for (const auto& row : rows) {
        html += "<tr>";
        for (const std::string& text : row)
            html += fmt::format("<{0}>{1}</{0}>", cell, html_escaped(text));
        html += "</tr>";
        cell = "td";
    }
    return html + "</table>\n";
}

std::string examples_list(const std::vector<Report::Example>& examples) {
    std::string html;
    for (const Report::Example& example : examples) {
        html += "<div class=\"example\">";
        const std::pair<const char*, const std::string&> parts[] = {{"Prompt", example.prompt},
                                                                    {"Expected", example.expected},
                                                                    {"Before", example.before},
                                                                    {"After", example.after}};
        for (const auto& [name, text] : parts) {
            if (!text.empty())
                html += fmt::format("<b>{}</b><pre>{}</pre>", name, html_escaped(text));
        }
        html += "</div>";
    }
    return html.empty() ? "" : "<div class=\"examples\">" + html + "</div>";
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
    return fmt::format(
               "{}<title>{}</title></head><body>\n<h1>{}</h1>\n<p class=\"verdict\">{}</p>\n",
               kHead, title, title, html_escaped(report.verdict)) +
           facts_table(report.summary) +
           section("Evaluation, before and after", evaluation_table(report.evaluation)) +
           section("Curves", charts) + section("Examples", examples_list(report.examples)) +
           section("Memory", report.memory.empty() ? "" : facts_table(report.memory)) +
           section("Use it", preformatted(report.how_to_use)) +
           section("The run file", preformatted(report.run_yaml)) + "</body></html>\n";
}

}  // namespace qshard
