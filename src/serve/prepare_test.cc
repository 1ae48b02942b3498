#include "serve/prepare.h"

#include <gtest/gtest.h>

#include "serve/fake_model.h"

namespace sluice::serve {
namespace {

class Prepare : public ::testing::Test {
 protected:
  Prepare() {
    context.tokenizer = &tokenizer;
    context.max_model_len = 10;
    context.vocab_size = 258;
  }
  std::string param_of_error(const GenerateRequest& request) {
    try {
      prepare(request, context);
    } catch (const Error& error) {
      message = error.message();
      return error.param();
    }
    return "no error";
  }
  static GenerateRequest of(Prompt prompt) {
    GenerateRequest request;
    request.prompt = std::move(prompt);
    return request;
  }

  ByteTokenizer tokenizer;
  PrepareContext context;
  std::string message;
};

TEST_F(Prepare, TokenisesAndFillsTheContext) {
  PreparedRequest prepared = prepare(of("abc"), context);
  EXPECT_EQ(prepared.prompt.tokens, (std::vector<int32_t>{256, 'a', 'b', 'c'}));
  EXPECT_EQ(prepared.sampling.max_tokens, 6);
  GenerateRequest request = of("abc");
  request.add_special_tokens = false;
  request.max_tokens = 7;
  prepared = prepare(request, context);
  EXPECT_EQ(prepared.prompt.tokens.size(), 3u);
  EXPECT_EQ(prepared.sampling.max_tokens, 7);
}

TEST_F(Prepare, MaxTokensMustFitUnlessItMayBeLowered) {
  GenerateRequest request = of("abc");
  request.max_tokens = 7;
  request.max_tokens_param = "max_completion_tokens";
  EXPECT_EQ(param_of_error(request), "max_completion_tokens");
  EXPECT_NE(message.find("maximum context length is 10 tokens. However, you requested 11 tokens (4 in the prompt, 7 in "
                         "the completion)"),
            std::string::npos)
      << message;
  request.lowers_max_tokens = true;
  EXPECT_EQ(prepare(request, context).sampling.max_tokens, 6);
  request.max_tokens = 6;
  request.lowers_max_tokens = false;
  EXPECT_EQ(prepare(request, context).sampling.max_tokens, 6);
}

TEST_F(Prepare, AnEmptyTextStartsAtTheBeginning) {
  GenerateRequest request = of("");
  request.add_special_tokens = false;
  EXPECT_EQ(prepare(request, context).prompt.tokens, std::vector<int32_t>{256});
  EXPECT_EQ(param_of_error(of(std::vector<int32_t>{})), "prompt");
}

TEST_F(Prepare, RequestBeatsModelBeatsBuiltIn) {
  context.defaults.temperature = 0.6;
  context.defaults.top_k = 20;
  GenerateRequest request = of("a");
  request.temperature = 0.0;
  SamplingParams sampling = prepare(request, context).sampling;
  EXPECT_EQ(sampling.temperature, 0.0);
  EXPECT_EQ(sampling.top_k, 20);
  EXPECT_EQ(sampling.top_p, 1.0);
  context.defaults.max_new_tokens = 3;
  EXPECT_EQ(prepare(request, context).sampling.max_tokens, 3);
}

TEST_F(Prepare, Truncates) {
  GenerateRequest request = of("abcdefghijklmnop");
  request.add_special_tokens = false;
  request.truncate_prompt_tokens = 3;
  EXPECT_EQ(prepare(request, context).prompt.tokens, (std::vector<int32_t>{'n', 'o', 'p'}));
  request.truncation_side = TruncationSide::kRight;
  EXPECT_EQ(prepare(request, context).prompt.tokens, (std::vector<int32_t>{'a', 'b', 'c'}));
  request.truncate_prompt_tokens = -1;
  request.max_tokens = 4;
  EXPECT_EQ(prepare(request, context).prompt.tokens.size(), 6u);
  request.truncate_prompt_tokens = 11;
  EXPECT_EQ(param_of_error(request), "truncate_prompt_tokens");
}

TEST_F(Prepare, SaysBothNumbersOfAPromptThatIsTooLong) {
  EXPECT_EQ(param_of_error(of("0123456789")), "prompt");
  EXPECT_NE(message.find("maximum context length is 10 tokens"), std::string::npos);
  EXPECT_NE(message.find("11 input tokens"), std::string::npos);
  // Scoring needs no room for output.
  GenerateRequest request = of("012345678");
  EXPECT_EQ(param_of_error(request), "prompt");
  request.max_tokens = 0;
  EXPECT_EQ(prepare(request, context).sampling.num_prompt_logprobs, 0);
}

TEST_F(Prepare, NamesTheFieldAtFault) {
  GenerateRequest request = of(std::vector<int32_t>{1, 258});
  EXPECT_EQ(param_of_error(request), "prompt");
  request = of("a");
  request.sampling.logit_bias = {{300, 1.0f}};
  EXPECT_EQ(param_of_error(request), "logit_bias");
  request = of("a");
  request.sampling.allowed_token_ids = {-1};
  EXPECT_EQ(param_of_error(request), "allowed_token_ids");
  request = of("a");
  request.priority = 1;
  EXPECT_EQ(param_of_error(request), "priority");
  request = of("a");
  request.max_tokens = 2;
  request.sampling.min_tokens = 3;
  EXPECT_EQ(param_of_error(request), "min_tokens");
  request = of(ChatPrompt{});
  request.prompt_param = "messages";
  EXPECT_EQ(param_of_error(request), "messages");
  EXPECT_NE(message.find("no chat template"), std::string::npos);
  context.tokenizer = nullptr;
  EXPECT_EQ(param_of_error(of("a")), "prompt");
}

TEST_F(Prepare, ATemplateThatFailsIsNamed) {
  struct Case {
    const char* source;
    const char* message;
  };
  const Case cases[] = {{"\n{{ messages[5].content.x }}", "chat template: line 2"},
                        {"{{ x", "chat template: line 1"},
                        {"{{ raise_exception('no way') }}", "no way"}};
  for (const Case& c : cases) {
    ChatPrompt chat;
    chat.messages.push_back(json::object{{"role", "user"}, {"content", "hi"}});
    chat.chat_template = c.source;
    EXPECT_EQ(param_of_error(of(chat)), "chat_template") << c.source;
    EXPECT_TRUE(message.starts_with(c.message)) << message;
  }
}

TEST_F(Prepare, BadWordsWithAndWithoutASpace) {
  GenerateRequest request = of("a");
  request.bad_words = {"no"};
  EXPECT_EQ(prepare(request, context).sampling.bad_words,
            (std::vector<std::vector<int32_t>>{{'n', 'o'}, {' ', 'n', 'o'}}));
}

}  // namespace
}  // namespace sluice::serve
