#include "api/openai_completions.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"

namespace sluice::api {
namespace {

CompletionRequest parse(const std::string& text, const OpenAiLimits& limits = {}) {
  return parse_completion(json::parse(text).as_object(), limits, "");
}

TEST(Completions, DefaultsAreOpenAis) {
  CompletionRequest request = parse(R"({"model":"m","prompt":"hi"})");
  ASSERT_EQ(request.prompts.size(), 1u);
  const serve::GenerateRequest& one = request.prompts[0];
  EXPECT_EQ(std::get<std::string>(one.prompt), "hi");
  EXPECT_EQ(one.max_tokens, 16);
  EXPECT_FALSE(one.temperature.has_value());
  EXPECT_EQ(one.n, 1);
  EXPECT_TRUE(one.add_special_tokens);
  EXPECT_EQ(one.sampling.num_logprobs, serve::kNoLogprobs);
  EXPECT_EQ(request.answer.id.size(), 5u + 32u);
  EXPECT_FALSE(request.answer.stream);
}

TEST(Completions, FourShapesOfPrompt) {
  EXPECT_EQ(parse(R"({"prompt":["a","b"]})").prompts.size(), 2u);
  EXPECT_EQ(std::get<std::vector<int32_t>>(parse(R"({"prompt":[1,2]})").prompts[0].prompt),
            (std::vector<int32_t>{1, 2}));
  CompletionRequest request = parse(R"({"prompt":[[1],[2,3]]})");
  ASSERT_EQ(request.prompts.size(), 2u);
  EXPECT_EQ(std::get<std::vector<int32_t>>(request.prompts[1].prompt), (std::vector<int32_t>{2, 3}));
  EXPECT_NE(request.prompts[0].id, request.prompts[1].id);
}

TEST(Completions, EveryFieldArrives) {
  CompletionRequest request =
      parse(R"({"prompt":"x","max_tokens":5,"n":2,"best_of":3,"echo":true,"logprobs":4,"temperature":0.5,
      "top_p":0.9,"top_k":-1,"min_p":0.1,"typical_p":0.8,"repetition_penalty":1.1,"frequency_penalty":-1,"presence_penalty":2,
      "seed":-7,"stop":["a","b"],"stop_token_ids":[3],"include_stop_str_in_output":true,"ignore_eos":true,"min_tokens":2,
      "skip_special_tokens":false,"truncate_prompt_tokens":-1,"truncation_side":"right","allowed_token_ids":[1,2],
      "bad_words":["no"],"logit_bias":{"5":-100},"cache_salt":"s","priority":3,"request_id":"mine","add_special_tokens":false,
      "return_tokens_as_token_ids":true,"return_token_ids":true,"user":"u","unknown":{}})");
  const serve::GenerateRequest& one = request.prompts[0];
  EXPECT_EQ(request.answer.id, "cmpl-mine");
  EXPECT_EQ(one.max_tokens, 5);
  EXPECT_EQ(one.n, 2);
  EXPECT_EQ(one.best_of, 3);
  EXPECT_TRUE(one.echo);
  EXPECT_EQ(one.sampling.num_logprobs, 4);
  EXPECT_EQ(one.sampling.num_prompt_logprobs, 4);
  EXPECT_EQ(one.temperature, 0.5);
  EXPECT_EQ(one.top_p, 0.9);
  EXPECT_EQ(one.top_k, -1);
  EXPECT_EQ(one.min_p, 0.1);
  EXPECT_EQ(one.sampling.typical_p, 0.8);
  EXPECT_EQ(one.repetition_penalty, 1.1);
  EXPECT_EQ(one.sampling.frequency_penalty, -1);
  EXPECT_EQ(one.sampling.presence_penalty, 2);
  EXPECT_EQ(one.sampling.seed, static_cast<uint64_t>(-7));
  EXPECT_EQ(one.stop, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(one.sampling.stop_token_ids, std::vector<int32_t>{3});
  EXPECT_TRUE(one.include_stop);
  EXPECT_TRUE(one.sampling.ignore_eos);
  EXPECT_EQ(one.sampling.min_tokens, 2);
  EXPECT_FALSE(one.skip_special_tokens);
  EXPECT_EQ(one.truncate_prompt_tokens, -1);
  EXPECT_EQ(one.truncation_side, serve::TruncationSide::kRight);
  EXPECT_EQ(one.sampling.allowed_token_ids, (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(one.bad_words, std::vector<std::string>{"no"});
  ASSERT_EQ(one.sampling.logit_bias.size(), 1u);
  EXPECT_EQ(one.sampling.logit_bias[0].first, 5);
  EXPECT_EQ(one.cache_salt, "s");
  EXPECT_EQ(one.priority, 3);
  EXPECT_FALSE(one.add_special_tokens);
  EXPECT_TRUE(request.answer.tokens_as_ids);
}

TEST(Completions, ErrorsNameTheField) {
  struct Case {
    const char* fields;  // besides a prompt
    const char* param;
  };
  const Case cases[] = {
      {R"("temperature":"hot")", "temperature"},
      {R"("temperature":2.5)", "temperature"},
      {R"("temperature":-0.1)", "temperature"},
      {R"("top_p":1.5)", "top_p"},
      {R"("top_k":-2)", "top_k"},
      {R"("top_k":1.5)", "top_k"},
      {R"("min_p":2)", "min_p"},
      {R"("repetition_penalty":0)", "repetition_penalty"},
      {R"("frequency_penalty":3)", "frequency_penalty"},
      {R"("presence_penalty":-3)", "presence_penalty"},
      {R"("max_tokens":-1)", "max_tokens"},
      {R"("max_tokens":0)", "max_tokens"},
      {R"("max_tokens":"many")", "max_tokens"},
      {R"("n":0)", "n"},
      {R"("n":100000)", "n"},
      {R"("n":3,"best_of":2)", "best_of"},
      {R"("best_of":2,"stream":true)", "best_of"},
      {R"("stream":"yes")", "stream"},
      {R"("stream_options":{"include_usage":true})", "stream_options"},
      {R"("stream":true,"stream_options":[])", "stream_options"},
      {R"("stream":true,"stream_options":{"include_usage":1})", "stream_options.include_usage"},
      {R"("response_format":{"type":5})", "response_format.type"},
      {R"("kv_transfer_params":{"a":1})", "kv_transfer_params"},
      {R"("thinking_token_budget":5)", "thinking_token_budget"},
      {R"("repetition_detection":{"min_count":3})", "repetition_detection"},
      {R"("logprob_token_ids":[1])", "logprob_token_ids"},
      {R"("stream":true,"prompt_logprobs":1)", "prompt_logprobs"},
      {R"("logprobs":21)", "logprobs"},
      {R"("logprobs":-1)", "logprobs"},
      {R"("logprobs":true)", "logprobs"},
      {R"("stop":[1])", "stop"},
      {R"("stop":"")", "stop"},
      {R"("stop_token_ids":["a"])", "stop_token_ids"},
      {R"("stop_token_ids":[-1])", "stop_token_ids"},
      {R"("logit_bias":[1])", "logit_bias"},
      {R"("logit_bias":{"x":1})", "logit_bias"},
      {R"("logit_bias":{"1":101})", "logit_bias"},
      {R"("logit_bias":{"1":"a"})", "logit_bias"},
      {R"("allowed_token_ids":[])", "allowed_token_ids"},
      {R"("cache_salt":"a/b")", "cache_salt"},
      {R"("cache_salt":"")", "cache_salt"},
      {R"("truncation_side":"top")", "truncation_side"},
      {R"("truncate_prompt_tokens":-2)", "truncate_prompt_tokens"},
      {R"("request_id":"a b")", "request_id"},
      {R"("seed":1e300)", "seed"},
      {R"("model":5)", "model"},
      {R"("suffix":"x")", "suffix"},
      {R"("use_beam_search":true)", "use_beam_search"},
      {R"("prompt_embeds":"AAAA")", "prompt_embeds"},
      {R"("response_format":{"type":"json_object"})", "response_format"},
      {R"("structured_outputs":{"regex":"a"})", "structured_outputs"},
      {R"("guided_json":{"type":"object"})", "guided_json"},
  };
  for (const Case& c : cases) {
    try {
      parse(std::string(R"({"prompt":"x",)") + c.fields + "}");
      ADD_FAILURE() << c.fields << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.param(), c.param) << c.fields << ": " << error.what();
      EXPECT_EQ(error.code(), Code::kInvalidArgument);
    }
  }
  for (const char* body :
       {R"({})", R"({"prompt":null})", R"({"prompt":5})", R"({"prompt":[]})", R"({"prompt":[[]]})",
        R"({"prompt":["a",1]})", R"({"prompt":[1,"a"]})", R"({"prompt":[1.5]})", R"({"prompt":[-1]})",
        R"({"prompt":[{"a":1}]})", R"({"prompt":[[1],["a"]]})", R"({"prompt":[99999999999]})"}) {
    try {
      parse(body);
      ADD_FAILURE() << body << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.param(), "prompt") << body;
    }
  }
}

TEST(Completions, HarmlessFieldsPass) {
  EXPECT_NO_THROW(parse(
      R"({"prompt":"x","suffix":null,"response_format":{"type":"text"},"use_beam_search":false,"logprobs":null,
      "stop":null,"user":"u","max_tokens":0,"echo":true})"));
  OpenAiLimits limits;
  limits.max_logprobs = -1;
  EXPECT_EQ(parse(R"({"prompt":"x","logprobs":-1})", limits).prompts[0].sampling.num_logprobs, serve::kAllLogprobs);
  EXPECT_EQ(parse(R"({"prompt":"x","max_tokens":null})").prompts[0].max_tokens, 16);
  EXPECT_EQ(parse(R"({"prompt":"x","seed":18446744073709551615})").prompts[0].sampling.seed, UINT64_MAX);
}

TEST(Completions, SetsOfTokensHaveEachOnce) {
  const serve::GenerateRequest one = parse(R"({"prompt":"x","stop_token_ids":[9,2,9],"allowed_token_ids":[5,5]})").prompts[0];
  EXPECT_EQ(one.sampling.stop_token_ids, (std::vector<int32_t>{2, 9}));
  EXPECT_EQ(one.sampling.allowed_token_ids, std::vector<int32_t>{5});
}

TEST(Completions, OnlyAskedForTokensMustFit) {
  EXPECT_TRUE(parse(R"({"prompt":"x"})").prompts[0].lowers_max_tokens);
  EXPECT_FALSE(parse(R"({"prompt":"x","max_tokens":16})").prompts[0].lowers_max_tokens);
}

TEST(Completions, EchoedLogprobsStartWithNull) {
  OpenAiAnswer answer;
  answer.echo = true;
  answer.wants_logprobs = true;
  EchoedPrompt prompt;
  prompt.text = "\u00e9";
  prompt.logprobs = {{{1, "\u00e9", std::nanf(""), 0}, {}}};
  Choice choice;
  choice.text = "b";
  choice.logprobs = {{{2, "b", -0.5f, 1}, {{2, "b", -0.5f, 1}, {3, "\xff", -INFINITY, 2}}}};
  choice.finish_reason = serve::FinishReason::kLength;
  json::object object = format_completion(answer, {choice}, {prompt}, {});
  const json::object& item = object["choices"].as_array()[0].as_object();
  EXPECT_EQ(json::serialize(item.at("logprobs")),
            "{\"text_offset\":[0,1],\"token_logprobs\":[null,-0.5],\"tokens\":[\"\u00e9\",\"b\"],"
            "\"top_logprobs\":[null,{\"b\":-0.5,\"\ufffd\":-9999.0}]}");
  EXPECT_EQ(item.at("text").as_string(), "\u00e9b");
}

}  // namespace
}  // namespace sluice::api
