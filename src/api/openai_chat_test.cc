#include "api/openai_chat.h"

#include <gtest/gtest.h>

#include "api/utf8.h"
#include "base/error.h"

namespace sluice::api {
namespace {

ChatRequest parse(const std::string& text, const OpenAiLimits& limits = {}) {
  return parse_chat(json::parse(text).as_object(), limits, "");
}

const json::array& messages_of(const ChatRequest& request) {
  return std::get<serve::ChatPrompt>(request.generate.prompt).messages;
}

TEST(Chat, TextPartsAreJoined) {
  ChatRequest request = parse(R"({"messages":[{"role":"system","content":"s"},
      {"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}]})");
  EXPECT_EQ(messages_of(request)[1].at("content").as_string(), "a\nb");
  EXPECT_EQ(request.role, "assistant");
  EXPECT_FALSE(request.generate.max_tokens.has_value());
  EXPECT_FALSE(request.generate.add_special_tokens);
  EXPECT_EQ(request.answer.id.substr(0, 9), "chatcmpl-");
}

TEST(Chat, ToolHistoryReachesTheTemplateAsObjects) {
  ChatRequest request = parse(R"({"messages":[{"role":"user","content":"u"},
      {"role":"assistant","content":null,"reasoning":"hm","tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}]},
      {"role":"tool","tool_call_id":"1","content":"42"}]})");
  const json::object& call = messages_of(request)[1].as_object();
  EXPECT_EQ(call.at("content").as_string(), "");
  EXPECT_EQ(call.at("reasoning_content").as_string(), "hm");
  EXPECT_EQ(call.at("tool_calls").as_array()[0].at("function").at("arguments").at("a").as_int64(), 1);
}

TEST(Chat, LimitsAndLogprobs) {
  ChatRequest request = parse(R"({"messages":[{"role":"user","content":"u"}],"max_tokens":3,"max_completion_tokens":4,
      "logprobs":true,"top_logprobs":2,"reasoning_effort":"low","chat_template_kwargs":{"enable_thinking":false},
      "metadata":{"a":"b"},"store":true,"service_tier":"auto","parallel_tool_calls":true,"tool_choice":"none"})");
  EXPECT_EQ(request.generate.max_tokens, 4);
  EXPECT_EQ(request.generate.sampling.num_logprobs, 2);
  const serve::ChatPrompt& prompt = std::get<serve::ChatPrompt>(request.generate.prompt);
  EXPECT_EQ(prompt.extra.at("enable_thinking").as_bool(), false);
  EXPECT_EQ(prompt.extra.at("reasoning_effort").as_string(), "low");
}

TEST(Chat, ContinuingAMessage) {
  ChatRequest request = parse(R"({"messages":[{"role":"user","content":"u"},{"role":"assistant","content":"so "}],
      "continue_final_message":true,"echo":true})");
  EXPECT_FALSE(std::get<serve::ChatPrompt>(request.generate.prompt).add_generation_prompt);
  EXPECT_EQ(request.echo_text, "so ");
  Choice choice;
  choice.text = "be it";
  json::object object = format_chat(request, {choice}, {}, {});
  EXPECT_EQ(object["choices"].as_array()[0].at("message").at("content").as_string(), "so be it");
}

TEST(Chat, ErrorsNameTheField) {
  struct Case {
    const char* body;
    const char* param;
  };
  const std::string user = R"("messages":[{"role":"user","content":"u"}])";
  const Case whole[] = {
      {R"({})", "messages"},
      {R"({"messages":"x"})", "messages"},
      {R"({"messages":[]})", "messages"},
      {R"({"messages":["x"]})", "messages[0]"},
      {R"({"messages":[{"content":"x"}]})", "messages[0].role"},
      {R"({"messages":[{"role":"user"}]})", "messages[0].content"},
      {R"({"messages":[{"role":"user","content":5}]})", "messages[0].content"},
      {R"({"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}]})",
       "messages[0].content[0]"},
      {R"({"messages":[{"role":"user","content":[{"type":5,"text":"x"}]}]})", "messages[0].content[0].type"},
      {R"({"messages":[{"role":"user","content":[{"type":"text"}]}]})", "messages[0].content[0]"},
  };
  for (const Case& c : whole) {
    try {
      parse(c.body);
      ADD_FAILURE() << c.body << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.param(), c.param) << c.body;
    }
  }
  const Case fields[] = {
      {R"("tools":[])", "tools"},
      {R"("tools":[{"type":"function","function":{"name":"f"}}])", "tools"},
      {R"("tool_choice":"auto")", "tool_choice"},
      {R"("functions":[])", "functions"},
      {R"("response_format":{"type":"json_schema","json_schema":{}})", "response_format"},
      {R"("top_logprobs":2)", "top_logprobs"},
      {R"("logprobs":2)", "logprobs"},
      {R"("logprobs":true,"top_logprobs":21)", "top_logprobs"},
      {R"("max_tokens":0)", "max_tokens"},
      {R"("max_completion_tokens":-5)", "max_completion_tokens"},
      {R"("chat_template":"{{ 1 }}")", "chat_template"},
      {R"("chat_template_kwargs":1)", "chat_template_kwargs"},
      {R"("documents":{})", "documents"},
      {R"("continue_final_message":true,"add_generation_prompt":true)", "continue_final_message"},
      {R"("modalities":["text","audio"])", "modalities"},
      {R"("audio":{"voice":"x"})", "audio"},
      {R"("mm_processor_kwargs":{"x":1})", "mm_processor_kwargs"},
      {R"("media_io_kwargs":{"x":1})", "media_io_kwargs"},
      {R"("include_reasoning":5)", "include_reasoning"},
      {R"("return_prompt_text":5)", "return_prompt_text"},
  };
  for (const Case& c : fields) {
    try {
      parse("{" + user + "," + c.body + "}");
      ADD_FAILURE() << c.body << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.param(), c.param) << c.body << ": " << error.what();
    }
  }
  OpenAiLimits limits;
  limits.trust_request_chat_template = true;
  EXPECT_NO_THROW(parse("{" + user + R"(,"chat_template":"{{ 1 }}"})", limits));
}

TEST(Chat, TheLimitThatWasSentIsTheOneAtFault) {
  const std::string user = R"({"messages":[{"role":"user","content":"u"}],)";
  EXPECT_EQ(parse(user + R"("max_tokens":5})").generate.max_tokens_param, "max_tokens");
  EXPECT_EQ(parse(user + R"("max_tokens":5,"max_completion_tokens":6})").generate.max_tokens_param,
            "max_completion_tokens");
  EXPECT_FALSE(parse(user + R"("max_tokens":5})").generate.lowers_max_tokens);
}

TEST(Chat, LogprobsCarryBytes) {
  ChatRequest request = parse(R"({"messages":[{"role":"user","content":"u"}],"logprobs":true,"top_logprobs":1})");
  serve::Chunk chunk;
  chunk.text = "x";
  chunk.logprobs = {{{200, "\xe2\x82", -1.5f, 2}, {{5, "x", -0.25f, 1}}}};
  json::object event = format_chat_chunk(request, chunk);
  EXPECT_EQ(json::serialize(event["choices"].as_array()[0].at("logprobs")),
            "{\"content\":[{\"token\":\"\ufffd\",\"logprob\":-1.5,\"bytes\":[226,130],"
            "\"top_logprobs\":[{\"token\":\"x\",\"logprob\":-0.25,\"bytes\":[120]}]}]}");
}

TEST(Utf8, InvalidBytesBecomeReplacementCharacters) {
  struct Case {
    const char* from;
    const char* to;
  };
  const Case cases[] = {{"abc", "abc"},
                        {"\u00e9\u20ac\U0001f642", "\u00e9\u20ac\U0001f642"},
                        {"\xff" "a", "\ufffda"},
                        {"\xe2\x82", "\ufffd"},
                        {"\xe2\x82z", "\ufffdz"},
                        {"\xc0\x80", "\ufffd\ufffd"},
                        {"\xed\xa0\x80", "\ufffd\ufffd\ufffd"},
                        {"\xf4\x90\x80\x80", "\ufffd\ufffd\ufffd\ufffd"},
                        {"\xf0\x9f\x99", "\ufffd"}};
  for (const Case& c : cases) EXPECT_EQ(to_valid_utf8(c.from), c.to);
  EXPECT_EQ(count_characters("\u00e9a\U0001f642"), 3);
  EXPECT_EQ(find_invalid_utf8("\u00e9a"), std::string_view::npos);
  EXPECT_EQ(find_invalid_utf8("\u00e9a\xff"), 3u);
}

}  // namespace
}  // namespace sluice::api
