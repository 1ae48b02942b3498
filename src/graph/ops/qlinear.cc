// ONNX Runtime's operators on quantized numbers (com.microsoft, ContribOperators.md): QLinearAdd, QLinearMul,
// QLinearSigmoid, QLinearLeakyRelu, QLinearConcat, QLinearSoftmax, QLinearGlobalAveragePool, QLinearAveragePool.
//
// A number q of 8 bits stands for (q - zero point) * scale; scales and zero points are single numbers here. Functions
// of one number are tables of 256 entries made once a call; the others compute in float, or sum integers, and round
// once.
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "graph/ops/elementwise.h"
#include "graph/ops/ops.h"
#include "graph/ops/vector_math.h"

namespace sluice::graph::ops {
namespace {

bool is_byte(ElementType t) { return t == ElementType::kU8 || t == ElementType::kI8; }
bool is_f32(ElementType t) { return t == ElementType::kF32 || is_half(t); }

void check_single(const InferContext& ctx, int i) {
  if (!ctx.has_rank(i)) return;
  const std::optional<int64_t> count = product(ctx.dims(i)).known();
  if (count && *count != 1) ctx.fail("input {} has to be a single number, not {}", i + 1, to_string(ctx.type(i)));
}

// A scale at `i` and a zero point of the type of input `like` at i + 1, which may be left out.
void check_quantization(const InferContext& ctx, int i, int like) {
  check_element(ctx, like, is_byte, "8-bit integers");
  check_element(ctx, i, is_f32, "floating point scales");
  check_single(ctx, i);
  check_single(ctx, i + 1);
  if (ctx.has_input(i + 1) && ctx.element(i + 1) != ElementType::kUndefined &&
      ctx.element(like) != ElementType::kUndefined && ctx.element(i + 1) != ctx.element(like)) {
    ctx.fail("zero point {} is {}, the numbers are {}", i + 2, name(ctx.element(i + 1)), name(ctx.element(like)));
  }
}

struct Quantization {
  float scale = 1;
  int32_t zero = 0;
  float real(int32_t q) const { return static_cast<float>(q - zero) * scale; }
};

Quantization quantization_of(RunContext& ctx, int i) {
  Quantization q;
  if (!ctx.has_input(i) || ctx.input(i).type() != ElementType::kF32 || ctx.input(i).count() != 1)
    ctx.fail("input {} has to be a single scale", i + 1);
  q.scale = ctx.data<float>(i)[0];
  if (ctx.has_input(i + 1)) {
    const Tensor& zero = ctx.input(i + 1);
    if (zero.count() != 1 || !is_byte(zero.type())) ctx.fail("input {} has to be a single zero point", i + 2);
    q.zero = zero.type() == ElementType::kU8 ? zero.data<uint8_t>()[0] : zero.data<int8_t>()[0];
  }
  return q;
}

template <typename T>
T quantize(float real, float scale, int32_t zero) {
  constexpr float kLow = std::numeric_limits<T>::min(), kHigh = std::numeric_limits<T>::max();
  const float q = round_even(real / scale) + static_cast<float>(zero);
  const float raised = q > kLow ? q : kLow;
  return static_cast<T>(static_cast<int32_t>(raised < kHigh ? raised : kHigh));
}

// Calls body(T{}) for the two types.
template <typename Body>
void dispatch_bytes(RunContext& ctx, int i, Body&& body) {
  if (!dispatch<uint8_t, int8_t>(ctx.input(i).type(), body)) ctx.fail_type(i);
}

template <typename T, typename F>
std::array<T, 256> make_table(const Quantization& from, const Quantization& to, F f) {
  std::array<T, 256> table;
  for (int code = 0; code < 256; ++code) {
    table[static_cast<size_t>(code)] = quantize<T>(f(from.real(static_cast<T>(code))), to.scale, to.zero);
  }
  return table;
}

// Inputs A, its scale and zero point, the same of B, scale and zero point of the result.
void infer_binary(InferContext& ctx) {
  check_quantization(ctx, 1, 0);
  check_quantization(ctx, 4, 3);
  check_quantization(ctx, 6, 0);
  const ElementType element = ctx.element(0) == ElementType::kUndefined ? ctx.element(3) : ctx.element(0);
  if (ctx.element(3) != ElementType::kUndefined && ctx.element(3) != element)
    ctx.fail("A is {} and B {}", name(element), name(ctx.element(3)));
  if (!ctx.has_rank(0) || !ctx.has_rank(3)) return ctx.set_output(0, element);
  ctx.set_output(0, element, broadcast(ctx, ctx.dims(0), ctx.dims(3)));
}

template <bool multiplies>
void run_binary(RunContext& ctx) {
  const Tensor &x = ctx.input(0), &y = ctx.input(3);
  const Quantization a = quantization_of(ctx, 1), b = quantization_of(ctx, 4), c = quantization_of(ctx, 6);
  Tensor& z = ctx.output(0);
  const Broadcast<2> plan(z.shape(), {&x.shape(), &y.shape()});
  dispatch_bytes(ctx, 0, [&](auto zero) {
    using T = decltype(zero);
    map_tensors(ctx, plan, x.data<T>(), y.data<T>(), z.data<T>(), kCostlyGrain, [a, b, c](T v, T w) {
      const float real = multiplies ? a.real(v) * b.real(w) : a.real(v) + b.real(w);
      return quantize<T>(real, c.scale, c.zero);
    });
  });
}

// Inputs X, its scale and zero point, scale and zero point of the result.
void infer_unary(InferContext& ctx) {
  check_quantization(ctx, 1, 0);
  check_quantization(ctx, 3, 0);
  infer_same(ctx);
}

template <typename F>
void run_table(RunContext& ctx, F f) {
  const Tensor& x = ctx.input(0);
  const Quantization from = quantization_of(ctx, 1), to = quantization_of(ctx, 3);
  dispatch_bytes(ctx, 0, [&](auto zero) {
    using T = decltype(zero);
    const std::array<T, 256> table = make_table<T>(from, to, f);
    map_tensor(ctx, x.data<T>(), ctx.output(0).data<T>(), x.count(), kCheapGrain,
               [&table](T v) { return table[static_cast<uint8_t>(v)]; });
  });
}

void run_sigmoid(RunContext& ctx) {
  run_table(ctx, [](float v) { return fast_sigmoid(v); });
}
void run_leaky_relu(RunContext& ctx) {
  run_table(ctx, [alpha = ctx.node().get_float("alpha", 0.01f)](float v) { return v < 0 ? alpha * v : v; });
}

// Inputs: scale and zero point of the result, then X, scale and zero point of each part.
void infer_concat(InferContext& ctx) {
  if (ctx.num_inputs() < 5 || (ctx.num_inputs() - 2) % 3 != 0) {
    ctx.fail("{} inputs; needed are a scale, a zero point, and three for each tensor", ctx.num_inputs());
  }
  check_quantization(ctx, 0, 2);
  std::optional<Dims> dims;
  for (int i = 2; i < ctx.num_inputs(); i += 3) {
    check_quantization(ctx, i + 1, i);
    if (ctx.element(i) != ElementType::kUndefined && ctx.element(2) != ElementType::kUndefined &&
        ctx.element(i) != ctx.element(2)) {
      ctx.fail("tensors of {} and {} cannot be joined", name(ctx.element(2)), name(ctx.element(i)));
    }
    if (!ctx.has_rank(i) || (i > 2 && !dims)) {
      dims.reset();
      if (i == 2) continue;
      break;
    }
    if (i == 2) {
      dims = ctx.dims(i);
      ctx.axis(ctx.node().get_int("axis", 0), ctx.rank(i));
      continue;
    }
    const size_t axis = static_cast<size_t>(ctx.axis(ctx.node().get_int("axis", 0), static_cast<int>(dims->size())));
    bool fits = dims->size() == ctx.dims(i).size();
    for (size_t d = 0; fits && d < dims->size(); ++d) {
      const Dim &a = (*dims)[d], &b = ctx.dims(i)[d];
      fits = d == axis || !a.is_known() || !b.is_known() || a.value() == b.value();
    }
    if (!fits)
      ctx.fail("shapes {} and {} cannot be joined along axis {}", to_string(*dims), to_string(ctx.dims(i)), axis);
    (*dims)[axis] += ctx.dims(i)[axis];
  }
  if (dims) ctx.set_output(0, ctx.element(2), std::move(*dims));
  else ctx.set_output(0, ctx.element(2));
}

void run_concat(RunContext& ctx) {
  Tensor& z = ctx.output(0);
  const int axis = ctx.axis(ctx.node().get_int("axis", 0), z.rank());
  const Quantization to = quantization_of(ctx, 0);
  const int64_t outer = z.shape().count(0, axis), row = z.shape().count(axis, z.rank());
  dispatch_bytes(ctx, 2, [&](auto zero) {
    using T = decltype(zero);
    T* target = z.data<T>();
    for (int i = 2; i < ctx.num_inputs(); i += 3) {
      const Tensor& x = ctx.input(i);
      const std::array<T, 256> table = make_table<T>(quantization_of(ctx, i + 1), to, [](float v) { return v; });
      const int64_t n = x.shape().count(axis, x.rank());
      const T* from = x.data<T>();
      ctx.pool().parallel_for(
          outer, std::max<int64_t>(1, kCheapGrain / std::max<int64_t>(1, n)), [&](int64_t begin, int64_t end, int) {
            for (int64_t o = begin; o < end; ++o) {
              map_row(from + o * n, target + o * row, n, [&table](T v) { return table[static_cast<uint8_t>(v)]; });
            }
          });
      target += n;
    }
  });
}

void infer_softmax(InferContext& ctx) {
  infer_unary(ctx);
  if (ctx.has_rank(0) && ctx.rank(0) > 0) ctx.axis(ctx.node().get_int("axis", -1), ctx.rank(0));
}

void run_softmax(RunContext& ctx) {
  const Tensor& x = ctx.input(0);
  if (x.count() == 0) return;
  const Quantization from = quantization_of(ctx, 1), to = quantization_of(ctx, 3);
  const int axis = x.rank() == 0 ? 0 : ctx.axis(ctx.node().get_int("axis", -1), x.rank());
  const bool is_flattened = ctx.node().get_int("opset", 13) < 13;  // of the Softmax that this one was made from
  const int64_t length = x.rank() == 0 ? 1 : is_flattened ? x.shape().count(axis, x.rank()) : x.dim(axis);
  const int64_t inner = x.rank() == 0 || is_flattened ? 1 : x.shape().count(axis + 1, x.rank());
  dispatch_bytes(ctx, 0, [&](auto zero) {
    using T = decltype(zero);
    float exponentials[256];  // by how far a number is below the largest of its line
    for (int d = 0; d < 256; ++d) exponentials[d] = std::exp(-static_cast<float>(d) * from.scale);
    const T* q = x.data<T>();
    T* z = ctx.output(0).data<T>();
    const int64_t grain = std::max<int64_t>(1, kCostlyGrain / length);
    ctx.pool().parallel_for(x.count() / length, grain, [&](int64_t begin, int64_t end, int) {
      for (int64_t line = begin; line < end; ++line) {
        const int64_t at = line / inner * length * inner + line % inner;
        int largest = std::numeric_limits<T>::min();
        for (int64_t k = 0; k < length; ++k) largest = std::max<int>(largest, q[at + k * inner]);
        double sum = 0;
        for (int64_t k = 0; k < length; ++k) sum += exponentials[largest - q[at + k * inner]];
        const float factor = static_cast<float>(1 / sum);
        for (int64_t k = 0; k < length; ++k) {
          z[at + k * inner] = quantize<T>(exponentials[largest - q[at + k * inner]] * factor, to.scale, to.zero);
        }
      }
    });
  });
}

// Where pooling windows lie along up to three dimensions, and how channels and positions are laid out.
struct Pooling {
  static constexpr int kMaxSpatial = 3;
  int num_spatial = 0;
  int64_t size[kMaxSpatial] = {1, 1, 1}, result[kMaxSpatial] = {1, 1, 1};
  int64_t kernel[kMaxSpatial] = {1, 1, 1}, stride[kMaxSpatial] = {1, 1, 1};
  int64_t pad_begin[kMaxSpatial] = {0, 0, 0}, pad_end[kMaxSpatial] = {0, 0, 0};
};

// Throws Error for attributes that make no sense.
Pooling pooling_of(const Node& node, const int64_t* sizes, int num_spatial) {
  auto reject = [&](const char* what) { fail(Code::kInvalidArgument, "{}: {}", node.describe(), what); };
  if (num_spatial < 1 || num_spatial > Pooling::kMaxSpatial) reject("one to three spatial dimensions are supported");
  Pooling p;
  p.num_spatial = num_spatial;
  const size_t n = static_cast<size_t>(num_spatial);
  const std::vector<int64_t> kernel = node.get_ints("kernel_shape");
  const std::vector<int64_t> strides = node.get_ints("strides", std::vector<int64_t>(n, 1));
  const std::vector<int64_t> pads = node.get_ints("pads", std::vector<int64_t>(2 * n, 0));
  if (kernel.size() != n || strides.size() != n || pads.size() != 2 * n)
    reject("kernel_shape, strides or pads do not fit the dimensions of x");
  const std::string auto_pad = node.get_string("auto_pad", "NOTSET");
  const bool is_same = auto_pad == "SAME_UPPER" || auto_pad == "SAME_LOWER";
  if (!is_same && auto_pad != "NOTSET" && auto_pad != "VALID")
    reject("auto_pad has to be NOTSET, VALID, SAME_UPPER or SAME_LOWER");
  constexpr int64_t kLargest = int64_t{1} << 31;
  const bool rounds_up = node.get_int("ceil_mode", 0) != 0;
  for (size_t i = 0; i < n; ++i) {
    if (kernel[i] < 1 || kernel[i] > kLargest || strides[i] < 1 || strides[i] > kLargest)
      reject("kernel_shape and strides have to be positive");
    p.size[i] = sizes[i], p.kernel[i] = kernel[i], p.stride[i] = strides[i];
    if (is_same) {
      p.result[i] = sizes[i] / strides[i] + (sizes[i] % strides[i] != 0 ? 1 : 0);
      const int64_t total = std::max<int64_t>(0, (p.result[i] - 1) * strides[i] + kernel[i] - sizes[i]);
      p.pad_begin[i] = auto_pad == "SAME_UPPER" ? total / 2 : total - total / 2;
      p.pad_end[i] = total - p.pad_begin[i];
      continue;
    }
    if (auto_pad == "NOTSET") p.pad_begin[i] = pads[i], p.pad_end[i] = pads[n + i];
    if (p.pad_begin[i] < 0 || p.pad_end[i] < 0 || p.pad_begin[i] >= kernel[i] || p.pad_end[i] >= kernel[i]) {
      reject("pads have to be at least 0 and smaller than the kernel");
    }
    const int64_t room = sizes[i] + p.pad_begin[i] + p.pad_end[i] - kernel[i];
    if (room < 0) reject("the kernel is larger than the padded input");
    p.result[i] = room / strides[i] + 1;
    if (rounds_up && room % strides[i] != 0 && p.result[i] * strides[i] < sizes[i] + p.pad_begin[i]) ++p.result[i];
  }
  return p;
}

bool is_channels_last(const Node& node) { return node.get_int("channels_last", 0) != 0; }

void infer_average_pool(InferContext& ctx) {
  infer_unary(ctx);
  if (!ctx.has_rank(0)) return ctx.set_output(0, ctx.element(0));
  if (ctx.rank(0) < 3) ctx.fail("x has {} dimensions; at least three are needed", ctx.rank(0));
  const int first = is_channels_last(ctx.node()) ? 1 : 2, num_spatial = ctx.rank(0) - 2;
  Dims dims = ctx.dims(0);
  std::vector<int64_t> sizes;
  for (int i = 0; i < num_spatial; ++i) {
    const Dim& dim = dims[static_cast<size_t>(first + i)];
    if (dim.is_known()) sizes.push_back(dim.value());
  }
  const bool is_known = sizes.size() == static_cast<size_t>(num_spatial);
  const Pooling p = is_known ? pooling_of(ctx.node(), sizes.data(), num_spatial) : Pooling{};
  for (int i = 0; i < num_spatial; ++i)
    dims[static_cast<size_t>(first + i)] = is_known ? Dim(p.result[i]) : Dim::unknown();
  ctx.set_output(0, ctx.element(0), std::move(dims));
}

void run_average_pool(RunContext& ctx) {
  const Tensor& x = ctx.input(0);
  Tensor& output = ctx.output(0);
  const bool channels_last = is_channels_last(ctx.node());
  const int first = channels_last ? 1 : 2;
  const Pooling p = pooling_of(ctx.node(), x.shape().begin() + first, x.rank() - 2);
  const int64_t num_channels = channels_last ? x.shape().back() : x.dim(1);
  const int64_t num_positions = p.size[0] * p.size[1] * p.size[2],
                num_results = p.result[0] * p.result[1] * p.result[2];
  const int64_t step = channels_last ? num_channels : 1;                  // from one position to the next
  const int64_t x_step = channels_last ? 1 : num_positions,
                z_step = channels_last ? 1 : num_results;  // from a channel to the next
  const bool counts_pads = ctx.node().get_int("count_include_pad", 0) != 0;
  const Quantization from = quantization_of(ctx, 1), to = quantization_of(ctx, 3);
  dispatch_bytes(ctx, 0, [&](auto zero) {
    using T = decltype(zero);
    const T* q = x.data<T>();
    T* z = output.data<T>();
    ctx.pool().parallel_for(x.dim(0) * num_channels, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t plane = begin; plane < end; ++plane) {
        const T* in = q + plane / num_channels * num_channels * num_positions + plane % num_channels * x_step;
        T* out = z + plane / num_channels * num_channels * num_results + plane % num_channels * z_step;
        for (int64_t r = 0; r < num_results; ++r) {
          const int64_t at[3] = {r / (p.result[1] * p.result[2]), r / p.result[2] % p.result[1], r % p.result[2]};
          int64_t low[3], high[3], padded = 1;
          for (int i = 0; i < 3; ++i) {
            const int64_t start = at[i] * p.stride[i] - p.pad_begin[i];
            padded *= std::min(start + p.kernel[i], p.size[i] + p.pad_end[i]) - start;
            low[i] = std::max<int64_t>(0, start);
            high[i] = std::min(start + p.kernel[i], p.size[i]);
          }
          int64_t sum = 0;
          for (int64_t a = low[0]; a < high[0]; ++a) {
            for (int64_t b = low[1]; b < high[1]; ++b) {
              for (int64_t c = low[2]; c < high[2]; ++c)
                sum += in[((a * p.size[1] + b) * p.size[2] + c) * step] - from.zero;
            }
          }
          const int64_t inside = std::max<int64_t>(1, (high[0] - low[0]) * (high[1] - low[1]) * (high[2] - low[2]));
          const float mean =
              static_cast<float>(static_cast<double>(sum) / static_cast<double>(counts_pads ? padded : inside));
          out[r * step] = quantize<T>(mean * from.scale, to.scale, to.zero);
        }
      }
    });
  });
}

void infer_global_average_pool(InferContext& ctx) {
  infer_unary(ctx);
  if (!ctx.has_rank(0)) return ctx.set_output(0, ctx.element(0));
  if (ctx.rank(0) < 2) ctx.fail("x has {} dimensions; at least two are needed", ctx.rank(0));
  Dims dims = ctx.dims(0);
  const size_t first = is_channels_last(ctx.node()) ? 1 : 2;
  for (size_t i = first; i < first + dims.size() - 2; ++i) dims[i] = Dim(1);
  ctx.set_output(0, ctx.element(0), std::move(dims));
}

void run_global_average_pool(RunContext& ctx) {
  const Tensor& x = ctx.input(0);
  const bool channels_last = is_channels_last(ctx.node());
  const int64_t num_channels = channels_last ? x.shape().back() : x.dim(1);
  const int64_t num_positions = channels_last ? x.shape().count(1, x.rank() - 1) : x.shape().count(2, x.rank());
  const int64_t step = channels_last ? num_channels : 1, x_step = channels_last ? 1 : num_positions;
  const Quantization from = quantization_of(ctx, 1), to = quantization_of(ctx, 3);
  dispatch_bytes(ctx, 0, [&](auto zero) {
    using T = decltype(zero);
    const T* q = x.data<T>();
    T* z = ctx.output(0).data<T>();
    const int64_t grain = std::max<int64_t>(1, kCheapGrain / std::max<int64_t>(1, num_positions));
    ctx.pool().parallel_for(x.dim(0) * num_channels, grain, [&](int64_t begin, int64_t end, int) {
      for (int64_t plane = begin; plane < end; ++plane) {
        const T* in = q + plane / num_channels * num_channels * num_positions + plane % num_channels * x_step;
        int64_t sum = 0;
        for (int64_t i = 0; i < num_positions; ++i) sum += in[i * step] - from.zero;
        const float mean =
            static_cast<float>(static_cast<double>(sum) / static_cast<double>(std::max<int64_t>(1, num_positions)));
        z[plane] = quantize<T>(mean * from.scale, to.scale, to.zero);
      }
    });
  });
}

constexpr uint8_t kVia = OpInfo::kViaFloat;  // scales may be f16
constexpr OpInfo kOps[] = {
    {kMicrosoft, "QLinearAdd", 1, 0, infer_binary, run_binary<false>, kVia},
    {kMicrosoft, "QLinearMul", 1, 0, infer_binary, run_binary<true>, kVia},
    {kMicrosoft, "QLinearSigmoid", 1, 0, infer_unary, run_sigmoid, kVia},
    {kMicrosoft, "QLinearLeakyRelu", 1, 0, infer_unary, run_leaky_relu, kVia},
    {kMicrosoft, "QLinearConcat", 1, 0, infer_concat, run_concat, kVia},
    {kMicrosoft, "QLinearSoftmax", 1, 0, infer_softmax, run_softmax, kVia},
    {kMicrosoft, "QLinearAveragePool", 1, 0, infer_average_pool, run_average_pool, kVia},
    {kMicrosoft, "QLinearGlobalAveragePool", 1, 0, infer_global_average_pool, run_global_average_pool, kVia},
};

}  // namespace

std::span<const OpInfo> qlinear_ops() { return kOps; }

}  // namespace sluice::graph::ops
