// sluice bench serve: loads a running server that speaks the OpenAI API, and reports as vLLM's benchmark does.
//
// Before the load it asks the server for its model, finds out how prompts are best given, and sends a few requests to
// warm up. Prompts are token ids wherever the server takes them: then a prompt of 128 tokens has 128, whatever the
// tokenizer, and the server spends nothing on tokenising noise. The ids come from what the server's own /tokenize makes
// of a text of words, so they are ordinary tokens of its vocabulary. Where there is no /tokenize, or for chat, prompts
// are words, their number from the usage that the server counted for two short prompts.
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <optional>
#include <set>

#include "base/build_info.h"
#include "base/clock.h"
#include "base/env.h"
#include "base/error.h"
#include "base/json.h"
#include "base/mmap.h"
#include "base/random.h"
#include "bench/http_load.h"
#include "bench/prompts.h"
#include "bench/serve_report.h"
#include "bench/workload.h"
#include "cli/bench_report.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "kernels/cpu.h"

namespace sluice::cli {
namespace {

// Streams of the seed for what is sent before the load, so that no prefix cache knows the load's prompts.
constexpr uint64_t kProbeStream = uint64_t{1} << 50, kWarmupStream = uint64_t{1} << 51;

struct Flags {
  std::string url = "http://127.0.0.1:8000", model, api_key, endpoint = "completions", prompt_form = "auto", trace;
  std::string request_rate;
  int64_t concurrency = 16, max_concurrency = 0, num_prompts = 0, num_warmups = 1;
  double burstiness = 1, trace_speed = 1, timeout = 600, temperature = 0;
  bench::RandomLengths lengths;
  std::optional<uint64_t> seed;
  bool ignore_eos = false, is_closed_loop = true;
  std::vector<std::string> goodput;
  std::vector<double> percents{99};
  BenchOutput output;
};

// What is known of the server.
struct Server {
  bench::HttpTarget target;
  std::string path;  // of the endpoint
  std::string model;
  int64_t max_model_len = 0;  // 0: it does not say
  bool is_chat = false;
  bench::Prompts prompts;
};

json::value parse_answer(const bench::HttpAnswer& answer) {
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

void find_model(const Flags& flags, Server& server) {
  bench::HttpAnswer answer = bench::fetch(server.target, "GET", "/v1/models", "", std::min(30.0, flags.timeout));
  server.model = flags.model;
  if (answer.status == 401 || answer.status == 403) {
    fail(Code::kUnauthenticated, "{} wants a key: {}; give it with --api-key", server.target.url(),
         bench::describe_error_reply(answer.status, answer.body));
  }
  json::value body = parse_answer(answer);
  const json::value* data = answer.status == 200 ? find_in(body, "data") : nullptr;
  if (data != nullptr && data->is_array()) {
    for (const json::value& model : data->get_array()) {
      const json::value* id = find_in(model, "id");
      if (id == nullptr || !id->is_string()) continue;
      std::string name(id->get_string());
      if (!server.model.empty() && server.model != name) continue;
      server.model = name;
      server.max_model_len = find_int(model, "max_model_len").value_or(0);
      break;
    }
  }
  if (server.model.empty()) {
    fail(Code::kNotFound, "{}/v1/models names no model ({}); is it an OpenAI-compatible server? If so, give --model",
         server.target.url(),
         answer.status == 200 ? "an empty list" : bench::describe_error_reply(answer.status, answer.body));
  }
}

json::object make_body(const Flags& flags, const Server& server, const bench::PlannedRequest& request,
                       uint64_t stream) {
  json::object body{{"model", server.model},
                    {"temperature", flags.temperature},
                    {"max_tokens", request.output_tokens},
                    {"stream", true},
                    {"stream_options", json::object{{"include_usage", true}}}};
  if (server.is_chat) {
    body["messages"] = json::array{json::object{{"role", "user"}, {"content", server.prompts.text(request, stream)}}};
  } else if (!server.prompts.id_pool.empty()) {
    std::vector<int32_t> ids = server.prompts.ids(request, stream);
    body["prompt"] = json::array(ids.begin(), ids.end());
  } else {
    body["prompt"] = server.prompts.text(request, stream);
  }
  if (flags.ignore_eos) body["ignore_eos"] = true;
  return body;
}

// One request without a stream; what the server counted its prompt to have, and the status.
struct Probe {
  int status = 0;
  std::optional<int64_t> prompt_tokens;
  std::string error;
};
Probe send_probe(const Flags& flags, const Server& server, json::value prompt) {
  json::object body{{"model", server.model}, {"temperature", 0}, {"max_tokens", 1}};
  if (server.is_chat) {
    body["messages"] = json::array{json::object{{"role", "user"}, {"content", std::move(prompt)}}};
  } else {
    body["prompt"] = std::move(prompt);
  }
  bench::HttpAnswer answer = bench::fetch(server.target, "POST", server.path, json::serialize(body), flags.timeout);
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
std::vector<int32_t> fetch_id_pool(const Server& server, uint64_t seed, double timeout) {
  json::object body{
      {"model", server.model}, {"prompt", bench::draw_words(400, seed, kProbeStream)}, {"add_special_tokens", false}};
  bench::HttpAnswer answer =
      bench::fetch(server.target, "POST", "/tokenize", json::serialize(body), std::min(30.0, timeout));
  json::value parsed = answer.status == 200 ? parse_answer(answer) : json::value(nullptr);
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

// Decides between ids and words.
void choose_prompts(const Flags& flags, Server& server) {
  const uint64_t seed = server.prompts.seed;
  if (!server.is_chat && flags.prompt_form != "text") {
    std::vector<int32_t> pool = fetch_id_pool(server, seed, flags.timeout);
    if (!pool.empty()) {
      json::array prompt(pool.begin(), pool.begin() + static_cast<int64_t>(std::min<size_t>(pool.size(), 8)));
      Probe probe = send_probe(flags, server, std::move(prompt));
      if (probe.status == 200) {
        server.prompts.id_pool = std::move(pool);
        return;
      }
    }
    if (flags.prompt_form == "ids") {
      fail(Code::kFailedPrecondition, "{} takes no token ids as a prompt, or has no /tokenize; use --prompt-form text",
           server.target.url());
    }
  }
  constexpr int64_t kShort = 8, kLong = 72;
  Probe few = send_probe(flags, server, json::value(bench::draw_words(kShort, seed, kProbeStream)));
  if (few.status != 200) {
    fail(Code::kFailedPrecondition, "{}{} refused a first request: {}", server.target.url(), server.path, few.error);
  }
  Probe many = send_probe(flags, server, json::value(bench::draw_words(kLong, seed, kProbeStream + 1)));
  if (few.prompt_tokens && many.prompt_tokens && *many.prompt_tokens > *few.prompt_tokens) {
    server.prompts.tokens_per_word = static_cast<double>(*many.prompt_tokens - *few.prompt_tokens) / (kLong - kShort);
    server.prompts.overhead_tokens =
        std::max(0.0, static_cast<double>(*few.prompt_tokens) - kShort * server.prompts.tokens_per_word);
  } else {
    std::fprintf(stderr,
                 "sluice: the server counts no prompt tokens; prompts have one word for each token asked for\n");
  }
}

std::vector<bench::PlannedRequest> plan(const Flags& flags, uint64_t seed, double request_rate) {
  if (!flags.trace.empty()) {
    return bench::parse_trace(read_file(flags.trace), flags.trace, flags.trace_speed, flags.num_prompts);
  }
  bench::RandomLengths lengths = flags.lengths;
  lengths.num_requests = flags.num_prompts > 0 ? flags.num_prompts : 64;
  lengths.seed = seed;
  std::vector<bench::PlannedRequest> requests = bench::plan_random(lengths);
  bench::plan_arrivals(requests, request_rate, flags.burstiness, seed);
  return requests;
}

void warm_up(const Flags& flags, const Server& server, const bench::PlannedRequest& request) {
  if (flags.num_warmups == 0) return;
  bench::PlannedRequest own = request;
  own.prefix_tokens = 0;
  own.output_tokens = std::min<int64_t>(own.output_tokens, 16);
  bench::LoadOptions options{.path = server.path,
                             .due_seconds = std::vector<double>(static_cast<size_t>(flags.num_warmups)),
                             .max_concurrency = 8,
                             .timeout_seconds = flags.timeout};
  options.make_body = [&](size_t index) {
    return json::serialize(make_body(flags, server, own, kWarmupStream + index));
  };
  for (const bench::RequestRecord& record : bench::run_load(server.target, options).records) {
    if (!record.ok()) {
      fail(Code::kFailedPrecondition, "{}{}: the warm-up request failed: {}", server.target.url(), server.path,
           record.error);
    }
  }
}

std::string describe_load(const Flags& flags, const bench::LoadDescription& load) {
  if (!flags.trace.empty())
    return fmt::format("arrivals of {} at {:g} times its speed", flags.trace, flags.trace_speed);
  if (flags.is_closed_loop) return fmt::format("closed loop, {} at a time", load.max_concurrency);
  if (std::isinf(load.request_rate)) return "open loop, all at once";
  return fmt::format(
      "open loop, {:g} requests/s, {}", load.request_rate,
      flags.burstiness == 1 ? "Poisson arrivals" : fmt::format("gamma arrivals of shape {:g}", flags.burstiness));
}

double parse_rate(const std::string& text) {
  if (text == "inf") return std::numeric_limits<double>::infinity();
  size_t used = 0;
  double rate = 0;
  try {
    rate = std::stod(text, &used);
  } catch (const std::exception&) {
    used = 0;
  }
  if (used == 0 || used != text.size() || !(rate >= 1e-6) || rate > 1e9) {
    throw UsageError{"--request-rate: '" + text + "' is no number of requests a second above 0, nor inf"};
  }
  return rate;
}

void run(Flags& flags) {
  flags.output.check();
  const bench::Goodput goodput = bench::parse_goodput(flags.goodput);
  const double rate =
      flags.request_rate.empty() ? std::numeric_limits<double>::infinity() : parse_rate(flags.request_rate);
  flags.is_closed_loop = flags.request_rate.empty() && flags.trace.empty();
  bench::LoadDescription load{.request_rate = flags.is_closed_loop || !flags.trace.empty() ? 0 : rate,
                              .max_concurrency = flags.max_concurrency};
  if (flags.is_closed_loop && load.max_concurrency == 0) load.max_concurrency = flags.concurrency;
  // A fixed seed would let a server's prefix cache answer a second run.
  const uint64_t seed = flags.seed ? *flags.seed : random_seed() >> 33;
  const std::vector<bench::PlannedRequest> requests = plan(flags, seed, rate);

  Server server;
  server.target = bench::parse_url(flags.url);
  server.target.api_key = !flags.api_key.empty() ? flags.api_key : env::find("SLUICE_API_KEY").value_or("");
  for (char c : server.target.api_key) {
    if (c <= ' ' || c > '~') throw UsageError{"--api-key: a key has no blanks and no characters beyond ASCII"};
  }
  server.is_chat = flags.endpoint == "chat";
  server.path = server.is_chat ? "/v1/chat/completions" : "/v1/completions";
  server.prompts.seed = seed;
  find_model(flags, server);
  choose_prompts(flags, server);
  int64_t num_too_long = 0;
  for (const bench::PlannedRequest& request : requests) {
    num_too_long +=
        server.max_model_len > 0 && request.prompt_tokens + request.output_tokens > server.max_model_len ? 1 : 0;
  }
  if (num_too_long > 0) {
    std::fprintf(stderr, "sluice: %lld of %zu requests are longer than the server's %lld tokens and will be refused\n",
                 static_cast<long long>(num_too_long), requests.size(), static_cast<long long>(server.max_model_len));
  }
  warm_up(flags, server, *std::min_element(requests.begin(), requests.end(), [](const auto& a, const auto& b) {
            return a.prompt_tokens + a.output_tokens < b.prompt_tokens + b.output_tokens;
          }));

  const bool uses_ids = !server.prompts.id_pool.empty();
  json::object report{{"client", bench_head_json(1)}};  // of the server only what it says is known
  if (!flags.output.json) {
    std::printf("client  sluice %s, %s; %s, 1 thread sends\n", build_commit().c_str(), build_type().c_str(),
                kernels::get_cpu().model_name.c_str());
    std::printf("server  %s%s, model %s\n", server.target.url().c_str(), server.path.c_str(), server.model.c_str());
    std::printf("load    %zu requests, %s; prompts are %s, seed %llu\n\n", requests.size(),
                describe_load(flags, load).c_str(),
                uses_ids ? "token ids" : fmt::format("words of {:.2f} tokens", server.prompts.tokens_per_word).c_str(),
                static_cast<unsigned long long>(seed));
    std::fflush(stdout);
  }
  bench::LoadOptions options{
      .path = server.path, .max_concurrency = load.max_concurrency, .timeout_seconds = flags.timeout};
  for (const bench::PlannedRequest& request : requests) options.due_seconds.push_back(request.arrival_seconds);
  options.make_body = [&](size_t index) { return json::serialize(make_body(flags, server, requests[index], index)); };
  const bool shows_progress = isatty(STDERR_FILENO) != 0;
  int64_t shown_us = 0;
  options.on_progress = [&](size_t num_done, size_t num_failed) {
    const bool is_last = num_done == requests.size();
    if (!shows_progress || (!is_last && monotonic_us() - shown_us < 200'000)) return;
    shown_us = monotonic_us();
    std::fprintf(stderr, "\r%zu of %zu done, %zu failed%s", num_done, requests.size(), num_failed,
                 is_last ? "\r\x1b[K" : "");
  };
  bench::LoadResult result = bench::run_load(server.target, options);
  for (size_t i = 0; i < requests.size(); ++i) {
    if (!result.records[i].has_usage) result.records[i].prompt_tokens = requests[i].prompt_tokens;
  }
  const bench::ServeMetrics metrics =
      bench::compute_metrics(result.records, result.duration_seconds, goodput, flags.percents);
  if (!flags.output.json) {
    std::printf("%s", bench::format_metrics(metrics, load, goodput.is_wanted(), flags.percents).c_str());
  }
  report["url"] = server.target.url();
  report["endpoint"] = server.path;
  report["model"] = server.model;
  report["num_prompts"] = requests.size();
  report["prompts"] = uses_ids ? "ids" : "text";
  report["request_rate"] = flags.is_closed_loop || !flags.trace.empty() ? json::value(nullptr)
                           : std::isinf(rate)                           ? json::value("inf")
                                                                        : json::value(rate);
  report["burstiness"] = flags.burstiness;
  report["max_concurrency"] = load.max_concurrency > 0 ? json::value(load.max_concurrency) : json::value(nullptr);
  report["trace"] = flags.trace.empty() ? json::value(nullptr) : json::value(flags.trace);
  report["seed"] = seed;
  for (const auto& field : bench::metrics_json(metrics, goodput.is_wanted(), flags.percents))
    report[field.key()] = field.value();
  flags.output.finish(report);
  if (metrics.num_completed == 0) throw ExitCode{1};
}

}  // namespace

void add_bench_serve(CLI::App& bench) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command =
      bench.add_subcommand("serve", "Load a running OpenAI-compatible server and report latencies and throughput");
  command->group("Modes");
  command->add_option("--url,--base-url", flags->url, "of the server")->type_name("URL")->capture_default_str();
  command->add_option("-m,--model", flags->model, "name to ask for; default: the first the server has")
      ->type_name("NAME");
  command->add_option("--api-key", flags->api_key, "key to send; default: SLUICE_API_KEY of the environment")
      ->type_name("KEY");
  command->add_option("--endpoint", flags->endpoint, "completions or chat")
      ->check(CLI::IsMember({"completions", "chat"}))
      ->capture_default_str();
  command->add_option("--timeout", flags->timeout, "seconds one request may take")
      ->check(CLI::Range(0.001, 1e6))
      ->capture_default_str();

  const std::string when = "When requests are sent";
  auto* concurrency = command->add_option("-c,--concurrency", flags->concurrency,
                                          "closed loop: so many at a time, the next when one is done");
  concurrency->check(CLI::Range(1, 1'000'000))->capture_default_str()->group(when);
  auto* rate = command->add_option("--request-rate", flags->request_rate,
                                   "open loop: requests a second whether others are done or not; inf: all at once");
  rate->type_name("N")->excludes(concurrency)->group(when);
  command
      ->add_option("--burstiness", flags->burstiness,
                   "shape of the gamma distribution of intervals; 1: Poisson, less: bursts, more: even")
      ->check(CLI::Range(1e-3, 1e6))
      ->capture_default_str()
      ->needs(rate)
      ->group(when);
  command
      ->add_option(
          "--max-concurrency", flags->max_concurrency,
          "open loop: no more than so many at a time; 0: any number. Without a rate or trace the same as --concurrency")
      ->check(CLI::Range(0, 1'000'000))
      ->capture_default_str()
      ->excludes(concurrency)
      ->group(when);
  auto* trace = command->add_option(
      "--trace", flags->trace,
      "arrivals and lengths from a CSV file with the columns TIMESTAMP,ContextTokens,GeneratedTokens");
  trace->type_name("FILE.csv")->excludes(concurrency)->excludes(rate)->group(when);
  command->add_option("--trace-speed", flags->trace_speed, "times as fast as it was recorded")
      ->check(CLI::Range(1e-6, 1e9))
      ->capture_default_str()
      ->needs(trace)
      ->group(when);

  const std::string what = "What is sent";
  const CLI::Range lengths(int64_t{1}, int64_t{1} << 24), prefixes(int64_t{0}, int64_t{1} << 24);
  command->add_option("--num-prompts", flags->num_prompts, "requests; default: 64, or all of the trace")
      ->check(CLI::Range(int64_t{1}, int64_t{10'000'000}))
      ->group(what);
  command
      ->add_option("--random-input-len,--input-len", flags->lengths.input_tokens,
                   "mean prompt tokens, besides the prefix")
      ->check(lengths)
      ->capture_default_str()
      ->excludes(trace)
      ->group(what);
  command->add_option("--random-output-len,--output-len", flags->lengths.output_tokens, "mean tokens to generate")
      ->check(lengths)
      ->capture_default_str()
      ->excludes(trace)
      ->group(what);
  command
      ->add_option("--random-range-ratio", flags->lengths.range_ratio,
                   "lengths are uniform in mean * (1 - N) to mean * (1 + N)")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str()
      ->excludes(trace)
      ->group(what);
  command->add_option("--random-prefix-len", flags->lengths.prefix_tokens, "tokens at the start that requests share")
      ->check(prefixes)
      ->capture_default_str()
      ->excludes(trace)
      ->group(what);
  command->add_option("--num-prefixes", flags->lengths.num_prefixes, "different prefixes, taken in turn")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 24))
      ->capture_default_str()
      ->excludes(trace)
      ->group(what);
  command
      ->add_option("--prompt-form", flags->prompt_form,
                   "ids (exact lengths), text (words), or auto: ids if the server takes them")
      ->check(CLI::IsMember({"auto", "ids", "text"}))
      ->capture_default_str()
      ->group(what);
  command->add_flag("--ignore-eos", flags->ignore_eos, "ask the server to go on after end tokens (vLLM's field)")
      ->group(what);
  command->add_option("--temperature", flags->temperature, "0: always the most likely token")
      ->check(CLI::Range(0.0, 2.0))
      ->capture_default_str()
      ->group(what);
  command->add_option("--num-warmups", flags->num_warmups, "requests before the measured ones")
      ->check(CLI::Range(0, 10'000))
      ->capture_default_str()
      ->group(what);
  command
      ->add_option("--seed", flags->seed,
                   "of lengths, arrivals and prompts; default: another each time, since a prefix cache "
                   "remembers the prompts of the last run")
      ->type_name("N")
      ->group(what);

  command
      ->add_option("--goodput", flags->goodput, "limits in ms a good request keeps, such as ttft:200 tpot:50 e2el:1000")
      ->type_name("LIMITS")
      ->group("Report");
  command->add_option("--percentiles,--metric-percentiles", flags->percents, "such as 50,90,99")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str()
      ->group("Report");
  add_bench_output_flags(*command, flags->output);
  command->footer(
      "Examples:\n"
      "  sluice bench serve --concurrency 16 --num-prompts 100 --ignore-eos\n"
      "  sluice bench serve --url http://host:8000 --request-rate 4 --goodput ttft:500 tpot:50\n"
      "  sluice bench serve --random-prefix-len 2000 --num-prefixes 4\n"
      "  sluice bench serve --trace AzureLLMInferenceTrace_conv.csv --trace-speed 2 --num-prompts 500");
  command->callback([flags, command] {
    reject_grid_options(*command);
    run(*flags);
  });
}

}  // namespace sluice::cli
