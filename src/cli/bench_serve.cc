// sluice bench serve: loads a running server that speaks the OpenAI API, and reports as vLLM's benchmark does.
//
// Before the load it asks the server for its model, finds out how prompts are best given, and sends a few requests to
// warm up. Prompts are token ids wherever the server takes them: then a prompt of 128 tokens has 128, whatever the
// tokenizer, and the server spends nothing on tokenising noise. The ids come from what the server's own /tokenize makes
// of a text of words, so they are ordinary tokens of its vocabulary. Where there is no /tokenize, or for chat, prompts
// are words, their number from the usage that the server counted for two short prompts.
// Ctrl-C ends the load with a report of what was answered until then.
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <optional>

#include "base/build_info.h"
#include "base/clock.h"
#include "base/env.h"
#include "base/error.h"
#include "base/json.h"
#include "base/mmap.h"
#include "base/random.h"
#include "bench/http_load.h"
#include "bench/serve_report.h"
#include "bench/workload.h"
#include "cli/bench_interrupt.h"
#include "cli/bench_options.h"
#include "cli/bench_report.h"
#include "cli/bench_server.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "kernels/cpu.h"

namespace sluice::cli {
namespace {

// A stream of the seed for what is sent before the load, so that no prefix cache knows the load's prompts.
constexpr uint64_t kWarmupStream = uint64_t{1} << 51;

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

json::object make_body(const Flags& flags, const BenchServer& server, const bench::PlannedRequest& request,
                       uint64_t stream) {
  json::object body{{"model", server.model.id},
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

void warm_up(const Flags& flags, const BenchServer& server, const bench::PlannedRequest& request) {
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

// Options that would change nothing beside others.
void check_options(const CLI::App& command, const Flags& flags, double rate) {
  if (std::isinf(rate)) {
    reject_with(command, "--burstiness", "--request-rate inf", "there are no intervals if all are sent at once");
  }
  if (flags.is_closed_loop && flags.max_concurrency == 0) {
    reject_with(command, "--max-concurrency", "the closed loop of --concurrency",
                "the next request is sent when one is done; add --request-rate or --trace");
  }
  if (flags.lengths.prefix_tokens == 0) {
    reject_with(command, "--num-prefixes", "--random-prefix-len 0", "there is no prefix");
  }
  if (flags.endpoint == "chat" && flags.prompt_form == "ids") {
    reject_with(command, "--prompt-form", "--endpoint chat", "messages are text; token ids are for completions");
  }
}

void run(const CLI::App& command, Flags& flags) {
  const bench::Goodput goodput = bench::parse_goodput(flags.goodput);
  const double rate =
      flags.request_rate.empty() ? std::numeric_limits<double>::infinity() : parse_rate(flags.request_rate);
  flags.is_closed_loop = flags.request_rate.empty() && flags.trace.empty();
  check_options(command, flags, rate);
  flags.output.check();
  bench::LoadDescription load{.request_rate = flags.is_closed_loop || !flags.trace.empty() ? 0 : rate,
                              .max_concurrency = flags.max_concurrency,
                              .ignores_eos = flags.ignore_eos};
  if (flags.is_closed_loop && load.max_concurrency == 0) load.max_concurrency = flags.concurrency;
  // A fixed seed would let a server's prefix cache answer a second run.
  const uint64_t seed = flags.seed ? *flags.seed : random_seed() >> 33;
  const std::vector<bench::PlannedRequest> requests = plan(flags, seed, rate);

  bench::HttpTarget target = bench::parse_url(flags.url);
  target.api_key = !flags.api_key.empty() ? flags.api_key : env::find("SLUICE_API_KEY").value_or("");
  for (char c : target.api_key) {
    if (c <= ' ' || c > '~') throw UsageError{"--api-key: a key has no blanks and no characters beyond ASCII"};
  }
  BenchServer server = find_server(target, flags.endpoint, flags.model, flags.timeout);
  choose_prompts(server,
                 flags.prompt_form == "ids"    ? PromptForm::kIds
                 : flags.prompt_form == "text" ? PromptForm::kText
                                               : PromptForm::kAuto,
                 seed);
  int64_t num_too_long = 0;
  const int64_t longest = server.model.max_model_len > 0 ? server.model.max_model_len : INT64_MAX;
  for (const bench::PlannedRequest& request : requests) {
    num_too_long += request.prompt_tokens + request.output_tokens > longest ? 1 : 0;
  }
  if (num_too_long > 0) {
    std::fprintf(stderr, "sluice: %lld of %zu requests are longer than the server's %lld tokens and will be refused\n",
                 static_cast<long long>(num_too_long), requests.size(), static_cast<long long>(longest));
  }
  warm_up(flags, server, *std::min_element(requests.begin(), requests.end(), [](const auto& a, const auto& b) {
            return a.prompt_tokens + a.output_tokens < b.prompt_tokens + b.output_tokens;
          }));

  ServerShares shares(server);  // measures this machine, which nothing else may do meanwhile
  const InterruptWatch watch;
  const bool uses_ids = !server.prompts.id_pool.empty();
  json::object report{{"client", bench_head_json(1)}};  // of the server only what it says is known
  if (!flags.output.json) {
    std::printf("client  sluice %s, %s; %s, 1 thread sends\n", build_commit().c_str(), build_type().c_str(),
                kernels::get_cpu().model_name.c_str());
    std::printf("server  %s%s, model %s%s\n", server.target.url().c_str(), server.path.c_str(),
                server.model.id.c_str(),
                server.version.empty() ? "" : fmt::format(", version {}", server.version).c_str());
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
    if (!shows_progress || is_last || monotonic_us() - shown_us < 200'000) return;
    shown_us = monotonic_us();
    std::fprintf(stderr, "\r%zu of %zu done, %zu failed", num_done, requests.size(), num_failed);
  };
  options.should_stop = [&] { return watch.is_interrupted(); };
  bench::LoadResult result = bench::run_load(server.target, options);
  for (size_t i = 0; i < requests.size(); ++i) {
    result.records[i].wanted_tokens = requests[i].output_tokens;
    if (!result.records[i].has_usage) result.records[i].prompt_tokens = requests[i].prompt_tokens;
  }
  shares.finish();
  const bench::ServeMetrics metrics =
      bench::compute_metrics(result.records, result.duration_seconds, goodput, flags.percents);
  if (shows_progress) std::fprintf(stderr, "\r\x1b[K");
  if (!flags.output.json) {
    std::printf("%s", bench::format_metrics(metrics, load, goodput.is_wanted(), flags.percents).c_str());
    std::printf("Server: %s\n", shares.describe().c_str());
  }
  report["url"] = server.target.url();
  report["endpoint"] = server.path;
  report["model"] = server.model.id;
  report["server_version"] = server.version.empty() ? json::value(nullptr) : json::value(server.version);
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
  shares.add_to(report);
  flags.output.finish(report);
  if (metrics.num_unfinished > 0) throw ExitCode{watch.exit_code()};
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
      ->type_name("NAME")
      ->check(is_not_empty);
  command->add_option("--api-key", flags->api_key, "key to send; default: SLUICE_API_KEY of the environment")
      ->type_name("KEY")
      ->check(is_not_empty);
  command->add_option("--endpoint", flags->endpoint, "completions or chat")
      ->check(CLI::IsMember({"completions", "chat"}))
      ->capture_default_str();
  command->add_option("--timeout", flags->timeout, "seconds one request may take")
      ->check(number(0.001, 1e6))
      ->capture_default_str();

  const std::string when = "When requests are sent";
  auto* concurrency = command->add_option("-c,--concurrency", flags->concurrency,
                                          "closed loop: so many at a time, the next when one is done");
  concurrency->check(whole_number(1, 1'000'000))->capture_default_str()->group(when);
  auto* rate = command->add_option("--request-rate", flags->request_rate,
                                   "open loop: requests a second whether others are done or not; inf: all at once");
  rate->type_name("N")->excludes(concurrency)->group(when);
  command
      ->add_option("--burstiness", flags->burstiness,
                   "shape of the gamma distribution of intervals; 1: Poisson, less: bursts, more: even")
      ->check(number(1e-3, 1e6))
      ->capture_default_str()
      ->needs(rate)
      ->group(when);
  command
      ->add_option(
          "--max-concurrency", flags->max_concurrency,
          "open loop: no more than so many at a time; 0: any number. Without a rate or trace the same as --concurrency")
      ->check(whole_number(0, 1'000'000))
      ->capture_default_str()
      ->excludes(concurrency)
      ->group(when);
  auto* trace = command->add_option(
      "--trace", flags->trace,
      "arrivals and lengths from a CSV file with the columns TIMESTAMP,ContextTokens,GeneratedTokens");
  trace->type_name("FILE.csv")->check(is_not_empty)->excludes(concurrency)->excludes(rate)->group(when);
  command->add_option("--trace-speed", flags->trace_speed, "times as fast as it was recorded")
      ->check(number(1e-6, 1e9))
      ->capture_default_str()
      ->needs(trace)
      ->group(when);

  const std::string what = "What is sent";
  const CLI::Validator lengths = whole_number(1, kBenchTokensMax), prefixes = whole_number(0, kBenchTokensMax);
  command->add_option("--num-prompts", flags->num_prompts, "requests; default: 64, or all of the trace")
      ->check(whole_number(1, kBenchRequestsMax))
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
      ->check(number(0, 1))
      ->capture_default_str()
      ->excludes(trace)
      ->group(what);
  command->add_option("--random-prefix-len", flags->lengths.prefix_tokens, "tokens at the start that requests share")
      ->check(prefixes)
      ->capture_default_str()
      ->excludes(trace)
      ->group(what);
  command->add_option("--num-prefixes", flags->lengths.num_prefixes, "different prefixes, taken in turn")
      ->check(whole_number(1, kBenchTokensMax))
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
      ->check(number(0, 2))
      ->capture_default_str()
      ->group(what);
  command->add_option("--num-warmups", flags->num_warmups, "requests before the measured ones")
      ->check(whole_number(0, 10'000))
      ->capture_default_str()
      ->group(what);
  command
      ->add_option("--seed", flags->seed,
                   "of lengths, arrivals and prompts; default: another each time, since a prefix cache "
                   "remembers the prompts of the last run")
      ->type_name("N")
      ->check(whole_number(0, INT64_MAX))
      ->group(what);

  command
      ->add_option("--goodput", flags->goodput, "limits in ms a good request keeps, such as ttft:200 tpot:50 e2el:1000")
      ->type_name("LIMITS")
      ->group("Report");
  command->add_option("--percentiles,--metric-percentiles", flags->percents, "such as 50,90,99")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(number(0, 100))
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
    run(*command, *flags);
  });
}

}  // namespace sluice::cli
