#include "api/openai_completions.h"

#include <cmath>

#include "api/utf8.h"
#include "base/error.h"

namespace sluice::api {
namespace {

constexpr size_t kPromptTokensMax = 1 << 24;

std::vector<int32_t> to_token_ids(const json::array& list) {
  if (list.size() > kPromptTokensMax)
    fail_param("prompt", "'prompt' has {} tokens, the limit is {}", list.size(), kPromptTokensMax);
  std::vector<int32_t> ids;
  ids.reserve(list.size());
  for (const json::value& item : list) {
    int64_t id = item.is_int64() ? item.get_int64() : -1;  // what is not, is a fraction or far too large
    if (id < 0 || id > INT32_MAX) {
      fail_param(
          "prompt",
          "'prompt' must be a string, a list of strings, a list of token ids or a list of lists of token "
          "ids; a list of token ids has {}",
          item.is_number() ? json::serialize(item) : json::describe(item));
    }
    ids.push_back(static_cast<int32_t>(id));
  }
  return ids;
}

std::vector<serve::Prompt> parse_prompts(const json::object& body, const OpenAiLimits& limits) {
  const json::value* prompt = json::find(body, "prompt");
  if (prompt == nullptr) fail_param("prompt", "'prompt' is required");
  if (prompt->is_string()) return {std::string(prompt->get_string())};
  if (!prompt->is_array()) {
    fail_param(
        "prompt",
        "'prompt' must be a string, a list of strings, a list of token ids or a list of lists of token ids, "
        "not {}",
        json::describe(*prompt));
  }
  const json::array& list = prompt->get_array();
  if (list.empty()) fail_param("prompt", "'prompt' is an empty list");
  if (list[0].is_number()) return {to_token_ids(list)};
  if (list.size() > limits.max_prompts) {
    fail_param("prompt", "'prompt' has {} prompts, the limit is {}", list.size(), limits.max_prompts);
  }
  std::vector<serve::Prompt> prompts;
  for (const json::value& item : list) {
    if (item.kind() != list[0].kind() || !(item.is_string() || item.is_array())) {
      fail_param("prompt", "'prompt' must be a list of strings or a list of lists of token ids; it has {}",
                 json::describe(item));
    }
    if (item.is_string()) {
      prompts.emplace_back(std::string(item.get_string()));
    } else {
      if (item.get_array().empty()) fail_param("prompt", "'prompt' has an empty list of token ids");
      prompts.emplace_back(to_token_ids(item.get_array()));
    }
  }
  return prompts;
}

struct LogprobArrays {
  json::array text_offset, token_logprobs, tokens, top_logprobs;

  void add(const std::vector<serve::TokenLogprobs>& positions, const OpenAiAnswer& answer, int64_t& offset) {
    for (const serve::TokenLogprobs& position : positions) {
      std::string token = token_string(position.chosen, answer);
      text_offset.push_back(offset);
      offset += count_characters(token);
      bool is_known = !std::isnan(position.chosen.logprob);
      token_logprobs.push_back(is_known ? json::value(finite_logprob(position.chosen.logprob))
                                        : json::value(nullptr));
      if (is_known) {
        json::object top;  // the token that is there first, then the most likely ones
        top[token] = finite_logprob(position.chosen.logprob);
        for (const serve::TokenText& other : position.top)
          top.emplace(token_string(other, answer), finite_logprob(other.logprob));
        top_logprobs.push_back(std::move(top));
      } else {
        top_logprobs.push_back(nullptr);
      }
      tokens.push_back(json::value(token));
    }
  }

  json::value release() {
    json::object object;
    object["text_offset"] = std::move(text_offset);
    object["token_logprobs"] = std::move(token_logprobs);
    object["tokens"] = std::move(tokens);
    object["top_logprobs"] = std::move(top_logprobs);
    return object;
  }
};

}  // namespace

CompletionRequest parse_completion(const json::object& body, const OpenAiLimits& limits,
                                   std::string_view request_id_header) {
  reject_unsupported(body, {"suffix", "prompt_embeds"});
  log_unknown_fields(body, {"prompt", "suffix"});
  CompletionRequest request;
  serve::GenerateRequest common;
  parse_common(body, limits, common, request.answer);
  request.answer.id = "cmpl-" + choose_request_id(body, request_id_header);
  common.add_special_tokens = json::read_bool(body, "add_special_tokens").value_or(true);
  common.echo = request.answer.echo;
  common.sampling.num_logprobs = parse_num_logprobs(body, "logprobs", limits);
  request.answer.wants_logprobs = common.sampling.num_logprobs != serve::kNoLogprobs;
  if (common.echo && request.answer.wants_logprobs && !request.answer.wants_prompt_logprobs) {
    common.sampling.num_prompt_logprobs = common.sampling.num_logprobs;
  }
  std::optional<int64_t> asked_tokens = json::read_int(body, "max_tokens", 0, INT32_MAX);
  int64_t max_tokens = asked_tokens.value_or(16);
  if (max_tokens == 0 && !common.echo && !request.answer.wants_prompt_logprobs) {
    fail_param("max_tokens", "'max_tokens' must be at least 1, except with echo or prompt_logprobs");
  }
  common.max_tokens = max_tokens;
  common.lowers_max_tokens = !asked_tokens;
  std::vector<serve::Prompt> prompts = parse_prompts(body, limits);
  for (size_t i = 0; i < prompts.size(); ++i) {
    serve::GenerateRequest one = common;
    one.prompt = std::move(prompts[i]);
    one.id = prompts.size() == 1 ? request.answer.id : fmt::format("{}-{}", request.answer.id, i);
    request.prompts.push_back(std::move(one));
  }
  return request;
}

json::object format_completion(const OpenAiAnswer& answer, const std::vector<Choice>& choices,
                               const std::vector<EchoedPrompt>& prompts, const serve::Usage& usage) {
  json::object object = answer_head(answer, "text_completion");
  json::array list;
  size_t n = prompts.empty() ? 1 : choices.size() / prompts.size();
  for (size_t i = 0; i < choices.size(); ++i) {
    const Choice& choice = choices[i];
    const EchoedPrompt& prompt = prompts[i / n];
    json::object item;
    item["index"] = i;
    item["text"] = to_valid_utf8(answer.echo ? prompt.text + choice.text : choice.text);
    item["logprobs"] = nullptr;
    if (answer.wants_logprobs) {
      LogprobArrays arrays;
      int64_t offset = 0;
      if (answer.echo) arrays.add(prompt.logprobs, answer, offset);
      arrays.add(choice.logprobs, answer, offset);
      item["logprobs"] = arrays.release();
    }
    item["finish_reason"] = finish_reason_json(choice.finish_reason);
    item["stop_reason"] = stop_reason_json(choice.stop_reason);
    item["token_ids"] = answer.return_token_ids ? token_ids_json(choice.tokens) : json::value(nullptr);
    item["prompt_logprobs"] =
        answer.wants_prompt_logprobs ? prompt_logprobs_json(prompt.logprobs, answer) : json::value(nullptr);
    item["prompt_token_ids"] = answer.return_token_ids ? token_ids_json(prompt.tokens) : json::value(nullptr);
    list.push_back(std::move(item));
  }
  object["choices"] = std::move(list);
  object["service_tier"] = nullptr;
  object["usage"] = usage_json(usage, answer);
  object["kv_transfer_params"] = nullptr;
  return object;
}

json::object format_completion_chunk(const OpenAiAnswer& answer, int choice_index, const serve::Chunk& chunk,
                                     const EchoedPrompt& prompt, CompletionStream& stream) {
  bool is_first = !stream.has_begun;
  bool echoes = is_first && answer.echo;
  stream.has_begun = true;
  json::object item;
  item["index"] = choice_index;
  item["text"] = to_valid_utf8(echoes ? prompt.text + chunk.text : chunk.text);
  item["logprobs"] = nullptr;
  if (answer.wants_logprobs) {
    LogprobArrays arrays;
    if (echoes) arrays.add(prompt.logprobs, answer, stream.text_offset);
    arrays.add(chunk.logprobs, answer, stream.text_offset);
    item["logprobs"] = arrays.release();
  }
  item["finish_reason"] = finish_reason_json(chunk.finish_reason);
  item["stop_reason"] = stop_reason_json(chunk.stop_reason);
  if (answer.return_token_ids) {
    item["token_ids"] = token_ids_json(chunk.tokens);
    if (is_first) item["prompt_token_ids"] = token_ids_json(prompt.tokens);
  }
  json::object object = answer_head(answer, "text_completion");
  object["choices"] = json::array{std::move(item)};
  return object;
}

json::object format_completion_usage(const OpenAiAnswer& answer, const serve::Usage& usage) {
  json::object object = answer_head(answer, "text_completion");
  object["choices"] = json::array();
  object["usage"] = usage_json(usage, answer);
  return object;
}

}  // namespace sluice::api
