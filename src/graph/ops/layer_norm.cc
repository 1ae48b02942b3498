// LayerNormalization and RMSNormalization of the ONNX operator specification; ONNX Runtime's
// SimplifiedLayerNormalization is the latter under an older name. Scale and bias broadcast to the input; nearly always
// they have the shape of the normalised dimensions, and where they do not, the values of a row are collected before the
// row is computed. Statistics are computed in the type of the input, or better, which is at least what any stash_type
// asks of it.
#include "graph/ops/layer_norm.h"

#include <array>

#include "graph/ops/norm_math.h"
#include "graph/ops/shape_math.h"

namespace sluice::graph::ops {
namespace {

ElementType stash_element(const Node& node) {
  switch (const int64_t type = node.get_int("stash_type", 1); type) {
    case 1: return ElementType::kF32;
    case 10: return ElementType::kF16;
    case 11: return ElementType::kF64;
    case 16: return ElementType::kBF16;
    default:
      fail(Code::kInvalidArgument,
           "{}: stash_type is {}; float32 (1), float16 (10), float64 (11) and bfloat16 (16) are allowed",
           node.describe(), type);
  }
}

void infer_last_axes(InferContext& context, int num_parameters, int num_statistics) {
  const ElementType stash = stash_element(context.node());
  context.set_type(0, context.type(0));
  for (int i = 1; i <= num_statistics; ++i) context.set_output(i, stash);
  if (!context.has_rank(0)) return;
  Dims dims = context.dims(0);
  const int rank = static_cast<int>(dims.size()), axis = context.axis(context.node().get_int("axis", -1), rank);
  for (int i = 1; i <= num_parameters; ++i) {
    if (!context.has_rank(i)) continue;
    const Dims& parameter = context.dims(i);
    bool fits = parameter.size() <= dims.size();
    for (size_t d = 0; fits && d < parameter.size(); ++d) {
      const Dim &from = parameter[d], &to = dims[dims.size() - parameter.size() + d];
      fits = !from.is_known() || from.value() == 1 || !to.is_known() || from == to;
    }
    if (!fits)
      context.fail("input {} of shape {} does not broadcast to {}", i + 1, to_string(parameter), to_string(dims));
  }
  std::fill(dims.begin() + axis, dims.end(), Dim(1));
  for (int i = 1; i <= num_statistics; ++i) context.set_output(i, stash, dims);
}

// A scale or bias, row by row.
template <typename T>
class RowParameter {
 public:
  RowParameter(const RunContext& context, int input, const Shape& x, int axis) {
    if (!context.has_input(input)) return;
    const Tensor& tensor = context.input(input);
    if (tensor.type() != type_of<T>()) context.fail_type(input);
    data_ = tensor.data<T>();
    const int shift = x.rank() - tensor.rank();
    bool is_plain = true;  // one row for all, as it lies in memory
    int64_t stride = 1;
    for (int d = x.rank() - 1; d >= 0; --d) {
      const int64_t dim = d >= shift ? tensor.dim(d - shift) : 1;
      is_plain &= d < axis ? dim == 1 : dim == x[d];
      strides_[static_cast<size_t>(d)] = dim == 1 ? 0 : stride;
      stride *= dim;
    }
    if (is_plain) return;
    shape_ = x;
    axis_ = axis;
  }
  bool is_plain() const { return axis_ < 0; }
  // Of row `row`; `buffer` has room for a row.
  const T* row(int64_t row, T* buffer) const {
    if (data_ == nullptr || is_plain()) return data_;
    int64_t offset = 0;
    for (int d = axis_ - 1; d >= 0; --d) {
      offset += row % shape_[d] * strides_[static_cast<size_t>(d)];
      row /= shape_[d];
    }
    std::array<int64_t, kMaxRank> index{};
    const int64_t count = shape_.count(axis_, shape_.rank());
    for (int64_t i = 0; i < count; ++i) {
      buffer[i] = data_[offset];
      for (int d = shape_.rank() - 1; d >= axis_; --d) {
        const auto at = static_cast<size_t>(d);
        offset += strides_[at];
        if (++index[at] < shape_[d]) break;
        offset -= strides_[at] * shape_[d];
        index[at] = 0;
      }
    }
    return buffer;
  }

 private:
  const T* data_ = nullptr;
  Shape shape_;
  int axis_ = -1;
  std::array<int64_t, kMaxRank> strides_{};
};

void store(Tensor& to, int64_t i, double value) {
  if (to.type() == ElementType::kF64) to.data<double>()[i] = value;
  else to.data<float>()[i] = static_cast<float>(value);
}

template <typename T>
void run_last_axes(RunContext& context, bool has_mean) {
  const Node& node = context.node();
  const Tensor& x = context.input(0);
  const int axis = context.axis(node.get_int("axis", -1), x.rank());
  const double epsilon = node.get_float("epsilon", 1e-5f);
  Tensor& y = context.output(0);
  const int inverse = has_mean ? 2 : 1;
  Tensor* const means = has_mean && context.has_output(1) ? &context.output(1) : nullptr;
  Tensor* const inverses = context.has_output(inverse) ? &context.output(inverse) : nullptr;
  const RowParameter<T> scales(context, 1, x.shape(), axis);
  const RowParameter<T> biases(context, has_mean ? 2 : context.num_inputs(), x.shape(), axis);
  if (x.count() == 0) {
    for (Tensor* statistics : {means, inverses}) {
      for (int64_t i = 0; statistics != nullptr && i < statistics->count(); ++i) store(*statistics, i, 0);
    }
    return;
  }
  const int64_t count = x.shape().count(axis, x.rank()), rows = x.count() / count;
  const bool needs_buffers = !scales.is_plain() || !biases.is_plain();
  Tensor buffers = context.make(type_of<T>(), Shape{needs_buffers ? context.pool().num_threads() : 0, 2, count});
  T* const memory = buffers.data<T>();
  context.pool().parallel_for(
      rows, std::max<int64_t>(1, (1 << 13) / count), [&](int64_t begin, int64_t end, int worker) {
        T* const buffer = memory + (needs_buffers ? worker * 2 * count : 0);
        for (int64_t r = begin; r < end; ++r) {
          const T* from = x.data<T>() + r * count;
          const double mean = has_mean ? mean_of(from, count) : 0;
          const double variance = has_mean ? variance_of(from, count, mean) : mean_square_of(from, count);
          const double factor = 1 / std::sqrt(variance + epsilon);
          normalize_row<T>(from, count, static_cast<T>(mean), static_cast<T>(factor), scales.row(r, buffer),
                           biases.row(r, buffer + count), y.data<T>() + r * count);
          if (means != nullptr) store(*means, r, mean);
          if (inverses != nullptr) store(*inverses, r, factor);
        }
      });
}

}  // namespace

void infer_layer_norm(InferContext& context) { infer_last_axes(context, 2, 2); }
void infer_rms_norm(InferContext& context) { infer_last_axes(context, 1, 1); }

void run_layer_norm(RunContext& context) {
  if (!dispatch<float, double>(context.input(0).type(),
                               [&](auto zero) { run_last_axes<decltype(zero)>(context, true); })) {
    context.fail_type(0);
  }
}
void run_rms_norm(RunContext& context) {
  if (!dispatch<float, double>(context.input(0).type(),
                               [&](auto zero) { run_last_axes<decltype(zero)>(context, false); })) {
    context.fail_type(0);
  }
}

}  // namespace sluice::graph::ops
