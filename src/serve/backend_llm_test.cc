// The whole way below the API: the built-in model, loaded, with its engine.
#include "serve/backend_llm.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/log.h"
#include "base/test_data.h"
#include "serve/generation.h"

namespace sluice::serve {
namespace {

class LlmModelTest : public ::testing::Test {
 protected:
  void SetUp() override {
    log::configure(log::Level::kError, log::Format::kText);
    auto path = find_test_data("stories260K/stories260K.gguf");
    if (!path) GTEST_SKIP() << "needs models/stories260K/stories260K.gguf";
    engine::LoadOptions load_options;
    load_options.num_threads = 2;
    LlmOptions options;
    options.name = "stories";
    options.engine.kv_cache_memory_bytes = 16 << 20;
    options.engine.max_queue = 64;
    model = std::make_unique<LlmModel>(engine::load(*path, load_options), options, &metrics);
  }
  static GenerateRequest greedy(const std::string& prompt, int64_t max_tokens) {
    static int number = 0;
    GenerateRequest request;
    request.id = "test-" + std::to_string(++number);
    request.prompt = prompt;
    request.temperature = 0.0;
    request.max_tokens = max_tokens;
    return request;
  }
  std::string text_of(GenerateRequest request) {
    auto generation = model->generate(std::move(request), nullptr);
    std::string text;
    while (std::optional<Chunk> chunk = generation->next()) {
      if (chunk->error) throw *chunk->error;
      text += chunk->text;
    }
    return text;
  }

  Metrics metrics;
  std::unique_ptr<LlmModel> model;
};

TEST_F(LlmModelTest, TellsItsKnownStory) {
  std::string text = text_of(greedy("", 100));
  const std::string known =
      "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, "
      "she saw a big, red ball.";
  EXPECT_EQ(text.substr(text.find_first_not_of(' '), known.size()), known);
  EXPECT_EQ(text_of(greedy("", 100)), text);  // from the prefix cache
}

TEST_F(LlmModelTest, StopsAtAStringAndScoresAPrompt) {
  GenerateRequest request = greedy("", 100);
  request.stop = {"Lily"};
  std::string text = text_of(request);
  EXPECT_TRUE(text.ends_with("little girl named ")) << text;

  request = greedy("Once upon a time", 0);
  request.sampling.num_prompt_logprobs = 1;
  auto generation = model->generate(request, nullptr);
  while (generation->next()) {
  }
  ASSERT_EQ(generation->prompt_logprobs().size(), generation->prompt().size());
  EXPECT_TRUE(generation->prompt_logprobs()[0].chosen.logprob != generation->prompt_logprobs()[0].chosen.logprob);
  EXPECT_LT(generation->prompt_logprobs()[1].chosen.logprob, 0.0f);
  EXPECT_EQ(generation->usage().completion_tokens, 0);
}

TEST_F(LlmModelTest, SeededSequencesRepeat) {
  auto run = [&] {
    GenerateRequest request = greedy("Once", 20);
    request.temperature = 1.0;
    request.sampling.seed = 7;
    request.n = 3;
    auto generation = model->generate(request, nullptr);
    std::vector<std::string> texts(3);
    while (std::optional<Chunk> chunk = generation->next()) texts[static_cast<size_t>(chunk->index)] += chunk->text;
    return texts;
  };
  std::vector<std::string> texts = run();
  EXPECT_EQ(run(), texts);
  EXPECT_NE(texts[0], texts[1]);
}

TEST_F(LlmModelTest, DroppedRequestsLeaveNothingBehind) {
  for (int round = 0; round < 20; ++round) {
    auto generation = model->generate(greedy("Once upon a time", 400), nullptr);
    for (int i = 0; i < round % 4; ++i) generation->next();
  }
  ASSERT_TRUE(model->engine().wait_until_idle(10'000));
  model->engine().check_integrity();
  EXPECT_EQ(model->stats().num_running, 0);
  EXPECT_EQ(model->stats().kv_usage, 0);
}

TEST_F(LlmModelTest, ErrorsNameTheField) {
  GenerateRequest request = greedy("x", 5);
  request.prompt = std::vector<int32_t>(100'000, 5);
  try {
    text_of(request);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.param(), "prompt");
    EXPECT_NE(error.message().find("100000"), std::string::npos) << error.message();
    EXPECT_NE(error.message().find(std::to_string(model->info().max_model_len)), std::string::npos);
  }
  request.prompt = ChatPrompt{.messages = {json::object{{"role", "user"}, {"content", "hi"}}}};
  if (model->loaded().chat_template == nullptr) {
    EXPECT_THROW(text_of(request), Error);
  }
}

TEST_F(LlmModelTest, TokenizesBothWays) {
  TokenizeResult result = model->tokenize(std::string("Once upon a time"), true, true);
  ASSERT_GT(result.tokens.size(), 1u);
  EXPECT_EQ(result.token_texts.size(), result.tokens.size());
  EXPECT_NE(model->detokenize(result.tokens).find("Once upon a time"), std::string::npos);
}

}  // namespace
}  // namespace sluice::serve
