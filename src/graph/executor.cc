#include "graph/executor.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/trace.h"
#include "graph/import_onnx.h"
#include "graph/passes.h"
#include "graph/program.h"
#include "graph/run_op.h"

namespace sluice::graph {
struct Executor::Plan {
  std::vector<std::vector<ValueId>> dead_after;  // of each node: values that nobody reads later
};

struct Executor::Frame {
  std::vector<Value> values;
};

// A program, and the inputs that it is for.
struct Executor::Compiled {
  std::vector<Value::Kind> kinds;
  std::vector<TensorInfo> inputs;
  std::unique_ptr<Program> program;
  uint64_t last_used = 0;

  bool is_for(std::span<const Value> values) const {
    for (size_t i = 0; i < values.size(); ++i) {
      if (values[i].kind != kinds[i]) return false;
      if (kinds[i] == Value::Kind::kTensor &&
          !(values[i].tensor.type() == inputs[i].type && values[i].tensor.shape() == inputs[i].shape)) {
        return false;
      }
    }
    return true;
  }
};

namespace {

std::shared_ptr<Shared> share(std::shared_ptr<const Model> model) {
  auto shared = std::make_shared<Shared>();
  shared->model = std::move(model);
  return shared;
}

int threads_of(const Executor::Options& options) {
  return options.num_threads > 0 ? options.num_threads : num_available_cores();
}

}  // namespace

Executor::Executor(std::shared_ptr<const Model> model, Options options)
    : Executor(share(std::move(model)), std::move(options)) {}

Executor::Executor(std::shared_ptr<Shared> shared, Options options)
    : shared_(std::move(shared)),
      model_(shared_->model),
      options_(std::move(options)),
      buffers_(std::make_shared<BufferPool>(options_.max_bytes)),
      pool_(threads_of(options_)),
      random_(options_.seed) {}

Executor::~Executor() = default;

const Executor::Plan& Executor::plan_of(const Graph& graph) {
  std::unique_ptr<Plan>& plan = plans_[&graph];
  if (plan != nullptr) return *plan;
  plan = std::make_unique<Plan>();
  std::vector<int64_t> last_use(graph.values.size(), -1);
  const int64_t num_nodes = static_cast<int64_t>(graph.nodes.size());
  for (int64_t n = 0; n < num_nodes; ++n) {
    const Node& node = graph.nodes[static_cast<size_t>(n)];
    for (const ValueId id : node.outputs) {
      if (id != kNoValue) last_use[static_cast<size_t>(id)] = n;
    }
    for_each_use(node, [&](ValueId id) { last_use[static_cast<size_t>(id)] = n; });
  }
  for (const ValueId id : graph.outputs) last_use[static_cast<size_t>(id)] = num_nodes;
  plan->dead_after.resize(graph.nodes.size());
  for (size_t id = 0; id < last_use.size(); ++id) {
    if (last_use[id] >= 0 && last_use[id] < num_nodes) {
      plan->dead_after[static_cast<size_t>(last_use[id])].push_back(static_cast<ValueId>(id));
    }
  }
  return *plan;
}

void Executor::check_inputs(std::span<const Value> inputs) const {
  const Graph& graph = model_->graph;
  if (inputs.size() != graph.inputs.size()) {
    fail(Code::kInvalidArgument, "the model has {} inputs; {} were given", graph.inputs.size(), inputs.size());
  }
  std::map<std::string, std::pair<int64_t, std::string>> symbols;  // value, and the input that said so
  for (size_t i = 0; i < inputs.size(); ++i) {
    const GraphValue& declared = graph.value(graph.inputs[i]);
    const Value& value = inputs[i];
    const ValueType& type = declared.type;
    if (value.is_none()) {
      if (!declared.constant && type.kind != ValueType::Kind::kOptional) {
        fail(Code::kInvalidArgument, "input '{}' is missing; it has to be {}", declared.name, to_string(type));
      }
      continue;
    }
    if (!type.is_tensor()) continue;  // operators check what is in sequences and maps
    if (value.kind != Value::Kind::kTensor) {
      fail(Code::kInvalidArgument, "input '{}' has to be a tensor, {}", declared.name, to_string(type));
    }
    const Tensor& tensor = value.tensor;
    const bool fits = (type.element == ElementType::kUndefined || tensor.type() == type.element) &&
                      (!type.dims || options_.takes_any_shape || static_cast<int>(type.dims->size()) == tensor.rank());
    if (!fits) {
      fail(Code::kInvalidArgument, "input '{}' is {}; it has to be {}", declared.name, to_string(tensor),
           to_string(type));
    }
    if (!type.dims || options_.takes_any_shape) continue;
    for (int d = 0; d < tensor.rank(); ++d) {
      const Dim& dim = (*type.dims)[static_cast<size_t>(d)];
      if (dim.is_known()) {
        if (dim.value() != tensor.dim(d)) {
          fail(Code::kInvalidArgument, "input '{}' is {}: dimension {} has to be {}, not {}", declared.name,
               to_string(tensor), d, dim.value(), tensor.dim(d));
        }
        continue;
      }
      const auto [found, is_new] = symbols.try_emplace(dim.to_string(), tensor.dim(d), declared.name);
      if (!is_new && found->second.first != tensor.dim(d)) {
        fail(Code::kInvalidArgument, "'{}' is {} in input '{}' and {} in input '{}'; it has to be the same in both",
             found->first, found->second.first, found->second.second, tensor.dim(d), declared.name);
      }
    }
  }
}

// Throws Error for inputs that are outside of every profile, naming a dimension.
void Executor::check_profiles(std::span<const Value> inputs) const {
  std::string problem;
  for (const Profile& profile : shared_->profiles) {
    std::string wrong;
    for (size_t i = 0; i < inputs.size() && wrong.empty(); ++i) {
      const std::string& name = model_->graph.value(model_->graph.inputs[i]).name;
      const auto min = profile.min.find(name), max = profile.max.find(name);
      if (inputs[i].kind != Value::Kind::kTensor || min == profile.min.end() || max == profile.max.end()) continue;
      const Tensor& tensor = inputs[i].tensor;
      for (int d = 0; d < tensor.rank() && wrong.empty(); ++d) {
        if (d < min->second.rank() && tensor.dim(d) >= min->second[d] && tensor.dim(d) <= max->second[d]) continue;
        wrong = fmt::format("dimension {} of input '{}' ({}) is outside of the plan's profile, {} to {}", d, name,
                            to_string(tensor), to_string(min->second), to_string(max->second));
      }
    }
    if (wrong.empty()) return;
    problem += (problem.empty() ? "" : "; ") + wrong;
  }
  if (!problem.empty()) fail(Code::kInvalidArgument, "{}", problem);
}

bool Executor::takes(std::span<const Value> inputs) const {
  try {
    check_inputs(inputs);
    return true;
  } catch (const Error&) {
    return false;
  }
}

std::vector<Value> Executor::run(std::span<const Value> inputs) {
  TRACE("graph.run");
  check_inputs(inputs);
  depth_ = 0;
  if (options_.compiles) return run_compiled(inputs);
  const Graph& graph = model_->graph;
  Frame frame;
  frame.values.resize(graph.values.size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    const ValueId id = graph.inputs[i];
    const std::optional<Value>& otherwise = graph.value(id).constant;
    frame.values[static_cast<size_t>(id)] = inputs[i].is_none() && otherwise ? *otherwise : inputs[i];
  }
  return run_frame(graph, frame);
}

const Program& Executor::compile(std::span<const Value> inputs) {
  check_inputs(inputs);
  return *find_compiled(inputs).program;
}

Executor::Compiled& Executor::find_compiled(std::span<const Value> inputs) {
  ++num_runs_;
  for (const std::unique_ptr<Compiled>& compiled : compiled_) {
    if (!compiled->is_for(inputs)) continue;
    compiled->last_used = num_runs_;
    return *compiled;
  }
  check_profiles(inputs);
  auto made = std::make_unique<Compiled>();
  for (const Value& value : inputs) {
    made->kinds.push_back(value.kind);
    const bool is_tensor = value.kind == Value::Kind::kTensor;
    made->inputs.push_back(is_tensor ? TensorInfo{value.tensor.type(), value.tensor.shape()} : TensorInfo());
  }
  const CompileOptions options{.tuning = options_.tuning,
                               .precision = options_.precision, .disabled_passes = options_.disabled_passes};
  const KernelThreads threads(pool_);
  made->program = Program::compile(*shared_, inputs, options, buffers_, pool_);
  made->last_used = num_runs_;
  if (compiled_.size() >= kMaxCompiled) {
    const auto oldest = std::min_element(compiled_.begin(), compiled_.end(), [](const auto& a, const auto& b) {
      return a->last_used < b->last_used;
    });
    compiled_.erase(oldest);
    plans_.clear();  // they may be of bodies that are gone
    shared_->weights.forget_unused();
  }
  compiled_.push_back(std::move(made));
  return *compiled_.back();
}

std::vector<Value> Executor::run_compiled(std::span<const Value> inputs) {
  Program& program = *find_compiled(inputs).program;
  // Programs take turns in one block, which is as large as the largest needs.
  const auto bytes = static_cast<size_t>(program.arena_bytes());
  if (arena_.get() == nullptr || arena_.get()->bytes < bytes) {
    arena_ = BufferRef();
    arena_ = buffers_->allocate(bytes);
  }
  const KernelThreads threads(pool_);
  const Program::Interpret interpret = [this](const Graph& graph, const Node& node, std::vector<Value>& values) {
    run_node(graph, node, values);
  };
  return program.run(inputs, arena_.get()->data, pool_, interpret, options_.profiles ? &step_seconds_ : nullptr);
}

// Inputs and captures are in the frame already.
std::vector<Value> Executor::run_frame(const Graph& graph, Frame& frame) {
  const Plan& plan = plan_of(graph);
  for (size_t n = 0; n < graph.nodes.size(); ++n) {
    run_node(graph, graph.nodes[n], frame.values);
    for (const ValueId id : plan.dead_after[n]) frame.values[static_cast<size_t>(id)] = Value();
  }
  std::vector<Value> outputs;
  for (const ValueId id : graph.outputs) {
    const std::optional<Value>& constant = graph.value(id).constant;
    const Value& value = frame.values[static_cast<size_t>(id)];
    outputs.push_back(value.is_none() && constant ? *constant : value);
  }
  return outputs;
}

void Executor::run_node(const Graph& graph, const Node& node, std::vector<Value>& values) {
  auto find = [&](ValueId id) -> const Value* {
    const Value& value = values[static_cast<size_t>(id)];
    const std::optional<Value>& constant = graph.value(id).constant;
    return value.is_none() && constant ? &*constant : &value;
  };
  std::vector<const Value*> inputs(node.inputs.size(), nullptr);
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (node.inputs[i] != kNoValue) inputs[i] = find(node.inputs[i]);
  }
  std::vector<Value> outputs(std::max(node.outputs.size(), kMinOutputs));
  const RunContext::RunGraph run_graph = [&](const Node&, const Graph& body, std::vector<Value> given) {
    CHECK(given.size() == body.inputs.size(), given.size(), body.inputs.size());
    if (++depth_ > kMaxDepth) fail(Code::kInvalidArgument, "bodies are nested more than {} deep", kMaxDepth);
    Frame inner;
    inner.values.resize(body.values.size());
    for (const Capture& capture : body.captures)
      inner.values[static_cast<size_t>(capture.inner)] = *find(capture.outer);
    for (size_t i = 0; i < given.size(); ++i) inner.values[static_cast<size_t>(body.inputs[i])] = std::move(given[i]);
    std::vector<Value> results = run_frame(body, inner);
    --depth_;
    return results;
  };
  try {
    run_op(node, inputs, outputs,
           {.pool = &pool_, .buffers = buffers_.get(), .random = &random_, .run_graph = &run_graph});
  } catch (const Error& error) {
    if (error.message().starts_with("node '")) throw;
    throw Error(error.code(), node.describe() + ": " + error.message(), error.param());
  }
  for (size_t i = 0; i < node.outputs.size(); ++i) {
    if (node.outputs[i] != kNoValue) values[static_cast<size_t>(node.outputs[i])] = std::move(outputs[i]);
  }
}

std::vector<Value> evaluate(const Node& node, std::span<const Value* const> inputs, ThreadPool& pool,
                            BufferPool* buffers) {
  std::vector<Value> outputs(std::max(node.outputs.size(), kMinOutputs));
  Random random(0);
  const RunContext::RunGraph no_bodies = [](const Node& owner, const Graph&, std::vector<Value>) -> std::vector<Value> {
    fail(Code::kUnimplemented, "{}: has a body and is no constant", owner.describe());
  };
  run_op(node, inputs, outputs, {.pool = &pool, .buffers = buffers, .random = &random, .run_graph = &no_bodies});
  return outputs;
}

}  // namespace sluice::graph
