#include "llm/products.h"

#include <algorithm>

#include "base/check.h"

namespace sluice::llm {
namespace {

using kernels::ActivationFormat;

// Left rows that stay in a core's L2 while the columns of a piece go by.
constexpr int64_t kRowBlockBytes = 512 << 10;
constexpr int64_t kPackedRowsMax = 528;
constexpr int64_t kRowGrain = 48;  // a multiple of what kernels multiply together: 4, 6, 12 or 16 rows
constexpr int64_t kColumnGrain = 32, kColumnsMax = 256;
// Below this many multiply-adds a barrier costs more than a second worker saves.
constexpr int64_t kMinParallelWork = 128 << 10;

struct Cut {
  int64_t rows_each = 0, columns_each = 0;
  int64_t num_row_blocks = 0, num_column_blocks = 0;
  int64_t first_piece = 0;
};

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

void run_piece(const kernels::Kernels& kernels, const Product& p, const Cut& cut, int64_t piece) {
  const Linear& linear = *p.linear;
  const kernels::MatmulEntry& entry = get_entry(kernels, linear, p.input->size());
  int64_t row = piece / cut.num_column_blocks * cut.rows_each;
  int64_t num_rows = std::min(cut.rows_each, p.num_rows - row);
  int64_t begin = piece % cut.num_column_blocks * cut.columns_each;
  int64_t end = std::min(begin + cut.columns_each, linear.num_outputs());
  float* output = p.output + row * p.output_stride;
  entry.multiply({.weights = linear.weight.data,
                  .weight_row_bytes = row_bytes(linear.weight.type, linear.num_inputs()),
                  .activations = p.input->data(entry.activation_format, p.first_row + row),
                  .activation_row_bytes = p.input->row_bytes(entry.activation_format),
                  .output = output,
                  .output_stride = p.output_stride,
                  .num_rows = num_rows,
                  .num_inputs = linear.num_inputs(),
                  .output_begin = begin,
                  .output_end = end});
  if (linear.scale == nullptr && linear.bias == nullptr) return;
  for (int64_t r = 0; r < num_rows; ++r) {
    float* out = output + r * p.output_stride;
    if (linear.scale != nullptr) {
      for (int64_t o = begin; o < end; ++o) out[o] *= linear.scale[o];
    }
    if (linear.bias != nullptr) {
      for (int64_t o = begin; o < end; ++o) out[o] += linear.bias[o];
    }
  }
}

}  // namespace

void Activations::reset(int64_t num_rows, int64_t num_inputs, FormatSet formats, StepSize size) {
  size_ = size;
  num_inputs_ = num_inputs;
  formats_ = formats;
  values_.grow(num_rows * num_inputs);
  row_bytes_[static_cast<int>(ActivationFormat::kF32)] = num_inputs * 4;
  for (int f = 1; f < kernels::kNumActivationFormats; ++f) {
    if ((formats & (1u << f)) == 0) continue;
    row_bytes_[f] = kernels::activation_row_bytes(static_cast<ActivationFormat>(f), num_inputs);
    converted_[f].grow(
        kernels::activation_bytes(static_cast<ActivationFormat>(f), num_rows, num_inputs));
  }
}

void Activations::convert(const kernels::Kernels& kernels, int64_t index, int64_t begin,
                          int64_t end) {
  DCHECK(begin % kSpanAlignment == 0 && (end % kSpanAlignment == 0 || end == num_inputs_), begin,
         end, num_inputs_);
  for (int f = 1; f < kernels::kNumActivationFormats; ++f) {
    if ((formats_ & (1u << f)) == 0) continue;
    int64_t offset = kernels::activation_offset(static_cast<ActivationFormat>(f), num_inputs_, index, begin);
    kernels.quantize_activations[f](row(index) + begin, converted_[f].data() + offset, end - begin);
  }
}

void Activations::copy_row(int64_t index, const Activations& from, int64_t from_index) {
  DCHECK(num_inputs_ == from.num_inputs_ && (formats_ & ~from.formats_) == 0);
  for (int f = 0; f < kernels::kNumActivationFormats; ++f) {
    if ((formats_ & (1u << f)) == 0) continue;
    const auto format = static_cast<ActivationFormat>(f);
    uint8_t* to = f == 0 ? reinterpret_cast<uint8_t*>(row(index))
                         : converted_[f].data() + kernels::activation_offset(format, num_inputs_, index);
    kernels::copy_activation_row(format, num_inputs_, from.data(format, from_index), to);
  }
}

const uint8_t* Activations::data(ActivationFormat format, int64_t index) const {
  int f = static_cast<int>(format);
  const uint8_t* base =
      f == 0 ? reinterpret_cast<const uint8_t*>(values_.data()) : converted_[f].data();
  return base + kernels::activation_offset(format, num_inputs_, index);
}

void run_products(ThreadPool& pool, const kernels::Kernels& kernels,
                  std::span<const Product> products) {
  // Enough pieces that a worker slowed by a neighbour can leave some to the others; columns in
  // steps that the kernels like, rows in blocks that stay in the cache.
  int64_t total_work = 0, total_columns = 0;
  for (const Product& p : products) {
    total_work += p.num_rows * p.linear->num_outputs() * p.linear->num_inputs();
    total_columns += p.num_rows > 0 ? p.linear->num_outputs() : 0;
  }
  if (total_work == 0) return;
  int64_t num_wanted = 8 * pool.num_threads();
  static thread_local std::vector<Cut> cuts;
  cuts.assign(products.size(), {});
  int64_t num_pieces = 0;
  for (size_t i = 0; i < products.size(); ++i) {
    const Product& p = products[i];
    Cut& cut = cuts[i];
    cut.first_piece = num_pieces;
    if (p.num_rows == 0) continue;
    const ActivationFormat format = get_entry(kernels, *p.linear, p.input->size()).activation_format;
    int64_t bytes_a_row = kernels::activation_row_bytes(format, p.linear->num_inputs());
    // Packed products tile their rows themselves.
    int64_t rows_max = p.linear->is_packed
                           ? kPackedRowsMax
                           : std::clamp<int64_t>(kRowBlockBytes / bytes_a_row / 16 * 16, 32, 512);
    cut.num_row_blocks = divide_up(p.num_rows, rows_max);
    cut.rows_each = divide_up(divide_up(p.num_rows, cut.num_row_blocks), kRowGrain) * kRowGrain;
    cut.num_row_blocks = divide_up(p.num_rows, cut.rows_each);
    int64_t columns = divide_up(total_columns * cut.num_row_blocks, num_wanted);
    cut.columns_each =
        std::clamp(divide_up(columns, kColumnGrain) * kColumnGrain, kColumnGrain, kColumnsMax);
    cut.num_column_blocks = divide_up(p.linear->num_outputs(), cut.columns_each);
    num_pieces += cut.num_row_blocks * cut.num_column_blocks;
  }
  int64_t grain = total_work < kMinParallelWork ? num_pieces : 1;
  const std::vector<Cut>& shared_cuts =
      cuts;  // a thread_local's name means another variable on another thread
  pool.parallel_for(num_pieces, grain, [&](int64_t begin, int64_t end, int) {
    size_t i = 0;
    for (int64_t piece = begin; piece < end; ++piece) {
      while (i + 1 < shared_cuts.size() && piece >= shared_cuts[i + 1].first_piece) ++i;
      run_piece(kernels, products[i], shared_cuts[i], piece - shared_cuts[i].first_piece);
    }
  });
}

}  // namespace sluice::llm
