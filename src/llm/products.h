// Matrix products of one stage of a step, spread over the pool: rows in the formats their products
// want (Activations), and the products themselves cut into pieces of rows times output columns that
// workers take from one counter. Products of one stage (q, k and v; gate and up; all experts) share
// one barrier. How the work is cut never shows in the results: see the batch invariance of
// kernels.h.
//
// Everything here belongs to one Transformer and its engine thread.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "kernels/kernels.h"
#include "llm/aligned_buffer.h"
#include "llm/weights.h"

namespace sluice::llm {

// A set of kernels::ActivationFormat.
using FormatSet = uint32_t;

// Whether a step has few rows enough for Kernels::few_rows_matmul.
enum class StepSize : uint8_t { kFewRows, kManyRows };
inline StepSize step_size(int64_t num_rows) {
  return num_rows <= kernels::kFewRows ? StepSize::kFewRows : StepSize::kManyRows;
}

// The product for a matrix as it lies in memory.
inline const kernels::MatmulEntry& get_entry(const kernels::Kernels& kernels, const Linear& linear,
                                             StepSize size) {
  const int type = static_cast<int>(linear.weight.type);
  if (!linear.is_packed) return kernels.matmul[type];
  const kernels::MatmulEntry& few = kernels.few_rows_matmul[type];
  return size == StepSize::kFewRows && few.multiply != nullptr ? few : kernels.packed_matmul[type];
}

inline FormatSet format_of(const Linear& linear, StepSize size) {
  if (!linear) return 0;
  return 1u << static_cast<int>(get_entry(kernels::get_kernels(), linear, size).activation_format);
}
inline FormatSet formats_of(std::initializer_list<const Linear*> linears, StepSize size) {
  FormatSet set = 0;
  for (const Linear* linear : linears) set |= format_of(*linear, size);
  return set;
}

// The left side of products: f32 rows, and the same rows in the other formats of the set.
class Activations {
 public:
  // Contents are lost. The f32 rows are always there to be written. `formats` are those that products of this step
  // size want.
  void reset(int64_t num_rows, int64_t num_inputs, FormatSet formats, StepSize size);

  int64_t num_inputs() const { return num_inputs_; }
  StepSize size() const { return size_; }
  float* row(int64_t index) { return values_.data() + index * num_inputs_; }
  // Elements [begin, end) of the row into every other format, once they are in row(index). Begin is
  // a multiple of kSpanAlignment, end too or the row's end. Any worker.
  void convert(const kernels::Kernels& kernels, int64_t index, int64_t begin, int64_t end);
  void convert(const kernels::Kernels& kernels, int64_t index) {
    convert(kernels, index, 0, num_inputs_);
  }
  // Copies one row in every format, from another set of rows of the same shape.
  void copy_row(int64_t index, const Activations& from, int64_t from_index);

  const uint8_t* data(kernels::ActivationFormat format, int64_t index) const;
  int64_t row_bytes(kernels::ActivationFormat format) const {
    return row_bytes_[static_cast<int>(format)];
  }

  static constexpr int64_t kSpanAlignment = 256;  // a multiple of the blocks of every format and type

 private:
  int64_t num_inputs_ = 0;
  FormatSet formats_ = 0;
  StepSize size_ = StepSize::kManyRows;
  AlignedBuffer<float> values_;  // [num_rows, num_inputs]
  AlignedBuffer<uint8_t, kernels::kActivationAlignment> converted_[kernels::kNumActivationFormats];
  int64_t row_bytes_[kernels::kNumActivationFormats] = {};
};

struct Product {
  const Linear* linear = nullptr;
  const Activations* input = nullptr;
  int64_t first_row = 0, num_rows = 0;  // of input
  float* output = nullptr;              // [num_rows, output_stride], row 0 belongs to first_row
  int64_t output_stride = 0;
};

// output = input * weight^T * scale + bias for each of them; returns when all are done.
void run_products(ThreadPool& pool, const kernels::Kernels& kernels,
                  std::span<const Product> products);

// Calls body(row, worker) for each row; small jobs stay on the calling thread.
template <typename Body>
void for_each_row(ThreadPool& pool, int64_t num_rows, int64_t elements_a_row, Body&& body) {
  // About two microseconds of element-wise work: below that a barrier costs more than it saves.
  constexpr int64_t kMinElements = 8192;
  int64_t grain = kMinElements / (elements_a_row > 0 ? elements_a_row : 1) + 1;
  int64_t fair = num_rows / (8 * pool.num_threads()) + 1;
  pool.parallel_for(num_rows, grain > fair ? grain : fair,
                    [&](int64_t begin, int64_t end, int worker) {
                      for (int64_t row = begin; row < end; ++row) body(row, worker);
                    });
}

}  // namespace sluice::llm
