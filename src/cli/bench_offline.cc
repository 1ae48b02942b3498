// sluice bench latency and sluice bench throughput: a model loaded in this process, without a server.
//
// latency runs the same batch again and again and says how long one takes; throughput hands over all requests at once
// and says how many are done a second. Prompts are random ids, sampling is greedy, and nothing ends before its length.
// Both look at the bandwidth of the memory before and after, and stop at Ctrl-C with what is done until then.
#include <algorithm>
#include <cstdio>
#include <numeric>
#include <optional>

#include "base/error.h"
#include "base/json.h"
#include "base/mmap.h"
#include "bench/limits.h"
#include "bench/prompts.h"
#include "bench/statistics.h"
#include "bench/workload.h"
#include "cli/bench_engine.h"
#include "cli/bench_interrupt.h"
#include "cli/bench_options.h"
#include "cli/bench_report.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "engine/kv_memory.h"

namespace sluice::cli {
namespace {

const std::vector<double> kPercents = {10, 25, 50, 75, 90, 99};

struct ModelFlags {
  std::string model;
  BenchOutput output;
  engine::LoadOptions load;
  EngineFlags engine;
};

struct LatencyFlags : ModelFlags {
  int64_t input_len = 32, output_len = 128, batch_size = 8, num_warmups = 2, num_iters = 10;
};

struct ThroughputFlags : ModelFlags {
  int64_t num_prompts = 0, num_prompts_random = 64;
  int64_t input_len = 128, output_len = 64;
  double range_ratio = 0;
  std::string trace;
  uint64_t seed = 0;
};

// Loaded model, measured limits, running engine; ends in the reverse order.
struct Bench {
  engine::LoadedModel loaded;
  std::optional<bench::MemoryProbe> memory;
  bench::Limits limits;
  std::optional<engine::Engine> engine;

  explicit Bench(ModelFlags& flags) {
    flags.output.check();
    if (flags.model.empty()) flags.model = builtin_model_path();
    loaded = engine::load(flags.model, flags.load);
    memory.emplace(*loaded.pool, engine::available_memory_bytes());
    limits = bench::measure_limits(*loaded.pool, *memory);
  }
  void start(const ModelFlags& flags, int64_t num_requests, int64_t longest, bool prefix_cache) {
    engine::EngineOptions options = flags.engine.resolve(loaded);
    options.enable_prefix_caching = options.enable_prefix_caching && prefix_cache;
    options.max_queue = std::max(options.max_queue, num_requests);
    if (options.max_model_len == 0) options.max_model_len = longest;
    engine.emplace(*loaded.model, *loaded.pool, options);
    if (!flags.output.json) print_bench_head(flags.model, loaded, limits);
  }
  // After what was measured: the machine can do at least what it did before or now.
  void measure_memory_again() {
    limits.read_bytes_per_second = std::max(limits.read_bytes_per_second, memory->measure());
  }
};

void run_latency(const CLI::App& command, LatencyFlags& flags) {
  make_room_for_batch(command, flags.engine, flags.batch_size, "--batch-size");
  Bench bench(flags);
  const int64_t longest = flags.input_len + flags.output_len;
  require_positions(bench.loaded, flags.engine, longest, "the batch", "--input-len or --output-len");
  const InterruptWatch watch;
  bench.start(flags, flags.batch_size, longest, false);  // a prefix cache would skip the prompts
  std::vector<double> latencies;
  ModelWork prompt_work, decode_work;
  for (int64_t i = 0; i < flags.num_warmups + flags.num_iters && !watch.is_interrupted(); ++i) {
    std::vector<BenchJob> jobs;
    for (int64_t k = 0; k < flags.batch_size; ++k) {
      jobs.push_back({random_prompt(flags.input_len, bench.loaded.model->vocab_size(), static_cast<uint64_t>(i),
                                    static_cast<uint64_t>(k)),
                      flags.output_len});
    }
    BenchRun run = run_jobs(*bench.engine, std::move(jobs), [&] { return watch.is_interrupted(); });
    if (i < flags.num_warmups || run.is_stopped) continue;
    latencies.push_back(run.seconds);
    prompt_work.seconds += run.prompt_seconds;
    prompt_work.prompt_tokens += static_cast<double>(run.prompt_tokens);
    decode_work.seconds += run.decode_seconds();
    decode_work.generated_tokens += static_cast<double>(run.decoded_tokens);
    decode_work.num_steps += static_cast<double>(run.num_decode_steps);
  }
  const bool is_interrupted = static_cast<int64_t>(latencies.size()) < flags.num_iters;
  bench.measure_memory_again();
  const bench::Summary summary = bench::summarize(latencies, kPercents);
  auto rate = [](double tokens, double seconds) { return seconds > 0 ? tokens / seconds : 0; };
  const double prompt_rate = rate(prompt_work.prompt_tokens, prompt_work.seconds);
  const double decode_rate = rate(decode_work.generated_tokens, decode_work.seconds);
  const ModelRates prompt = compute_rates(bench.loaded, bench.limits, prompt_work);
  const ModelRates decode = compute_rates(bench.loaded, bench.limits, decode_work);
  if (!flags.output.json) {
    std::printf("batch of %lld, %lld tokens in, %lld out, %zu iterations\n", static_cast<long long>(flags.batch_size),
                static_cast<long long>(flags.input_len), static_cast<long long>(flags.output_len), latencies.size());
    if (is_interrupted) {
      std::printf("Interrupted: %zu of %lld iterations are done\n", latencies.size(),
                  static_cast<long long>(flags.num_iters));
    }
    if (!latencies.empty()) {
      std::printf("Avg latency: %.4f seconds\nStd latency: %.4f seconds\n", summary.mean, summary.deviation);
      for (size_t i = 0; i < kPercents.size(); ++i) {
        std::printf("%.0f%% percentile latency: %.4f seconds\n", kPercents[i], summary.percentiles[i]);
      }
      std::printf("Prompts: %.1f tokens/s, %s\n", prompt_rate, describe_rates(prompt).c_str());
    }
    if (decode_rate > 0) std::printf("Decode: %.1f tokens/s, %s\n", decode_rate, describe_rates(decode).c_str());
  }
  json::object report = bench_head_json(flags.model, bench.loaded, bench.limits);
  report["batch_size"] = flags.batch_size;
  report["input_len"] = flags.input_len;
  report["output_len"] = flags.output_len;
  report["avg_latency"] = summary.mean;
  report["std_latency"] = summary.deviation;
  report["latencies"] = json::array(latencies.begin(), latencies.end());
  json::object percentiles;
  for (size_t i = 0; i < kPercents.size(); ++i) percentiles[fmt::format("{:g}", kPercents[i])] = summary.percentiles[i];
  report["percentiles"] = std::move(percentiles);
  report["prompt_tokens_per_second"] = prompt_rate;
  add_rates(report, "prompt_", prompt);
  report["decode_tokens_per_second"] = decode_rate;
  add_rates(report, "decode_", decode);
  report["interrupted"] = is_interrupted;
  flags.output.finish(report);
  if (is_interrupted) throw ExitCode{watch.exit_code()};
}

void run_throughput(ThroughputFlags& flags) {
  std::vector<bench::PlannedRequest> requests;
  if (!flags.trace.empty()) {
    requests = bench::parse_trace(read_file(flags.trace), flags.trace, 1, flags.num_prompts);
  } else {
    requests = bench::plan_random({.num_requests = flags.num_prompts > 0 ? flags.num_prompts : flags.num_prompts_random,
                                   .input_tokens = flags.input_len,
                                   .output_tokens = flags.output_len,
                                   .range_ratio = flags.range_ratio,
                                   .seed = flags.seed});
  }
  Bench bench(flags);
  const int64_t positions = find_max_positions(bench.loaded, flags.engine);
  const size_t num_given = requests.size();
  std::erase_if(requests, [&](const bench::PlannedRequest& request) {
    return request.prompt_tokens + request.output_tokens > positions;
  });
  const size_t num_skipped = num_given - requests.size();
  if (requests.empty()) {
    fail(Code::kInvalidArgument, "each of the {} requests is longer than the {} positions of {}; use shorter ones",
         num_given, positions, flags.model);
  }
  int64_t longest = 0;
  for (const auto& request : requests) longest = std::max(longest, request.prompt_tokens + request.output_tokens);
  const InterruptWatch watch;
  const auto should_stop = [&] { return watch.is_interrupted(); };
  bench.start(flags, static_cast<int64_t>(requests.size()), longest, true);

  bench::Prompts prompts{.seed = flags.seed};
  prompts.id_pool.resize(static_cast<size_t>(bench.loaded.model->vocab_size()));
  std::iota(prompts.id_pool.begin(), prompts.id_pool.end(), 0);
  const int64_t warmup_tokens = std::min<int64_t>(16, longest - 1);
  run_jobs(*bench.engine, {{random_prompt(warmup_tokens, bench.loaded.model->vocab_size(), flags.seed + 1, 0), 1}},
           should_stop);
  std::vector<BenchJob> jobs;
  for (size_t i = 0; i < requests.size(); ++i) jobs.push_back({prompts.ids(requests[i], i), requests[i].output_tokens});
  const BenchRun run = run_jobs(*bench.engine, std::move(jobs), should_stop);
  bench.measure_memory_again();
  const double requests_rate = run.seconds > 0 ? static_cast<double>(run.num_finished) / run.seconds : 0;
  const ModelRates rates = compute_rates(bench.loaded, bench.limits,
                                         {.seconds = run.seconds,
                                          .prompt_tokens = static_cast<double>(run.prompt_tokens),
                                          .generated_tokens = static_cast<double>(run.generated_tokens),
                                          .num_steps = static_cast<double>(run.num_steps)});
  if (!flags.output.json) {
    if (num_skipped > 0) {
      std::printf("Skipped: %zu of %zu requests are longer than %lld positions\n", num_skipped, num_given,
                  static_cast<long long>(positions));
    }
    if (run.is_stopped) {
      std::printf("Interrupted: %lld of %zu requests are done; the tokens are of all that had begun to answer\n",
                  static_cast<long long>(run.num_finished), requests.size());
    }
    std::printf("Throughput: %.2f requests/s, %.2f total tokens/s, %.2f output tokens/s\n", requests_rate,
                run.total_rate(), run.output_rate());
    std::printf("Requests: %lld in %.2f s\nTotal num prompt tokens: %lld\nTotal num output tokens: %lld\n",
                static_cast<long long>(run.num_finished), run.seconds, static_cast<long long>(run.prompt_tokens),
                static_cast<long long>(run.generated_tokens));
    std::printf("Steps: %lld, %s\n", static_cast<long long>(run.num_steps), describe_rates(rates).c_str());
  }
  json::object report = bench_head_json(flags.model, bench.loaded, bench.limits);
  report["num_requests"] = requests.size();
  report["finished_requests"] = run.num_finished;
  report["skipped_requests"] = num_skipped;
  report["elapsed_time"] = run.seconds;
  report["total_input_tokens"] = run.prompt_tokens;
  report["total_output_tokens"] = run.generated_tokens;
  report["requests_per_second"] = requests_rate;
  report["tokens_per_second"] = run.total_rate();
  report["output_tokens_per_second"] = run.output_rate();
  report["num_steps"] = run.num_steps;
  add_rates(report, "", rates);
  report["seed"] = flags.seed;
  report["interrupted"] = run.is_stopped;
  flags.output.finish(report);
  if (run.is_stopped) throw ExitCode{watch.exit_code()};
}

}  // namespace

void add_bench_latency(CLI::App& bench) {
  auto flags = std::make_shared<LatencyFlags>();
  CLI::App* command =
      bench.add_subcommand("latency", "Time one batch from its prompts to the last token, in this process");
  command->group("Modes");
  add_bench_model_options(*command, flags->model, flags->load, flags->engine, PrefixCache::kOff);
  const CLI::Validator lengths = whole_number(1, kBenchTokensMax);
  command->add_option("--input-len", flags->input_len, "prompt tokens of each sequence")
      ->check(lengths)
      ->capture_default_str();
  command->add_option("--output-len", flags->output_len, "tokens each generates")
      ->check(lengths)
      ->capture_default_str();
  command->add_option("--batch-size", flags->batch_size, "sequences in the batch")
      ->check(whole_number(1, kBenchSequencesMax))
      ->capture_default_str();
  command->add_option("--num-iters", flags->num_iters, "measured iterations")
      ->check(whole_number(1, 1'000'000))
      ->capture_default_str();
  command->add_option("--num-iters-warmup", flags->num_warmups, "iterations before that")
      ->check(whole_number(0, 1'000'000))
      ->capture_default_str();
  add_bench_output_flags(*command, flags->output);
  command->footer(
      "The prefix cache is off. Example:\n  sluice bench latency llama.gguf --input-len 512 --output-len 32 "
      "--batch-size 1");
  command->callback([flags, command] {
    reject_grid_options(*command);
    run_latency(*command, *flags);
  });
}

void add_bench_throughput(CLI::App& bench) {
  auto flags = std::make_shared<ThroughputFlags>();
  CLI::App* command =
      bench.add_subcommand("throughput", "Count requests done a second, all given at once, in this process");
  command->group("Modes");
  add_bench_model_options(*command, flags->model, flags->load, flags->engine, PrefixCache::kOptional);
  const CLI::Validator lengths = whole_number(1, kBenchTokensMax);
  command->add_option("--num-prompts", flags->num_prompts, "requests; default: 64, or all of the trace")
      ->check(whole_number(1, kBenchRequestsMax));
  auto* input =
      command->add_option("--input-len,--random-input-len", flags->input_len, "mean prompt tokens of a request");
  input->check(lengths)->capture_default_str();
  auto* output =
      command->add_option("--output-len,--random-output-len", flags->output_len, "mean tokens each generates");
  output->check(lengths)->capture_default_str();
  auto* ratio = command->add_option("--random-range-ratio", flags->range_ratio,
                                    "lengths are uniform in mean * (1 - N) to mean * (1 + N)");
  ratio->check(number(0, 1))->capture_default_str();
  command
      ->add_option("--trace", flags->trace,
                   "lengths from this CSV file instead, its times left aside; columns as in "
                   "TIMESTAMP,ContextTokens,GeneratedTokens")
      ->type_name("FILE.csv")
      ->check(is_not_empty)
      ->excludes(input)
      ->excludes(output)
      ->excludes(ratio);
  command->add_option("--seed", flags->seed, "of lengths and prompts")
      ->check(whole_number(0, INT64_MAX))
      ->capture_default_str();
  add_bench_output_flags(*command, flags->output);
  command->footer(
      "Example:\n  sluice bench throughput llama.gguf --num-prompts 100 --input-len 256 --output-len 64 "
      "--random-range-ratio 0.5");
  command->callback([flags, command] {
    reject_grid_options(*command);
    run_throughput(*flags);
  });
}

}  // namespace sluice::cli
