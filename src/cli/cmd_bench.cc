// sluice bench: how fast this machine runs a model, through the whole engine (schedule, forward, sample, hand over).
//
// Without a mode, two kinds of test, named as llama-bench names them: ppN computes a prompt of N tokens, tgN generates
// N tokens one after the other; @bK runs K sequences together and counts the tokens of all. Prompts are random ids, the
// prefix cache is off, sampling is greedy. Each test runs once to warm up and then --repetitions times; the memory's
// bandwidth is measured before and after it. The modes are in bench_serve.cc and bench_offline.cc.
#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "base/error.h"
#include "base/json.h"
#include "base/mmap.h"
#include "base/trace.h"
#include "bench/limits.h"
#include "bench/statistics.h"
#include "cli/bench_engine.h"
#include "cli/bench_interrupt.h"
#include "cli/bench_options.h"
#include "cli/bench_report.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "kernels/kernels.h"
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

  bool is_decode() const { return num_generated > 1; }
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

// Steps in which the prompts of a decoding test are computed, at most: sequences that begin in the first of them have
// to go on so much longer, to be there in each step that counts.
int64_t count_head_start(const Test& test, int64_t tokens_a_step) {
  if (!test.is_decode()) return 0;
  const int64_t room = std::max<int64_t>(1, tokens_a_step - test.batch);
  return (test.batch * test.num_prompt + room - 1) / room;
}

// Tokens of a sequence of the test.
int64_t count_positions(const Test& test, int64_t tokens_a_step) {
  return test.num_prompt + test.num_generated + count_head_start(test, tokens_a_step);
}

BenchRun run_test(engine::Engine& engine, int64_t vocabulary, const Test& test, int64_t tokens_a_step, uint64_t seed,
                  const InterruptWatch& watch) {
  std::vector<BenchJob> jobs;
  const int64_t num_generated = test.num_generated + count_head_start(test, tokens_a_step);
  for (int64_t i = 0; i < test.batch; ++i) {
    jobs.push_back({random_prompt(test.num_prompt, vocabulary, seed, static_cast<uint64_t>(i)), num_generated});
  }
  return run_jobs(engine, std::move(jobs), [&] { return watch.is_interrupted(); }, test.num_generated - 1);
}

// Memory for the keys and values of all sequences of a test at once, or its name would be a lie.
void require_pages(const engine::Engine& engine, const std::vector<Test>& tests, int64_t tokens_a_step) {
  for (const Test& test : tests) {
    const int64_t pages = test.batch * ((count_positions(test, tokens_a_step) + kernels::kPageSize - 1) / kernels::kPageSize);
    if (pages <= engine.stats().num_pages) continue;
    fail(Code::kResourceExhausted, "{} needs {} pages of KV memory and there are {}: lower --batch, -p, -n or -d, or raise "
         "--kv-cache-memory", test.name, pages, engine.stats().num_pages);
  }
}

struct Row {
  Test test;
  std::vector<double> runs;     // tokens/s: of prompts, or of what came after the last sequence had its first token
  int64_t num_tokens = 0, num_steps = 0;  // that those are of
  double read_bytes_per_second = 0;       // of memory, the most that was measured until now

  bool is_decode() const { return test.is_decode(); }
  void add(const BenchRun& run) {
    runs.push_back(is_decode() ? run.decode_rate() : run.prompt_rate());
    num_tokens += is_decode() ? run.decoded_tokens : run.prompt_tokens;
    num_steps += is_decode() ? run.num_decode_steps : run.num_steps;
  }
};

// Prompts compute for many tokens what they read, which is no measure of the memory.
ModelRates compute_row_rates(const Row& row, const engine::LoadedModel& loaded, bench::Limits limits) {
  const double rate = bench::mean_of(row.runs);
  limits.read_bytes_per_second = row.read_bytes_per_second;
  if (!row.is_decode()) return compute_rates(loaded, limits, {.seconds = 1, .prompt_tokens = rate});
  const double tokens_a_step = static_cast<double>(row.num_tokens) / static_cast<double>(row.num_steps);
  return compute_rates(loaded, limits,
                       {.seconds = 1, .generated_tokens = rate, .num_steps = rate / tokens_a_step});
}

void print_row(const Row& row, const ModelRates& rates) {
  std::printf("%-16s %10.1f %8.1f %12s %10s %14s %8s\n", row.test.name.c_str(), bench::mean_of(row.runs),
              bench::sample_deviation_of(row.runs),
              row.is_decode() ? fmt::format("{:.1f} GB/s", rates.weights_per_second / 1e9).c_str() : "",
              row.is_decode() ? format_percent(rates.bandwidth_percent).c_str() : "",
              format_operations(rates.operations_per_second).c_str(), format_percent(rates.peak_percent).c_str());
  std::fflush(stdout);
}

json::object row_json(const Row& row, const ModelRates& rates) {
  json::object object{{"test", row.test.name},
                      {"batch", row.test.batch},
                      {"prompt_tokens", row.test.num_prompt},
                      {"generated_tokens", row.test.num_generated},
                      {"tokens_per_second", bench::mean_of(row.runs)},
                      {"deviation", bench::sample_deviation_of(row.runs)},
                      {"runs", json::array(row.runs.begin(), row.runs.end())},
                      {"read_gb_per_second", row.read_bytes_per_second / 1e9}};
  add_rates(object, "", rates);
  return object;
}

void check_options(const CLI::App& command, Flags& flags, const std::vector<Test>& tests) {
  if (tests.empty()) throw UsageError{"nothing to test: give -p or -n a number above 0 (see sluice bench --help)"};
  const bool has_decode = std::any_of(tests.begin(), tests.end(), [](const Test& t) { return t.num_generated > 1; });
  if (!has_decode) reject_with(command, "--depth", "--n-gen 0", "it lies before the tokens that are generated");
  make_room_for_batch(command, flags.engine, *std::max_element(flags.batches.begin(), flags.batches.end()), "--batch");
  if (flags.model.empty()) {
    flags.model = builtin_model_path();
  } else {
    reject_unknown_mode(flags.model);
  }
}

void run(const CLI::App& command, Flags& flags) {
  const std::vector<Test> tests = list_tests(flags);
  check_options(command, flags, tests);
  flags.output.check();
  if (!flags.trace.empty()) {
    // In the modes --trace is a load that is read.
    if (std::filesystem::exists(flags.trace) && !read_file(flags.trace).starts_with("{\"traceEvents\"")) {
      throw UsageError{"--trace " + flags.trace + ": the file is there and holds no trace of Perfetto; it would be lost"};
    }
    trace::enable();
  }
  engine::LoadedModel loaded = engine::load(flags.model, flags.load);
  int64_t longest = 0;
  const int64_t tokens_a_step = flags.engine.options.max_num_batched_tokens;
  for (const Test& test : tests) longest = std::max(longest, count_positions(test, tokens_a_step));
  require_positions(loaded, flags.engine, longest, "the longest test", "-p, -n or -d");
  bench::MemoryProbe memory(*loaded.pool, engine::available_memory_bytes());
  const bench::Limits limits = bench::measure_limits(*loaded.pool, memory);
  engine::EngineOptions options = flags.engine.resolve(loaded);
  options.enable_prefix_caching = false;
  options.max_queue = std::max(options.max_queue, options.max_num_seqs);
  if (options.max_model_len == 0) options.max_model_len = longest;
  engine::Engine engine(*loaded.model, *loaded.pool, options);
  require_pages(engine, tests, tokens_a_step);
  const InterruptWatch watch;
  if (!flags.output.json) {
    print_bench_head(flags.model, loaded, limits);
    std::printf("%-16s %10s %8s %12s %10s %14s %8s\n", "test", "tokens/s", "+/-", "weights", "of memory", "arithmetic",
                "of peak");
  }

  json::array rows;
  uint64_t seed = 1;
  double most_read = limits.read_bytes_per_second;
  for (const Test& test : tests) {
    Row row{.test = test};
    BenchRun last = run_test(engine, loaded.model->vocab_size(), test, tokens_a_step, seed++, watch);
    for (int64_t i = 0; i < flags.repetitions && !last.is_stopped && !watch.is_interrupted(); ++i) {
      last = run_test(engine, loaded.model->vocab_size(), test, tokens_a_step, seed++, watch);
      if (!last.is_stopped) row.add(last);
    }
    if (!row.runs.empty()) {
      row.read_bytes_per_second = most_read = std::max(most_read, memory.measure());
      const ModelRates rates = compute_row_rates(row, loaded, limits);
      rows.push_back(row_json(row, rates));
      if (!flags.output.json) print_row(row, rates);
    }
    if (watch.is_interrupted()) break;
  }
  if (!flags.output.json && most_read > limits.read_bytes_per_second) {
    std::printf("reads reached %.1f GB/s meanwhile, of which the shares after that are\n", most_read / 1e9);
  }
  if (watch.is_interrupted() && !flags.output.json) {
    std::printf("Interrupted: %zu of %zu tests have figures, the last perhaps of fewer runs\n", rows.size(),
                tests.size());
  }
  json::object report = bench_head_json(flags.model, loaded, limits);
  report["interrupted"] = watch.is_interrupted();
  report["tests"] = std::move(rows);
  flags.output.finish(report);
  if (!flags.trace.empty()) trace::save(flags.trace);
  if (watch.is_interrupted()) throw ExitCode{watch.exit_code()};
}

}  // namespace

void add_bench(CLI::App& parent) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = parent.add_subcommand("bench", "Measure prompt and generation speed, or load a server");
  add_bench_model_options(*command, flags->model, flags->load, flags->engine, PrefixCache::kOff);
  const CLI::Validator lengths = whole_number(0, kBenchTokensMax);
  command->add_option("-p,--n-prompt", flags->prompts, "prompt lengths to test, such as 128,512; 0: none")
      ->delimiter(',')->allow_extra_args(false)->check(lengths)->capture_default_str();
  command->add_option("-n,--n-gen", flags->generations, "numbers of tokens to generate; 0: none")
      ->delimiter(',')->allow_extra_args(false)->check(lengths)->capture_default_str();
  command->add_option("-b,--batch", flags->batches, "numbers of sequences to run together, such as 1,8,32")
      ->delimiter(',')->allow_extra_args(false)->check(whole_number(1, kBenchSequencesMax))->capture_default_str();
  command->add_option("-d,--depth", flags->depth, "tokens in the context before generation starts")
      ->check(lengths)->capture_default_str();
  command->add_option("-r,--repetitions", flags->repetitions, "measured runs of each test")
      ->check(whole_number(1, 1'000'000))->capture_default_str();
  command->add_option("--trace", flags->trace, "write a trace for Perfetto to this file")
      ->type_name("FILE")->check(is_not_empty);
  add_bench_output_flags(*command, flags->output);
  add_bench_serve(*command);
  add_bench_latency(*command);
  add_bench_throughput(*command);
  add_bench_graph(*command);
  command->footer("Without a mode: ppN computes a prompt of N tokens, tgN generates N tokens; @dK after K others,\n"
                  "@bK for K sequences together. Weights and arithmetic stand beside what the machine was just\n"
                  "measured to do at most. Ctrl-C ends it early with what is measured until then.\n"
                  "An ONNX or TFLite model, or a plan, has options of its own: sluice bench graph --help.\n"
                  "Examples:\n"
                  "  sluice bench llama.gguf -p 512 -n 128 -b 1,8\n"
                  "  sluice bench resnet50.onnx --shapes input:8x3x224x224\n"
                  "  sluice bench serve --url http://127.0.0.1:8000 --concurrency 16");
  command->callback([flags, command] {
    if (command->get_subcommands().empty()) run(*command, *flags);
  });
}

}  // namespace sluice::cli
