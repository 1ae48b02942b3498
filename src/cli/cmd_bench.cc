// sluice bench: how fast this machine runs a model, through the whole engine (schedule, forward, sample, hand over).
//
// Without a mode, two kinds of test, named as llama-bench names them: ppN computes a prompt of N tokens, tgN generates
// N tokens one after the other; @bK runs K sequences together and counts the tokens of all. Prompts are random ids, the
// prefix cache is off, sampling is greedy. Each test runs once to warm up and then --repetitions times. The modes are
// in bench_serve.cc and bench_offline.cc.
#include <cstdio>

#include "base/error.h"
#include "base/json.h"
#include "base/trace.h"
#include "bench/statistics.h"
#include "cli/bench_engine.h"
#include "cli/bench_report.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "engine/kv_memory.h"

namespace sluice::cli {
namespace {

struct Flags {
  std::string model, trace;
  std::vector<int64_t> prompts{512}, generations{128}, batches{1};
  int64_t depth = 0, repetitions = 5;
  BenchOutput output;
  engine::LoadOptions load;
  EngineFlags engine;
};

struct Test {
  std::string name;
  int64_t batch = 1, num_prompt = 0, num_generated = 1;  // one generated: the prompt is what is measured
};

std::vector<Test> list_tests(const Flags& flags) {
  std::vector<Test> tests;
  for (int64_t batch : flags.batches) {
    const std::string suffix = batch > 1 ? fmt::format("@b{}", batch) : "";
    for (int64_t n : flags.prompts) {
      if (n > 0) tests.push_back({fmt::format("pp{}{}", n, suffix), batch, n, 1});
    }
    const std::string depth = flags.depth > 0 ? fmt::format("@d{}", flags.depth) : "";
    for (int64_t n : flags.generations) {
      if (n > 0) tests.push_back({fmt::format("tg{}{}{}", n, depth, suffix), batch, flags.depth + 1, n + 1});
    }
  }
  return tests;
}

// Tokens/s: of the prompts, or of what was generated after the last sequence had its first token.
double measure(engine::Engine& engine, int64_t vocabulary, const Test& test, uint64_t seed) {
  std::vector<BenchJob> jobs;
  for (int64_t i = 0; i < test.batch; ++i) {
    jobs.push_back({random_prompt(test.num_prompt, vocabulary, seed, static_cast<uint64_t>(i)), test.num_generated});
  }
  BenchRun run = run_jobs(engine, std::move(jobs));
  return test.num_generated == 1 ? run.prompt_rate() : run.decode_rate();
}

void run(Flags& flags) {
  flags.output.check();
  std::vector<Test> tests = list_tests(flags);
  if (tests.empty()) throw UsageError{"nothing to test: give -p or -n a number above 0 (see sluice bench --help)"};
  if (flags.model.empty()) flags.model = builtin_model_path();
  if (!flags.trace.empty()) trace::enable();
  engine::LoadedModel loaded = engine::load(flags.model, flags.load);
  int64_t longest = 0, widest = 0;
  for (const Test& test : tests) {
    longest = std::max(longest, test.num_prompt + test.num_generated);
    widest = std::max(widest, test.batch);
  }
  require_positions(loaded, flags.engine, longest, "the longest test", "-p, -n or -d");
  const bench::Limits limits = bench::measure_limits(*loaded.pool, engine::available_memory_bytes());
  engine::EngineOptions options = flags.engine.resolve(loaded);
  options.enable_prefix_caching = false;
  options.max_num_seqs = std::max(options.max_num_seqs, widest);
  options.max_queue = std::max(options.max_queue, widest);
  if (options.max_model_len == 0) options.max_model_len = longest;
  engine::Engine engine(*loaded.model, *loaded.pool, options);
  if (!flags.output.json) {
    print_bench_head(flags.model, loaded, limits);
    std::printf("%-16s %10s %8s %12s %10s %14s %8s\n", "test", "tokens/s", "+/-", "weights", "of memory", "arithmetic",
                "of peak");
  }

  json::array rows;
  uint64_t seed = 1;
  for (const Test& test : tests) {
    measure(engine, loaded.model->vocab_size(), test, seed++);
    std::vector<double> runs;
    for (int64_t i = 0; i < flags.repetitions; ++i) {
      runs.push_back(measure(engine, loaded.model->vocab_size(), test, seed++));
    }
    const double rate = bench::mean_of(runs), deviation = bench::sample_deviation_of(runs);
    const bool is_decode = test.num_generated > 1;
    // Generating one token for each sequence reads the weights once; a prompt has no such steps.
    const ModelRates rates = is_decode ? compute_rates(loaded, limits, 0, rate, test.batch)
                                       : compute_rates(loaded, limits, rate, 0, 0);
    rows.push_back(json::object{
        {"test", test.name}, {"batch", test.batch}, {"prompt_tokens", test.num_prompt},
        {"generated_tokens", test.num_generated}, {"tokens_per_second", rate}, {"deviation", deviation},
        {"runs", json::array(runs.begin(), runs.end())},
        {"weights_gb_per_second", is_decode ? json::value(rates.weights_per_second / 1e9) : json::value(nullptr)},
        {"bandwidth_percent", rates.bandwidth_percent > 0 ? json::value(rates.bandwidth_percent) : json::value()},
        {"gflops", rates.operations_per_second / 1e9}, {"peak_percent", rates.peak_percent}});
    if (flags.output.json) continue;
    std::printf("%-16s %10.1f %8.1f %12s %10s %14s %8s\n", test.name.c_str(), rate, deviation,
                is_decode ? fmt::format("{:.1f} GB/s", rates.weights_per_second / 1e9).c_str() : "",
                is_decode ? format_percent(rates.bandwidth_percent).c_str() : "",
                format_operations(rates.operations_per_second).c_str(), format_percent(rates.peak_percent).c_str());
    std::fflush(stdout);
  }
  json::object report = bench_head_json(flags.model, loaded, limits);
  report["tests"] = std::move(rows);
  flags.output.finish(report);
  if (!flags.trace.empty()) trace::save(flags.trace);
}

}  // namespace

void add_bench(CLI::App& parent) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = parent.add_subcommand("bench", "Measure prompt and generation speed, or load a server");
  add_bench_model_option(*command, flags->model);
  command->add_option("-p,--n-prompt", flags->prompts, "prompt lengths to test, such as 128,512; 0: none")
      ->delimiter(',')->allow_extra_args(false)->check(CLI::NonNegativeNumber)->capture_default_str();
  command->add_option("-n,--n-gen", flags->generations, "numbers of tokens to generate; 0: none")
      ->delimiter(',')->allow_extra_args(false)->check(CLI::NonNegativeNumber)->capture_default_str();
  command->add_option("-b,--batch", flags->batches, "numbers of sequences to run together, such as 1,8,32")
      ->delimiter(',')->allow_extra_args(false)->check(CLI::PositiveNumber)->capture_default_str();
  command->add_option("-d,--depth", flags->depth, "tokens in the context before generation starts")
      ->check(CLI::NonNegativeNumber)->capture_default_str();
  command->add_option("-r,--repetitions", flags->repetitions, "measured runs of each test")
      ->check(CLI::PositiveNumber)->capture_default_str();
  command->add_option("--trace", flags->trace, "write a trace for Perfetto to this file")->type_name("FILE");
  add_bench_output_flags(*command, flags->output);
  add_load_flags(*command, flags->load);
  add_engine_flags(*command, flags->engine);
  add_bench_serve(*command);
  add_bench_latency(*command);
  add_bench_throughput(*command);
  command->footer("Without a mode: ppN computes a prompt of N tokens, tgN generates N tokens; @dK after K others,\n"
                  "@bK for K sequences together. Weights and arithmetic stand beside what the machine was just\n"
                  "measured to do at most.\n"
                  "Examples:\n"
                  "  sluice bench llama.gguf -p 512 -n 128 -b 1,8\n"
                  "  sluice bench serve --url http://127.0.0.1:8000 --concurrency 16");
  command->callback([flags, command] {
    if (command->get_subcommands().empty()) run(*flags);
  });
}

}  // namespace sluice::cli
