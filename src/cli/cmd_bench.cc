// sluice bench: how fast this machine runs a model, through the whole engine (schedule, forward, sample, hand over).
//
// Two kinds of test, named as llama-bench names them: ppN computes a prompt of N tokens, tgN generates N tokens one
// after the other; @bK runs K sequences together and counts the tokens of all. Prompts are random ids, the prefix cache
// is off, sampling is greedy. Each test runs once to warm up and then --repetitions times.
#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <mutex>

#include "base/build_info.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/json.h"
#include "base/random.h"
#include "base/trace.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "kernels/cpu.h"
#include "kernels/kernels.h"

namespace sluice::cli {
namespace {

struct Flags {
  std::string model, trace;
  std::vector<int64_t> prompts{512}, generations{128}, batches{1};
  int64_t depth = 0, repetitions = 5;
  bool json = false;
  engine::LoadOptions load;
  EngineFlags engine;
};

struct Result {
  std::string name;
  int64_t batch = 1;
  std::vector<double> rates;  // tokens/s, one a repetition
  double mean() const {
    double sum = 0;
    for (double rate : rates) sum += rate;
    return sum / static_cast<double>(rates.size());
  }
  double deviation() const {
    double sum = 0;
    for (double rate : rates) sum += (rate - mean()) * (rate - mean());
    return rates.size() > 1 ? std::sqrt(sum / static_cast<double>(rates.size() - 1)) : 0;
  }
};

// Runs `batch` requests to their end and returns tokens/s: of the prompts if num_generated is 1, else of what was
// generated after the last sequence had its first token.
double measure(engine::Engine& engine, int64_t vocabulary, int64_t batch, int64_t num_prompt, int64_t num_generated,
               uint64_t seed) {
  struct Shared {
    std::mutex mutex;
    std::condition_variable done;
    int64_t num_left = 0, first_us = 0, last_us = 0;
    std::vector<int64_t> token_times;
    std::optional<Error> error;
  } shared;
  shared.num_left = batch;
  int64_t start = monotonic_us();
  for (int64_t i = 0; i < batch; ++i) {
    Random random(seed, static_cast<uint64_t>(i));
    engine::Request request;
    request.id = fmt::format("bench-{}-{}", seed, i);
    for (int64_t k = 0; k < num_prompt; ++k) {
      request.prompt.push_back(static_cast<int32_t>(random.below(static_cast<uint64_t>(vocabulary))));
    }
    request.sampling.temperature = 0;
    request.sampling.ignore_eos = true;
    request.sampling.max_tokens = num_generated;
    request.sink = [&shared](engine::Event&& event) {
      std::lock_guard lock(shared.mutex);
      int64_t now = monotonic_us();
      for (size_t k = 0; k < event.tokens.size(); ++k) shared.token_times.push_back(now);
      if (event.timings.first_token_us > shared.first_us) shared.first_us = event.timings.first_token_us;
      if (event.error) shared.error = event.error;
      if (!event.is_last) return;
      shared.last_us = now;
      if (--shared.num_left == 0) shared.done.notify_one();
    };
    if (engine.submit(std::move(request)) != engine::SubmitResult::kAccepted) {
      fail(Code::kResourceExhausted, "the engine refused {} sequences at once; raise --max-queue", batch);
    }
  }
  std::unique_lock lock(shared.mutex);
  shared.done.wait(lock, [&] { return shared.num_left == 0; });
  if (shared.error) throw *shared.error;
  if (num_generated == 1) return static_cast<double>(batch * num_prompt) / (static_cast<double>(shared.last_us - start) / 1e6);
  int64_t counted = 0;
  for (int64_t time : shared.token_times) counted += time > shared.first_us ? 1 : 0;
  // Tokens of the step that set first_us carry a slightly later stamp; they belong before the clock starts.
  counted = std::min(counted, batch * (num_generated - 1));
  return static_cast<double>(counted) / (static_cast<double>(shared.last_us - shared.first_us) / 1e6);
}

void print_header(const engine::LoadedModel& loaded, const Flags& flags) {
  std::printf("sluice %s, %s\n", build_commit().c_str(), build_type().c_str());
  std::printf("cpu    %s, %s kernels, %d threads\n", kernels::get_cpu().model_name.c_str(), kernels::get_kernels().isa,
              loaded.pool->num_threads());
  std::printf("model  %s (%s, %s)\n", flags.model.c_str(), loaded.model->description().c_str(),
              format_bytes(loaded.model->weight_bytes()).c_str());
  std::printf("load   %.2f s\n\n%-16s %12s %10s %12s\n", loaded.load_seconds, "test", "tokens/s", "+/-", "weights");
}

void run(Flags& flags) {
  if (flags.model.empty()) flags.model = builtin_model_path();
  if (!flags.trace.empty()) trace::enable();
  engine::LoadedModel loaded = engine::load(flags.model, flags.load);
  int64_t longest = 0, widest = 0;
  for (int64_t n : flags.prompts) longest = std::max(longest, n);
  for (int64_t n : flags.generations) longest = std::max(longest, n + flags.depth + 1);
  for (int64_t n : flags.batches) widest = std::max(widest, n);
  if (longest + 1 > loaded.model->max_positions()) {
    fail(Code::kInvalidArgument, "the tests need {} positions, {} has {}; lower -p, -n or -d", longest + 1, flags.model,
         loaded.model->max_positions());
  }
  engine::EngineOptions options = flags.engine.resolve(loaded);
  options.enable_prefix_caching = false;
  options.max_num_seqs = std::max(options.max_num_seqs, widest);
  options.max_queue = std::max(options.max_queue, widest);
  options.max_model_len = longest + 1;
  engine::Engine engine(*loaded.model, *loaded.pool, options);
  if (!flags.json) print_header(loaded, flags);

  json::array rows;
  uint64_t seed = 1;
  auto test = [&](const std::string& name, int64_t batch, int64_t num_prompt, int64_t num_generated) {
    Result result{fmt::format("{}{}", name, batch > 1 ? fmt::format("@b{}", batch) : ""), batch, {}};
    measure(engine, loaded.model->vocab_size(), batch, num_prompt, num_generated, seed++);
    for (int64_t i = 0; i < flags.repetitions; ++i) {
      result.rates.push_back(measure(engine, loaded.model->vocab_size(), batch, num_prompt, num_generated, seed++));
    }
    // Generating one token for each of `batch` sequences reads the weights once.
    double weight_rate = result.mean() / static_cast<double>(batch) * static_cast<double>(loaded.model->weight_bytes());
    if (flags.json) {
      rows.push_back(json::object{{"test", result.name}, {"batch", batch}, {"prompt_tokens", num_prompt},
                                  {"generated_tokens", num_generated}, {"tokens_per_second", result.mean()},
                                  {"deviation", result.deviation()}, {"runs", json::array(result.rates.begin(), result.rates.end())}});
    } else {
      std::printf("%-16s %12.1f %10.1f %12s\n", result.name.c_str(), result.mean(), result.deviation(),
                  num_generated > 1 ? fmt::format("{:.1f} GB/s", weight_rate / 1e9).c_str() : "");
      std::fflush(stdout);
    }
  };
  for (int64_t batch : flags.batches) {
    for (int64_t n : flags.prompts) {
      if (n > 0) test(fmt::format("pp{}", n), batch, n, 1);
    }
    for (int64_t n : flags.generations) {
      if (n > 0) test(flags.depth > 0 ? fmt::format("tg{}@d{}", n, flags.depth) : fmt::format("tg{}", n), batch,
                      flags.depth + 1, n + 1);
    }
  }
  if (flags.json) {
    std::printf("%s\n", json::serialize(json::object{{"commit", build_commit()}, {"build", build_type()},
                                                     {"cpu", kernels::get_cpu().model_name}, {"isa", kernels::get_kernels().isa},
                                                     {"threads", loaded.pool->num_threads()}, {"model", flags.model},
                                                     {"description", loaded.model->description()},
                                                     {"weight_bytes", loaded.model->weight_bytes()},
                                                     {"load_seconds", loaded.load_seconds}, {"tests", rows}}).c_str());
  }
  if (!flags.trace.empty()) trace::save(flags.trace);
}

}  // namespace

void add_bench(CLI::App& parent) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = parent.add_subcommand("bench", "Measure prompt and generation speed");
  command->add_option("model,-m,--model", flags->model, "GGUF file or Hugging Face folder; default: the built-in model");
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
  command->add_flag("--json", flags->json, "print one JSON object");
  command->add_option("--trace", flags->trace, "write a trace for Perfetto to this file");
  add_load_flags(*command, flags->load);
  add_engine_flags(*command, flags->engine);
  command->callback([flags] { run(*flags); });
}

}  // namespace sluice::cli
