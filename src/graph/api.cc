// The C++ API of include/sluice/graph.h on import_model(), optimise(), Executor and plan files.
//
// What is public is checked here, so that nothing a caller passes reaches a CHECK: sizes against memory, bools, names.
// An output that lies in a caller's memory (a model that hands an input on) is copied, since that memory is borrowed.
#include "sluice/graph.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"
#include "base/thread_pool.h"
#include "graph/executor.h"
#include "graph/import_model.h"
#include "graph/import_onnx.h"
#include "graph/import_tflite.h"
#include "graph/passes.h"
#include "graph/plan_file.h"

namespace sluice {
namespace {

using graph::ElementType;
using graph::Shape;
using graph::Tensor;
using graph::Value;

constexpr int64_t kMaxDim = int64_t{1} << 40;

graph::Precision to_precision(GraphPrecision precision) {
  return precision == GraphPrecision::kBFloat16 ? graph::Precision::kBF16 : graph::Precision::kF32;
}

GraphPort describe_port(const graph::GraphValue& value, const std::string& name, bool is_input) {
  GraphPort port{.name = name, .description = to_string(value.type)};
  port.is_optional = is_input && (value.constant || value.type.kind == graph::ValueType::Kind::kOptional);
  if (!value.type.is_tensor()) return port;
  port.type = static_cast<TensorType>(value.type.element);
  if (!value.type.has_rank()) return port;
  port.dims.emplace();
  for (const graph::Dim& dim : *value.type.dims) {
    const std::string symbol = dim.is_known() ? "" : dim.to_string();
    port.dims->push_back({dim.known().value_or(-1), symbol.starts_with('?') ? "" : symbol});
  }
  return port;
}

// Throws Error for dimensions that no tensor has.
Shape to_shape(const std::string& input, const std::vector<int64_t>& dims) {
  if (dims.size() > graph::kMaxRank) {
    fail(Code::kInvalidArgument, "input '{}' has {} dimensions; at most {} are supported", input, dims.size(),
         graph::kMaxRank);
  }
  Shape shape;
  int64_t count = 1;
  for (const int64_t dim : dims) {
    if (dim < 0 || dim > kMaxDim || __builtin_mul_overflow(count, std::max<int64_t>(dim, 1), &count) ||
        count > kMaxDim) {
      fail(Code::kInvalidArgument, "input '{}' has the shape {}, which is {}", input, fmt::join(dims, "x"),
           dim < 0 ? "negative" : "too large");
    }
    shape.push_back(dim);
  }
  return shape;
}

// The caller's memory as a tensor, or a copy of it where it is not aligned.
Tensor to_tensor(const GraphInput& input) {
  const Shape shape = to_shape(input.name, input.dims);
  const auto type = static_cast<ElementType>(input.type);
  if (type == ElementType::kUndefined || static_cast<int>(type) >= graph::kNumElementTypes) {
    fail(Code::kInvalidArgument, "input '{}' has no element type", input.name);
  }
  const auto width = static_cast<size_t>(graph::get_info(type).bytes);
  const size_t bytes = static_cast<size_t>(shape.count()) * width;
  if (bytes != input.bytes || (bytes > 0 && input.data == nullptr)) {
    fail(Code::kInvalidArgument, "input '{}' ({} {}) has {} bytes, and {} are given", input.name, graph::name(type),
         to_string(shape), bytes, input.data == nullptr ? 0 : input.bytes);
  }
  if (type == ElementType::kBool) {
    const auto* begin = static_cast<const uint8_t*>(input.data);
    if (std::any_of(begin, begin + bytes, [](uint8_t value) { return value > 1; })) {
      fail(Code::kInvalidArgument, "input '{}' is bool and has bytes other than 0 and 1", input.name);
    }
  }
  const size_t alignment = std::min<size_t>(width, alignof(std::max_align_t));
  const bool is_string = type == ElementType::kString;
  if (bytes == 0 || (!is_string && reinterpret_cast<uintptr_t>(input.data) % alignment != 0)) {
    Tensor copy(type, shape);
    if (bytes > 0) std::memcpy(copy.raw(), input.data, bytes);
    return copy;
  }
  return Tensor::wrap(type, shape, input.data, nullptr);
}

bool lies_in(const Tensor& tensor, const Tensor& memory) {
  const auto at = reinterpret_cast<uintptr_t>(tensor.raw()), begin = reinterpret_cast<uintptr_t>(memory.raw());
  return at >= begin && at < begin + static_cast<uintptr_t>(memory.bytes());
}

// Tensors of which only the sizes count, for compiling: those named in `shapes`, 1 where the model leaves a dimension
// open and no symbol tells it.
std::vector<Value> make_inputs(const graph::Graph& graph, const GraphShapes& shapes) {
  std::map<std::string, int64_t> symbols;
  for (const auto& [name, dims] : shapes) {
    const auto found = std::find_if(graph.inputs.begin(), graph.inputs.end(),
                                    [&](graph::ValueId id) { return graph.value(id).name == name; });
    if (found == graph.inputs.end()) fail(Code::kInvalidArgument, "the model has no input '{}'", name);
    const graph::ValueType& type = graph.value(*found).type;
    for (size_t d = 0; type.has_rank() && d < std::min(dims.size(), type.dims->size()); ++d) {
      if (!(*type.dims)[d].is_known()) symbols.emplace((*type.dims)[d].to_string(), dims[d]);
    }
  }
  std::vector<Value> inputs;
  for (const graph::ValueId id : graph.inputs) {
    const graph::GraphValue& input = graph.value(id);
    const auto given = shapes.find(input.name);
    if (given == shapes.end() && input.constant) {
      inputs.emplace_back();
      continue;
    }
    if (!input.type.is_tensor() || input.type.element == ElementType::kUndefined) {
      fail(Code::kUnimplemented, "input '{}' is {}, which has no shape", input.name, to_string(input.type));
    }
    std::vector<int64_t> dims;
    if (given != shapes.end()) {
      dims = given->second;
    } else if (!input.type.has_rank()) {
      fail(Code::kInvalidArgument, "the model does not tell the shape of input '{}': give one", input.name);
    } else {
      for (const graph::Dim& dim : *input.type.dims) {
        const auto symbol = dim.is_known() ? symbols.end() : symbols.find(dim.to_string());
        dims.push_back(dim.is_known() ? dim.value() : symbol == symbols.end() ? 1 : symbol->second);
      }
    }
    Tensor tensor(input.type.element, to_shape(input.name, dims));
    if (input.type.element != ElementType::kString) {
      std::memset(tensor.raw(), 0, static_cast<size_t>(tensor.bytes()));
    }
    inputs.emplace_back(std::move(tensor));
  }
  return inputs;
}

std::map<std::string, Shape> to_shapes(const GraphShapes& shapes) {
  std::map<std::string, Shape> made;
  for (const auto& [name, dims] : shapes) made.emplace(name, to_shape(name, dims));
  return made;
}

graph::Profile to_profile(const GraphProfile& given) {
  graph::Profile profile{.min = to_shapes(given.min), .opt = to_shapes(given.opt), .max = to_shapes(given.max)};
  for (const auto& [name, shape] : profile.opt) {
    profile.min.try_emplace(name, shape);
    profile.max.try_emplace(name, shape);
  }
  if (profile.min.size() != profile.opt.size() || profile.max.size() != profile.opt.size()) {
    fail(Code::kInvalidArgument, "a profile names an input in min or max that it does not name in opt");
  }
  for (const auto& [name, opt] : profile.opt) {
    const Shape &min = profile.min.at(name), &max = profile.max.at(name);
    bool fits = min.rank() == opt.rank() && max.rank() == opt.rank();
    for (int d = 0; fits && d < opt.rank(); ++d) fits = min[d] <= opt[d] && opt[d] <= max[d];
    if (!fits) {
      fail(Code::kInvalidArgument, "the profile of '{}' has to grow from min {} over opt {} to max {}", name,
           to_string(min), to_string(opt), to_string(max));
    }
  }
  return profile;
}

void write_plan(const std::string& path, graph::Model source, const graph::PlanInfo& info,
                std::vector<graph::Profile> profiles, bool tunes) {
  if (info.stores_halves) graph::round_to_halves(source);
  auto model = std::make_shared<graph::Model>(graph::copy_model(source));
  graph::optimise(*model, {.disabled = info.disabled_passes, .stop_after = {}});
  if (info.stores_halves) graph::round_to_halves(*model);
  auto shared = std::make_shared<graph::Shared>();
  shared->model = std::move(model);
  shared->profiles = std::move(profiles);
  graph::Executor executor(shared, {.num_threads = info.num_threads,
                                    .tuning = tunes ? graph::Tuning::kMeasure : graph::Tuning::kNone,
                                    .precision = info.precision,
                                    .disabled_passes = info.disabled_passes});
  auto compile = [&](const std::map<std::string, Shape>& shapes) {
    GraphShapes dims;
    for (const auto& [name, shape] : shapes) dims[name].assign(shape.begin(), shape.end());
    executor.compile(make_inputs(shared->model->graph, dims));
  };
  if (shared->profiles.empty()) compile({});
  for (const graph::Profile& profile : shared->profiles) compile(profile.opt);
  graph::write_plan(path, *shared, source, info);
}

}  // namespace

const char* name(TensorType type) {
  return static_cast<int>(type) < graph::kNumElementTypes ? graph::name(static_cast<ElementType>(type)) : "undefined";
}

size_t bytes_of(TensorType type) {
  const bool has_size = static_cast<int>(type) < graph::kNumElementTypes && type != TensorType::kString;
  return has_size ? static_cast<size_t>(graph::get_info(static_cast<ElementType>(type)).bytes) : 0;
}

void GraphOutput::fail_type(TensorType asked) const {
  fail(Code::kInvalidArgument, "output '{}' is {} and was asked for as {}", name_, sluice::name(type_),
       sluice::name(asked));
}

struct GraphModel::Impl {
  std::shared_ptr<graph::Shared> shared;
  std::optional<graph::PlanInfo> plan;
  std::vector<GraphPort> inputs, outputs;

  void describe() {
    const graph::Graph& graph = shared->model->graph;
    for (const graph::ValueId id : graph.inputs) {
      inputs.push_back(describe_port(graph.value(id), graph.value(id).name, /*is_input=*/true));
    }
    for (size_t i = 0; i < graph.outputs.size(); ++i) {
      outputs.push_back(describe_port(graph.value(graph.outputs[i]), graph.output_names[i], /*is_input=*/false));
    }
  }
  static std::shared_ptr<const Impl> of(graph::Model model) {
    graph::optimise(model);
    auto impl = std::make_shared<Impl>();
    impl->shared = std::make_shared<graph::Shared>();
    impl->shared->model = std::make_shared<graph::Model>(std::move(model));
    impl->describe();
    return impl;
  }
};

GraphModel GraphModel::load(const std::string& path) {
  GraphModel made;
  if (graph::is_plan(path)) {
    graph::Plan plan = graph::load_plan(path);
    auto impl = std::make_shared<Impl>();
    impl->shared = std::move(plan.shared);
    impl->plan = std::move(plan.info);
    impl->describe();
    made.impl_ = std::move(impl);
  } else {
    made.impl_ = Impl::of(graph::import_model(path));
  }
  return made;
}

GraphModel GraphModel::load(std::span<const std::byte> bytes) {
  const std::span<const uint8_t> file(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
  const std::string name = "the model in memory";
  GraphModel made;
  made.impl_ = Impl::of(graph::is_tflite(file) ? graph::import_tflite(file, name) : graph::import_onnx(file, name));
  return made;
}

const std::vector<GraphPort>& GraphModel::inputs() const { return impl_->inputs; }
const std::vector<GraphPort>& GraphModel::outputs() const { return impl_->outputs; }
bool GraphModel::is_plan() const { return impl_->plan.has_value(); }
const std::string& GraphModel::producer() const { return impl_->shared->model->producer; }
const std::map<std::string, std::string>& GraphModel::metadata() const { return impl_->shared->model->metadata; }

struct GraphInstance::Impl {
  GraphModel model;
  graph::Executor executor;
  int num_threads;

  static graph::Executor::Options resolve(const std::optional<graph::PlanInfo>& plan, const Options& given) {
    if (given.num_threads < 0 || given.num_threads > 1024) {
      fail(Code::kInvalidArgument, "num_threads is {}; it has to be 0 to 1024", given.num_threads);
    }
    graph::Executor::Options options{.num_threads = given.num_threads, .max_bytes = given.max_bytes,
                                     .seed = given.seed};
    if (options.num_threads == 0) options.num_threads = plan ? plan->num_threads : num_available_cores();
    options.precision = to_precision(given.precision.value_or(GraphPrecision::kFloat32));
    options.tuning = given.tunes ? graph::Tuning::kMeasure : graph::Tuning::kNone;
    if (!plan) return options;
    if (given.precision && options.precision != plan->precision) {
      fail(Code::kInvalidArgument, "the plan computes in {} and cannot be run in {}: build another",
           graph::name(plan->precision), graph::name(options.precision));
    }
    options.precision = plan->precision;
    options.tuning = graph::Tuning::kKnown;
    options.disabled_passes = plan->disabled_passes;
    return options;
  }
  Impl(GraphModel m, const graph::Executor::Options& options)
      : model(std::move(m)), executor(model.impl_->shared, options), num_threads(options.num_threads) {}
};

GraphInstance::GraphInstance(GraphModel model, Options options) {
  const graph::Executor::Options resolved = Impl::resolve(model.impl_->plan, options);
  impl_ = std::make_unique<Impl>(std::move(model), resolved);
}
GraphInstance::~GraphInstance() = default;
GraphInstance::GraphInstance(GraphInstance&&) noexcept = default;
GraphInstance& GraphInstance::operator=(GraphInstance&&) noexcept = default;

const GraphModel& GraphInstance::model() const { return impl_->model; }
int GraphInstance::num_threads() const { return impl_->num_threads; }

GraphInstance::Prepared GraphInstance::prepare(const GraphShapes& shapes) {
  graph::Executor& executor = impl_->executor;
  const graph::Program& program = executor.compile(make_inputs(executor.model().graph, shapes));
  return {.num_steps = program.steps().size(), .activation_bytes = program.arena_bytes()};
}

std::vector<GraphOutput> GraphInstance::run(std::span<const GraphInput> inputs) {
  const graph::Graph& graph = impl_->executor.model().graph;
  const std::vector<GraphPort>& ports = impl_->model.inputs();
  std::vector<Value> values(graph.inputs.size());
  for (const GraphInput& input : inputs) {
    const auto port =
        std::find_if(ports.begin(), ports.end(), [&](const GraphPort& known) { return known.name == input.name; });
    if (port == ports.end()) {
      std::string names;
      for (const GraphPort& known : ports) names += (names.empty() ? "'" : ", '") + known.name + "'";
      fail(Code::kInvalidArgument, "the model has no input '{}', only {}", input.name, names.empty() ? "none" : names);
    }
    Value& value = values[static_cast<size_t>(port - ports.begin())];
    if (!value.is_none()) fail(Code::kInvalidArgument, "input '{}' is given twice", input.name);
    const graph::ValueType& type = graph.value(graph.inputs[static_cast<size_t>(port - ports.begin())]).type;
    if (type.kind == graph::ValueType::Kind::kSequence || type.kind == graph::ValueType::Kind::kMap) {
      fail(Code::kUnimplemented, "input '{}' is {}; this API takes tensors only", input.name, port->description);
    }
    value = to_tensor(input);
  }
  std::vector<Value> results = impl_->executor.run(values);
  std::vector<GraphOutput> outputs;
  for (size_t i = 0; i < results.size(); ++i) {
    GraphOutput& output = outputs.emplace_back();
    output.name_ = graph.output_names[i];
    if (results[i].kind != Value::Kind::kTensor) {
      fail(Code::kUnimplemented, "output '{}' is {}; this API gives tensors only (of scikit-learn: export with "
           "options={{'zipmap': False}})", output.name_, impl_->model.outputs()[i].description);
    }
    Tensor& tensor = results[i].tensor;
    const bool is_borrowed = std::any_of(values.begin(), values.end(), [&](const Value& value) {
      return !value.is_none() && lies_in(tensor, value.tensor);
    });
    if (is_borrowed) tensor = tensor.copy();
    output.type_ = static_cast<TensorType>(tensor.type());
    output.dims_.assign(tensor.shape().begin(), tensor.shape().end());
    output.bytes_ = static_cast<size_t>(tensor.bytes());
    auto keeper = std::make_shared<const Tensor>(std::move(tensor));
    output.data_ = keeper->raw();
    output.keeper_ = std::move(keeper);
  }
  return outputs;
}

void build_graph_plan(const std::string& model, const std::string& plan, const GraphPlanOptions& options) {
  if (options.stores_half_floats && options.precision != GraphPrecision::kFloat32) {
    fail(Code::kInvalidArgument, "stores_half_floats goes with float32 only: bfloat16 weights are as small");
  }
  if (options.num_threads < 0 || options.num_threads > 1024) {
    fail(Code::kInvalidArgument, "num_threads is {}; it has to be 0 to 1024", options.num_threads);
  }
  graph::Model source = graph::import_model(model);
  std::vector<graph::Profile> profiles;
  for (const GraphProfile& given : options.profiles) profiles.push_back(to_profile(given));
  const graph::PlanInfo info{.sluice_version = SLUICE_VERSION,
                             .isa = graph::kernel_isa(),
                             .source = std::filesystem::path(model).filename(),
                             .num_threads = options.num_threads > 0 ? options.num_threads : num_available_cores(),
                             .precision = to_precision(options.precision),
                             .stores_halves = options.stores_half_floats,
                             .disabled_passes = {}};
  write_plan(plan, std::move(source), info, std::move(profiles), options.tunes);
}

void rebuild_graph_plan(const std::string& plan) {
  graph::PlanSource source = graph::load_plan_source(plan);
  source.info.sluice_version = SLUICE_VERSION;
  source.info.isa = graph::kernel_isa();
  write_plan(plan, std::move(source.model), source.info, std::move(source.profiles), /*tunes=*/true);
}

}  // namespace sluice
