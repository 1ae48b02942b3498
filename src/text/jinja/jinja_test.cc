#include "text/jinja/jinja.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <thread>

#include "base/error.h"
#include "base/mmap.h"
#include "base/random.h"
#include "base/test_data.h"

namespace sluice::jinja {
namespace {

constexpr int64_t kNow = 1721952000;  // 2024-07-26T00:00:00Z, a Friday

std::string render(std::string_view source, std::string_view context = "{}", const Limits& limits = {}) {
  return Template(source).render(json::parse(context).as_object(), kNow, limits);
}

// The error's message, or "no error: " and the rendering.
std::string render_error(std::string_view source, std::string_view context = "{}", const Limits& limits = {}) {
  try {
    return "no error: " + render(source, context, limits);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Code::kInvalidArgument);
    return e.message();
  }
}

// Cases that Jinja2 itself has rendered (tools/make_jinja_cases.py): {context, cases: [{template, expected | error, raised}]}.
TEST(JinjaTest, AgreesWithJinja2) {
  auto folder = find_test_data("jinja");
  ASSERT_TRUE(folder.has_value());
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(*folder)) {
    if (entry.path().extension() != ".json") continue;
    json::value file = json::parse(read_file(entry.path().string()));
    std::string context = json::serialize(file.as_object().at("context"));
    for (const json::value& v : file.as_object().at("cases").as_array()) {
      const json::object& one = v.as_object();
      std::string source(one.at("template").as_string());
      ++count;
      if (const json::value* expected = one.if_contains("expected")) {
        std::string got;
        try {
          got = render(source, context);
        } catch (const Error& e) {
          got = std::string("error: ") + e.what();
        }
        EXPECT_EQ(got, std::string(expected->as_string())) << entry.path().filename() << ": " << source;
      } else {
        std::string error = render_error(source, context);
        EXPECT_THAT(error, testing::Not(testing::StartsWith("no error"))) << source << "\nJinja2: " << json::serialize(one.at("error"));
        if (const json::value* raised = one.if_contains("raised")) {
          EXPECT_EQ(error, std::string(raised->as_string())) << source;
        }
      }
    }
  }
  EXPECT_GE(count, 1000);
}

TEST(JinjaTest, NamesTheLine) {
  EXPECT_EQ(render_error("a\n{% if x %}\n{% endfor %}\n").substr(0, 8), "line 3: ");
  EXPECT_EQ(render_error("{{ 'x' }}\n\n{{ 1 + }}"), "line 3: unexpected '}}'");
  EXPECT_EQ(render_error("{# \n #}{% set x = 1 %}\n{{ x.y.z }}"), "line 3: 'int object' has no attribute 'y'");
  EXPECT_EQ(render_error("{{ a.b }}"), "line 1: 'a' is undefined");
  EXPECT_EQ(render_error("{{ a.b.c }}", R"({"a":{}})"), "line 1: 'dict object' has no attribute 'b'");
  EXPECT_EQ(render_error("\n{{ 'a' + 1 }}"), "line 2: can only concatenate str (not \"int\") to str; use ~ or |string");
  EXPECT_EQ(render_error("{% macro m() %}\n{{ 1 / 0 }}\n{% endmacro %}\n\n{{ m() }}"), "line 2: division by zero");
  EXPECT_EQ(render_error("{{ x|frobnicate }}"), "line 1: no filter named 'frobnicate'");
  EXPECT_EQ(render_error("{% include 'a' %}"), "line 1: 'include' is not supported: a chat template stands alone");
  EXPECT_EQ(render_error("\n\n{{ raise_exception('only this') }}"), "only this");
  EXPECT_THAT(render_error("ok\n\xff"), testing::StartsWith("line 2: "));
}

TEST(JinjaTest, BoundsWhatATemplateMayCost) {
  struct Case {
    const char* source;
    const char* says;
  };
  const Case kCases[] = {
      {"{{ 'a' * 10**9 }}", "text of more than"},
      {"{{ 'a' * 10**30 }}", "text of more than"},
      {"{{ [0] * 10**9 }}", "list of more than"},
      {"{{ [[0] * 1000] * 10**9 }}", "list of more than"},
      {"{{ range(10**9) }}", "range too big"},
      {"{{ 'a'.center(10**9) }}", "text of more than"},
      {"{{ 'a'.zfill(10**9) }}", "text of more than"},
      {"{{ 'a'|indent(10**9) }}", "text of more than"},
      {"{{ '%999999999d' % 1 }}", "too large"},
      {"{{ '{:999999999}'.format(1) }}", "too large"},
      {"{{ [1]|batch(10**9, 0)|list }}", "list of more than"},
      {"{{ [1]|slice(10**9)|list }}", "list of more than"},
      {"{{ ('a' * 100000).replace('a', 'b' * 100000) }}", "text of more than"},
      {"{{ (['a' * 1000000] * 100)|join }}", "text of more than"},
      {"{{ {'a': [1, 2]}|tojson(indent=10**9) }}", "text of more than"},
      {"{{ 10 ** 100 }}", "too large"},
      {"{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}", "steps"},
      {"{% for i in range(1000) %}{% for j in range(1000) %}aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa{% endfor %}{% endfor %}", "text of more than"},
      {"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "nested"},
      {"{% macro f(x) %}{{ f([x]) }}{% endmacro %}{{ f(1) }}", "nested"},
      {"{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", "nested"},
      {"{% macro m() %}{% call m() %}{{ caller() }}{% endcall %}{{ caller() }}{% endmacro %}{{ m() }}", "nested"},
      {"{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = [ns.x] %}{% endfor %}", "nested"},
      {"{% set ns = namespace(x=[0]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}", ""},
      {"{% set ns = namespace(x=[0], y=[0]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}"
       "{% endfor %}{{ ns.x == ns.y }}", "steps"},
      {"{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}", "text of more than"},
      {"{% set ns = namespace(l=[]) %}{% for i in range(100000) %}{% set ns.l = ns.l + ['a' * 1000000] %}{% endfor %}", ""},
      {"{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}", "nests too deeply"},
  };
  for (const Case& one : kCases) {
    std::string error = render_error(one.source, "{}", Limits{.max_steps = 2'000'000});
    EXPECT_THAT(error, testing::Not(testing::StartsWith("no error"))) << one.source;
    EXPECT_THAT(error, testing::HasSubstr(one.says)) << one.source;
  }
  EXPECT_THAT(render_error("aaaaaaaaaa", "{}", Limits{.max_output_bytes = 9}), testing::HasSubstr("more than 9 bytes"));
  EXPECT_THAT(render_error("{% for i in range(100) %}{% endfor %}", "{}", Limits{.max_steps = 50}), testing::HasSubstr("50 steps"));
}

TEST(JinjaTest, SurvivesDeepNesting) {
  auto repeated = [](const std::string& one, int count) {
    std::string out;
    for (int i = 0; i < count; ++i) out += one;
    return out;
  };
  constexpr int kMany = 50000;
  for (const std::string& source : {
           "{{ " + repeated("(", kMany) + "1" + repeated(")", kMany) + " }}",
           "{{ " + repeated("[", kMany) + repeated("]", kMany) + " }}",
           "{{ " + repeated("not ", kMany) + "1 }}",
           "{{ " + repeated("- ", kMany) + "1 }}",
           "{{ 1" + repeated(" + 1", kMany) + " }}",
           "{{ x" + repeated(".a", kMany) + " }}",
           "{{ x" + repeated("|list", kMany) + " }}",
           "{{ " + repeated("a if b else ", kMany) + "c }}",
           "{{ " + repeated("f(", kMany) + repeated(")", kMany) + " }}",
           "{{ " + repeated("{1:", kMany) + "1" + repeated("}", kMany) + " }}",
           "{{ 1 " + repeated("is eq (1 ", kMany) + repeated(")", kMany) + " }}",
           "{% set " + repeated("(", kMany) + "a" + repeated(")", kMany) + " = 1 %}",
           repeated("{% if true %}", kMany) + repeated("{% endif %}", kMany),
           repeated("{% for x in y %}", kMany),
       }) {
    EXPECT_THAT(render_error(source), testing::HasSubstr("nested")) << source.substr(0, 40);
  }
  EXPECT_EQ(render("{{ " + repeated("(", 90) + "1" + repeated(")", 90) + " }}"), "1");
  EXPECT_EQ(render("{{ 'a'" + repeated(" ~ 'a'", 1000) + " }}").size(), 1001u);
  EXPECT_EQ(render("{% if false %}" + repeated("{% elif false %}", 1000) + "{% else %}x{% endif %}"), "x");
}

TEST(JinjaTest, FreesCirclesOfMacrosAndNamespaces) {
  // Leaks show under the address sanitizer; long chains must not overflow the stack when freed.
  EXPECT_EQ(render("{% set ns = namespace() %}{% set ns.me = ns %}{% set ns.all = [ns] %}ok"), "ok");
  EXPECT_EQ(render("{% for i in [1] %}{% macro m() %}{{ m }}{% endmacro %}{% set k = m %}{% endfor %}ok"), "ok");
  EXPECT_EQ(render("{% for i in [1] %}{% if loop.changed([loop]) %}ok{% endif %}{% endfor %}"), "ok");
  EXPECT_EQ(render("{% set ns = namespace(x=none) %}{% for i in range(90000) %}{% set ns.x = namespace(x=ns.x) %}{% endfor %}ok"), "ok");
}

TEST(JinjaTest, RendersOneTemplateFromManyThreads) {
  Template shared("{% macro m(x) %}{{ x|upper }}{% endmacro %}{% for i in xs %}{{ m(i) }}{{ 'é' }}{% endfor %}");
  json::object context = json::parse(R"({"xs":["a","b","c"]})").as_object();
  std::vector<std::string> results(4);
  std::vector<std::thread> threads;
  for (std::string& result : results) {
    threads.emplace_back([&] {
      for (int i = 0; i < 50; ++i) result = shared.render(context, kNow);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::string& result : results) EXPECT_EQ(result, "AéBéCé");
}

// Cuts, repeats and mixes pieces of real cases. Whatever comes out renders or fails with an Error; nothing else.
TEST(JinjaTest, SurvivesMangledTemplates) {
  auto folder = find_test_data("jinja");
  ASSERT_TRUE(folder.has_value());
  std::vector<std::string> sources;
  std::string context_text;
  for (const auto& entry : std::filesystem::directory_iterator(*folder)) {
    if (entry.path().extension() != ".json") continue;
    json::value file = json::parse(read_file(entry.path().string()));
    context_text = json::serialize(file.as_object().at("context"));
    for (const json::value& v : file.as_object().at("cases").as_array()) sources.emplace_back(v.as_object().at("template").as_string());
  }
  std::sort(sources.begin(), sources.end());
  json::object context = json::parse(context_text).as_object();
  Random random(20240726);
  constexpr std::string_view kMarks = "{}%#()[]|.,:'\"\\ -+*\n0a";
  int num_rendered = 0;
  for (int round = 0; round < 6000; ++round) {
    std::string source = sources[random.below(sources.size())];
    for (uint64_t edits = 1 + random.below(3); edits > 0; --edits) {
      const std::string& other = sources[random.below(sources.size())];
      size_t at = random.below(source.size() + 1), from = random.below(other.size() + 1);
      switch (random.below(4)) {
        case 0: source.erase(at, random.below(6)); break;
        case 1: source.insert(at, other.substr(from, random.below(12))); break;
        case 2: source = source.substr(0, at) + other.substr(from); break;
        default: source.insert(at, 1, kMarks[random.below(kMarks.size())]);
      }
    }
    try {
      Template(source).render(context, kNow, Limits{.max_output_bytes = 1 << 16, .max_steps = 20000, .max_depth = 50});
      ++num_rendered;
    } catch (const Error& e) {
      EXPECT_FALSE(e.message().empty() && source.find("raise") == std::string::npos) << source;
    }
  }
  EXPECT_GT(num_rendered, 100);
}

}  // namespace
}  // namespace sluice::jinja
