// Products of matrices through oneDNN: MatMul, Gemm, FusedMatMul (bias, addend and activation in one go) and QMatMul.
//
// If the second factor is one matrix, all rows of the first, whatever their batch, are one tall matrix. Transposed
// factors are descriptions with swapped strides. Constants are packed once in the order the library likes.
#include "graph/kernels/list.h"
#include "graph/kernels/onednn.h"
#include "graph/kernels/quantised.h"

namespace sluice::graph::kernels {
namespace {

using dnnl::memory;
using onednn::Primitive;

// What the operators have in common; inputs are -1 where there is none.
struct MatMul {
  int a = 0, b = 1, bias = -1, addend = -1;
  bool transposes_a = false, transposes_b = false, is_quantised = false;
  float alpha = 1;
};

std::optional<MatMul> read_matmul(const KernelRequest& request) {
  const Node& node = request.node;
  const auto num_inputs = static_cast<int>(request.inputs.size());
  auto find = [&](int i) {
    return i < num_inputs && request.inputs[static_cast<size_t>(i)].type != ElementType::kUndefined ? i : -1;
  };
  MatMul matmul;
  matmul.transposes_a = node.get_int("transA", 0) != 0;
  matmul.transposes_b = node.get_int("transB", 0) != 0;
  matmul.alpha = node.get_float("alpha", 1);
  if (node.op_type == "Gemm") {
    const int c = find(2);
    if (c < 0) return matmul;
    const Shape &shape = request.inputs[static_cast<size_t>(c)].shape, &y = request.outputs[0].shape;
    if (node.get_float("beta", 1) != 1) return std::nullopt;
    if (shape == y) matmul.addend = c;
    else if (shape.rank() > 0 && shape.back() == y.back() && shape.count() == y.back()) matmul.bias = c;
    else return std::nullopt;
  } else if (node.op_type == "FusedMatMul") {
    matmul.bias = find(2);
    matmul.addend = find(3);
  } else if (node.op_type == "QMatMul") {
    matmul.is_quantised = true;
    matmul.b = kQuantisedW;
    matmul.bias = find(kQuantisedB);
    matmul.addend = find(kQuantisedZ);
    if (matmul.alpha != 1) return std::nullopt;
  }
  if (matmul.alpha == 0) return std::nullopt;
  return matmul;
}

struct Factor {
  memory::dims dims, strides;
};

// [batch..., rows, columns] of a contiguous tensor; `transposes` swaps the last two axes. A vector is a row, or with
// `is_right` a column.
Factor view(const Shape& shape, bool transposes, bool is_right) {
  Factor factor;
  if (shape.rank() == 1) {
    const int64_t n = shape[0];
    factor.dims = is_right ? memory::dims{n, 1} : memory::dims{1, n};
    factor.strides = is_right ? memory::dims{1, 1} : memory::dims{n, 1};
    return factor;
  }
  const Shape strides = strides_of(shape);
  factor.dims.assign(shape.begin(), shape.end());
  factor.strides.assign(strides.begin(), strides.end());
  if (transposes) {
    const size_t last = factor.dims.size() - 1;
    std::swap(factor.dims[last], factor.dims[last - 1]);
    std::swap(factor.strides[last], factor.strides[last - 1]);
  }
  return factor;
}

memory::dims contiguous(const memory::dims& dims) {
  memory::dims strides(dims.size(), 1);
  for (size_t d = dims.size() - 1; d-- > 0;) strides[d] = strides[d + 1] * dims[d + 1];
  return strides;
}

// A product of bytes whose first factor was quantised a moment ago, so that its scale and zero point come as inputs.
// The library is fast where scales are known: those of the weights are, the other one is multiplied in afterwards, and
// what the zero point adds to each sum goes in as a bias.
class DynamicMatMul final : public Kernel {
 public:
  // `offsets` is what the primitive reads as its bias, `sums` those of the weights' columns, both [n].
  DynamicMatMul(std::unique_ptr<Primitive> primitive, Tensor sums, Tensor offsets, ElementType x_type)
      : primitive_(std::move(primitive)), sums_(std::move(sums)), offsets_(std::move(offsets)), x_type_(x_type) {}

  void run(std::span<const void* const> inputs, std::span<void* const> outputs, void* scratch,
           ThreadPool& pool) override {
    const void* data = inputs[2];
    const int zero = data == nullptr                ? 0
                     : x_type_ == ElementType::kU8 ? *static_cast<const uint8_t*>(data)
                                                   : *static_cast<const int8_t*>(data);
    const float* sums = sums_.data<float>();
    float* offsets = offsets_.data<float>();
    for (int64_t i = 0; i < offsets_.count(); ++i) offsets[i] = static_cast<float>(-zero) * sums[i];
    primitive_->run(inputs, outputs, scratch, pool);
  }
  size_t scratch_bytes() const override { return primitive_->scratch_bytes(); }

 private:
  const std::unique_ptr<Primitive> primitive_;
  const Tensor sums_;
  Tensor offsets_;
  const ElementType x_type_;
};

// Of each column of a matrix of bytes.
Tensor sum_columns(const Tensor& w, const Factor& b) {
  Tensor sums(ElementType::kF32, Shape{b.dims[1]});
  for (int64_t j = 0; j < b.dims[1]; ++j) {
    int64_t sum = 0;
    for (int64_t i = 0; i < b.dims[0]; ++i) sum += w.data<int8_t>()[i * b.strides[0] + j * b.strides[1]];
    sums.data<float>()[j] = static_cast<float>(sum);
  }
  return sums;
}

// Null if the product is not of that kind, or has parts that such products do not have.
std::unique_ptr<Kernel> make_dynamic(const KernelRequest& request, const MatMul& matmul) {
  return onednn::try_make([&]() -> std::unique_ptr<Kernel> {
    auto has = [&](size_t i) { return i < request.inputs.size() && request.inputs[i].type != ElementType::kUndefined; };
    auto constant = [&](size_t i) { return i < request.constants.size() ? request.constants[i] : nullptr; };
    const Tensor *w = constant(kQuantisedW), *w_scale = constant(4);
    const bool fits = w != nullptr && w_scale != nullptr && w->type() == ElementType::kI8 && w->rank() == 2 &&
                      !has(8) && !has(10) && !matmul.transposes_a && request.inputs[0].shape.rank() >= 2 &&
                      request.inputs[1].shape.count() == 1 && request.inputs[1].type == ElementType::kF32 &&
                      (!has(2) || request.inputs[2].shape.count() == 1) &&
                      request.outputs[0].type == ElementType::kF32 && (!has(5) || is_zero(constant(5)));
    if (!fits || (matmul.bias >= 0 && constant(static_cast<size_t>(matmul.bias)) == nullptr)) return nullptr;
    const Factor b = view(w->shape(), matmul.transposes_b, true);
    const int64_t k = request.inputs[0].shape.back(), n = b.dims[1], rows = request.inputs[0].shape.count() / k;
    const Tensor w_scales = to_float(*w_scale);
    if (b.dims[0] != k || (w_scales.count() != 1 && w_scales.count() != n)) return nullptr;
    if (matmul.addend >= 0 && request.inputs[static_cast<size_t>(matmul.addend)].type != ElementType::kF32) {
      return nullptr;
    }

    using enum memory::data_type;
    const memory::desc src({rows, k}, *onednn::type_of(request.inputs[0].type), memory::format_tag::ab);
    const memory::desc dst({rows, n}, f32, memory::format_tag::ab), plain_b(b.dims, s8, b.strides);
    const memory::desc row({1, n}, f32, memory::format_tag::ab), number({1, 1}, f32, memory::format_tag::ab);
    dnnl::primitive_attr attributes = onednn::make_attributes();
    attributes.set_output_scales(w_scales.count() > 1 ? 1 << 1 : 0,
                                 std::vector<float>(w_scales.values<float>().begin(), w_scales.values<float>().end()));
    dnnl::post_ops post_ops;
    post_ops.append_binary(dnnl::algorithm::binary_mul, number);
    Tensor bias;
    if (matmul.bias >= 0) {
      bias = to_float(*constant(static_cast<size_t>(matmul.bias)));
      if (bias.count() == 1 && n > 1) {
        const float value = *bias.data<float>();
        bias = Tensor(ElementType::kF32, Shape{n});
        std::fill_n(bias.data<float>(), n, value);
      }
      if (bias.count() != n) return nullptr;
      post_ops.append_binary(dnnl::algorithm::binary_add, row);
    }
    const int addend_position = post_ops.len();
    if (matmul.addend >= 0) post_ops.append_binary(dnnl::algorithm::binary_add, dst);
    if (!onednn::append_activation(post_ops, request.node)) return nullptr;
    attributes.set_post_ops(post_ops);
    const memory::desc weights(b.dims, s8, memory::format_tag::any);
    const dnnl::matmul::primitive_desc primitive_desc(dnnl::matmul::desc(src, weights, row, dst), attributes,
                                                      onednn::engine());
    if (std::string_view(primitive_desc.impl_info_str()).starts_with("ref")) return nullptr;
    const Tensor offsets(ElementType::kF32, Shape{n});
    std::vector<Primitive::Argument> arguments;
    arguments.push_back({.name = DNNL_ARG_SRC, .desc = src, .input = 0});
    arguments.push_back({.name = DNNL_ARG_WEIGHTS, .desc = primitive_desc.weights_desc(),
                         .constant = onednn::pack(request.weights, *w, plain_b, primitive_desc.weights_desc())});
    arguments.push_back({.name = DNNL_ARG_BIAS, .desc = row, .constant = offsets});
    arguments.push_back({.name = DNNL_ARG_ATTR_MULTIPLE_POST_OP(0) | DNNL_ARG_SRC_1, .desc = number, .input = 1});
    if (!bias.is_null()) {
      arguments.push_back({.name = DNNL_ARG_ATTR_MULTIPLE_POST_OP(1) | DNNL_ARG_SRC_1, .desc = row, .constant = bias});
    }
    if (matmul.addend >= 0) {
      arguments.push_back({.name = DNNL_ARG_ATTR_MULTIPLE_POST_OP(addend_position) | DNNL_ARG_SRC_1, .desc = dst,
                           .input = matmul.addend});
    }
    arguments.push_back({.name = DNNL_ARG_DST, .desc = dst, .output = 0});
    auto primitive = std::make_unique<Primitive>(dnnl::matmul(primitive_desc), primitive_desc.scratchpad_desc(),
                                                 std::move(arguments));
    return std::make_unique<DynamicMatMul>(std::move(primitive), sum_columns(*w, b), offsets, request.inputs[0].type);
  });
}

std::unique_ptr<Kernel> make_matmul(const KernelRequest& request, const MatMul& matmul) {
  return onednn::try_make([&]() -> std::unique_ptr<Kernel> {
    auto input = [&](int i) -> const TensorInfo& { return request.inputs[static_cast<size_t>(i)]; };
    auto constant = [&](int i) { return request.constants[static_cast<size_t>(i)]; };
    Factor a = view(input(matmul.a).shape, matmul.transposes_a, false);
    Factor b = view(input(matmul.b).shape, matmul.transposes_b, true);
    if (b.dims.size() == 2 && a.dims.size() > 2 && !matmul.transposes_a) {
      const int64_t k = a.dims.back(), rows = input(matmul.a).shape.count() / k;
      a = {{rows, k}, {k, 1}};
    }
    const size_t rank = std::max(a.dims.size(), b.dims.size());
    auto widen = [&](Factor& factor) {
      while (factor.dims.size() < rank) {
        factor.strides.insert(factor.strides.begin(), factor.dims[0] * factor.strides[0]);
        factor.dims.insert(factor.dims.begin(), 1);
      }
    };
    widen(a), widen(b);
    memory::dims y_dims(rank);
    for (size_t d = 0; d + 2 < rank; ++d) y_dims[d] = std::max(a.dims[d], b.dims[d]);
    y_dims[rank - 2] = a.dims[rank - 2];
    y_dims[rank - 1] = b.dims[rank - 1];
    int64_t count = 1;
    for (const int64_t d : y_dims) count *= d;
    if (count != request.outputs[0].shape.count()) return nullptr;

    const memory::desc src(a.dims, *onednn::type_of(input(matmul.a).type), a.strides);
    const memory::desc plain_b(b.dims, *onednn::type_of(input(matmul.b).type), b.strides);
    const bool packs = constant(matmul.b) != nullptr;
    const memory::desc weights =
        packs ? memory::desc(b.dims, plain_b.data_type(), memory::format_tag::any) : plain_b;
    const memory::desc dst(y_dims, *onednn::type_of(request.outputs[0].type), contiguous(y_dims));

    dnnl::primitive_attr attributes = onednn::make_attributes();
    dnnl::post_ops post_ops;
    Tensor bias;
    const bool has_constant_bias = matmul.bias >= 0 && constant(matmul.bias) != nullptr;
    if (has_constant_bias) bias = to_float(*constant(matmul.bias));
    else if (matmul.bias >= 0 && (matmul.alpha != 1 || matmul.is_quantised)) return nullptr;
    int addend_position = 0;
    memory::desc addend;
    if (matmul.addend >= 0) {
      addend = memory::desc(y_dims, *onednn::type_of(input(matmul.addend).type), contiguous(y_dims));
    }
    if (matmul.is_quantised) {
      std::optional<QuantisedParts> parts = read_quantised(request, b.dims.back());
      if (!parts) return nullptr;
      const int last = static_cast<int>(rank) - 1;
      if (!append_quantised(*parts, request, last, addend, attributes, post_ops, bias)) return nullptr;
      addend_position = parts->addend_position;
    } else {
      if (matmul.alpha != 1) {
        attributes.set_output_scales(0, {matmul.alpha});
        if (!bias.is_null()) {  // the library scales it too
          bias = bias.copy();
          for (int64_t i = 0; i < bias.count(); ++i) bias.data<float>()[i] /= matmul.alpha;
        }
      }
      if (matmul.addend >= 0) post_ops.append_binary(dnnl::algorithm::binary_add, addend);
      if (!onednn::append_activation(post_ops, request.node)) return nullptr;
    }
    attributes.set_post_ops(post_ops);

    memory::dims bias_dims(rank, 1);
    memory::desc bias_desc;
    const bool has_bias = !bias.is_null() || matmul.bias >= 0;
    if (has_bias) {
      const int64_t size = !bias.is_null() ? bias.count() : input(matmul.bias).shape.count();
      if (size != 1 && size != b.dims.back()) return nullptr;
      bias_dims[rank - 1] = size;
      const memory::data_type type = !bias.is_null() ? memory::data_type::f32
                                                     : *onednn::type_of(input(matmul.bias).type);
      bias_desc = memory::desc(bias_dims, type, contiguous(bias_dims));
    }
    const auto desc = has_bias ? dnnl::matmul::desc(src, weights, bias_desc, dst)
                               : dnnl::matmul::desc(src, weights, dst);
    const dnnl::matmul::primitive_desc primitive_desc(desc, attributes, onednn::engine());
    if (std::string_view(primitive_desc.impl_info_str()).starts_with("ref")) return nullptr;

    std::vector<Primitive::Argument> arguments;
    arguments.push_back({.name = DNNL_ARG_SRC, .desc = src, .input = matmul.a});
    if (packs) {
      arguments.push_back({.name = DNNL_ARG_WEIGHTS, .desc = primitive_desc.weights_desc(),
                           .constant = onednn::pack(request.weights, *constant(matmul.b), plain_b,
                                                    primitive_desc.weights_desc())});
    } else {
      arguments.push_back({.name = DNNL_ARG_WEIGHTS, .desc = plain_b, .input = matmul.b});
    }
    if (!bias.is_null()) arguments.push_back({.name = DNNL_ARG_BIAS, .desc = bias_desc, .constant = bias});
    else if (has_bias) arguments.push_back({.name = DNNL_ARG_BIAS, .desc = bias_desc, .input = matmul.bias});
    if (matmul.addend >= 0) {
      arguments.push_back({.name = DNNL_ARG_ATTR_MULTIPLE_POST_OP(addend_position) | DNNL_ARG_SRC_1, .desc = addend,
                           .input = matmul.addend});
    }
    arguments.push_back({.name = DNNL_ARG_DST, .desc = dst, .output = 0});
    return std::make_unique<Primitive>(dnnl::matmul(primitive_desc), primitive_desc.scratchpad_desc(),
                                       std::move(arguments));
  });
}

}  // namespace

std::vector<KernelChoice> list_matmul(const KernelRequest& request) {
  const std::optional<MatMul> matmul = read_matmul(request);
  if (!matmul) return {};
  for (const int i : {matmul->a, matmul->b, matmul->bias, matmul->addend}) {
    if (i >= 0 && !onednn::can_describe(request.inputs[static_cast<size_t>(i)])) return {};
  }
  const ElementType a = request.inputs[0].type;
  const bool is_float = a == ElementType::kF32 || a == ElementType::kBF16;
  const bool is_byte = a == ElementType::kU8 || a == ElementType::kI8;
  if (matmul->is_quantised ? !is_byte || !onednn::has_byte_products() : !is_float) return {};
  if (!onednn::can_describe(request.outputs[0])) return {};
  KernelChoice choice{.name = "matmul"};
  choice.inputs.assign(request.inputs.size(), Layout::kPlain);
  choice.outputs.assign(request.outputs.size(), Layout::kPlain);
  const bool is_dynamic = matmul->is_quantised && request.constants[1] == nullptr;
  if (is_dynamic) choice.name = "matmul dynamic";
  choice.make = [request, matmul = *matmul, is_dynamic] {
    return is_dynamic ? make_dynamic(request, matmul) : make_matmul(request, matmul);
  };
  return {choice};
}

}  // namespace sluice::graph::kernels
