// Einsum, as the ONNX operator specification defines it: sums of products named by labels, with ellipses, diagonals
// (a label twice in one term), implicit outputs and any number of operands.
//
// Operands are multiplied from left to right, two at a time. Of two, labels that nobody needs any more are summed in
// the operand that alone has them; what is left is copied into batches of matrices [both and kept, left only, summed]
// and [both and kept, right only, summed], multiplied by gemm.h, and its labels go on as a new operand. Integers of
// every width are computed as 64 bits and cut in the end, which is the arithmetic modulo 2^n that their own width has.
// Dimensions of 1 broadcast.
#include <algorithm>
#include <map>
#include <vector>

#include "graph/ops/einsum.h"
#include "graph/ops/gemm.h"

namespace sluice::graph::ops {
namespace {

// A letter; or, from kEllipsis on, a dimension that an ellipsis stands for, counted from the last one.
using Label = int;
constexpr Label kEllipsis = 256;

struct Equation {
  std::vector<std::vector<Label>> terms;  // of each operand; a dimension each
  std::vector<Label> output;
};

// One term as written: letters, and kEllipsis at most once.
std::vector<Label> read_term(const Node& node, std::string_view text) {
  std::vector<Label> labels;
  bool has_ellipsis = false;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == ' ') continue;
    if (text.substr(i, 3) == "...") {
      if (has_ellipsis) fail(Code::kInvalidArgument, "{}: a term of the equation has two ellipses", node.describe());
      has_ellipsis = true;
      labels.push_back(kEllipsis);
      i += 2;
    } else if ((text[i] >= 'a' && text[i] <= 'z') || (text[i] >= 'A' && text[i] <= 'Z')) {
      labels.push_back(text[i]);
    } else {
      fail(Code::kInvalidArgument, "{}: the equation may have letters, ',', '...', '->' and spaces, not '{}'",
           node.describe(), text[i]);
    }
  }
  return labels;
}

void replace_ellipsis(std::vector<Label>& labels, int num_dims) {
  const auto at = std::find(labels.begin(), labels.end(), kEllipsis);
  if (at == labels.end()) return;
  std::vector<Label> dims;
  for (int d = num_dims - 1; d >= 0; --d) dims.push_back(kEllipsis + d);
  const auto place = labels.erase(at);
  labels.insert(place, dims.begin(), dims.end());
}

// Ranks are -1 where they are not known. nullopt if the output's rank depends on one of those.
std::optional<Equation> read_equation(const Node& node, const std::vector<int>& ranks) {
  const std::string text = node.get_string("equation", "");
  const size_t arrow = text.find("->");
  Equation equation;
  std::string_view inputs = std::string_view(text).substr(0, arrow);
  for (;;) {
    const size_t comma = inputs.find(',');
    equation.terms.push_back(read_term(node, inputs.substr(0, comma)));
    if (comma == std::string_view::npos) break;
    inputs.remove_prefix(comma + 1);
  }
  if (equation.terms.size() != ranks.size()) {
    fail(Code::kInvalidArgument, "{}: the equation '{}' has {} operands, the node {}", node.describe(), text,
         equation.terms.size(), ranks.size());
  }
  if (arrow != std::string::npos) {
    equation.output = read_term(node, std::string_view(text).substr(arrow + 2));
  } else {
    std::map<Label, int> uses;
    for (const auto& term : equation.terms) {
      for (const Label label : term) ++uses[label];
    }
    if (uses.count(kEllipsis) > 0) equation.output.push_back(kEllipsis);
    for (const auto& [label, count] : uses) {
      if (count == 1 && label != kEllipsis) equation.output.push_back(label);
    }
  }

  int ellipsis_dims = 0;
  for (size_t i = 0; i < ranks.size(); ++i) {
    std::vector<Label>& term = equation.terms[i];
    const bool has_ellipsis = std::find(term.begin(), term.end(), kEllipsis) != term.end();
    if (ranks[i] < 0) {
      if (has_ellipsis) return std::nullopt;
      continue;
    }
    const int extra = ranks[i] - static_cast<int>(term.size()) + (has_ellipsis ? 1 : 0);
    if (extra < 0 || (extra > 0 && !has_ellipsis)) {
      fail(Code::kInvalidArgument, "{}: operand {} has {} dimensions, the equation '{}' another number of labels",
           node.describe(), i + 1, ranks[i], text);
    }
    replace_ellipsis(term, extra);
    ellipsis_dims = std::max(ellipsis_dims, extra);
  }
  replace_ellipsis(equation.output, ellipsis_dims);
  for (size_t i = 0; i < equation.output.size(); ++i) {
    const Label label = equation.output[i];
    const bool is_known = label >= kEllipsis ||
                          std::any_of(equation.terms.begin(), equation.terms.end(),
                                      [&](const auto& t) { return std::find(t.begin(), t.end(), label) != t.end(); });
    const bool is_repeated =
        std::find(equation.output.begin(), equation.output.begin() + static_cast<std::ptrdiff_t>(i), label) !=
        equation.output.begin() + static_cast<std::ptrdiff_t>(i);
    if (!is_known || is_repeated) {
      fail(Code::kInvalidArgument, "{}: label '{}' of the output of '{}' {}", node.describe(), static_cast<char>(label),
           text, is_known ? "is there twice" : "is in no operand");
    }
  }
  return equation;
}

// A tensor with a label for each axis; a label is there once. Steps are 0 where a dimension of 1 broadcasts.
struct Factor {
  const void* data = nullptr;
  ElementType type{};
  Tensor keeper;
  std::vector<Label> labels;
  std::vector<int64_t> dims, steps;

  bool has(Label label) const { return std::find(labels.begin(), labels.end(), label) != labels.end(); }
};

using Extents = std::map<Label, int64_t>;

// to[order...] = the sum over all other labels of `from`. Labels that `from` has not, and dimensions of 1, repeat.
template <typename Source, typename T>
void gather(const Factor& from, const std::vector<Label>& order, const Extents& extents, T* to) {
  std::vector<int64_t> dims, steps, sum_dims, sum_steps;
  for (const Label label : order) {
    const auto at = std::find(from.labels.begin(), from.labels.end(), label);
    const auto i = static_cast<size_t>(at - from.labels.begin());
    dims.push_back(extents.at(label));
    steps.push_back(at == from.labels.end() || from.dims[i] == 1 ? 0 : from.steps[i]);
  }
  int64_t num_sums = 1;
  for (size_t i = 0; i < from.labels.size(); ++i) {
    if (std::find(order.begin(), order.end(), from.labels[i]) != order.end()) continue;
    sum_dims.push_back(from.dims[i]);
    sum_steps.push_back(from.steps[i]);
    num_sums *= from.dims[i];
  }
  int64_t count = 1;
  for (const int64_t dim : dims) count *= dim;
  if (count == 0) return;
  const Source* source = static_cast<const Source*>(from.data);
  const int64_t inner = dims.empty() ? 1 : dims.back(), inner_step = dims.empty() ? 0 : steps.back();
  std::vector<int64_t> index(dims.size(), 0), sum_index(sum_dims.size(), 0);
  auto advance = [](std::vector<int64_t>& at, const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides,
                    size_t rank, int64_t offset) {
    for (size_t d = rank; d-- > 0;) {
      offset += strides[d];
      if (++at[d] < sizes[d]) break;
      offset -= strides[d] * sizes[d];
      at[d] = 0;
    }
    return offset;
  };
  int64_t offset = 0;
  for (int64_t row = 0; row < count; row += inner) {
    int64_t sum_offset = 0;
    if (num_sums != 1) std::fill_n(to + row, inner, T{});
    for (int64_t s = 0; s < num_sums; ++s) {
      const Source* begin = source + offset + sum_offset;
      if (num_sums == 1) {
        for (int64_t i = 0; i < inner; ++i) to[row + i] = static_cast<T>(begin[i * inner_step]);
      } else {
        for (int64_t i = 0; i < inner; ++i) to[row + i] += static_cast<T>(begin[i * inner_step]);
        sum_offset = advance(sum_index, sum_dims, sum_steps, sum_dims.size(), sum_offset);
      }
    }
    if (dims.size() > 1) offset = advance(index, dims, steps, dims.size() - 1, offset);
  }
}

template <typename T>
void gather_any(const Factor& from, const std::vector<Label>& order, const Extents& extents, T* to) {
  if (from.type == type_of<T>()) return gather<T, T>(from, order, extents, to);
  if constexpr (std::is_integral_v<T>) {
    dispatch_integers(from.type, [&](auto zero) { gather<decltype(zero), T>(from, order, extents, to); });
  }
}

// A factor of contiguous elements of type T in this order of labels.
template <typename T>
Factor make_factor(RunContext& context, const std::vector<Label>& order, const Extents& extents) {
  Factor made{.type = type_of<T>(), .labels = order};
  Shape shape;
  int64_t count = 1;
  bool is_empty = false, is_too_large = false;
  for (const Label label : order) {
    made.dims.push_back(extents.at(label));
    is_empty |= extents.at(label) == 0;
    is_too_large |= __builtin_mul_overflow(count, std::max<int64_t>(extents.at(label), 1), &count);
  }
  if (is_too_large) context.fail("the product of two operands is too large");
  made.steps.assign(order.size(), 1);
  for (size_t i = order.size(); i-- > 1;) made.steps[i - 1] = is_empty ? 0 : made.steps[i] * made.dims[i];
  made.keeper = context.make(type_of<T>(), Shape{is_empty ? 0 : count});
  made.data = made.keeper.raw();
  return made;
}

template <typename T>
Factor rearrange(RunContext& context, const Factor& from, const std::vector<Label>& order, const Extents& extents) {
  Factor made = make_factor<T>(context, order, extents);
  gather_any<T>(from, order, extents, made.keeper.data<T>());
  return made;
}

int64_t extent_of(const std::vector<Label>& labels, const Extents& extents) {
  int64_t product = 1;
  for (const Label label : labels) product *= extents.at(label);
  return product;
}

// The product of two factors, summed over what `is_needed` does not keep.
template <typename T, typename IsNeeded>
Factor multiply_factors(RunContext& context, const Factor& a, const Factor& b, const Extents& extents,
                        IsNeeded&& is_needed) {
  std::vector<Label> batch, left, right, sum;
  for (const Label label : a.labels) {
    if (b.has(label)) (is_needed(label) ? batch : sum).push_back(label);
    else if (is_needed(label)) left.push_back(label);
  }
  for (const Label label : b.labels) {
    if (!a.has(label) && is_needed(label)) right.push_back(label);
  }
  auto join = [](std::vector<Label> x, const std::vector<Label>& y, const std::vector<Label>& z) {
    x.insert(x.end(), y.begin(), y.end());
    x.insert(x.end(), z.begin(), z.end());
    return x;
  };
  const Factor lines_a = rearrange<T>(context, a, join(batch, left, sum), extents);
  const Factor lines_b = rearrange<T>(context, b, join(batch, right, sum), extents);
  Factor product = make_factor<T>(context, join(batch, left, right), extents);
  if (product.keeper.count() == 0) return product;
  const int64_t m = extent_of(left, extents), n = extent_of(right, extents), k = extent_of(sum, extents);
  multiply_batch<T>(context.pool(), extent_of(batch, extents), m, n, k, [&](int64_t i) {
    return Product<T>{.m = m, .n = n, .k = k,
                      .a = strided<T>(static_cast<const T*>(lines_a.data) + i * m * k, k, 1),
                      .b = strided<T>(static_cast<const T*>(lines_b.data) + i * n * k, k, 1),
                      .c = product.keeper.data<T>() + i * m * n, .c_stride = n};
  });
  return product;
}

template <typename T>
void run_typed(RunContext& context, const Equation& equation, std::vector<Factor> factors, const Extents& extents) {
  Factor total = std::move(factors[0]);
  for (size_t i = 1; i < factors.size(); ++i) {
    total = multiply_factors<T>(context, total, factors[i], extents, [&](Label label) {
      if (std::find(equation.output.begin(), equation.output.end(), label) != equation.output.end()) return true;
      return std::any_of(factors.begin() + static_cast<std::ptrdiff_t>(i) + 1, factors.end(),
                         [&](const Factor& later) { return later.has(label); });
    });
  }
  Tensor& y = context.output(0);
  if (y.type() == type_of<T>()) return gather_any<T>(total, equation.output, extents, y.data<T>());
  const Factor wide = rearrange<T>(context, total, equation.output, extents);
  dispatch_integers(y.type(), [&](auto zero) {
    std::transform(static_cast<const T*>(wide.data), static_cast<const T*>(wide.data) + y.count(),
                   y.data<decltype(zero)>(), [](T value) { return static_cast<decltype(zero)>(value); });
  });
}

}  // namespace

void infer_einsum(InferContext& context) {
  std::vector<int> ranks;
  for (int i = 0; i < context.num_inputs(); ++i) {
    context.type(i);  // there has to be one
    if (context.element(i) != context.element(0)) context.fail("operands have to be of one type");
    ranks.push_back(context.has_rank(i) ? context.rank(i) : -1);
  }
  const std::optional<Equation> equation = read_equation(context.node(), ranks);
  if (!equation) return context.set_output(0, context.element(0));
  std::map<Label, Dim> extents;
  for (size_t i = 0; i < equation->terms.size(); ++i) {
    if (ranks[i] < 0) continue;
    for (size_t d = 0; d < equation->terms[i].size(); ++d) {
      const Dim& dim = context.dims(static_cast<int>(i))[d];
      const auto [at, is_new] = extents.emplace(equation->terms[i][d], dim);
      if (!is_new) at->second = broadcast(context, {at->second}, {dim})[0];
    }
  }
  Dims dims;
  for (const Label label : equation->output) {
    const auto found = extents.find(label);
    dims.push_back(found == extents.end() ? Dim::unknown() : found->second);
  }
  context.set_output(0, context.element(0), std::move(dims));
}

void run_einsum(RunContext& context) {
  std::vector<int> ranks;
  for (int i = 0; i < context.num_inputs(); ++i) ranks.push_back(context.input(i).rank());
  const Equation equation = *read_equation(context.node(), ranks);
  Extents extents;
  std::vector<Factor> factors;
  for (size_t i = 0; i < ranks.size(); ++i) {
    const Tensor& x = context.input(static_cast<int>(i));
    const Shape strides = strides_of(x.shape());
    Factor factor{.data = x.raw(), .type = x.type(), .keeper = x};
    for (int d = 0; d < x.rank(); ++d) {
      const Label label = equation.terms[i][static_cast<size_t>(d)];
      const int64_t dim = x.dim(d);
      int64_t& extent = extents.emplace(label, dim).first->second;
      if (extent == 1) extent = dim;
      const auto at = std::find(factor.labels.begin(), factor.labels.end(), label);
      if (at != factor.labels.end()) {  // a diagonal: one step goes along both
        const auto j = static_cast<size_t>(at - factor.labels.begin());
        const int64_t before = factor.dims[j] == 1 ? 0 : factor.steps[j];
        factor.steps[j] = before + (dim == 1 ? 0 : strides[d]);
        if (dim != 1) factor.dims[j] = dim;
        continue;
      }
      factor.labels.push_back(label);
      factor.dims.push_back(dim);
      factor.steps.push_back(strides[d]);
    }
    factors.push_back(std::move(factor));
  }
  const ElementType type = context.input(0).type();
  if (type == ElementType::kF32) run_typed<float>(context, equation, std::move(factors), extents);
  else if (type == ElementType::kF64) run_typed<double>(context, equation, std::move(factors), extents);
  else if (is_integer(type) && get_info(type).packed_bits >= 8)
    run_typed<uint64_t>(context, equation, std::move(factors), extents);
  else context.fail_type(0);
}

}  // namespace sluice::graph::ops
