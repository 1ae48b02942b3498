// The activation that fused operators (FusedConv and FusedGemm of com.microsoft, FusedMatMul of sluice) name in an
// attribute and apply to what they have computed. Gelu, GeluTanh, Swish and Mish are names of ours: the passes that
// fuse write them; the others are ONNX Runtime's. A fused node gives what the activation's own operator would.
#pragma once

#include <algorithm>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "graph/op.h"
#include "graph/ops/vector_math.h"

namespace sluice::graph::ops {

struct FusedActivation {
  enum class Kind : uint8_t {
    kNone, kRelu, kLeakyRelu, kSigmoid, kTanh, kClip, kHardSigmoid, kElu, kHardSwish, kGelu, kGeluTanh, kSwish, kMish
  };

  // `alpha` and `beta` are the activation's parameters in the order of its own operator's definition (Clip: min, max).
  static FusedActivation make(const Node& node, const std::string& name, std::optional<float> alpha,
                              std::optional<float> beta) {
    using enum Kind;
    if (name.empty() || name == "Identity") return {};
    if (name == "Relu") return {kRelu};
    if (name == "LeakyRelu") return {kLeakyRelu, alpha.value_or(0.01f)};
    if (name == "Sigmoid") return {kSigmoid};
    if (name == "Tanh") return {kTanh};
    if (name == "Clip")
      return {kClip, alpha.value_or(std::numeric_limits<float>::lowest()),
              beta.value_or(std::numeric_limits<float>::max())};
    if (name == "HardSigmoid") return {kHardSigmoid, alpha.value_or(0.2f), beta.value_or(0.5f)};
    if (name == "Elu") return {kElu, alpha.value_or(1.0f)};
    if (name == "HardSwish") return {kHardSwish};
    if (name == "Gelu") return {kGelu};
    if (name == "GeluTanh") return {kGeluTanh};
    if (name == "Swish") return {kSwish, alpha.value_or(1.0f)};
    if (name == "Mish") return {kMish};
    fail(Code::kInvalidArgument,
         "{}: activation '{}' is not known; known are Relu, LeakyRelu, Sigmoid, Tanh, Clip, HardSigmoid, Elu, "
         "HardSwish, Gelu, GeluTanh, Swish and Mish",
         node.describe(), name);
  }

  // As the attributes `activation` and `activation_params` say.
  static FusedActivation of(const Node& node) {
    const std::vector<float> parameters = node.get_floats("activation_params");
    auto parameter = [&](size_t i) { return i < parameters.size() ? std::optional(parameters[i]) : std::nullopt; };
    return make(node, node.get_string("activation", ""), parameter(0), parameter(1));
  }

  void apply(float* x, int64_t count) const {
    using enum Kind;
    auto map = [&](auto f) { for (int64_t i = 0; i < count; ++i) x[i] = f(x[i]); };
    switch (kind) {
      case kNone: return;
      case kRelu: return map([](float v) { return v < 0 ? 0.0f : v; });
      case kLeakyRelu: return map([a = alpha](float v) { return v < 0 ? a * v : v; });
      case kSigmoid: return map([](float v) { return fast_sigmoid(v); });
      case kTanh: return map([](float v) { return fast_tanh(v); });
      case kClip: return map([lo = alpha, hi = beta](float v) { v = v < lo ? lo : v; return v > hi ? hi : v; });
      case kHardSigmoid:
        return map([a = alpha, b = beta](float v) { v = a * v + b; v = v < 0 ? 0 : v; return v > 1 ? 1.0f : v; });
      case kElu: return map([a = alpha](float v) { const float low = a * fast_expm1(v); return v < 0 ? low : v; });
      case kHardSwish:
        return map([](float v) { float s = v / 6 + 0.5f; s = s < 0 ? 0 : s; return v * (s > 1 ? 1.0f : s); });
      case kGelu:
        return map([](float v) { return zero_at_end(v, 0.5f * v * (1.0f + fast_erf(v * 0.70710678f))); });
      case kGeluTanh:
        return map([](float v) {
          return zero_at_end(v, 0.5f * v * (1.0f + fast_tanh(0.79788456f * (v + 0.044715f * v * v * v))));
        });
      case kSwish:
        return map([a = alpha](float v) {
          const float product = v * fast_sigmoid(a * v);
          return a > 0 ? zero_at_end(v, product) : product;
        });
      case kMish:
        return map([](float v) {
          const float softplus = (v > 0 ? v : 0.0f) + (v != v ? v : fast_log1p(fast_exp(-magnitude(v))));
          return v * fast_tanh(softplus);
        });
    }
  }

  // y, but 0 where v is -inf, for the product of both ends is no number.
  static float zero_at_end(float v, float y) { return v == -std::numeric_limits<float>::infinity() ? 0.0f : y; }

  Kind kind = Kind::kNone;
  float alpha = 0, beta = 0;
};

}  // namespace sluice::graph::ops
