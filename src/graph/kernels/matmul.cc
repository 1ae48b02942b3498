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
      if (!append_quantised(*parts, request, static_cast<int>(rank) - 1, addend, attributes, post_ops, bias)) return nullptr;
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
    if (matmul.addend >= 0 && matmul.bias < 0 && bias.is_null()) {
      // oneDNN 2.6 reads a wild address where an addend comes without a bias.
      bias = Tensor(ElementType::kF32, Shape{b.dims.back()});
      std::fill_n(bias.data<float>(), bias.count(), 0.0f);
    }

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
    const auto desc = has_bias ? dnnl::matmul::desc(src, weights, bias_desc, dst) : dnnl::matmul::desc(src, weights, dst);
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
  if (matmul->is_quantised ? !is_byte : !is_float) return {};
  if (!onednn::can_describe(request.outputs[0])) return {};
  KernelChoice choice{.name = "matmul"};
  choice.inputs.assign(request.inputs.size(), Layout::kPlain);
  choice.outputs.assign(request.outputs.size(), Layout::kPlain);
  choice.make = [request, matmul = *matmul] { return make_matmul(request, matmul); };
  return {choice};
}

}  // namespace sluice::graph::kernels
