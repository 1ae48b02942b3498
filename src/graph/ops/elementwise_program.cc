#include "graph/ops/elementwise_program.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <optional>

#include "base/error.h"
#include "graph/kernels/bf16_lines.h"
#include "graph/kernels/isa.h"
#include "graph/ops/vector_math.h"

namespace sluice::graph::ops {
namespace {

using Function = ElementwiseProgram::Function;

// The functions; each is what the ONNX operator of that name is for float.
struct Add {
  static float of(float a, float b, float) { return a + b; }
};
struct Sub {
  static float of(float a, float b, float) { return a - b; }
};
struct Mul {
  static float of(float a, float b, float) { return a * b; }
};
struct Div {
  static float of(float a, float b, float) { return a / b; }
};
struct Min {
  static float of(float a, float b, float) { return a < b || a != a ? a : b; }
};
struct Max {
  static float of(float a, float b, float) { return a > b || a != a ? a : b; }
};
struct Equal {
  static float of(float a, float b, float) { return a == b ? 1.0f : 0.0f; }
};
struct Less {
  static float of(float a, float b, float) { return a < b ? 1.0f : 0.0f; }
};
struct LessOrEqual {
  static float of(float a, float b, float) { return a <= b ? 1.0f : 0.0f; }
};
struct Greater {
  static float of(float a, float b, float) { return a > b ? 1.0f : 0.0f; }
};
struct GreaterOrEqual {
  static float of(float a, float b, float) { return a >= b ? 1.0f : 0.0f; }
};
struct And {
  static float of(float a, float b, float) { return a != 0 && b != 0 ? 1.0f : 0.0f; }
};
struct Or {
  static float of(float a, float b, float) { return a != 0 || b != 0 ? 1.0f : 0.0f; }
};
struct Not {
  static float of(float a, float, float) { return a != 0 ? 0.0f : 1.0f; }
};
struct Where {
  static float of(float a, float b, float c) { return a != 0 ? b : c; }
};
struct PRelu {
  static float of(float a, float b, float) { return a < 0 ? a * b : a; }
};
struct Neg {
  static float of(float a, float, float) { return -a; }
};
struct Abs {
  static float of(float a, float, float) { return magnitude(a); }
};
struct Sqrt {
  static float of(float a, float, float) { return std::sqrt(a); }
};
struct Reciprocal {
  static float of(float a, float, float) { return 1.0f / a; }
};
struct Exp {
  static float of(float a, float, float) { return fast_exp(a); }
};
struct Log {
  static float of(float a, float, float) { return fast_log(a); }
};
struct Erf {
  static float of(float a, float, float) { return fast_erf(a); }
};
struct Tanh {
  static float of(float a, float, float) { return fast_tanh(a); }
};
struct Sigmoid {
  static float of(float a, float, float) { return fast_sigmoid(a); }
};
struct Floor {
  static float of(float a, float, float) { return round_down(a); }
};
struct Ceil {
  static float of(float a, float, float) { return round_up(a); }
};
struct Round {
  static float of(float a, float, float) { return round_even(a); }
};
struct Relu {
  static float of(float a, float, float) { return a < 0 ? 0.0f : a; }
};
struct LeakyRelu {
  static float of(float a, float b, float) { return a < 0 ? b * a : a; }
};
struct Elu {
  static float of(float a, float b, float) {
    const float low = b * fast_expm1(a);
    return a < 0 ? low : a;
  }
};
struct Clip {
  static float of(float a, float b, float c) {
    const float raised = a < b ? b : a;
    return raised > c ? c : raised;
  }
};
struct HardSigmoid {
  static float of(float a, float b, float c) {
    const float line = b * a + c;
    return line < 0 ? 0.0f : line > 1 ? 1.0f : line;
  }
};
struct HardSwish {
  static float of(float a, float, float) { return a * HardSigmoid::of(a, 1.0f / 6, 0.5f); }
};
// y, but 0 where a is -inf, for the product of both ends is no number.
inline float zero_at_end(float a, float y) { return a == -std::numeric_limits<float>::infinity() ? 0.0f : y; }
struct Swish {
  static float of(float a, float b, float) {
    const float product = a * fast_sigmoid(b * a);
    return b > 0 ? zero_at_end(a, product) : product;
  }
};
struct Softplus {
  static float of(float a, float, float) {
    return (a > 0 ? a : 0.0f) + (a != a ? a : fast_log1p(fast_exp(-magnitude(a))));
  }
};
struct Mish {
  static float of(float a, float, float) { return a * fast_tanh(Softplus::of(a, 0, 0)); }
};
struct Gelu {
  static float of(float a, float, float) { return zero_at_end(a, 0.5f * a * (1.0f + fast_erf(a * 0.70710678f))); }
};
struct GeluTanh {
  static float of(float a, float, float) {
    return zero_at_end(a, 0.5f * a * (1.0f + fast_tanh(0.79788456f * (a + 0.044715f * a * a * a))));
  }
};

// One loop over a block; unused operands are any readable block.
template <typename F>
inline __attribute__((always_inline)) void map_block(float* to, const float* a, const float* b, const float* c,
                                                     int64_t count) {
  // A result may lie where an operand lay, element for element.
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) to[i] = F::of(a[i], b[i], c[i]);
}

template <typename F>
void map_128(float* to, const float* a, const float* b, const float* c, int64_t count) {
  map_block<F>(to, a, b, c, count);
}
#ifdef __x86_64__
template <typename F>
__attribute__((target("avx2,fma"), flatten)) void map_256(float* to, const float* a, const float* b, const float* c,
                                                          int64_t count) {
  map_block<F>(to, a, b, c, count);
}
template <typename F>
__attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma,prefer-vector-width=512"), flatten)) void map_512(
    float* to, const float* a, const float* b, const float* c, int64_t count) {
  map_block<F>(to, a, b, c, count);
}
#endif

template <typename F>
Function choose() {
#ifdef __x86_64__
  if (vector_isa() == VectorIsa::kAvx512) return map_512<F>;
  if (vector_isa() >= VectorIsa::kAvx2) return map_256<F>;
#endif
  return map_128<F>;
}

struct Entry {
  std::string_view name;
  int num_operands;
  Function (*choose)();
};
constexpr Entry kFunctions[] = {
    {"Add", 2, choose<Add>},
    {"Sub", 2, choose<Sub>},
    {"Mul", 2, choose<Mul>},
    {"Div", 2, choose<Div>},
    {"Min", 2, choose<Min>},
    {"Max", 2, choose<Max>},
    {"Equal", 2, choose<Equal>},
    {"Less", 2, choose<Less>},
    {"LessOrEqual", 2, choose<LessOrEqual>},
    {"Greater", 2, choose<Greater>},
    {"GreaterOrEqual", 2, choose<GreaterOrEqual>},
    {"And", 2, choose<And>},
    {"Or", 2, choose<Or>},
    {"Not", 1, choose<Not>},
    {"Where", 3, choose<Where>},
    {"PRelu", 2, choose<PRelu>},
    {"Neg", 1, choose<Neg>},
    {"Abs", 1, choose<Abs>},
    {"Sqrt", 1, choose<Sqrt>},
    {"Reciprocal", 1, choose<Reciprocal>},
    {"Exp", 1, choose<Exp>},
    {"Log", 1, choose<Log>},
    {"Erf", 1, choose<Erf>},
    {"Tanh", 1, choose<Tanh>},
    {"Sigmoid", 1, choose<Sigmoid>},
    {"Floor", 1, choose<Floor>},
    {"Ceil", 1, choose<Ceil>},
    {"Round", 1, choose<Round>},
    {"Relu", 1, choose<Relu>},
    {"LeakyRelu", 2, choose<LeakyRelu>},
    {"Elu", 2, choose<Elu>},
    {"Clip", 3, choose<Clip>},
    {"HardSigmoid", 3, choose<HardSigmoid>},
    {"HardSwish", 1, choose<HardSwish>},
    {"Swish", 2, choose<Swish>},
    {"Softplus", 1, choose<Softplus>},
    {"Mish", 1, choose<Mish>},
    {"Gelu", 1, choose<Gelu>},
    {"GeluTanh", 1, choose<GeluTanh>},
};

const Entry* find_function(std::string_view name) {
  const auto* found = std::find_if(std::begin(kFunctions), std::end(kFunctions),
                                   [&](const Entry& entry) { return entry.name == name; });
  return found == std::end(kFunctions) ? nullptr : found;
}

std::vector<std::string_view> split_words(std::string_view text) {
  std::vector<std::string_view> words;
  while (!text.empty()) {
    const size_t end = std::min(text.find(' '), text.size());
    if (end > 0) words.push_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return words;
}

template <typename T>
std::optional<T> parse_number(std::string_view text) {
  T number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size() ? std::optional(number) : std::nullopt;
}

float widen(bool value) { return value ? 1.0f : 0.0f; }
float widen(float value) { return value; }
float widen(BFloat16 value) { return bf16_to_float(value.bits); }

float widen_at(const ElementwiseProgram::Operand& operand) {
  switch (operand.type) {
    case ElementType::kBool:
      return widen(*static_cast<const bool*>(operand.data));
    case ElementType::kBF16:
      return widen(*static_cast<const BFloat16*>(operand.data));
    default:
      return *static_cast<const float*>(operand.data);
  }
}

// How one operand lies along the merged dimensions of the result.
struct Walk {
  int64_t steps[kMaxRank] = {};
  bool is_full = false;    // as the result lies
  bool is_number = false;  // one element for all
};

struct Plan {
  int rank = 0;
  int64_t dims[kMaxRank] = {};
  std::vector<Walk> walks;

  Plan(const Shape& shape, std::span<const ElementwiseProgram::Operand> inputs) : walks(inputs.size()) {
    std::vector<Shape> full;  // steps along each dimension of the result
    for (const auto& input : inputs) {
      Shape& steps = full.emplace_back(shape.rank(), 0);
      int64_t step = 1;
      for (int i = input.shape.rank() - 1, at = shape.rank() - 1; i >= 0; --i, --at) {
        steps[at] = input.shape[i] == 1 ? 0 : step;
        step *= input.shape[i];
      }
    }
    for (int i = 0; i < shape.rank(); ++i) {
      if (shape[i] == 1) continue;
      bool merges = rank > 0;
      for (size_t k = 0; k < full.size() && merges; ++k) merges = walks[k].steps[rank - 1] == full[k][i] * shape[i];
      if (!merges) ++rank;
      dims[rank - 1] = merges ? dims[rank - 1] * shape[i] : shape[i];
      for (size_t k = 0; k < full.size(); ++k) walks[k].steps[rank - 1] = full[k][i];
    }
    if (rank == 0) dims[rank++] = 1;
    for (size_t k = 0; k < full.size(); ++k) {
      walks[k].is_number = inputs[k].shape.count() == 1;
      walks[k].is_full = !walks[k].is_number && inputs[k].shape.count() == shape.count();
    }
  }

  // Elements [begin, begin + count) of the result, of one operand, one after the other.
  template <typename T>
  void spread(const Walk& walk, const T* from, int64_t begin, int64_t count, float* to) const {
    int64_t index[kMaxRank] = {}, base = 0, rest = begin;
    for (int i = rank - 1; i >= 0; --i) {
      index[i] = rest % dims[i];
      rest /= dims[i];
      if (i < rank - 1) base += index[i] * walk.steps[i];
    }
    int64_t column = index[rank - 1];
    const int64_t step = walk.steps[rank - 1];
    for (int64_t done = 0; done < count;) {
      const int64_t n = std::min(dims[rank - 1] - column, count - done);
      const T* row = from + base + column * step;
      if (step == 0)
        std::fill_n(to + done, n, widen(*row));
      else if constexpr (std::is_same_v<T, float>)
        std::memcpy(to + done, row, static_cast<size_t>(n) * sizeof(float));
      else if constexpr (std::is_same_v<T, BFloat16>)
        widen_bf16(&row->bits, n, to + done);
      else
        for (int64_t i = 0; i < n; ++i) to[done + i] = widen(row[i]);
      done += n;
      column = 0;
      for (int i = rank - 2; i >= 0; --i) {
        base += walk.steps[i];
        if (++index[i] < dims[i]) break;
        base -= walk.steps[i] * index[i];
        index[i] = 0;
      }
    }
  }
};

}  // namespace

int ElementwiseProgram::num_operands(std::string_view op) {
  const Entry* entry = find_function(op);
  return entry == nullptr ? 0 : entry->num_operands;
}

ElementwiseProgram ElementwiseProgram::parse(const Node& node) {
  const std::vector<std::string> texts = node.get_strings("program");
  auto refuse = [&](size_t i) {
    fail(Code::kInvalidArgument, "{}: step {} of its program, '{}', cannot be read", node.describe(), i, texts[i]);
  };
  if (texts.empty() || texts.size() > kMaxSteps || node.inputs.size() > kMaxInputs) {
    fail(Code::kInvalidArgument, "{}: {} steps and {} inputs; 1 to {} steps and up to {} inputs are allowed",
         node.describe(), texts.size(), node.inputs.size(), kMaxSteps, kMaxInputs);
  }
  ElementwiseProgram program;
  program.num_inputs_ = node.inputs.size();
  // First blocks as: inputs, numbers (from kMaxInputs on), values of steps (from there on).
  constexpr int kFirstNumber = static_cast<int>(kMaxInputs),
                kFirstValue = kFirstNumber + 3 * static_cast<int>(kMaxSteps);
  std::vector<int> last_use(texts.size(), -1);
  for (size_t i = 0; i < texts.size(); ++i) {
    const std::vector<std::string_view> words = split_words(texts[i]);
    const Entry* entry = words.empty() ? nullptr : find_function(words[0]);
    if (entry == nullptr || static_cast<int>(words.size()) != entry->num_operands + 1) refuse(i);
    Step& step = program.steps_.emplace_back();
    step.function = entry->choose();
    for (size_t w = 1; w < words.size(); ++w) {
      const std::string_view rest = words[w].substr(1);
      int& operand = step.operands[w - 1];
      if (words[w][0] == '=') {
        const auto number = parse_number<float>(rest);
        if (!number) refuse(i);
        operand = kFirstNumber + static_cast<int>(program.numbers_.size());
        program.numbers_.push_back(*number);
        continue;
      }
      const auto index = parse_number<uint32_t>(rest);
      const bool is_input = words[w][0] == 'x', is_value = words[w][0] == 't';
      if (!index || (!is_input && !is_value) || *index >= (is_input ? node.inputs.size() : i)) refuse(i);
      operand = static_cast<int>(*index) + (is_input ? 0 : kFirstValue);
      if (is_value) last_use[*index] = static_cast<int>(i);
    }
    for (size_t w = words.size() - 1; w > 0 && w < 3; ++w) step.operands[w] = step.operands[0];
  }
  // Registers: a value's is free again once it has been read for the last time.
  std::vector<int> registers(texts.size(), 0), free_ones;
  const int first_number = static_cast<int>(program.num_inputs_);
  const int first_register = first_number + static_cast<int>(program.numbers_.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    Step& step = program.steps_[i];
    for (int& operand : step.operands) {
      if (operand >= kFirstValue) {
        const auto value = static_cast<size_t>(operand - kFirstValue);
        if (last_use[value] == static_cast<int>(i)) {
          free_ones.push_back(registers[value]);
          last_use[value] = -2;
        }
        operand = first_register + registers[value];
      } else if (operand >= kFirstNumber) {
        operand = first_number + operand - kFirstNumber;
      }
    }
    if (free_ones.empty()) free_ones.push_back(program.num_registers_++);
    registers[i] = free_ones.back();
    free_ones.pop_back();
    step.to = first_register + registers[i];
    if (last_use[i] == -1 && i + 1 < texts.size()) free_ones.push_back(registers[i]);  // nobody reads it
  }
  return program;
}

size_t ElementwiseProgram::scratch_bytes(int num_threads) const {
  const size_t blocks = num_inputs_ + numbers_.size() + static_cast<size_t>(num_registers_);
  return static_cast<size_t>(num_threads) * blocks * static_cast<size_t>(kBlock) * sizeof(float);
}

void ElementwiseProgram::run(ThreadPool& pool, std::span<const Operand> inputs, const Shape& shape, void* out,
                             ElementType out_type, void* scratch) const {
  const int64_t count = shape.count();
  if (count == 0) return;
  const Plan plan(shape, inputs);
  const size_t num_blocks = num_inputs_ + numbers_.size() + static_cast<size_t>(num_registers_);
  const int64_t grain = std::max<int64_t>(kBlock, (1 << 15) / static_cast<int64_t>(steps_.size()));
  pool.parallel_for(count, grain, [&](int64_t begin, int64_t end, int worker) {
    float* const memory = static_cast<float*>(scratch) + static_cast<size_t>(worker) * num_blocks * kBlock;
    const float* blocks[kMaxInputs + 4 * kMaxSteps];
    for (size_t i = 0; i < num_blocks; ++i) blocks[i] = memory + i * kBlock;
    for (size_t i = 0; i < numbers_.size(); ++i) std::fill_n(memory + (num_inputs_ + i) * kBlock, kBlock, numbers_[i]);
    for (size_t k = 0; k < inputs.size(); ++k) {
      if (!plan.walks[k].is_number) continue;
      std::fill_n(memory + k * kBlock, kBlock, widen_at(inputs[k]));
    }
    for (int64_t at = begin; at < end; at += kBlock) {
      const int64_t n = std::min(kBlock, end - at);
      for (size_t k = 0; k < inputs.size(); ++k) {
        const Walk& walk = plan.walks[k];
        if (walk.is_number) continue;
        float* block = memory + k * kBlock;
        if (inputs[k].type == ElementType::kBool)
          plan.spread(walk, static_cast<const bool*>(inputs[k].data), at, n, block);
        else if (inputs[k].type == ElementType::kBF16)
          plan.spread(walk, static_cast<const BFloat16*>(inputs[k].data), at, n, block);
        else if (walk.is_full)
          blocks[k] = static_cast<const float*>(inputs[k].data) + at;
        else
          plan.spread(walk, static_cast<const float*>(inputs[k].data), at, n, block);
      }
      for (size_t i = 0; i < steps_.size(); ++i) {
        const Step& step = steps_[i];
        float* to = memory + static_cast<size_t>(step.to) * kBlock;
        if (i + 1 == steps_.size() && out_type == ElementType::kF32) to = static_cast<float*>(out) + at;
        step.function(to, blocks[step.operands[0]], blocks[step.operands[1]], blocks[step.operands[2]], n);
      }
      if (out_type == ElementType::kBF16) {
        round_to_bf16(memory + static_cast<size_t>(steps_.back().to) * kBlock, n, static_cast<uint16_t*>(out) + at);
      }
    }
  });
}

}  // namespace sluice::graph::ops
