#include "serve/generation.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/json.h"
#include "base/log.h"
#include "serve/fake_model.h"
#include "serve/repository.h"

namespace sluice::serve {
namespace {

struct Gathered {
  std::string text;
  std::vector<int32_t> tokens;
  FinishReason finish_reason = FinishReason::kNone;
  StopReason stop_reason;
  size_t num_logprobs = 0;
};

std::vector<Gathered> gather(Generation& generation) {
  std::vector<Gathered> gathered(static_cast<size_t>(generation.n()));
  while (std::optional<Chunk> chunk = generation.next()) {
    if (chunk->error) throw *chunk->error;
    Gathered& one = gathered[static_cast<size_t>(chunk->index)];
    one.text += chunk->text;
    one.tokens.insert(one.tokens.end(), chunk->tokens.begin(), chunk->tokens.end());
    one.num_logprobs += chunk->logprobs.size();
    if (chunk->finish_reason != FinishReason::kNone) {
      one.finish_reason = chunk->finish_reason;
      one.stop_reason = chunk->stop_reason;
    }
  }
  return gathered;
}

GenerateRequest text_request(std::string prompt) {
  GenerateRequest request;
  request.id = "test";
  request.prompt = std::move(prompt);
  request.max_tokens = 100;
  return request;
}

TEST(Generation, GivesTheTextAndTheUsage) {
  FakeModel model;
  auto generation = model.generate(text_request("hi"), nullptr);
  Gathered reply = gather(*generation)[0];
  EXPECT_EQ(reply.text, "Hello!");
  EXPECT_EQ(reply.tokens.size(), 7u);  // with the end token
  EXPECT_EQ(reply.finish_reason, FinishReason::kStop);
  EXPECT_TRUE(std::holds_alternative<std::monostate>(reply.stop_reason));
  EXPECT_EQ(generation->usage().prompt_tokens, 3);
  EXPECT_EQ(generation->usage().completion_tokens, 7);
  EXPECT_TRUE(generation->done());
  EXPECT_EQ(model.num_cancelled(), 0);
}

TEST(Generation, LogsEachRequestAsOneJsonObject) {
  FakeModel model;
  log::configure(log::Level::kInfo, log::Format::kJson);
  testing::internal::CaptureStderr();
  GenerateRequest request = text_request("hi");
  request.id = "a \"quoted\" id";
  gather(*model.generate(request, nullptr));
  std::string line = testing::internal::GetCapturedStderr();
  log::configure(log::Level::kError, log::Format::kText);
  ASSERT_EQ(std::count(line.begin(), line.end(), '\n'), 1) << line;
  json::object fields = json::parse(line.substr(0, line.size() - 1)).as_object();
  EXPECT_EQ(fields.at("level").as_string(), "info");
  EXPECT_EQ(fields.at("request_id").as_string(), request.id);
  EXPECT_EQ(fields.at("prompt_tokens").as_int64(), 3);
  EXPECT_EQ(fields.at("output_tokens").as_int64(), 7);
  EXPECT_EQ(fields.at("finish_reason").as_string(), "stop");
  EXPECT_TRUE(fields.contains("first_token_ms") && fields.contains("total_ms"));
}

TEST(Generation, CutsAtMaxTokens) {
  FakeModel model;
  GenerateRequest request = text_request("hi");
  request.max_tokens = 3;
  Gathered reply = gather(*model.generate(request, nullptr))[0];
  EXPECT_EQ(reply.text, "Hel");
  EXPECT_EQ(reply.finish_reason, FinishReason::kLength);
}

TEST(Generation, StopStringsEndASequenceAndTellTheEngine) {
  FakeModel model;
  GenerateRequest request = text_request("hi");
  request.stop = {"zz", "lo"};
  auto generation = model.generate(request, nullptr);
  Gathered reply = gather(*generation)[0];
  EXPECT_EQ(reply.text, "Hel");
  EXPECT_EQ(reply.finish_reason, FinishReason::kStop);
  EXPECT_EQ(std::get<std::string>(reply.stop_reason), "lo");
  EXPECT_EQ(generation->usage().completion_tokens, 5);
  EXPECT_EQ(model.num_finished_by_stop(), 1);

  request.include_stop = true;
  EXPECT_EQ(gather(*model.generate(request, nullptr))[0].text, "Hello");
}

TEST(Generation, NeverHandsOutHalfACharacter) {
  FakeModel model;
  auto generation = model.generate(text_request("emoji"), nullptr);
  std::string text;
  while (std::optional<Chunk> chunk = generation->next()) {
    if (!chunk->text.empty()) {
      EXPECT_NE(static_cast<unsigned char>(chunk->text[0]) & 0xc0, 0x80);
    }
    text += chunk->text;
  }
  EXPECT_EQ(text, "\u00e9\U0001f642!");
}

TEST(Generation, BestOfReturnsTheMostLikely) {
  FakeModel model;  // sequence s has log probability -1 / (s + 1) a token
  GenerateRequest request = text_request("hi");
  request.n = 2;
  request.best_of = 4;
  auto generation = model.generate(request, nullptr);
  std::vector<Gathered> replies = gather(*generation);
  ASSERT_EQ(replies.size(), 2u);
  EXPECT_EQ(replies[0].text, "Hello!");
  EXPECT_EQ(replies[0].num_logprobs, 0u);  // only asked for internally
  EXPECT_EQ(generation->usage().completion_tokens, 28);

  request.sampling.num_logprobs = 0;
  generation = model.generate(request, nullptr);
  std::vector<float> first(2);
  while (std::optional<Chunk> chunk = generation->next()) {
    first[static_cast<size_t>(chunk->index)] = chunk->logprobs.at(0).chosen.logprob;
  }
  EXPECT_FLOAT_EQ(first[0], -0.25f);
  EXPECT_FLOAT_EQ(first[1], -1.0f / 3);
}

TEST(Generation, AnErrorEndsIt) {
  FakeModel model;
  auto generation = model.generate(text_request("broken"), nullptr);
  EXPECT_THROW(gather(*generation), Error);
  EXPECT_TRUE(generation->done());
}

TEST(Generation, DroppingItCancels) {
  FakeModel model;
  auto generation = model.generate(text_request("slow"), nullptr);
  ASSERT_TRUE(generation->next().has_value());
  generation.reset();
  EXPECT_EQ(model.num_cancelled(), 1);
}

TEST(Generation, ADeadlineEndsIt) {
  FakeModel model;
  GenerateRequest request = text_request("slow");
  request.max_tokens = 400;
  request.deadline_us = monotonic_us() + 20'000;
  auto generation = model.generate(request, nullptr);
  try {
    gather(*generation);
    FAIL() << "no deadline";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kDeadlineExceeded);
  }
  EXPECT_EQ(model.num_cancelled(), 1);
}

TEST(Generation, WakesWhenSomethingIsThere) {
  FakeModel model;
  std::atomic<int> num_wakes{0};
  GenerateRequest request = text_request("slow");
  request.max_tokens = 5;
  auto generation = model.generate(request, [&] { ++num_wakes; });
  int64_t begin_us = monotonic_us();
  std::string text;
  while (!generation->done() && monotonic_us() - begin_us < 10'000'000) {
    for (Chunk& chunk : generation->take()) text += chunk.text;
    std::this_thread::yield();
  }
  EXPECT_EQ(text, "zzzzz");
  EXPECT_GE(num_wakes, 1);
  EXPECT_LE(num_wakes, 5);
}

TEST(Generation, RecordsMetrics) {
  Repository repository;
  auto model = std::make_shared<FakeModel>("fake", &repository.metrics());
  repository.add({"fake"}, model);
  gather(*model->generate(text_request("hi"), nullptr));
  { auto dropped = model->generate(text_request("slow"), nullptr); }
  std::string text = repository.scrape();
  for (const char* line :
       {"vllm:request_success_total{engine=\"0\",finished_reason=\"stop\",model_name=\"fake\"} 1",
        "vllm:request_success_total{engine=\"0\",finished_reason=\"abort\",model_name=\"fake\"} 1",
        "vllm:request_generation_tokens_count{engine=\"0\",model_name=\"fake\"} 2",
        "vllm:time_to_first_token_seconds_bucket{", "vllm:num_requests_running{", "vllm:kv_cache_usage_perc{",
        "vllm:prefix_cache_hits_total{", "vllm:e2e_request_latency_seconds_count{"}) {
    EXPECT_NE(text.find(line), std::string::npos) << line << "\n" << text;
  }
}

TEST(Repository, FindsModelsByNameAndAlias) {
  Repository repository;
  auto model = std::make_shared<FakeModel>("a");
  repository.add({"a", "b"}, model);
  EXPECT_EQ(repository.get("b"), model);
  EXPECT_EQ(repository.get(""), model);
  EXPECT_EQ(repository.models().size(), 1u);
  EXPECT_EQ(repository.entries().size(), 2u);
  EXPECT_THROW(repository.add({"b"}, model), Error);
  try {
    repository.get("c");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kNotFound);
    EXPECT_STREQ(error.what(), "The model `c` does not exist.");
  }
}

}  // namespace
}  // namespace sluice::serve
