// How fast the kernels are on one core of this machine, and how near to what the machine can do.
//
//   kernels_bench [--benchmark_filter=matmul/q4_0]        all, or some
//   SLUICE_ISA=scalar kernels_bench                       the table of one instruction set
//
// First the machine's own limits are measured: reading memory, and arithmetic in registers (kernels/peak.h). Then every
// entry is compared with scalar/ and only then timed. Columns: GB/s of weights (or keys and values) read, GFLOP/s (two
// for a multiply-add), and both as a share of the limit: of int8 dot products for entries that round activations to 8
// bits, of f32 multiply-adds for the others.
// Weights rotate through more memory than the caches hold, as the layers of a model do.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <map>
#include <memory>

#include <fmt/format.h>

#include "kernels/cpu.h"
#include "kernels/pack.h"
#include "kernels/attention.h"
#include "kernels/peak.h"
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

double measure_read_bandwidth() {
  const std::vector<uint8_t> memory(2 * kColdBytes + 64, 1);
  const uint8_t* aligned = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64;
  return best_rate(2.0 * kColdBytes, [&] { benchmark::DoNotOptimize(read_stream(aligned, 2 * kColdBytes)); });
}

double measure_peak(const PeakLoop& loop) {
  constexpr int64_t kRounds = 1'000'000;
  return best_rate(loop.operations_per_round * kRounds, [&] { loop.run(kRounds); });
}

struct Limits {
  double bandwidth = measure_read_bandwidth();
  double int8 = measure_peak(get_peak_int8());
  double bf16 = measure_peak(get_peak_bf16());
  double f32 = measure_peak(get_peak_f32());
};

const Limits& limits() {
  static const Limits measured;
  return measured;
}

double peak_for(ActivationFormat format) {
  switch (format) {
    case ActivationFormat::kQ8_32: return limits().int8;
    case ActivationFormat::kBF16Pairs:
    case ActivationFormat::kBF16Tiles: return limits().bf16;
    case ActivationFormat::kF32:
    case ActivationFormat::kBF16: break;
  }
  return limits().f32;
}

// What one iteration reads and computes, over `seconds` for all of them; `peak` is of the arithmetic that suits it.
void report(benchmark::State& state, double seconds, double bytes, double flops, double peak) {
  const double count = static_cast<double>(state.iterations());
  state.counters["GB/s"] = bytes * count / seconds / 1e9;
  state.counters["%bw"] = 100 * bytes * count / seconds / limits().bandwidth;
  state.counters["GFLOP/s"] = flops * count / seconds / 1e9;
  state.counters["%peak"] = 100 * flops * count / seconds / peak;
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
  // What the engine uses: packed weights where there is an entry for them.
  const MatmulEntry few = table.few_rows_matmul[static_cast<int>(type)];
  const MatmulEntry packed =
      num_rows <= kFewRows && few.multiply != nullptr ? few : table.packed_matmul[static_cast<int>(type)];
  const MatmulEntry entry = packed.multiply != nullptr ? packed : table.matmul[static_cast<int>(type)];
  const std::vector<uint8_t>& rows = weight_pool(type);
  const int64_t weight_row_bytes = row_bytes(type, num_inputs);
  const size_t matrix_bytes = static_cast<size_t>(num_outputs * weight_row_bytes);
  const size_t num_matrices = rows.size() / matrix_bytes;
  std::vector<uint8_t> strips;
  const uint8_t* pool = rows.data();
  if (packed.multiply != nullptr) {
    strips.resize(num_matrices * matrix_bytes + 64);
    uint8_t* aligned = strips.data() + (64 - reinterpret_cast<uintptr_t>(strips.data()) % 64) % 64;
    for (size_t i = 0; i < num_matrices; ++i) {
      pack_matrix(type, rows.data() + i * matrix_bytes, num_outputs, num_inputs, aligned + i * matrix_bytes);
    }
    pool = aligned;
  }

  Random random(2);
  std::vector<float> floats = random_floats(num_rows * num_inputs, random);
  ActivationBytes x = convert_activations(table, entry.activation_format, floats, num_rows, num_inputs);
  std::vector<float> y(static_cast<size_t>(num_rows * num_outputs));
  MatmulArgs args = {};
  args.weights = pool;
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
  check.weights = rows.data();
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
    args.weights = pool + at;
    entry.multiply(args);
    benchmark::ClobberMemory();
    at += matrix_bytes;
    if (at + matrix_bytes > num_matrices * matrix_bytes) at = 0;
  }
  const double seconds = seconds_now() - begin;
  report(state, seconds, static_cast<double>(matrix_bytes),
         2.0 * static_cast<double>(num_rows * num_outputs * num_inputs),
         peak_for(entry.activation_format));
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
  for (size_t at = 0, page = 0; at < memory.size(); at += static_cast<size_t>(page_bytes), ++page) {
    const bool is_keys = page / static_cast<size_t>(num_pages) % 2 == 0;
    for (int64_t row = 0; row < kPageSize; ++row) {
      const float* x = rows.data() + row * kHeadDim;
      (is_keys ? store_key : store_value)(table, type, x, kHeadDim, memory.data() + at, row);
    }
  }
  std::vector<const void*> pages(static_cast<size_t>(num_heads * 2 * num_pages));
  for (size_t i = 0; i < pages.size(); ++i) pages[i] = memory.data() + static_cast<int64_t>(i) * page_bytes;

  const int64_t width = group_size * kHeadDim;
  std::vector<float> queries = random_floats(num_queries * width, random);
  std::vector<float> output(queries.size()), expected(queries.size());
  // As many queries a call as the forward pass brings.
  const int64_t queries_each = std::clamp<int64_t>(kAttentionRows / group_size, 1, num_queries);
  std::vector<float> scratch(static_cast<size_t>(attention_scratch_floats(group_size, kHeadDim)));
  std::vector<float> partials(static_cast<size_t>(2 * queries_each * group_size * attention_partial_floats(kHeadDim)));
  AttentionArgs args = {};
  args.query_stride = width;
  args.key_pages = pages.data();
  args.value_pages = pages.data() + num_pages;
  args.group_size = group_size;
  args.head_dim = kHeadDim;
  args.scale = 0.125f;
  args.partials = partials.data();
  args.scratch = scratch.data();
  auto attend_all = [&](const Kernels& kernels, int64_t count, std::vector<float>& to) {
    for (int64_t query = 0; query < count; query += queries_each) {
      args.queries = queries.data() + query * width;
      args.first_position = context - num_queries + query;
      args.num_queries = std::min(queries_each, count - query);
      attend(kernels, type, args, to.data() + query * width, width);
    }
  };
  attend_all(table, num_queries, output);
  attend_all(scalar, 1, expected);
  const bool has_tiles = table.few_rows_attention[static_cast<int>(type)] != nullptr;  // of bf16
  const float tolerance = has_tiles ? 2e-2f : 1e-4f;
  for (size_t i = 0; i < static_cast<size_t>(width); ++i) {
    if (!(std::fabs(output[i] - expected[i]) < tolerance)) {
      state.SkipWithError("differs from scalar");
      return;
    }
  }

  int64_t head = 0;
  const double begin = seconds_now();
  for (auto _ : state) {
    args.key_pages = pages.data() + head * 2 * num_pages;
    args.value_pages = args.key_pages + num_pages;
    attend_all(table, num_queries, output);
    benchmark::ClobberMemory();
    head = (head + 1) % num_heads;
  }
  const double seconds = seconds_now() - begin;
  double seen = 0;
  for (int64_t i = 0; i < num_queries; ++i) seen += static_cast<double>(context - num_queries + i + 1);
  report(state, seconds, static_cast<double>(2 * num_pages * page_bytes), 4.0 * seen * static_cast<double>(width),
         limits().f32);
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
  const DType weights[] = {DType::kQ4_0, DType::kQ8_0, DType::kQ4_K, DType::kQ6_K,
                           DType::kF16,  DType::kBF16, DType::kF32};
  for (auto [outputs, inputs] : {std::pair<int64_t, int64_t>{2048, 2048}, {5632, 2048}, {2048, 5632}}) {
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
  for (int64_t group : {1, 4, 8}) {
    std::string title = fmt::format("attention_prefill/f16/group:{}/context:1024/queries:512", group);
    benchmark::RegisterBenchmark(title.c_str(), [=](benchmark::State& state) {
      run_attention(state, DType::kF16, 1024, 512, group);
    })->MinTime(0.1)->Unit(benchmark::kMicrosecond);
  }
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
  std::printf("%s, isa %s, one thread; limits: read %.1f GB/s, int8 %.2f TOP/s (%s), bf16 %.0f GFLOP/s (%s), "
              "f32 %.0f GFLOP/s (%s)\n",
              get_cpu().model_name.c_str(), get_kernels().isa, limits().bandwidth / 1e9, limits().int8 / 1e12,
              get_peak_int8().name, limits().bf16 / 1e9, get_peak_bf16().name, limits().f32 / 1e9,
              get_peak_f32().name);
  register_all();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
