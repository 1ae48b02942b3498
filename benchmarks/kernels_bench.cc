// How fast the kernels are on one core of this machine, and how near to what the machine can do.
//
//   kernels_bench [--benchmark_filter=matmul/q4_0]        all, or some
//   SLUICE_ISA=scalar kernels_bench                       the table of one instruction set
//
// First the machine's own limits are measured: reading memory, and f32 fused multiply-adds in registers. Then every
// entry is compared with scalar/ and only then timed. Columns: GB/s of weights (or keys and values) read, GFLOP/s (two
// for a multiply-add), and both as a share of the limit. Products of 8-bit integers can pass 100% of the f32 limit.
// Weights rotate through more memory than the caches hold, as the layers of a model do.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <map>
#include <memory>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <fmt/format.h>

#include "kernels/cpu.h"
#include "kernels/random_weights.h"

namespace sluice::kernels {
namespace {

constexpr size_t kColdBytes = size_t{160} << 20;  // larger than last-level caches a core can count on

// Of this thread on a processor, as the benchmark's own rates are.
double seconds_now() {
  timespec now = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// The best of several short measurements: a shared machine only ever makes it slower.
template <typename Work>
double best_rate(double amount, Work work) {
  double best = 0;
  for (int i = 0; i < 8; ++i) {
    double begin = seconds_now();
    work();
    best = std::max(best, amount / (seconds_now() - begin));
  }
  return best;
}

#if defined(__x86_64__)

// Four streams, prefetched: one alone does not fill the memory pipeline.
__attribute__((target("avx2"))) void read_streams(const uint8_t* data, size_t bytes) {
  __m256i sums[4] = {};
  const size_t quarter = bytes / 4;
  for (size_t i = 0; i < quarter; i += 64) {
    for (size_t j = 0; j < 4; ++j) {
      const uint8_t* p = data + j * quarter + i;
      _mm_prefetch(reinterpret_cast<const char*>(p + 2048), _MM_HINT_T0);
      for (size_t half = 0; half < 64; half += 32) {
        sums[j] = _mm256_xor_si256(sums[j], _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + half)));
      }
    }
  }
  benchmark::DoNotOptimize(sums);
}

__attribute__((target("avx2,fma"))) float multiply_add_in_registers(int64_t rounds) {
  const __m256 f = _mm256_set1_ps(0.999f);
  __m256 a = f, b = f, c = f, d = f, e = f, g = f, h = f, i = f, j = f, k = f;
  for (; rounds > 0; --rounds) {
    a = _mm256_fmadd_ps(a, f, f), b = _mm256_fmadd_ps(b, f, f), c = _mm256_fmadd_ps(c, f, f);
    d = _mm256_fmadd_ps(d, f, f), e = _mm256_fmadd_ps(e, f, f), g = _mm256_fmadd_ps(g, f, f);
    h = _mm256_fmadd_ps(h, f, f), i = _mm256_fmadd_ps(i, f, f), j = _mm256_fmadd_ps(j, f, f);
    k = _mm256_fmadd_ps(k, f, f);
    // Equal chains must not be made one.
    __asm__ volatile("" : "+x"(a), "+x"(b), "+x"(c), "+x"(d), "+x"(e), "+x"(g), "+x"(h), "+x"(i), "+x"(j), "+x"(k));
  }
  return _mm256_cvtss_f32(_mm256_add_ps(a, _mm256_add_ps(b, _mm256_add_ps(c, _mm256_add_ps(d, _mm256_add_ps(e,
         _mm256_add_ps(g, _mm256_add_ps(h, _mm256_add_ps(i, _mm256_add_ps(j, k))))))))));
}

#endif

double measure_read_bandwidth() {
  std::vector<uint8_t> bytes(2 * kColdBytes, 1);
  const auto amount = static_cast<double>(bytes.size());
#if defined(__x86_64__)
  if (get_cpu().avx2) return best_rate(amount, [&] { read_streams(bytes.data(), bytes.size()); });
#endif
  return best_rate(amount, [&] { benchmark::DoNotOptimize(std::memchr(bytes.data(), 2, bytes.size())); });
}

double measure_peak_flops() {
#if defined(__x86_64__)
  constexpr int64_t kRounds = 5'000'000;
  auto work = [] { benchmark::DoNotOptimize(multiply_add_in_registers(kRounds)); };
  if (get_cpu().avx2) return best_rate(160.0 * kRounds, work);
#endif
  return 0;
}

struct Limits {
  double bandwidth = measure_read_bandwidth();
  double flops = measure_peak_flops();
};

const Limits& limits() {
  static const Limits measured;
  return measured;
}

// What one iteration reads and computes, over `seconds` for all of them.
void report(benchmark::State& state, double seconds, double bytes, double flops) {
  const double count = static_cast<double>(state.iterations());
  state.counters["GB/s"] = bytes * count / seconds / 1e9;
  state.counters["%bw"] = 100 * bytes * count / seconds / limits().bandwidth;
  state.counters["GFLOP/s"] = flops * count / seconds / 1e9;
  if (limits().flops > 0) state.counters["%fma"] = 100 * flops * count / seconds / limits().flops;
}

// Random weights once a type, shared by all shapes: a matrix starts at any row of the pool.
const std::vector<uint8_t>& weight_pool(DType type) {
  static std::map<DType, std::vector<uint8_t>> pools;
  std::vector<uint8_t>& pool = pools[type];
  if (pool.empty()) {
    Random random(1);
    std::vector<uint8_t> some = random_weights(type, 64, 5632, random);
    pool.reserve(kColdBytes + some.size());
    while (pool.size() < kColdBytes) pool.insert(pool.end(), some.begin(), some.end());
  }
  return pool;
}

void run_matmul(benchmark::State& state, DType type, int64_t num_outputs, int64_t num_inputs, int64_t num_rows) {
  const Kernels& table = get_kernels();
  static const Kernels scalar = make_kernels("scalar");
  const MatmulEntry entry = table.matmul[static_cast<int>(type)];
  const std::vector<uint8_t>& pool = weight_pool(type);
  const int64_t weight_row_bytes = row_bytes(type, num_inputs);
  const size_t matrix_bytes = static_cast<size_t>(num_outputs * weight_row_bytes);

  Random random(2);
  std::vector<float> floats = random_floats(num_rows * num_inputs, random);
  std::vector<uint8_t> x = convert_activations(table, entry.activation_format, floats, num_rows, num_inputs);
  std::vector<float> y(static_cast<size_t>(num_rows * num_outputs));
  MatmulArgs args = {};
  args.weights = pool.data();
  args.weight_row_bytes = weight_row_bytes;
  args.activations = x.data();
  args.activation_row_bytes = activation_row_bytes(entry.activation_format, num_inputs);
  args.output = y.data();
  args.output_stride = num_outputs;
  args.num_rows = num_rows;
  args.num_inputs = num_inputs;
  args.output_end = num_outputs;
  entry.multiply(args);

  // A few outputs of the last row against the reference; 8-bit activations explain up to about 1%.
  std::vector<float> expected(8);
  MatmulArgs check = args;
  std::vector<float> last(floats.end() - num_inputs, floats.end());
  check.activations = last.data();
  check.output = expected.data();
  check.num_rows = 1;
  check.output_end = 8;
  scalar.matmul[static_cast<int>(type)].multiply(check);
  double error = 0, size = 0;
  for (size_t o = 0; o < 8; ++o) {
    double e = static_cast<double>(expected[o]);
    error += std::pow(static_cast<double>(y[static_cast<size_t>((num_rows - 1) * num_outputs) + o]) - e, 2);
    size += e * e;
  }
  if (!(error <= 4e-4 * size)) {
    state.SkipWithError("differs from scalar");
    return;
  }

  size_t at = 0;
  const double begin = seconds_now();
  for (auto _ : state) {
    args.weights = pool.data() + at;
    entry.multiply(args);
    benchmark::ClobberMemory();
    at += matrix_bytes;
    if (at + matrix_bytes > pool.size()) at = 0;
  }
  const double seconds = seconds_now() - begin;
  report(state, seconds, static_cast<double>(matrix_bytes), 2.0 * static_cast<double>(num_rows * num_outputs * num_inputs));
}

// One call: `num_queries` tokens at the end of `context`, one key/value head shared by `group_size` query heads.
void run_attention(benchmark::State& state, DType type, int64_t context, int64_t num_queries, int64_t group_size) {
  constexpr int64_t kHeadDim = 64;
  const Kernels& table = get_kernels();
  static const Kernels scalar = make_kernels("scalar");
  const int64_t page_bytes = kPageSize * row_bytes(type, kHeadDim);
  const int64_t num_pages = (context + kPageSize - 1) / kPageSize;
  // As many heads as it takes to leave the caches when decoding.
  const int64_t head_bytes = 2 * num_pages * page_bytes;
  const int64_t cold_heads = std::max<int64_t>(1, static_cast<int64_t>(kColdBytes / 4) / head_bytes);
  const int64_t num_heads = num_queries > 1 ? 1 : cold_heads;
  Random random(3);
  std::vector<float> rows = random_floats(kPageSize * kHeadDim, random);
  std::vector<uint8_t> memory(static_cast<size_t>(num_heads * 2 * num_pages * page_bytes));
  for (size_t at = 0; at < memory.size(); at += static_cast<size_t>(page_bytes)) {
    table.store_row[static_cast<int>(type)](rows.data(), memory.data() + at, kPageSize * kHeadDim);
  }
  std::vector<const void*> pages(static_cast<size_t>(num_heads * 2 * num_pages));
  for (size_t i = 0; i < pages.size(); ++i) pages[i] = memory.data() + static_cast<int64_t>(i) * page_bytes;

  const int64_t width = group_size * kHeadDim;
  std::vector<float> queries = random_floats(num_queries * width, random);
  std::vector<float> output(queries.size()), expected(queries.size());
  std::vector<float> scratch(static_cast<size_t>(attention_scratch_floats(context, group_size, kHeadDim)));
  AttentionArgs args = {};
  args.queries = queries.data();
  args.query_stride = args.output_stride = width;
  args.output = output.data();
  args.key_pages = pages.data();
  args.value_pages = pages.data() + num_pages;
  args.num_queries = num_queries;
  args.group_size = group_size;
  args.head_dim = kHeadDim;
  args.first_position = context - num_queries;
  args.scale = 0.125f;
  args.scratch = scratch.data();
  table.attention[static_cast<int>(type)](args);
  AttentionArgs check = args;
  check.output = expected.data();
  check.num_queries = 1;
  scalar.attention[static_cast<int>(type)](check);
  for (size_t i = 0; i < static_cast<size_t>(width); ++i) {
    if (!(std::fabs(output[i] - expected[i]) < 1e-4f)) {
      state.SkipWithError("differs from scalar");
      return;
    }
  }

  int64_t head = 0;
  const double begin = seconds_now();
  for (auto _ : state) {
    args.key_pages = pages.data() + head * 2 * num_pages;
    args.value_pages = args.key_pages + num_pages;
    table.attention[static_cast<int>(type)](args);
    benchmark::ClobberMemory();
    head = (head + 1) % num_heads;
  }
  const double seconds = seconds_now() - begin;
  double seen = 0;
  for (int64_t i = 0; i < num_queries; ++i) seen += static_cast<double>(args.first_position + i + 1);
  report(state, seconds, static_cast<double>(2 * num_pages * page_bytes), 4.0 * seen * static_cast<double>(width));
}

void run_rms_norm(benchmark::State& state) {
  Random random(4);
  std::vector<float> x = random_floats(2048, random), w = random_floats(2048, random), y(2048);
  for (auto _ : state) {
    get_kernels().rms_norm(x.data(), w.data(), y.data(), 2048, 1e-5f);
    benchmark::ClobberMemory();
  }
}

void run_silu(benchmark::State& state) {
  Random random(4);
  std::vector<float> x = random_floats(5632, random), w = random_floats(5632, random), y(5632);
  for (auto _ : state) {
    get_kernels().silu_multiply(x.data(), w.data(), y.data(), 5632);
    benchmark::ClobberMemory();
  }
}

void run_argmax(benchmark::State& state) {
  Random random(4);
  std::vector<float> x = random_floats(32000, random);
  for (auto _ : state) benchmark::DoNotOptimize(get_kernels().argmax(x.data(), 32000));
}

void register_all() {
  const DType weights[] = {DType::kQ4_0, DType::kQ8_0, DType::kQ4_K, DType::kQ6_K, DType::kF16, DType::kF32};
  for (auto [outputs, inputs] : {std::pair<int64_t, int64_t>{2048, 2048}, {5632, 2048}}) {
    for (DType type : weights) {
      for (int64_t rows : {1, 8, 32, 512}) {
        std::string title = fmt::format("matmul/{}/{}x{}/rows:{}", name(type), outputs, inputs, rows);
        benchmark::RegisterBenchmark(title.c_str(), [=, o = outputs, i = inputs](benchmark::State& state) {
          run_matmul(state, type, o, i, rows);
        })->MinTime(0.1)->Unit(benchmark::kMicrosecond);
      }
    }
  }
  for (DType type : {DType::kF16, DType::kBF16, DType::kQ8_0}) {
    for (int64_t group : {1, 4, 8}) {
      for (int64_t context : {128, 8192}) {
        std::string title = fmt::format("attention_decode/{}/group:{}/context:{}", name(type), group, context);
        benchmark::RegisterBenchmark(title.c_str(), [=](benchmark::State& state) {
          run_attention(state, type, context, 1, group);
        })->MinTime(0.05)->Unit(benchmark::kMicrosecond);
      }
    }
  }
  benchmark::RegisterBenchmark("attention_prefill/f16/group:4/context:1024/queries:512", [](benchmark::State& state) {
    run_attention(state, DType::kF16, 1024, 512, 4);
  })->MinTime(0.1)->Unit(benchmark::kMicrosecond);
  benchmark::RegisterBenchmark("rms_norm/2048", run_rms_norm)->MinTime(0.02);
  benchmark::RegisterBenchmark("silu_multiply/5632", run_silu)->MinTime(0.02);
  benchmark::RegisterBenchmark("argmax/32000", run_argmax)->MinTime(0.02);
}

}  // namespace
}  // namespace sluice::kernels

int main(int argc, char** argv) {
  using namespace sluice::kernels;
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  std::printf("%s, isa %s, one thread; limits: read %.1f GB/s, f32 fma %.0f GFLOP/s\n", get_cpu().model_name.c_str(),
              get_kernels().isa, limits().bandwidth / 1e9, limits().flops / 1e9);
  register_all();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
