#include "graph/kernels/onednn.h"

#include <cstring>

#include <fmt/format.h>

#include "base/check.h"
#include "base/env.h"
#include "graph/ops/fused_activation.h"

namespace sluice::graph {

namespace {

// SLUICE_ISA, before the library makes its first primitive. "amx", and without it, is whatever the processor has.
void limit_isa() {
  static const bool once = [] {
    const std::optional<std::string> wanted = env::find("SLUICE_ISA");
    if (wanted == "scalar") dnnl::set_max_cpu_isa(dnnl::cpu_isa::sse41);
    if (wanted == "avx2") dnnl::set_max_cpu_isa(dnnl::cpu_isa::avx2);
    if (wanted == "avx512") dnnl::set_max_cpu_isa(dnnl::cpu_isa::avx512_core_bf16);
    return true;
  }();
  static_cast<void>(once);
}

}  // namespace

std::string kernel_isa() {
  limit_isa();
  switch (dnnl::get_effective_cpu_isa()) {
    case dnnl::cpu_isa::sse41: return "sse41";
    case dnnl::cpu_isa::avx: return "avx";
    case dnnl::cpu_isa::avx2: return "avx2";
    case dnnl::cpu_isa::avx2_vnni: return "avx2_vnni";
    case dnnl::cpu_isa::avx512_core: return "avx512_core";
    case dnnl::cpu_isa::avx512_core_vnni: return "avx512_core_vnni";
    case dnnl::cpu_isa::avx512_core_bf16: return "avx512_core_bf16";
    case dnnl::cpu_isa::avx512_core_amx: return "avx512_core_amx";
    default: return "generic";
  }
}

namespace onednn {

const dnnl::engine& engine() {
  limit_isa();
  static const dnnl::engine the_engine(dnnl::engine::kind::cpu, 0);
  return the_engine;
}

namespace {

const dnnl::stream& stream() {
  thread_local const dnnl::stream the_stream(engine());
  return the_stream;
}

dnnl::memory::dims library_dims(const Shape& shape) {
  if (shape.empty()) return {1};
  return dnnl::memory::dims(shape.begin(), shape.end());
}

}  // namespace

std::optional<dnnl::memory::data_type> type_of(ElementType type) {
  using enum dnnl::memory::data_type;
  switch (type) {
    case ElementType::kF32: return f32;
    case ElementType::kBF16: return bf16;
    case ElementType::kU8: return u8;
    case ElementType::kI8: return s8;
    case ElementType::kI32: return s32;
    default: return std::nullopt;
  }
}

bool can_describe(const TensorInfo& info) {
  return type_of(info.type).has_value() && info.shape.rank() <= DNNL_MAX_NDIMS && info.shape.count() > 0;
}

dnnl::memory::desc describe(const TensorInfo& info) {
  const dnnl::memory::data_type type = *type_of(info.type);
  const dnnl::memory::dims dims = library_dims(info.shape);
  const auto rank = dims.size();
  if (info.layout == Layout::kBlocked16) {
    using enum dnnl::memory::format_tag;
    CHECK(rank >= 3 && rank <= 5, rank);
    return {dims, type, rank == 3 ? aBc16b : rank == 4 ? aBcd16b : aBcde16b};
  }
  dnnl::memory::dims strides(rank, 1);
  if (info.layout == Layout::kChannelsLast) {
    CHECK(rank >= 3, rank);
    int64_t stride = dims[1];
    for (size_t d = rank; d-- > 2;) {
      strides[d] = stride;
      stride *= dims[d];
    }
    strides[0] = stride;
  } else {
    for (size_t d = rank - 1; d-- > 0;) strides[d] = strides[d + 1] * dims[d + 1];
  }
  return {dims, type, strides};
}

bool has_byte_products() {
  const std::string isa = kernel_isa();
  return isa == "avx2_vnni" || (isa.starts_with("avx512_core") && isa != "avx512_core");
}

bool has_avx512() { return kernel_isa().starts_with("avx512_core"); }

dnnl::primitive_attr make_attributes() {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attributes;
}

Tensor pack(PackedWeights& weights, const Tensor& constant, const dnnl::memory::desc& source,
            const dnnl::memory::desc& target) {
  if (source == target) return constant;
  // The descriptions' bytes are plain data and tell the order completely; one constant may be read in two ways, as it
  // is and transposed.
  std::string order(reinterpret_cast<const char*>(&target.data), sizeof target.data);
  order.append(reinterpret_cast<const char*>(&source.data), sizeof source.data);
  const Shape shape{static_cast<int64_t>(target.get_size())};
  return weights.get(constant, order, ElementType::kU8, shape, [&] {
    Tensor packed(ElementType::kU8, shape);
    std::memset(packed.raw(), 0, target.get_size());  // what fills up blocks
    dnnl::memory from(source, engine(), const_cast<void*>(constant.raw()));
    dnnl::memory to(target, engine(), packed.raw());
    dnnl::reorder(from, to).execute(stream(), from, to);
    dnnl::stream(stream()).wait();
    return packed;
  });
}

Primitive::Primitive(dnnl::primitive primitive, const dnnl::memory::desc& scratch, std::vector<Argument> arguments)
    : primitive_(std::move(primitive)), arguments_(std::move(arguments)), scratch_bytes_(scratch.get_size()) {
  bound_.resize(arguments_.size(), nullptr);
  for (Argument& argument : arguments_) {
    void* data = argument.constant.is_null() ? DNNL_MEMORY_NONE : argument.constant.raw();
    memories_.emplace_back(argument.desc, engine(), data);
    exec_args_.push_back({argument.name, memories_.back().get()});
  }
  if (scratch_bytes_ > 0) {
    scratch_ = dnnl::memory(scratch, engine(), DNNL_MEMORY_NONE);
    exec_args_.push_back({DNNL_ARG_SCRATCHPAD, scratch_.get()});
  }
}

void Primitive::run(std::span<const void* const> inputs, std::span<void* const> outputs, void* scratch, ThreadPool&) {
  for (size_t i = 0; i < arguments_.size(); ++i) {
    const Argument& argument = arguments_[i];
    const void* data = argument.input >= 0    ? inputs[static_cast<size_t>(argument.input)]
                       : argument.output >= 0 ? outputs[static_cast<size_t>(argument.output)]
                                              : nullptr;
    if (data == nullptr || data == bound_[i]) continue;
    bound_[i] = data;
    memories_[i].set_data_handle(const_cast<void*>(data));
  }
  if (scratch_bytes_ > 0) scratch_.set_data_handle(scratch);
  const dnnl_status_t status = dnnl_primitive_execute(primitive_.get(), stream().get(),
                                                      static_cast<int>(exec_args_.size()), exec_args_.data());
  CHECK(status == dnnl_success, static_cast<int>(status));
}

bool append_activation(dnnl::post_ops& post_ops, const Node& node) {
  using Kind = ops::FusedActivation::Kind;
  using enum dnnl::algorithm;
  const std::vector<float> parameters = node.get_floats("activation_params");
  auto parameter = [&](size_t i) { return i < parameters.size() ? std::optional(parameters[i]) : std::nullopt; };
  const auto activation =
      ops::FusedActivation::make(node, node.get_string("activation", ""), parameter(0), parameter(1));
  auto append = [&](dnnl::algorithm algorithm, float alpha = 0, float beta = 0) {
    post_ops.append_eltwise(1, algorithm, alpha, beta);
    return true;
  };
  switch (activation.kind) {
    case Kind::kNone: return true;
    case Kind::kRelu: return append(eltwise_relu);
    case Kind::kLeakyRelu: return append(eltwise_relu, activation.alpha);
    case Kind::kSigmoid: return append(eltwise_logistic);
    case Kind::kTanh: return append(eltwise_tanh);
    case Kind::kClip: return append(eltwise_clip, activation.alpha, activation.beta);
    case Kind::kElu: return append(eltwise_elu, activation.alpha);
    case Kind::kHardSwish: return append(eltwise_hardswish);
    case Kind::kHardSigmoid:
      post_ops.append_eltwise(1, eltwise_linear, activation.alpha, activation.beta);
      return append(eltwise_clip, 0, 1);
    default: break;
  }
  const std::string name = node.get_string("activation", "");
  if (name == "Gelu") return append(eltwise_gelu_erf);
  if (name == "GeluTanh") return append(eltwise_gelu_tanh);
  if (name == "Swish") return append(eltwise_swish, parameter(0).value_or(1));
  if (name == "Mish") return append(eltwise_mish);
  return false;
}

}  // namespace onednn

std::unique_ptr<Kernel> make_reorder(const TensorInfo& from, const TensorInfo& to) {
  return onednn::guard([&]() -> std::unique_ptr<Kernel> {
    const dnnl::memory::desc source = onednn::describe(from), target = onednn::describe(to);
    const dnnl::reorder::primitive_desc desc(onednn::engine(), source, onednn::engine(), target,
                                             onednn::make_attributes());
    return std::make_unique<onednn::Primitive>(
        dnnl::reorder(desc), desc.scratchpad_desc(),
        std::vector<onednn::Primitive::Argument>{{.name = DNNL_ARG_FROM, .desc = source, .input = 0},
                                                 {.name = DNNL_ARG_TO, .desc = target, .output = 0}});
  });
}

}  // namespace sluice::graph
