#include "cli/bench_server.h"

#include <algorithm>
#include <cstdio>
#include <set>

#include "base/clock.h"
#include "base/error.h"
#include "base/thread_pool.h"
#include "engine/kv_memory.h"

namespace sluice::cli {
namespace {

// A stream of the seed for what is sent before the load, so that no prefix cache knows the load's prompts.
constexpr uint64_t kProbeStream = uint64_t{1} << 50;
constexpr double kQuestionSecondsMax = 30;  // for answers that need no model

json::value parse_answer(const bench::HttpAnswer& answer) {
  if (answer.status != 200) return nullptr;
  try {
    return json::parse(answer.body);
  } catch (const Error&) {
    return nullptr;
  }
}

const json::value* find_in(const json::value& value, std::string_view key) {
  return value.is_object() ? json::find(value.get_object(), key) : nullptr;
}

std::optional<int64_t> find_int(const json::value& value, std::string_view key) {
  const json::value* found = find_in(value, key);
  return found != nullptr && found->is_int64() ? std::optional(found->get_int64()) : std::nullopt;
}

bench::HttpAnswer get(const BenchServer& server, const std::string& path) {
  return bench::fetch(server.target, "GET", path, "", std::min(kQuestionSecondsMax, server.timeout_seconds));
}

// For what the report can do without: status 0 if there is no answer.
bench::HttpAnswer try_get(const BenchServer& server, const std::string& path) {
  try {
    return get(server, path);
  } catch (const Error&) {
    return {};
  }
}

std::optional<bench::StepCounts> find_steps(const BenchServer& server) {
  const bench::HttpAnswer answer = try_get(server, "/metrics");
  return answer.status == 200 ? bench::find_step_counts(answer.body, server.model) : std::nullopt;
}

// One request without a stream; what the server counted its prompt to have, and the status.
struct Probe {
  int status = 0;
  std::optional<int64_t> prompt_tokens;
  std::string error;
};
Probe send_probe(const BenchServer& server, json::value prompt) {
  json::object body{{"model", server.model.id}, {"temperature", 0}, {"max_tokens", 1}};
  if (server.is_chat) {
    body["messages"] = json::array{json::object{{"role", "user"}, {"content", std::move(prompt)}}};
  } else {
    body["prompt"] = std::move(prompt);
  }
  bench::HttpAnswer answer =
      bench::fetch(server.target, "POST", server.path, json::serialize(body), server.timeout_seconds);
  Probe probe{.status = answer.status};
  if (answer.status != 200) {
    probe.error = bench::describe_error_reply(answer.status, answer.body);
    return probe;
  }
  json::value parsed = parse_answer(answer);
  if (const json::value* usage = find_in(parsed, "usage")) probe.prompt_tokens = find_int(*usage, "prompt_tokens");
  return probe;
}

// Different ordinary ids of the server's vocabulary; empty if it has no /tokenize.
std::vector<int32_t> fetch_id_pool(const BenchServer& server, uint64_t seed) {
  json::object body{{"model", server.model.id},
                    {"prompt", bench::draw_words(400, seed, kProbeStream)},
                    {"add_special_tokens", false}};
  bench::HttpAnswer answer = bench::fetch(server.target, "POST", "/tokenize", json::serialize(body),
                                          std::min(kQuestionSecondsMax, server.timeout_seconds));
  json::value parsed = parse_answer(answer);
  const json::value* tokens = find_in(parsed, "tokens");
  std::set<int32_t> ids;
  if (tokens != nullptr && tokens->is_array()) {
    for (const json::value& token : tokens->get_array()) {
      if (token.is_int64() && token.get_int64() >= 0 && token.get_int64() <= INT32_MAX)
        ids.insert(static_cast<int32_t>(token.get_int64()));
    }
  }
  return {ids.begin(), ids.end()};
}

}  // namespace

BenchServer find_server(const bench::HttpTarget& target, const std::string& endpoint, const std::string& model,
                        double timeout_seconds) {
  BenchServer server{.target = target, .is_chat = endpoint == "chat", .timeout_seconds = timeout_seconds};
  server.path = server.is_chat ? "/v1/chat/completions" : "/v1/completions";
  const bench::HttpAnswer answer = get(server, "/v1/models");
  if (answer.status == 401 || answer.status == 403) {
    fail(Code::kUnauthenticated, "{} wants a key: {}; give it with --api-key", target.url(),
         bench::describe_error_reply(answer.status, answer.body));
  }
  server.model = bench::find_served_model(parse_answer(answer), model);
  if (server.model.id.empty()) server.model.id = model;
  if (server.model.id.empty()) {
    fail(Code::kNotFound, "{}/v1/models names no model ({}); is it an OpenAI-compatible server? If so, give --model",
         target.url(),
         answer.status == 200 ? "an empty list" : bench::describe_error_reply(answer.status, answer.body));
  }
  const json::value about = parse_answer(try_get(server, "/version"));
  const json::value* version = find_in(about, "version");
  if (version != nullptr && version->is_string()) server.version = version->get_string();
  return server;
}

void choose_prompts(BenchServer& server, PromptForm form, uint64_t seed) {
  bench::Prompts& prompts = server.prompts;
  prompts.seed = seed;
  if (!server.is_chat && form != PromptForm::kText) {
    std::vector<int32_t> pool = fetch_id_pool(server, seed);
    if (!pool.empty()) {
      json::array prompt(pool.begin(), pool.begin() + static_cast<int64_t>(std::min<size_t>(pool.size(), 8)));
      Probe probe = send_probe(server, std::move(prompt));
      if (probe.status == 200) {
        prompts.id_pool = std::move(pool);
        return;
      }
    }
    if (form == PromptForm::kIds) {
      fail(Code::kFailedPrecondition, "{} takes no token ids as a prompt, or has no /tokenize; use --prompt-form text",
           server.target.url());
    }
  }
  constexpr int64_t kShort = 8, kLong = 72;
  Probe few = send_probe(server, json::value(bench::draw_words(kShort, seed, kProbeStream)));
  if (few.status != 200) {
    fail(Code::kFailedPrecondition, "{}{} refused a first request: {}", server.target.url(), server.path, few.error);
  }
  Probe many = send_probe(server, json::value(bench::draw_words(kLong, seed, kProbeStream + 1)));
  if (few.prompt_tokens && many.prompt_tokens && *many.prompt_tokens > *few.prompt_tokens) {
    prompts.tokens_per_word = static_cast<double>(*many.prompt_tokens - *few.prompt_tokens) / (kLong - kShort);
    prompts.overhead_tokens =
        std::max(0.0, static_cast<double>(*few.prompt_tokens) - kShort * prompts.tokens_per_word);
  } else {
    std::fprintf(stderr,
                 "sluice: the server counts no prompt tokens; prompts have one word for each token asked for\n");
  }
}

ServerShares::ServerShares(const BenchServer& server) : server_(server) {
  if (!bench::is_loopback(server.target.host)) {
    unknown_because_ = "the server may run on another machine";
  } else if (server.model.weight_bytes == 0 || server.model.num_parameters == 0) {
    unknown_because_ = "the server does not tell its weights";
  } else if (!find_steps(server)) {
    unknown_because_ = "the server does not count its steps";
  }
  if (!unknown_because_.empty()) return;
  ThreadPool pool(num_available_cores());
  bench::MemoryProbe memory(pool, engine::available_memory_bytes());
  limits_ = bench::measure_limits(pool, memory);
  before_ = find_steps(server).value_or(bench::StepCounts{});
  start_us_ = monotonic_us();
}

void ServerShares::finish() {
  if (!unknown_because_.empty()) return;
  const double seconds = static_cast<double>(std::max<int64_t>(1, monotonic_us() - start_us_)) / 1e6;
  const std::optional<bench::StepCounts> after = find_steps(server_);
  if (!after || after->num_steps < before_.num_steps || after->num_tokens < before_.num_tokens) {
    unknown_because_ = "the server has lost count of its steps";
    return;
  }
  rates_ = compute_rates(static_cast<double>(server_.model.weight_bytes),
                         static_cast<double>(server_.model.num_parameters), limits_,
                         {.seconds = seconds,
                          .generated_tokens = after->num_tokens - before_.num_tokens,
                          .num_steps = after->num_steps - before_.num_steps});
}

std::string ServerShares::describe() const {
  if (!unknown_because_.empty()) {
    return "shares of memory bandwidth and of peak arithmetic are unknown: " + unknown_because_;
  }
  return describe_rates(rates_) + "; every step counted with all weights, of a server that runs here";
}

void ServerShares::add_to(json::object& report) const {
  const bool is_known = unknown_because_.empty();
  add_rates(report, "", rates_);
  report["shares_unknown_because"] = is_known ? json::value(nullptr) : json::value(unknown_because_);
  report["limits"] = is_known ? json::value(bench::limits_json(limits_)) : json::value(nullptr);
}

}  // namespace sluice::cli
