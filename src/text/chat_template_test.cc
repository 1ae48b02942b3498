#include "text/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "base/error.h"
#include "base/mmap.h"
#include "base/test_data.h"

namespace sluice::text {
namespace {

constexpr int64_t kNow = 1721952000;  // 2024-07-26T00:00:00Z

const char kChatMl[] =
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

json::array parse_messages(const char* text) { return json::parse(text).as_array(); }

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Code::kInvalidArgument);
    return e.message();
  }
  return "no error";
}

TEST(ChatTemplateTest, RendersTheTemplatesOfRealModels) {
  auto folder = find_test_data("chat-templates");
  if (!folder) GTEST_SKIP() << "needs test data chat-templates; set SLUICE_TEST_DATA";
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(*folder)) {
    if (entry.path().extension() != ".json") continue;
    std::string source = read_file(std::filesystem::path(entry.path()).replace_extension(".jinja").string());
    json::value file = json::parse(read_file(entry.path().string()));
    for (const json::value& v : file.as_object().at("cases").as_array()) {
      const json::object& one = v.as_object();
      std::string label = entry.path().stem().string() + " " + std::string(one.at("name").as_string());
      const json::object& request = one.at("request").as_object();
      ++count;
      if (const json::value* expected = one.if_contains("expected")) {
        std::string got;
        EXPECT_NO_THROW(got = render_request(source, request, kNow)) << label;
        EXPECT_EQ(got, std::string(expected->as_string())) << label;
      } else {
        EXPECT_EQ(error_of([&] { render_request(source, request, kNow); }), std::string(one.at("error").as_string())) << label;
      }
    }
  }
  EXPECT_GE(count, 250);
}

TEST(ChatTemplateTest, GivesTheVariablesOfTransformers) {
  ChatTemplate one("{{ bos_token }}|{{ eos_token }}|{{ tools is none }}|{{ documents is none }}|{{ add_generation_prompt }}|"
                   "{{ enable_thinking }}|{{ strftime_now('%d %b %Y') }}",
                   "<s>", "</s>");
  ChatTemplateOptions options;
  options.now_unix_seconds = kNow;
  EXPECT_EQ(one.render({}, options), "<s>|</s>|True|True|True||26 Jul 2024");
  options.extra["enable_thinking"] = false;
  options.extra["bos_token"] = "<bos>";
  options.tools = json::parse("[{}]");
  options.documents = json::array();
  options.add_generation_prompt = false;
  EXPECT_EQ(one.render({}, options), "<bos>|</s>|False|False|False|False|26 Jul 2024");
}

TEST(ChatTemplateTest, WalksToolsThatAreNotThere) {
  ChatTemplate one("{% for tool in tools %}{{ tool }}{% endfor %}none", "", "");
  EXPECT_EQ(one.render({}, {}), "none");
  ChatTemplate raises("{% if tools is none %}{{ raise_exception('tools wanted') }}{% endif %}", "", "");
  EXPECT_EQ(error_of([&] { raises.render({}, {}); }), "tools wanted");
}

TEST(ChatTemplateTest, ContinuesTheFinalMessage) {
  ChatTemplateOptions options;
  options.add_generation_prompt = false;
  options.continue_final_message = true;
  ChatTemplate plain(kChatMl, "", "");
  EXPECT_EQ(plain.render(parse_messages(R"([{"role":"user","content":"Hi"},{"role":"assistant","content":"Sure, "}])"), options),
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nSure, ");
  // The same words earlier in the conversation are not the place to cut.
  EXPECT_EQ(plain.render(parse_messages(R"([{"role":"user","content":"a"},{"role":"assistant","content":"a"}])"), options),
            "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\na");
  ChatTemplate trims("{% for m in messages %}[{{ m.content | trim }}]{% endfor %}", "", "");
  EXPECT_EQ(trims.render(parse_messages(R"([{"role":"assistant","content":" x "}])"), options), "[x");
  ChatTemplate parts("{% for m in messages %}{% for p in m.content %}[{{ p.text }}]{% endfor %}{% endfor %}.", "", "");
  EXPECT_EQ(parts.render(parse_messages(R"([{"role":"assistant","content":[{"type":"text","text":"x"},{"type":"text","text":"y"}]}])"), options),
            "[x][y");
  EXPECT_THAT(error_of([&] { plain.render(parse_messages("[]"), options); }), testing::HasSubstr("no text to continue"));
  ChatTemplate hides("nothing", "", "");
  EXPECT_THAT(error_of([&] { hides.render(parse_messages(R"([{"role":"assistant","content":"x"}])"), options); }),
              testing::HasSubstr("does not appear in the prompt"));
  options.add_generation_prompt = true;
  EXPECT_THAT(error_of([&] { plain.render(parse_messages("[]"), options); }), testing::HasSubstr("exclude each other"));
}

TEST(ChatTemplateTest, SaysWhatIsWrong) {
  EXPECT_THAT(error_of([] { ChatTemplate("a\n{% if %}", "", ""); }), testing::StartsWith("chat template: line 2: "));
  ChatTemplate needs_role("{% for m in messages %}\n{{ m.role + 1 }}{% endfor %}", "", "");
  EXPECT_THAT(error_of([&] { needs_role.render(parse_messages(R"([{"role":"user"}])"), {}); }), testing::HasSubstr("line 2: "));
  EXPECT_THAT(error_of([] { render_request("x", {}, 0); }), testing::HasSubstr("'messages' must be a list"));
  EXPECT_THAT(error_of([] { render_request("x", json::parse(R"({"messages":[1]})").as_object(), 0); }),
              testing::HasSubstr("'messages' must hold objects"));
  EXPECT_THAT(error_of([] { render_request("x", json::parse(R"({"messages":[],"tools":3})").as_object(), 0); }),
              testing::HasSubstr("'tools' must be a list"));
}

TEST(ChatTemplateTest, MapsAWholeRequest) {
  json::object request = json::parse(R"({"messages":[{"role":"user","content":"Hi"}], "chat_template_kwargs":{"style":"dry"},
                                         "style":"wet", "mood":"good", "bos_token":"<s>"})").as_object();
  EXPECT_EQ(render_request("{{ bos_token }}{{ messages[0].content }} {{ style }} {{ mood }} {{ add_generation_prompt }}", request, 0),
            "<s>Hi dry good True");
  request["continue_final_message"] = true;
  EXPECT_EQ(render_request(kChatMl, request, 0), "<|im_start|>user\nHi");
}

}  // namespace
}  // namespace sluice::text
