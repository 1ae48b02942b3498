// What the engine adds to a step, apart from the model: the thread pool's barrier, sampling, and the whole loop around
// a model that computes nothing.
//
//   engine_bench [--benchmark_filter=sample/]     all, or some; wall-clock times, the least of the repetitions counts
//
// `barrier/gap_us:N` starts an empty job on every worker after N us of work on worker 0, as between two products or two
// steps, and times the job alone; cpu_share is the processor time of the whole loop over its wall time (of 2 threads: 2
// means that nobody sleeps). `products` are jobs of many chunks, with busy threads of others beside the pool;
// `two_pools` are two of them used by two threads at once. `sample/WHAT/LOGITS` picks a token for each of 32 sequences
// from a vocabulary of 150k; on a busy machine look at the CPU column of threads:1. `step` is a generating step of the
// engine, hand-over of the events included, with logits that are there already.
#include <benchmark/benchmark.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <thread>

#include "base/clock.h"
#include "base/log.h"
#include "base/random.h"
#include "engine/engine.h"
#include "engine/sampler.h"
#include "kernels/kernels.h"

namespace sluice::engine {
namespace {

constexpr int kThreads = 2;
constexpr int64_t kLargeVocabulary = 150'000;

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double cpu_seconds() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

void work_for(double seconds) {
  for (double begin = seconds_now(); seconds_now() - begin < seconds;) {
  }
}

void run_barriers(benchmark::State& state, ThreadPool& pool, double gap_seconds) {
  std::vector<double> times;
  double begin = seconds_now(), cpu = cpu_seconds();
  for (auto _ : state) {
    if (gap_seconds > 0) work_for(gap_seconds);
    double start = seconds_now();
    pool.run([](int) {});
    times.push_back(seconds_now() - start);
    state.SetIterationTime(times.back());
  }
  state.counters["cpu_share"] = (cpu_seconds() - cpu) / (seconds_now() - begin);
  std::sort(times.begin(), times.end());
  state.counters["median_us"] = times[times.size() / 2] * 1e6;
}

void barrier(benchmark::State& state) {
  ThreadPool pool(kThreads);
  run_barriers(state, pool, static_cast<double>(state.range(0)) * 1e-6);
}

// Jobs as the products of a layer are, 20 chunks of 5 us: 50 us each over two undisturbed threads. Beside them, busy
// threads of others.
void products(benchmark::State& state) {
  ThreadPool pool(static_cast<int>(state.range(0)));
  std::atomic<bool> stop{false};
  std::vector<std::thread> neighbours;
  for (int64_t i = 0; i < state.range(1); ++i)
    neighbours.emplace_back([&] {
      while (!stop.load(std::memory_order_relaxed)) {
      }
    });
  for (auto _ : state)
    pool.parallel_for(20, 1, [](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) work_for(5e-6);
    });
  stop = true;
  for (std::thread& thread : neighbours) thread.join();
}

// Two pools used by two threads, as two busy models: jobs of 50 us of work on each worker.
void two_pools(benchmark::State& state) {
  ThreadPool first(kThreads), second(kThreads);
  std::atomic<bool> stop{false};
  auto job = [](int) { work_for(50e-6); };
  std::thread other([&] {
    while (!stop.load(std::memory_order_relaxed)) second.run(job);
  });
  for (auto _ : state) {
    double start = seconds_now();
    first.run(job);
    state.SetIterationTime(seconds_now() - start);
  }
  stop = true;
  other.join();
}

double least(const std::vector<double>& values) {
  return *std::min_element(values.begin(), values.end());
}

std::vector<float> make_logits(int64_t vocab_size, double deviation, uint64_t seed) {
  Random random(seed);
  std::vector<float> logits(static_cast<size_t>(vocab_size));
  for (float& logit : logits) {
    double normal = std::sqrt(-2 * std::log(1 - random.uniform())) * std::cos(2 * M_PI * random.uniform());
    logit = static_cast<float>(normal * deviation);
  }
  return logits;
}

struct Sampling {
  const char* name;
  SamplingParams params;
};

std::vector<Sampling> samplings() {
  std::vector<Sampling> all;
  auto add = [&](const char* name, const std::function<void(SamplingParams&)>& change) {
    SamplingParams params;
    change(params);
    all.push_back({name, params});
  };
  add("greedy", [](auto& p) { p.temperature = 0; });
  add("temperature", [](auto&) {});
  add("top_k40", [](auto& p) { p.top_k = 40; });
  add("top_p95", [](auto& p) { p.top_p = 0.95; });
  add("top_k40_top_p95", [](auto& p) { p.top_k = 40, p.top_p = 0.95; });
  add("min_p05", [](auto& p) { p.min_p = 0.05; });
  add("typical90", [](auto& p) { p.typical_p = 0.9; });
  add("penalties", [](auto& p) {
    p.repetition_penalty = 1.1, p.frequency_penalty = 0.2, p.presence_penalty = 0.1, p.top_k = 40;
  });
  add("greedy_logprobs20", [](auto& p) { p.temperature = 0, p.num_logprobs = 20; });
  return all;
}

// 32 sequences of 500 tokens.
void sample(benchmark::State& state, const SamplingParams& params, double deviation) {
  constexpr size_t kSequences = 32;
  ThreadPool pool(static_cast<int>(state.range(0)));
  Sampler sampler(kLargeVocabulary, {});
  std::vector<Sampler::Scratch> scratches(kThreads);
  std::vector<std::vector<float>> rows;
  std::vector<std::unique_ptr<RequestState>> requests;
  for (size_t i = 0; i < kSequences; ++i) {
    rows.push_back(make_logits(kLargeVocabulary, deviation, i));
    Request request;
    request.sampling = params;
    Random random(i);
    for (int token = 0; token < 500; ++token)
      request.prompt.push_back(static_cast<int32_t>(random.below(kLargeVocabulary)));
    requests.push_back(make_request_state(std::move(request), i));
  }
  for (auto _ : state) {
    pool.parallel_for(kSequences, 1, [&](int64_t begin, int64_t end, int worker) {
      for (size_t i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
        Sampler::Scratch& scratch = scratches[static_cast<size_t>(worker)];
        int32_t token = sampler.pick(rows[i].data(), *requests[i]->sequences.front(), scratch);
        benchmark::DoNotOptimize(token);
        if (params.num_logprobs == kNoLogprobs) continue;
        benchmark::DoNotOptimize(sampler.score(rows[i].data(), token, params.num_logprobs, scratch));
      }
    });
  }
}

// A model whose logits are the same at every step: it writes them where it has not yet.
class FixedModel : public llm::Model {
 public:
  explicit FixedModel(int64_t vocab_size) : vocab_size_(vocab_size), row_(make_logits(vocab_size, 2, 1)) {}

  int64_t vocab_size() const override { return vocab_size_; }
  int64_t max_positions() const override { return 8192; }
  llm::KvLayout kv_layout(DType) const override {
    return {.num_layers = 1, .num_kv_heads = 1, .head_dim = 2, .type = DType::kF32};
  }
  std::string description() const override { return "fixed"; }
  int64_t num_parameters() const override { return 0; }
  int64_t weight_bytes() const override { return 0; }
  void forward(const llm::Batch& batch, llm::KvStore&, float* logits) override {
    wait_until_open();
    if (logits != written_) num_written_ = 0;
    written_ = logits;
    for (; num_written_ < batch.logit_tokens.size(); ++num_written_)
      std::memcpy(logits + static_cast<int64_t>(num_written_) * vocab_size_, row_.data(),
                  row_.size() * sizeof(float));
  }
  void set_open(bool is_open) {
    std::lock_guard lock(mutex_);
    is_open_ = is_open;
    changed_.notify_all();
  }

 private:
  void wait_until_open() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return is_open_; });
  }

  const int64_t vocab_size_;
  const std::vector<float> row_;
  const float* written_ = nullptr;
  size_t num_written_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool is_open_ = true;
};

void step(benchmark::State& state, const SamplingParams& params) {
  const int64_t vocab_size = state.range(0), batch = state.range(1);
  FixedModel model(vocab_size);
  ThreadPool pool(kThreads);
  const int64_t num_steps = std::clamp<int64_t>(400'000'000 / (vocab_size * batch), 20, 2000);
  EngineOptions options;
  options.max_num_seqs = batch;
  options.max_model_len = 4096;
  options.kv_cache_memory_bytes =
      batch * (num_steps / 16 + 2) * model.kv_layout(DType::kF32).page_bytes() + (1 << 20);
  Engine engine(model, pool, options);
  for (auto _ : state) {
    model.set_open(false);
    for (int64_t i = 0; i < batch; ++i) {
      Request request;
      request.id = std::to_string(i);
      request.prompt = {1, 2, static_cast<int32_t>(i % vocab_size)};
      request.sampling = params;
      request.sampling.ignore_eos = true;
      request.sampling.max_tokens = num_steps;
      request.sink = [](Event&& event) { benchmark::DoNotOptimize(event.tokens.data()); };
      if (engine.submit(std::move(request)) != SubmitResult::kAccepted) state.SkipWithError("refused");
    }
    int64_t steps_before = engine.stats().num_steps;
    double start = seconds_now();
    model.set_open(true);
    if (!engine.wait_until_idle(60'000)) state.SkipWithError("not idle");
    state.SetIterationTime((seconds_now() - start) /
                           static_cast<double>(engine.stats().num_steps - steps_before));
  }
}

benchmark::internal::Benchmark* add(const std::string& name, const std::function<void(benchmark::State&)>& run) {
  return benchmark::RegisterBenchmark(name.c_str(), run)
      ->Repetitions(5)
      ->ReportAggregatesOnly()
      ->ComputeStatistics("min", least)
      ->Unit(benchmark::kMicrosecond);
}

void register_all() {
  // Iterations are given: from the time of the jobs alone, the library would choose far too many.
  for (int64_t gap_us : {0, 20, 200, 2000})
    add("barrier", barrier)->ArgName("gap_us")->Arg(gap_us)->UseManualTime()->Iterations(gap_us > 200 ? 20 : 500);
  for (int64_t threads : {kThreads, 2 * kThreads}) {
    for (int64_t neighbours : {0, 1, 2})
      add("products", products)->ArgNames({"threads", "neighbours"})->Args({threads, neighbours})
          ->UseRealTime()->Iterations(2000);
  }
  add("two_pools", two_pools)->UseManualTime()->Iterations(500);
  for (const Sampling& sampling : samplings()) {
    for (auto [logits, deviation] : {std::pair("flat", 0.01), std::pair("normal", 1.0), std::pair("peaked", 4.0)}) {
      add(std::string("sample/") + sampling.name + "/" + logits,
          [sampling, deviation = deviation](benchmark::State& state) { sample(state, sampling.params, deviation); })
          ->ArgName("threads")
          ->Arg(1)
          ->Arg(kThreads)
          ->UseRealTime()
          ->Iterations(3)
          ->Unit(benchmark::kMillisecond);
    }
  }
  for (const Sampling& sampling : samplings()) {
    if (std::strcmp(sampling.name, "greedy") != 0 && std::strcmp(sampling.name, "top_k40_top_p95") != 0) continue;
    benchmark::internal::Benchmark* bench =
        add(std::string("step/") + sampling.name,
            [sampling](benchmark::State& state) { step(state, sampling.params); });
    bench->ArgNames({"vocab", "batch"})->UseManualTime()->Iterations(1);
    for (int64_t vocab : {int64_t{512}, int64_t{32'000}, kLargeVocabulary}) {
      for (int64_t batch : {1, 32, 256}) bench->Args({vocab, batch});
    }
  }
}

}  // namespace
}  // namespace sluice::engine

int main(int argc, char** argv) {
  sluice::log::configure(sluice::log::Level::kWarning, sluice::log::Format::kText);
  sluice::engine::register_all();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
}
