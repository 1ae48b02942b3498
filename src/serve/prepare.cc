#include "serve/prepare.h"

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/error.h"

namespace sluice::serve {
namespace {

std::string render_or_fail(const ChatPrompt& chat, const PrepareContext& context) {
  text::ChatTemplateOptions options;
  options.add_generation_prompt = chat.add_generation_prompt;
  options.continue_final_message = chat.continue_final_message;
  options.tools = chat.tools;
  options.documents = chat.documents;
  options.extra = chat.extra;
  options.now_unix_seconds = unix_seconds();
  if (chat.chat_template) {
    auto token_text = [&](int32_t id) { return id >= 0 ? context.tokenizer->token_text(id) : std::string(); };
    const text::SpecialIds& ids = context.tokenizer->special_ids();
    return text::ChatTemplate(*chat.chat_template, token_text(ids.bos), token_text(ids.eos))
        .render(chat.messages, options);
  }
  if (context.chat_template == nullptr) {
    fail_param(
        "messages",
        "this model has no chat template, so it cannot take messages: use /v1/completions, or start the server "
        "with --chat-template");
  }
  return context.chat_template->render(chat.messages, options);
}

// A template that fails says at which of its lines; that it is the template, and which field is at fault, is added here.
std::string render(const ChatPrompt& chat, const PrepareContext& context) {
  try {
    return render_or_fail(chat, context);
  } catch (const Error& error) {
    if (!error.param().empty()) throw;
    bool is_located = error.message().starts_with("line ");  // else the template's own words to the client
    throw Error(error.code(), (is_located ? "chat template: " : "") + error.message(),
                chat.chat_template ? "chat_template" : "messages");
  }
}

void truncate(std::vector<int32_t>& tokens, const GenerateRequest& request, const PrepareContext& context) {
  if (!request.truncate_prompt_tokens) return;
  int64_t keep = *request.truncate_prompt_tokens;
  if (keep < -1 || keep == 0) {
    fail_param("truncate_prompt_tokens", "'truncate_prompt_tokens' must be -1 or at least 1, got {}", keep);
  }
  if (keep > context.max_model_len) {
    fail_param("truncate_prompt_tokens",
               "'truncate_prompt_tokens' is {}, more than this model's maximum context length of {} tokens",
               keep, context.max_model_len);
  }
  if (keep == -1) {
    keep = std::max<int64_t>(1, context.max_model_len - std::max<int64_t>(1, request.max_tokens.value_or(1)));
  }
  if (static_cast<int64_t>(tokens.size()) <= keep) return;
  if (request.truncation_side == TruncationSide::kLeft) {
    tokens.erase(tokens.begin(), tokens.end() - keep);
  } else {
    tokens.resize(static_cast<size_t>(keep));
  }
}

void check_ids(const std::vector<int32_t>& ids, const char* param, int64_t vocab_size) {
  for (int32_t id : ids) {
    if (id < 0 || id >= vocab_size) {
      fail_param(param, "'{}' has token id {}, the vocabulary is [0, {})", param, id, vocab_size);
    }
  }
}

// A word may follow a space or not, and its tokens differ.
std::vector<std::vector<int32_t>> encode_bad_words(const std::vector<std::string>& words,
                                                   const text::Tokenizer& tokenizer) {
  std::vector<std::vector<int32_t>> sequences;
  for (const std::string& word : words) {
    if (word.empty()) fail_param("bad_words", "'bad_words' has an empty word");
    size_t begin = std::min(word.find_first_not_of(' '), word.size());
    for (const char* prefix : {"", " "}) {
      std::vector<int32_t> ids =
          tokenizer.encode(prefix + word.substr(begin), {.add_special = false, .parse_special = false});
      if (!ids.empty() && std::find(sequences.begin(), sequences.end(), ids) == sequences.end()) {
        sequences.push_back(std::move(ids));
      }
    }
  }
  return sequences;
}

}  // namespace

PreparedPrompt prepare_prompt(const Prompt& prompt, const std::string& param, bool add_special_tokens,
                              const PrepareContext& context) {
  PreparedPrompt prepared;
  if (const auto* ids = std::get_if<std::vector<int32_t>>(&prompt)) {
    check_ids(*ids, param.c_str(), context.vocab_size);
    prepared.tokens = *ids;
    return prepared;
  }
  if (context.tokenizer == nullptr) fail_param(param, "this model has no tokenizer: send token ids as the prompt");
  if (const auto* plain = std::get_if<std::string>(&prompt)) {
    prepared.text = *plain;
  } else {
    prepared.text = render(std::get<ChatPrompt>(prompt), context);
  }
  prepared.tokens =
      context.tokenizer->encode(prepared.text, {.add_special = add_special_tokens, .parse_special = true});
  return prepared;
}

PreparedRequest prepare(const GenerateRequest& request, const PrepareContext& context) {
  PreparedRequest prepared;
  prepared.prompt = prepare_prompt(request.prompt, request.prompt_param, request.add_special_tokens, context);
  std::vector<int32_t>& tokens = prepared.prompt.tokens;
  truncate(tokens, request, context);
  if (tokens.empty() && std::holds_alternative<std::string>(request.prompt) && context.tokenizer != nullptr &&
      context.tokenizer->special_ids().bos >= 0) {
    tokens.push_back(context.tokenizer->special_ids().bos);  // an empty prompt: from the beginning of a text
  }
  if (tokens.empty()) fail_param(request.prompt_param, "'{}' has no tokens", request.prompt_param);

  const engine::GenerationDefaults& defaults = context.defaults;
  SamplingParams& sampling = prepared.sampling;
  sampling = request.sampling;
  const SamplingParams built_in;
  auto pick = [](const auto& asked, const auto& model, auto fallback) {
    return asked ? *asked : model ? static_cast<decltype(fallback)>(*model) : fallback;
  };
  sampling.temperature = pick(request.temperature, defaults.temperature, built_in.temperature);
  sampling.top_p = pick(request.top_p, defaults.top_p, built_in.top_p);
  sampling.min_p = pick(request.min_p, defaults.min_p, built_in.min_p);
  sampling.repetition_penalty =
      pick(request.repetition_penalty, defaults.repetition_penalty, built_in.repetition_penalty);
  sampling.top_k = pick(request.top_k, defaults.top_k, built_in.top_k);

  int64_t num_prompt = static_cast<int64_t>(tokens.size());
  int64_t room = context.max_model_len - num_prompt;
  int64_t wanted = pick(request.max_tokens, defaults.max_new_tokens, std::max<int64_t>(room, 1));
  if (room < (wanted > 0 ? 1 : 0)) {
    fail_param(request.prompt_param,
               "This model's maximum context length is {} tokens. However, your request has {} input tokens. Please "
               "reduce the length of the input.",
               context.max_model_len, num_prompt);
  }
  if (request.max_tokens && !request.lowers_max_tokens && wanted > room) {
    fail_param(request.max_tokens_param,
               "This model's maximum context length is {} tokens. However, you requested {} tokens ({} in the {}, {} in "
               "the completion). Please reduce the length of the {} or completion.",
               context.max_model_len, num_prompt + wanted, num_prompt, request.prompt_param, wanted,
               request.prompt_param);
  }
  sampling.max_tokens = std::min(wanted, room);
  if (sampling.min_tokens > wanted) {
    fail_param("min_tokens", "'min_tokens' is {}, more than max_tokens, which is {}", sampling.min_tokens, wanted);
  }
  sampling.min_tokens = std::min(sampling.min_tokens, sampling.max_tokens);

  for (const auto& [id, bias] : sampling.logit_bias) check_ids({id}, "logit_bias", context.vocab_size);
  check_ids(sampling.allowed_token_ids, "allowed_token_ids", context.vocab_size);
  check_ids(sampling.stop_token_ids, "stop_token_ids", context.vocab_size);
  if (!request.bad_words.empty()) {
    if (context.tokenizer == nullptr)
      fail_param("bad_words", "'bad_words' needs a tokenizer, and this model has none");
    sampling.bad_words = encode_bad_words(request.bad_words, *context.tokenizer);
  }
  if (!request.stop.empty() && context.tokenizer == nullptr) {
    fail_param("stop", "'stop' needs a tokenizer, and this model has none: use stop_token_ids");
  }
  if (request.priority != 0 && !context.priority_scheduling) {
    fail_param("priority", "'priority' is {}, but this server schedules first come, first served: start it with "
               "--scheduling-policy priority", request.priority);
  }
  prepared.best_of = std::max(request.best_of, request.n);
  if (prepared.best_of > request.n && sampling.num_logprobs == kNoLogprobs) sampling.num_logprobs = 0;  // to rank by
  if (sampling.max_tokens == 0 && sampling.num_prompt_logprobs == kNoLogprobs) sampling.num_prompt_logprobs = 0;
  return prepared;
}

}  // namespace sluice::serve
