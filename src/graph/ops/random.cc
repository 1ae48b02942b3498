// Random numbers: RandomNormal, RandomUniform, their Like forms, Bernoulli, Multinomial, Dropout (ONNX operator
// specification).
//
// With a seed a node draws from a Mersenne Twister in the way of NumPy's RandomState (53 bits from two words; normal
// numbers by Marsaglia's polar method), because ONNX's reference results of Dropout are made so: the same seed gives
// the same mask. Without one it draws from the executor's generator. Dropout passes its input through unless it is told
// to train, which only opset 12 and later can; its mask is of bools since opset 10, of the input's type before.
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "base/float16.h"
#include "graph/ops/elementwise.h"
#include "graph/ops/ops.h"

namespace sluice::graph::ops {
namespace {

class Draws {
 public:
  explicit Draws(RunContext& ctx) : random_(ctx.random()) {
    const Attribute* seed = ctx.node().find("seed");
    if (seed == nullptr) return;
    has_seed_ = true;
    const double value =
        seed->kind == Attribute::Kind::kInt ? static_cast<double>(seed->i) : static_cast<double>(seed->f);
    const bool is_plain = value >= 0 && value < 4294967296.0;
    twister_.seed(is_plain ? static_cast<uint32_t>(value) : static_cast<uint32_t>(seed->i) ^ float_to_bits(seed->f));
  }

  double uniform() {
    if (!has_seed_) return random_.uniform();
    const uint32_t high = static_cast<uint32_t>(twister_()) >> 5, low = static_cast<uint32_t>(twister_()) >> 6;
    return (high * 67108864.0 + low) / 9007199254740992.0;
  }

  double normal() {
    if (has_spare_) {
      has_spare_ = false;
      return spare_;
    }
    for (;;) {
      const double x = 2 * uniform() - 1, y = 2 * uniform() - 1, r = x * x + y * y;
      if (r >= 1 || r == 0) continue;
      const double factor = std::sqrt(-2 * std::log(r) / r);
      spare_ = factor * x;
      has_spare_ = true;
      return factor * y;
    }
  }

 private:
  Random& random_;
  std::mt19937 twister_;
  bool has_seed_ = false, has_spare_ = false;
  double spare_ = 0;
};

ElementType dtype_of(const InferContext& ctx, ElementType otherwise) {
  const int64_t code = ctx.node().get_int("dtype", static_cast<int64_t>(otherwise));
  if (code < 0 || code >= kNumElementTypes) ctx.fail("there is no element type {}", code);
  return static_cast<ElementType>(code);
}

ElementType float_dtype_of(const InferContext& ctx, ElementType otherwise) {
  const ElementType element = dtype_of(ctx, otherwise);
  if (element != ElementType::kUndefined && !is_wide_float(element))
    ctx.fail("cannot make {}, only floating point numbers", name(element));
  return element;
}

void infer_random(InferContext& ctx) {
  const ElementType element = float_dtype_of(ctx, ElementType::kF32);
  Dims dims;
  for (const int64_t dim : ctx.node().get_ints("shape")) {
    if (dim < 0) ctx.fail("a dimension of {}", dim);
    dims.emplace_back(dim);
  }
  ctx.set_output(0, element, std::move(dims));
}

void infer_random_like(InferContext& ctx) {
  const ElementType element = float_dtype_of(ctx, ctx.element(0));
  if (ctx.has_rank(0)) ctx.set_output(0, element, ctx.dims(0));
  else ctx.set_output(0, element);
}

template <typename Next>
void fill(RunContext& ctx, Next next) {
  Tensor& z = ctx.output(0);
  const bool known = dispatch<float, double>(z.type(), [&](auto zero) {
    using T = decltype(zero);
    T* to = z.data<T>();
    for (int64_t i = 0; i < z.count(); ++i) to[i] = static_cast<T>(next());
  });
  if (!known) ctx.fail("cannot make {}", name(z.type()));
}

void run_uniform(RunContext& ctx) {
  const double low = ctx.node().get_float("low", 0.0f), high = ctx.node().get_float("high", 1.0f);
  Draws draws(ctx);
  fill(ctx, [&] { return low + (high - low) * draws.uniform(); });
}

void run_normal(RunContext& ctx) {
  const double mean = ctx.node().get_float("mean", 0.0f), scale = ctx.node().get_float("scale", 1.0f);
  Draws draws(ctx);
  fill(ctx, [&] { return mean + scale * draws.normal(); });
}

void infer_bernoulli(InferContext& ctx) {
  check_element(ctx, 0, is_wide_float, "floating point numbers");
  const ElementType element = dtype_of(ctx, ctx.element(0));
  if (element != ElementType::kUndefined && !is_number(element) && element != ElementType::kBool) {
    ctx.fail("cannot make {}, only numbers and bools", name(element));
  }
  if (ctx.has_rank(0)) ctx.set_output(0, element, ctx.dims(0));
  else ctx.set_output(0, element);
}

void run_bernoulli(RunContext& ctx) {
  const Tensor& x = ctx.input(0);
  Tensor& z = ctx.output(0);
  Draws draws(ctx);
  const bool known = dispatch<float, double>(x.type(), [&](auto zero) {
    using T = decltype(zero);
    const T* p = x.data<T>();
    auto write = [&](auto other) {
      using R = decltype(other);
      R* to = z.data<R>();
      for (int64_t i = 0; i < z.count(); ++i) to[i] = static_cast<R>(draws.uniform() < static_cast<double>(p[i]));
    };
    if (!dispatch_numbers(z.type(), write)) dispatch<bool>(z.type(), write);
  });
  if (!known) ctx.fail_type(0);
}

void infer_multinomial(InferContext& ctx) {
  check_element(ctx, 0, is_wide_float, "floating point numbers");
  const ElementType element = dtype_of(ctx, ElementType::kI32);
  if (element != ElementType::kI32 && element != ElementType::kI64)
    ctx.fail("makes int32 and int64, not {}", name(element));
  const int64_t count = ctx.node().get_int("sample_size", 1);
  if (count < 0) ctx.fail("sample_size is {}", count);
  Dims dims = {Dim::unknown(), Dim(count)};
  if (ctx.has_rank(0)) {
    if (ctx.rank(0) != 2) ctx.fail("x has {} dimensions; [batch, classes] is needed", ctx.rank(0));
    dims[0] = ctx.dims(0)[0];
  }
  ctx.set_output(0, element, std::move(dims));
}

void run_multinomial(RunContext& ctx) {
  const Tensor& x = ctx.input(0);
  Tensor& z = ctx.output(0);
  const int64_t num_rows = x.dim(0), num_classes = x.dim(1), num_samples = z.dim(1);
  if (z.count() == 0) return;
  if (num_classes == 0) ctx.fail("there are no classes to draw from");
  Draws draws(ctx);
  std::vector<double> cumulative(static_cast<size_t>(num_classes));
  const bool known = dispatch<float, double>(x.type(), [&](auto zero) {
    using T = decltype(zero);
    for (int64_t row = 0; row < num_rows; ++row) {
      const T* logits = x.data<T>() + row * num_classes;
      double largest = -std::numeric_limits<double>::infinity(), sum = 0;
      for (int64_t c = 0; c < num_classes; ++c) largest = std::max(largest, static_cast<double>(logits[c]));
      for (int64_t c = 0; c < num_classes; ++c) {
        const double weight = std::exp(static_cast<double>(logits[c]) - largest);
        cumulative[static_cast<size_t>(c)] = sum += weight == weight ? weight : 0;
      }
      for (int64_t s = 0; s < num_samples; ++s) {
        const auto found = std::upper_bound(cumulative.begin(), cumulative.end(), draws.uniform() * sum);
        const int64_t drawn = std::min<int64_t>(found - cumulative.begin(), num_classes - 1);
        if (z.type() == ElementType::kI32) z.data<int32_t>()[row * num_samples + s] = static_cast<int32_t>(drawn);
        else z.data<int64_t>()[row * num_samples + s] = drawn;
      }
    }
  });
  if (!known) ctx.fail_type(0);
}

void infer_dropout(InferContext& ctx) {
  check_element(ctx, 0, [](ElementType t) { return is_wide_float(t) || is_float8(t); }, "floating point numbers");
  infer_same(ctx);
  const ElementType mask = ctx.opset() < 10 ? ctx.element(0) : ElementType::kBool;
  if (ctx.has_rank(0)) ctx.set_output(1, mask, ctx.dims(0));
  else ctx.set_output(1, mask);
}

double ratio_of(RunContext& ctx) {
  double ratio = 0.5;
  if (ctx.opset() < 12) return ctx.node().get_float("ratio", 0.5f);
  if (!ctx.has_input(1)) return ratio;
  const Tensor& given = ctx.input(1);
  if (given.count() != 1) ctx.fail("the ratio has to be a single number");
  if (!dispatch<float, double>(given.type(), [&](auto zero) { ratio = given.data<decltype(zero)>()[0]; }))
    ctx.fail_type(1);
  return ratio;
}

void run_dropout(RunContext& ctx) {
  const Tensor& x = ctx.input(0);
  bool trains = false;
  if (ctx.opset() >= 12 && ctx.has_input(2)) {
    const Tensor& mode = ctx.input(2);
    if (mode.type() != ElementType::kBool || mode.count() != 1) ctx.fail("training_mode has to be a single bool");
    trains = mode.data<uint8_t>()[0] != 0;
  }
  const double ratio = ratio_of(ctx);
  if (!(ratio >= 0 && ratio <= 1)) ctx.fail("a ratio of {}; 0 to 1 is allowed", ratio);
  std::vector<uint8_t> mask;
  if (!trains || ratio == 0) {
    ctx.set(0, x);
  } else {
    Draws draws(ctx);
    mask.resize(static_cast<size_t>(x.count()));
    for (uint8_t& kept : mask) kept = draws.uniform() >= ratio ? 1 : 0;
    const bool known = dispatch<float, double>(x.type(), [&](auto zero) {
      using T = decltype(zero);
      const T scale = ratio < 1 ? static_cast<T>(1 / (1 - ratio)) : T(0);
      map_rows(x.data<T>(), mask.data(), ctx.output(0).data<T>(), x.count(),
               [scale](T v, uint8_t kept) { return kept != 0 ? v * scale : T(0); });
    });
    if (!known) ctx.fail_type(0);
  }
  if (!ctx.has_output(1)) return;
  Tensor& z = ctx.output(1);
  const bool known = dispatch<float, double, bool>(z.type(), [&](auto zero) {
    using T = decltype(zero);
    T* to = z.data<T>();
    for (int64_t i = 0; i < z.count(); ++i) to[i] = mask.empty() || mask[static_cast<size_t>(i)] != 0 ? T(1) : T(0);
  });
  if (!known) ctx.fail("cannot make a mask of {}", name(z.type()));
}

constexpr uint8_t kFlags = OpInfo::kViaFloat | OpInfo::kImpure;
constexpr OpInfo kOps[] = {
    {"", "RandomNormal", 1, 0, infer_random, run_normal, kFlags},
    {"", "RandomUniform", 1, 0, infer_random, run_uniform, kFlags},
    {"", "RandomNormalLike", 1, 0, infer_random_like, run_normal, kFlags},
    {"", "RandomUniformLike", 1, 0, infer_random_like, run_uniform, kFlags},
    {"", "Bernoulli", 15, 0, infer_bernoulli, run_bernoulli, kFlags},
    {"", "Multinomial", 7, 0, infer_multinomial, run_multinomial, kFlags},
    {"", "Dropout", 1, 0, infer_dropout, run_dropout, kFlags},
};

}  // namespace

std::span<const OpInfo> random_ops() { return kOps; }

}  // namespace sluice::graph::ops
