// From a GenerateRequest to what the engine takes: template, tokens, merged sampling parameters. Pure functions
// over a model's text side, called on the thread that serves the request; they throw Error naming the field at
// fault.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/load.h"
#include "serve/model.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace sluice::serve {

struct PrepareContext {
  const text::Tokenizer* tokenizer = nullptr;         // may be null
  const text::ChatTemplate* chat_template = nullptr;  // may be null
  engine::GenerationDefaults defaults;
  int64_t max_model_len = 0;
  int64_t vocab_size = 0;
  bool priority_scheduling = false;
};

struct PreparedPrompt {
  std::vector<int32_t> tokens;
  std::string text;
};

// Renders and tokenises; neither truncates nor checks the length.
PreparedPrompt prepare_prompt(const Prompt& prompt, const std::string& param, bool add_special_tokens,
                              const PrepareContext& context);

struct PreparedRequest {
  PreparedPrompt prompt;
  SamplingParams sampling;
  int best_of = 1;
};

PreparedRequest prepare(const GenerateRequest& request, const PrepareContext& context);

}  // namespace sluice::serve
