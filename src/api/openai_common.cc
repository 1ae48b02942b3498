#include "api/openai_common.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "api/utf8.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/random.h"
#include "sluice/version.h"

namespace sluice::api {
namespace {

constexpr int64_t kTokensMax = int64_t{1} << 31;
constexpr size_t kIdsMax = 1 << 20;
constexpr size_t kStopBytesMax = 4096;

// A value that asks for nothing: null, false, "", [], {}.
bool asks_nothing(const json::value& v) {
  switch (v.kind()) {
    case json::kind::null: return true;
    case json::kind::bool_: return !v.get_bool();
    case json::kind::string: return v.get_string().empty();
    case json::kind::object: return v.get_object().empty();
    default: return false;
  }
}

std::vector<int32_t> read_token_ids(const json::object& body, std::string_view field) {
  std::vector<int32_t> ids;
  for (int64_t id : json::read_ints(body, field, kIdsMax)) {
    if (id < 0 || id > INT32_MAX) fail_param(std::string(field), "'{}' has {}, which is no token id", field, id);
    ids.push_back(static_cast<int32_t>(id));
  }
  // They are sets, looked at for every token: a million times the same one must cost nothing.
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

void parse_logit_bias(const json::object& body, serve::SamplingParams& sampling) {
  const json::value* bias = json::find(body, "logit_bias");
  if (bias == nullptr) return;
  if (!bias->is_object()) {
    fail_param("logit_bias", "'logit_bias' must be an object of token id to bias, not {}", json::describe(*bias));
  }
  for (const auto& member : bias->get_object()) {
    std::string_view key(member.key().data(), member.key().size());
    int32_t id = -1;
    auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size() || id < 0) {
      fail_param("logit_bias", "'logit_bias' has the key '{}', which is no token id", key);
    }
    double value = member.value().is_number() ? member.value().to_number<double>() : std::nan("");
    if (!(value >= -100 && value <= 100)) {
      fail_param("logit_bias", "'logit_bias' of token {} must be a number in [-100, 100]", id);
    }
    sampling.logit_bias.emplace_back(id, static_cast<float>(value));
  }
}

void parse_stop(const json::object& body, const OpenAiLimits& limits, serve::GenerateRequest& request) {
  request.stop = json::read_strings(body, "stop", limits.max_stop_strings);
  for (const std::string& stop : request.stop) {
    if (stop.empty()) fail_param("stop", "'stop' has an empty string");
    if (stop.size() > kStopBytesMax)
      fail_param("stop", "'stop' has a string of {} bytes, the limit is {}", stop.size(), kStopBytesMax);
  }
}

void parse_cache_salt(const json::object& body, serve::GenerateRequest& request) {
  std::optional<std::string> salt = json::read_string(body, "cache_salt");
  if (!salt) return;
  if (salt->empty() || salt->size() > 128 ||
      salt->find_first_of(std::string_view("@/\\\0", 4)) != std::string::npos) {
    fail_param("cache_salt", "'cache_salt' must be 1 to 128 characters without '@', '/', '\\' and NUL");
  }
  request.cache_salt = *salt;
}

void parse_stream_options(const json::object& body, OpenAiAnswer& answer) {
  const json::value* options = json::find(body, "stream_options");
  if (options == nullptr) return;
  if (!options->is_object()) {
    fail_param("stream_options", "'stream_options' must be an object, not {}", json::describe(*options));
  }
  if (!answer.stream) fail_param("stream_options", "'stream_options' is only allowed with \"stream\": true");
  within("stream_options", [&] {
    answer.include_usage = json::read_bool(options->get_object(), "include_usage").value_or(false);
    answer.continuous_usage =
        json::read_bool(options->get_object(), "continuous_usage_stats").value_or(false) && answer.include_usage;
  });
}

}  // namespace

void Choice::add(serve::Chunk&& chunk) {
  text += chunk.text;
  tokens.insert(tokens.end(), chunk.tokens.begin(), chunk.tokens.end());
  std::move(chunk.logprobs.begin(), chunk.logprobs.end(), std::back_inserter(logprobs));
  if (chunk.finish_reason == serve::FinishReason::kNone) return;
  finish_reason = chunk.finish_reason;
  stop_reason = std::move(chunk.stop_reason);
}

void reject_unsupported(const json::object& body, std::initializer_list<std::string_view> fields) {
  auto reject = [&](std::string_view field) {
    const json::value* value = body.if_contains(field);
    if (value != nullptr && !asks_nothing(*value)) {
      fail_param(std::string(field), "'{}' is not supported by this server", field);
    }
  };
  for (const char* field : {"use_beam_search", "structured_outputs", "guided_json", "guided_regex", "guided_choice",
                            "guided_grammar", "logprob_token_ids", "kv_transfer_params", "thinking_token_budget",
                            "repetition_detection"}) {
    reject(field);
  }
  for (std::string_view field : fields) reject(field);
  const json::value* format = json::find(body, "response_format");
  if (format == nullptr) return;
  if (!format->is_object()) {
    fail_param("response_format", "'response_format' must be an object, not {}", json::describe(*format));
  }
  std::string type = within(
      "response_format", [&] { return json::read_string(format->get_object(), "type").value_or(""); });
  if (type != "text")
    fail_param("response_format", "'response_format' of type '{}' is not supported by this server, only 'text'",
               type);
}

// Of completions and of chat.
constexpr std::string_view kCommonFields[] = {
    "model", "echo", "frequency_penalty", "logit_bias", "logprobs", "max_tokens", "n", "best_of",
    "presence_penalty", "seed", "stop", "stream", "stream_options", "temperature", "top_p", "user", "top_k",
    "min_p", "typical_p", "repetition_penalty", "stop_token_ids", "include_stop_str_in_output",
    "ignore_eos", "min_tokens", "skip_special_tokens", "spaces_between_special_tokens",
    "truncate_prompt_tokens", "truncation_side", "allowed_token_ids", "prompt_logprobs", "bad_words",
    "add_special_tokens", "priority", "request_id", "return_tokens_as_token_ids", "return_token_ids",
    "cache_salt", "response_format", "length_penalty", "stream_interval", "session_id", "vllm_xargs"};

void log_unknown_fields(const json::object& body, std::initializer_list<std::string_view> own) {
  if (!log::is_on(log::Level::kDebug)) return;
  for (const auto& member : body) {
    std::string_view key(member.key().data(), member.key().size());
    bool is_known = std::find(std::begin(kCommonFields), std::end(kCommonFields), key) != std::end(kCommonFields) ||
                    std::find(own.begin(), own.end(), key) != own.end();
    if (!is_known) LOG(debug, "request field '{}' is ignored", key);
  }
}

void parse_common(const json::object& body, const OpenAiLimits& limits, serve::GenerateRequest& request,
                  OpenAiAnswer& answer) {
  answer.model = json::read_string(body, "model").value_or("");
  answer.created = unix_seconds();
  answer.stream = json::read_bool(body, "stream").value_or(false);
  answer.echo = json::read_bool(body, "echo").value_or(false);
  answer.tokens_as_ids = json::read_bool(body, "return_tokens_as_token_ids").value_or(false);
  answer.return_token_ids = json::read_bool(body, "return_token_ids").value_or(false);
  answer.prompt_tokens_details = limits.enable_prompt_tokens_details;
  parse_stream_options(body, answer);

  serve::SamplingParams& sampling = request.sampling;
  request.temperature = json::read_double(body, "temperature", 0, 2);
  request.top_p = json::read_double(body, "top_p", 0, 1);
  if (request.top_p) request.top_p = std::max(*request.top_p, 1e-9);  // 0 means the most likely token only
  request.min_p = json::read_double(body, "min_p", 0, 1);
  request.top_k = json::read_int(body, "top_k", -1, INT32_MAX);
  request.repetition_penalty = json::read_double(body, "repetition_penalty", 1e-3, 1e3);
  sampling.typical_p = std::max(json::read_double(body, "typical_p", 0, 1).value_or(1.0), 1e-9);
  sampling.frequency_penalty = json::read_double(body, "frequency_penalty", -2, 2).value_or(0);
  sampling.presence_penalty = json::read_double(body, "presence_penalty", -2, 2).value_or(0);
  if (const json::value* seed = json::find(body, "seed"); seed != nullptr && seed->is_uint64()) {
    sampling.seed = seed->get_uint64();  // beyond int64: many clients draw 64 random bits
  } else if (std::optional<int64_t> number = json::read_int(body, "seed")) {
    sampling.seed = static_cast<uint64_t>(*number);
  }
  sampling.min_tokens = json::read_int(body, "min_tokens", 0, kTokensMax).value_or(0);
  sampling.ignore_eos = json::read_bool(body, "ignore_eos").value_or(false);
  sampling.stop_token_ids = read_token_ids(body, "stop_token_ids");
  sampling.allowed_token_ids = read_token_ids(body, "allowed_token_ids");
  if (const json::value* allowed = json::find(body, "allowed_token_ids");
      allowed != nullptr && sampling.allowed_token_ids.empty()) {
    fail_param("allowed_token_ids", "'allowed_token_ids' is empty: nothing could be generated");
  }
  parse_logit_bias(body, sampling);
  parse_stop(body, limits, request);
  request.bad_words = json::read_strings(body, "bad_words", 1024);
  request.include_stop = json::read_bool(body, "include_stop_str_in_output").value_or(false);
  request.skip_special_tokens = json::read_bool(body, "skip_special_tokens").value_or(true);
  json::read_bool(body, "spaces_between_special_tokens");  // byte-exact detokenising puts spaces nowhere
  request.n = static_cast<int>(json::read_int(body, "n", 1, limits.max_n).value_or(1));
  if (std::optional<int64_t> best_of = json::read_int(body, "best_of", 1, limits.max_n)) {
    if (*best_of < request.n) fail_param("best_of", "'best_of' is {}, less than n, which is {}", *best_of, request.n);
    if (*best_of > request.n && answer.stream) fail_param("best_of", "'best_of' more than n cannot be streamed");
    request.best_of = static_cast<int>(*best_of);
  }
  request.truncate_prompt_tokens = json::read_int(body, "truncate_prompt_tokens", -1, kTokensMax);
  if (std::optional<std::string> side = json::read_string(body, "truncation_side")) {
    if (*side != "left" && *side != "right")
      fail_param("truncation_side", "'truncation_side' must be 'left' or 'right', not '{}'", *side);
    request.truncation_side = *side == "left" ? serve::TruncationSide::kLeft : serve::TruncationSide::kRight;
  }
  request.priority = json::read_int(body, "priority", INT32_MIN, INT32_MAX).value_or(0);
  parse_cache_salt(body, request);
  json::read_string(body, "user");
  sampling.num_prompt_logprobs = parse_num_logprobs(body, "prompt_logprobs", limits);
  answer.wants_prompt_logprobs = sampling.num_prompt_logprobs != serve::kNoLogprobs;
  if (answer.wants_prompt_logprobs && answer.stream) {
    fail_param("prompt_logprobs", "'prompt_logprobs' is not allowed with \"stream\": true");
  }
}

int parse_num_logprobs(const json::object& body, std::string_view field, const OpenAiLimits& limits) {
  std::optional<int64_t> count = json::read_int(body, field, -1, INT32_MAX);
  if (!count) return serve::kNoLogprobs;
  if (limits.max_logprobs >= 0 && (*count == -1 || *count > limits.max_logprobs)) {
    fail_param(std::string(field), "'{}' is {}, this server gives at most {} (--max-logprobs)", field, *count,
               limits.max_logprobs);
  }
  return *count == -1 ? serve::kAllLogprobs : static_cast<int>(*count);
}

std::string random_id() {
  static thread_local Random random(random_seed());
  return fmt::format("{:016x}{:016x}", random.next(), random.next());
}

std::string choose_request_id(const json::object& body, std::string_view header) {
  auto is_fit = [](std::string_view id) {
    return !id.empty() && id.size() <= 128 &&
           std::all_of(id.begin(), id.end(), [](char c) { return c > ' ' && c < 0x7f; });
  };
  if (std::optional<std::string> id = json::read_string(body, "request_id")) {
    if (!is_fit(*id)) fail_param("request_id", "'request_id' must be 1 to 128 visible ASCII characters");
    return *id;
  }
  return is_fit(header) ? std::string(header) : random_id();
}

const char* finish_reason_name(serve::FinishReason reason) {
  switch (reason) {
    case serve::FinishReason::kNone: return "";
    case serve::FinishReason::kStop: return "stop";
    case serve::FinishReason::kLength: return "length";
    case serve::FinishReason::kAbort: return "abort";
    case serve::FinishReason::kError: return "error";
  }
  return "";
}

json::value finish_reason_json(serve::FinishReason reason) {
  if (reason == serve::FinishReason::kNone) return nullptr;
  return json::value(finish_reason_name(reason));
}

json::value stop_reason_json(const serve::StopReason& reason) {
  if (const auto* token = std::get_if<int32_t>(&reason)) return *token;
  if (const auto* text = std::get_if<std::string>(&reason)) return json::value(to_valid_utf8(*text));
  return nullptr;
}

json::value token_ids_json(const std::vector<int32_t>& tokens) { return json::array(tokens.begin(), tokens.end()); }

json::object usage_json(const serve::Usage& usage, const OpenAiAnswer& answer) {
  json::object object;
  object["prompt_tokens"] = usage.prompt_tokens;
  object["total_tokens"] = usage.prompt_tokens + usage.completion_tokens;
  object["completion_tokens"] = usage.completion_tokens;
  object["prompt_tokens_details"] = nullptr;
  if (answer.prompt_tokens_details)
    object["prompt_tokens_details"] = json::object{{"cached_tokens", usage.cached_tokens}};
  return object;
}

std::string token_string(const serve::TokenText& token, const OpenAiAnswer& answer) {
  return answer.tokens_as_ids ? fmt::format("token_id:{}", token.id) : to_valid_utf8(token.bytes);
}

double finite_logprob(float logprob) {
  double value = std::isnan(logprob) ? -9999.0 : std::max(static_cast<double>(logprob), -9999.0);
  return std::min(value, 0.0);
}

json::value prompt_logprobs_json(const std::vector<serve::TokenLogprobs>& positions, const OpenAiAnswer& answer) {
  json::array list;
  for (const serve::TokenLogprobs& position : positions) {
    if (std::isnan(position.chosen.logprob)) {
      list.push_back(nullptr);
      continue;
    }
    json::object tokens;
    auto add = [&](const serve::TokenText& token) {
      tokens[std::to_string(token.id)] = json::object{{"logprob", finite_logprob(token.logprob)},
                                                      {"rank", token.rank},
                                                      {"decoded_token", token_string(token, answer)}};
    };
    add(position.chosen);
    for (const serve::TokenText& token : position.top) add(token);
    list.push_back(std::move(tokens));
  }
  return list;
}

json::object answer_head(const OpenAiAnswer& answer, const char* object) {
  json::object head;
  head["id"] = answer.id;
  head["object"] = object;
  head["created"] = answer.created;
  head["model"] = answer.model;
  head["system_fingerprint"] = "sluice-" SLUICE_VERSION;
  return head;
}

}  // namespace sluice::api
