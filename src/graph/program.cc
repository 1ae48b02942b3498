#include "graph/program.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include <fmt/format.h>

#include "base/check.h"
#include "base/trace.h"
#include "graph/infer.h"
#include "graph/op_kernel.h"
#include "graph/passes.h"
#include "graph/precision.h"
#include "graph/program_builder.h"
#include "graph/run_op.h"

namespace sluice::graph {
namespace {

// Where the outputs lie in the memory of the first input, in bytes, for a node that only shows it in another way (a
// Reshape, a Slice or Split of whole rows): empty if it does more. The operator says so itself, on zeros. REQUIRES: all
// types are known.
std::vector<int64_t> find_views(const Node& node, const NodePlan& plan) {
  std::vector<Value> inputs(plan.inputs.size());
  std::vector<const Value*> given(plan.inputs.size(), nullptr);
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (plan.inputs[i].type == ElementType::kUndefined) continue;
    const bool is_first = i == 0;
    if (is_first == (plan.constants[i] != nullptr)) return {};  // the other inputs say how it is shown
    if (!is_first) inputs[i] = Value(*plan.constants[i]);
    given[i] = &inputs[i];
  }
  if (given.empty() || given[0] == nullptr || plan.inputs[0].shape.count() == 0) return {};
  std::vector<Value> outputs(std::max(plan.outputs.size(), kMinOutputs));
  try {
    Tensor zeros(plan.inputs[0].type, plan.inputs[0].shape);
    std::memset(zeros.raw(), 0, static_cast<size_t>(zeros.bytes()));
    inputs[0] = Value(std::move(zeros));
    ThreadPool pool(1);
    Random random(0);
    run_op(node, given, outputs, {.pool = &pool, .buffers = nullptr, .random = &random, .run_graph = nullptr});
  } catch (const Error&) {
    return {};  // it will say so when it runs
  }
  const Tensor& whole = inputs[0].tensor;
  const auto* begin = static_cast<const std::byte*>(whole.raw());
  std::vector<int64_t> offsets;
  for (size_t i = 0; i < plan.outputs.size(); ++i) {
    if (plan.outputs[i].type == ElementType::kUndefined) {
      offsets.push_back(0);
      continue;
    }
    const Tensor& part = outputs[i].tensor;
    const auto* at = static_cast<const std::byte*>(part.raw());
    const bool is_inside = outputs[i].kind == Value::Kind::kTensor && part.bytes() > 0 && at >= begin &&
                           at + part.bytes() <= begin + whole.bytes() && part.type() == plan.outputs[i].type &&
                           part.shape() == plan.outputs[i].shape;
    if (!is_inside) return {};
    offsets.push_back(at - begin);
  }
  return offsets;
}

constexpr int64_t kMaxTensorBytes = int64_t{1} << 40;

class CopyKernel final : public Kernel {
 public:
  explicit CopyKernel(int64_t bytes) : bytes_(static_cast<size_t>(bytes)) {}
  void run(std::span<const void* const> inputs, std::span<void* const> outputs, void*, ThreadPool&) override {
    if (bytes_ > 0 && inputs[0] != outputs[0]) std::memcpy(outputs[0], inputs[0], bytes_);
  }

 private:
  const size_t bytes_;
};

}  // namespace

std::optional<TensorInfo> info_of(const Graph& graph, ValueId id) {
  const GraphValue& value = graph.value(id);
  if (value.constant) {
    if (value.constant->kind != Value::Kind::kTensor || value.constant->tensor.type() == ElementType::kString) {
      return std::nullopt;
    }
    return TensorInfo{value.constant->tensor.type(), value.constant->tensor.shape()};
  }
  const ValueType& type = value.type;
  if (!type.is_tensor() || !type.dims || type.element == ElementType::kUndefined ||
      type.element == ElementType::kString) {
    return std::nullopt;
  }
  const std::optional<Shape> shape = known_shape(*type.dims);
  if (!shape) return std::nullopt;
  // Sizes are added and multiplied below as if they always fitted; the interpreter says what is too large.
  int64_t bytes = get_info(type.element).bytes;
  for (const int64_t dim : *shape) {
    if (dim < 0 || __builtin_mul_overflow(bytes, std::max<int64_t>(1, dim), &bytes) || bytes > kMaxTensorBytes) {
      return std::nullopt;
    }
  }
  return TensorInfo{type.element, *shape};
}

Model specialise(const Model& model, std::span<const Value> inputs, const CompileOptions& options,
                 PackedWeights& weights) {
  Model copy = copy_model(model);
  Graph& graph = copy.graph;
  std::vector<ValueId> given;
  for (size_t i = 0; i < graph.inputs.size(); ++i) {
    const ValueId id = graph.inputs[i];
    GraphValue& value = graph.value(id);
    if (inputs[i].is_none() && value.constant) continue;  // the default holds: a constant like any other
    if (inputs[i].kind == Value::Kind::kTensor) value.type = type_of_value(inputs[i]);
    value.constant.reset();
    given.push_back(id);
  }
  graph.inputs = std::move(given);
  for (GraphValue& value : graph.values) value.declared = {};
  optimise(copy, {.disabled = options.disabled_passes, .stop_after = {}});
  widen_halves(graph, weights);
  if (options.precision == Precision::kBF16) lower_precision(graph, weights);
  std::vector<std::string> problems;
  infer_types(graph, problems, Declarations::kIgnore);
  return copy;
}

// Makes the steps and slots of a program.
class ProgramBuilder {
 public:
  ProgramBuilder(Program::Impl& program, Shared& shared, const CompileOptions& options, ThreadPool& pool)
      : program_(program), graph_(program.model.graph), shared_(shared), options_(options), pool_(pool) {}

  void build() {
    plan_nodes();
    choose_kernels(graph_, plans_, shared_, options_, pool_);
    homes_.resize(graph_.values.size());
    for (size_t i = 0; i < graph_.inputs.size(); ++i) {
      const ValueId id = graph_.inputs[i];
      const std::optional<TensorInfo> info = info_of(graph_, id);
      if (info) {
        set_home(id, add_slot({.kind = Slot::Kind::kInput, .info = *info, .value = id,
                               .index = program_.input_indices[i]}));
      }
    }
    for (size_t n = 0; n < graph_.nodes.size(); ++n) add_node(n);
    add_outputs();
    join_concats();
    reuse_inputs();
    place();
  }

 private:
  Slot& slot(int i) { return program_.slots[static_cast<size_t>(i)]; }
  int add_slot(Slot made) {
    made.bytes = bytes_of(made.info);
    // Views of views are views of what is below, so that no chain of them is ever long.
    while (made.base >= 0 && slot(made.base).base >= 0) {
      made.offset += slot(made.base).offset;
      made.base = slot(made.base).base;
    }
    program_.slots.push_back(std::move(made));
    return static_cast<int>(program_.slots.size()) - 1;
  }
  void set_home(ValueId id, int slot) { homes_[static_cast<size_t>(id)].push_back(slot); }

  void plan_nodes() {
    plans_.resize(graph_.nodes.size());
    for (size_t n = 0; n < plans_.size(); ++n) {
      const Node& node = graph_.nodes[n];
      NodePlan& plan = plans_[n];
      plan.is_static = !has_body(node) && (node.op->flags & OpInfo::kImpure) == 0;
      for (const ValueId id : node.inputs) {
        const std::optional<TensorInfo> info = id == kNoValue ? TensorInfo() : info_of(graph_, id);
        if (!info) plan.is_static = false;
        plan.inputs.push_back(info.value_or(TensorInfo()));
        const bool is_constant = id != kNoValue && graph_.value(id).constant && info;
        plan.constants.push_back(is_constant ? &graph_.value(id).constant->tensor : nullptr);
      }
      for (const ValueId id : node.outputs) {
        const std::optional<TensorInfo> info = id == kNoValue ? TensorInfo() : info_of(graph_, id);
        if (!info) plan.is_static = false;
        plan.outputs.push_back(info.value_or(TensorInfo()));
      }
      if (!plan.is_static || (node.op->flags & OpInfo::kMakesOutputs) == 0) continue;
      plan.alias_offsets = find_views(node, plan);
      plan.is_alias = !plan.alias_offsets.empty();
    }
  }

  // The slot of the value in that layout, with a reorder if there is none yet. REQUIRES: a tensor of known shape.
  int find_slot(ValueId id, Layout layout, const Node& user) {
    std::vector<int>& homes = homes_[static_cast<size_t>(id)];
    for (const int home : homes) {
      if (slot(home).info.layout == layout) return home;
    }
    if (homes.empty()) {
      const Tensor& constant = graph_.value(id).constant->tensor;
      const TensorInfo info{constant.type(), constant.shape()};
      homes.push_back(add_slot({.kind = Slot::Kind::kConstant, .info = info, .value = id, .constant = constant}));
      if (layout == Layout::kPlain) return homes.back();
    }
    const int home = homes[0];
    TensorInfo info = slot(home).info;
    const Layout from = info.layout;
    info.layout = layout;
    if (is_same_order(info.shape, from, layout)) {
      homes.push_back(add_slot({.info = info, .value = id, .base = home}));
      return homes.back();
    }
    TensorInfo source = info;
    source.layout = from;
    if (slot(home).kind == Slot::Kind::kConstant && slot(home).base < 0) {
      homes.push_back(add_slot({.kind = Slot::Kind::kConstant, .info = info, .value = id,
                                .constant = reorder_constant(slot(home).constant, source, info)}));
      return homes.back();
    }
    const int to = add_slot({.info = info, .value = id});
    Step step{.node = &user, .kernel = make_reorder_of(source, info), .inputs = {home}, .outputs = {to}};
    add_step(std::move(step), {.name = "reorder " + graph_.value(id).name, .op = "reorder",
                               .kernel = fmt::format("{} to {}", name(from), name(layout)),
                               .outputs = to_string(info)});
    homes_[static_cast<size_t>(id)].push_back(to);
    return to;
  }

  static std::unique_ptr<Kernel> make_reorder_of(TensorInfo from, TensorInfo to) {
    // The library has no types of this size but its own; the bits are what matters.
    const int bytes = get_info(from.type).bytes;
    from.type = to.type = bytes == 4 ? ElementType::kF32 : bytes == 2 ? ElementType::kBF16 : ElementType::kU8;
    CHECK(bytes == 4 || bytes == 2 || bytes == 1, bytes);
    return make_reorder(from, to);
  }

  Tensor reorder_constant(const Tensor& constant, const TensorInfo& from, const TensorInfo& to) {
    return shared_.weights.get(constant, name(to.layout), ElementType::kU8, Shape{bytes_of(to)}, [&] {
      Tensor made(ElementType::kU8, Shape{bytes_of(to)});
      const std::unique_ptr<Kernel> kernel = make_reorder_of(from, to);
      Tensor scratch(ElementType::kU8, Shape{static_cast<int64_t>(kernel->scratch_bytes())});
      const void* source = constant.raw();
      void* target = made.raw();
      kernel->run({&source, 1}, {&target, 1}, scratch.raw(), pool_);
      return made;
    });
  }

  void add_step(Step step, StepInfo info) {
    step.input_data.resize(step.inputs.size(), nullptr);
    step.output_data.resize(step.outputs.size(), nullptr);
    program_.steps.push_back(std::move(step));
    program_.infos.push_back(std::move(info));
  }

  void add_node(size_t n) {
    const Node& node = graph_.nodes[n];
    NodePlan& plan = plans_[n];
    if (!plan.is_static) return add_interpreted(node);
    if (plan.is_alias) {
      const int from = find_slot(node.inputs[0], Layout::kPlain, node);
      for (size_t i = 0; i < node.outputs.size(); ++i) {
        if (node.outputs[i] == kNoValue) continue;
        set_home(node.outputs[i], add_slot({.info = plan.outputs[i], .value = node.outputs[i], .base = from,
                                            .offset = plan.alias_offsets[i]}));
      }
      return;
    }
    Step step{.node = &node};
    StepInfo info{.name = node.name, .op = node.op_type, .flops = count_flops(node, plan)};
    for (size_t i = 0; i < node.inputs.size(); ++i) {
      const ValueId id = node.inputs[i];
      const Layout layout = plan.input_layout(i);
      step.inputs.push_back(id == kNoValue ? -1 : find_slot(id, layout, node));
    }
    std::string outputs;
    for (size_t i = 0; i < node.outputs.size(); ++i) {
      if (node.outputs[i] == kNoValue) {
        step.outputs.push_back(-1);
        continue;
      }
      TensorInfo made = plan.outputs[i];
      made.layout = plan.output_layout(i);
      const int to = add_slot({.info = made, .value = node.outputs[i]});
      step.outputs.push_back(to);
      set_home(node.outputs[i], to);
      outputs += (outputs.empty() ? "" : ", ") + to_string(made);
    }
    info.outputs = outputs;
    if (plan.chosen >= 0) {
      const auto c = static_cast<size_t>(plan.chosen);
      step.kernel = std::move(plan.made[c]);
      step.in_place = plan.choices[c].in_place;
      step.joins_in_place = plan.choices[c].joins_in_place;
      info.kernel = plan.choices[c].name;
    } else {
      step.kernel = std::make_unique<OpKernel>(node, plan.inputs, plan.constants, plan.outputs);
      info.kernel = "plain";
    }
    add_step(std::move(step), std::move(info));
  }

  void add_interpreted(const Node& node) {
    Step step{.node = &node};
    for_each_use(node, [&](ValueId id) {
      if (graph_.value(id).constant && homes_[static_cast<size_t>(id)].empty()) return;
      if (homes_[static_cast<size_t>(id)].empty()) return;  // an input that is no tensor
      const int from = find_slot(id, Layout::kPlain, node);
      step.inputs.push_back(from);
      if (slot(from).kind != Slot::Kind::kInterpreted) make_visible(id, from);
    });
    for (const ValueId id : node.outputs) {
      if (id == kNoValue) continue;
      const std::optional<TensorInfo> info = info_of(graph_, id);
      const int to = add_slot({.kind = Slot::Kind::kInterpreted, .info = info.value_or(TensorInfo()), .value = id});
      step.outputs.push_back(to);
      set_home(id, to);
    }
    add_step(std::move(step), {.name = node.name, .op = node.op_type, .kernel = "interpreted"});
  }

  void make_visible(ValueId id, int from) {
    const std::pair<ValueId, int> entry{id, from};
    std::vector<std::pair<ValueId, int>>& visible = program_.visible;
    if (std::find(visible.begin(), visible.end(), entry) == visible.end()) visible.push_back(entry);
  }

  void add_outputs() {
    static const Node kCopy{.op_type = "Identity", .name = "output"};
    for (const ValueId id : graph_.outputs) {
      const bool is_given = graph_.value(id).constant || homes_[static_cast<size_t>(id)].empty();
      if (is_given) {
        program_.output_slots.push_back(-1);
        continue;
      }
      int from = find_slot(id, Layout::kPlain, kCopy);
      const int root = program_.root_of(from);
      if (slot(from).kind == Slot::Kind::kInterpreted || slot(root).kind == Slot::Kind::kInput) {
        // What the interpreter made, or what came in; in another shape it is a copy.
        if (from == root) {
          program_.output_slots.push_back(-1);
          continue;
        }
      }
      if (slot(root).kind == Slot::Kind::kArena) slot(root).kind = Slot::Kind::kOutput;
      if (slot(root).kind != Slot::Kind::kOutput) {
        const int to = add_slot({.kind = Slot::Kind::kOutput, .info = slot(from).info, .value = id});
        add_step({.node = &kCopy, .kernel = std::make_unique<CopyKernel>(slot(to).bytes), .inputs = {from},
                  .outputs = {to}},
                 {.name = "copy " + graph_.value(id).name, .op = "copy", .kernel = "copy",
                  .outputs = to_string(slot(to).info)});
        from = to;
      }
      program_.output_slots.push_back(from);
    }
  }

  // Tensors that are only there to be joined are made where they will stand.
  void join_concats() {
    for (Step& step : program_.steps) {
      if (!step.joins_in_place) continue;
      const int to = step.outputs[0];
      int64_t offset = 0;
      for (const int from : step.inputs) {
        if (from < 0) break;  // a constant: copied, and so are those behind it
        if (slot(from).kind == Slot::Kind::kArena && slot(from).base < 0 && from != to) {
          slot(from).base = to;
          slot(from).offset = offset;
        }
        offset += slot(from).bytes;
      }
    }
  }

  // When each slot with memory of its own is alive.
  void find_lifetimes() {
    for (Slot& s : program_.slots) s.first = static_cast<int>(program_.steps.size()), s.last = -1;
    const int num_steps = static_cast<int>(program_.steps.size());
    auto use = [&](int i, int step) {
      if (i < 0) return;
      Slot& root = slot(program_.root_of(i));
      root.first = std::min(root.first, step);
      root.last = std::max(root.last, step);
      Slot& own = slot(i);
      own.last = std::max(own.last, step);
    };
    for (int s = 0; s < num_steps; ++s) {
      for (const int i : program_.steps[static_cast<size_t>(s)].inputs) use(i, s);
      for (const int i : program_.steps[static_cast<size_t>(s)].outputs) use(i, s);
    }
    for (const int i : program_.output_slots) use(i, num_steps);
    for (const ValueId id : graph_.outputs) {
      for (const int i : homes_[static_cast<size_t>(id)]) use(i, num_steps);
    }
    // What the interpreter makes may be a view of what it was given.
    for (int s = num_steps; s-- > 0;) {
      const Step& step = program_.steps[static_cast<size_t>(s)];
      if (step.kernel != nullptr) continue;
      int last = s;
      for (const int i : step.outputs) last = std::max(last, slot(program_.root_of(i)).last);
      for (const int i : step.inputs) use(i, last);
    }
  }

  // Outputs take the memory of inputs that nobody reads later.
  void reuse_inputs() {
    find_lifetimes();
    for (int s = 0; s < static_cast<int>(program_.steps.size()); ++s) {
      Step& step = program_.steps[static_cast<size_t>(s)];
      if (step.in_place < 0) continue;
      const int from = step.inputs[static_cast<size_t>(step.in_place)], to = step.outputs[0];
      if (from < 0) continue;
      const int root = program_.root_of(from);
      const bool is_free = slot(root).kind == Slot::Kind::kArena && slot(root).last == s && slot(to).base < 0 &&
                           slot(to).kind == Slot::Kind::kArena && slot(root).bytes == slot(to).bytes &&
                           slot(from).bytes == slot(to).bytes;
      if (!is_free) continue;
      bool is_read_twice = false;
      for (size_t i = 0; i < step.inputs.size(); ++i) {
        if (static_cast<int>(i) == step.in_place || step.inputs[i] < 0) continue;
        is_read_twice |= program_.root_of(step.inputs[i]) == root && step.inputs[i] != from;
      }
      if (is_read_twice) continue;
      slot(root).last = std::max(slot(root).last, slot(to).last);
      slot(to).base = root;
      slot(to).offset = 0;
    }
  }

  void place() {
    find_lifetimes();
    std::vector<MemoryRequest> requests;
    std::vector<int> owners;
    for (size_t i = 0; i < program_.slots.size(); ++i) {
      const Slot& s = program_.slots[i];
      if (s.kind != Slot::Kind::kArena || s.base >= 0 || s.last < 0) continue;
      requests.push_back({.bytes = s.bytes, .first = s.first, .last = s.last});
      owners.push_back(static_cast<int>(i));
    }
    const size_t num_slots = owners.size();
    std::vector<size_t> scratch_steps;
    for (size_t i = 0; i < program_.steps.size(); ++i) {
      const Step& step = program_.steps[i];
      if (step.kernel == nullptr || step.kernel->scratch_bytes() == 0) continue;
      requests.push_back({.bytes = static_cast<int64_t>(step.kernel->scratch_bytes()), .first = static_cast<int>(i),
                          .last = static_cast<int>(i)});
      scratch_steps.push_back(i);
    }
    program_.memory = plan_memory(requests);
    for (size_t r = 0; r < num_slots; ++r) slot(owners[r]).arena_offset = program_.memory.offsets[r];
    for (size_t r = 0; r < scratch_steps.size(); ++r) {
      program_.steps[scratch_steps[r]].scratch_offset = program_.memory.offsets[num_slots + r];
    }
    // Without reuse every tensor that a step makes has memory of its own, and so has every step's scratch.
    program_.memory.bytes_without_reuse = 0;
    for (const size_t s : scratch_steps) {
      program_.memory.bytes_without_reuse +=
          (static_cast<int64_t>(program_.steps[s].kernel->scratch_bytes()) + 63) / 64 * 64;
    }
    const std::vector<bool> is_written = mark_written();
    for (size_t i = 0; i < program_.slots.size(); ++i) {
      const Slot& s = program_.slots[i];
      const bool is_made = s.kind == Slot::Kind::kArena && (s.base < 0 || is_written[i]);
      if (is_made) program_.memory.bytes_without_reuse += (s.bytes + 63) / 64 * 64;
    }
    for (size_t i = 0; i < program_.slots.size(); ++i) {
      const Slot& s = program_.slots[i];
      if (s.kind != Slot::Kind::kInterpreted || s.last < 0 || s.last >= static_cast<int>(program_.steps.size())) {
        continue;
      }
      program_.steps[static_cast<size_t>(s.last)].dead.push_back(s.value);
    }
  }

  // By slot: whether a step makes it.
  std::vector<bool> mark_written() const {
    std::vector<bool> is_written(program_.slots.size(), false);
    for (const Step& step : program_.steps) {
      for (const int i : step.outputs) {
        if (i >= 0) is_written[static_cast<size_t>(i)] = true;
      }
    }
    return is_written;
  }

  Program::Impl& program_;
  const Graph& graph_;
  Shared& shared_;
  const CompileOptions& options_;
  ThreadPool& pool_;
  std::vector<NodePlan> plans_;
  std::vector<std::vector<int>> homes_;  // slots of each value, that of its producer first
};

namespace {

std::shared_ptr<const Tensor> keep(const Tensor& tensor) { return std::make_shared<const Tensor>(tensor); }

// Kernels rely on the types and shapes that were inferred.
void check_made(const Node& node, const TensorInfo& inferred, const Value& made) {
  if (inferred.type == ElementType::kUndefined) return;
  const bool fits = made.kind == Value::Kind::kTensor && made.tensor.type() == inferred.type &&
                    made.tensor.shape() == inferred.shape;
  if (fits) return;
  fail(Code::kInvalidArgument, "{}: made {} where the model's shapes say {}", node.describe(),
       made.kind == Value::Kind::kTensor ? to_string(made.tensor) : "no tensor", to_string(inferred));
}

// The value with memory of its own for what lies in the block from `begin` to `end`.
Value detach(const Value& value, const std::byte* begin, const std::byte* end, BufferPool* buffers) {
  auto detached = [&](const Tensor& tensor) {
    return tensor.raw() >= begin && tensor.raw() < end ? tensor.copy(buffers) : tensor;
  };
  switch (value.kind) {
    case Value::Kind::kNone: return value;
    case Value::Kind::kTensor: return Value(detached(value.tensor));
    case Value::Kind::kMap: return Value(MapValue{detached(value.map->keys), detached(value.map->values)});
    case Value::Kind::kSequence: break;
  }
  std::vector<Value> elements;
  for (const Value& element : *value.sequence) elements.push_back(detach(element, begin, end, buffers));
  return Value(std::move(elements));
}

}  // namespace

// Lets go of what a run has made and was given, also if it ended early.
struct Program::Forget {
  Impl& impl;
  ~Forget() {
    for (const ValueId id : impl.model.graph.inputs) impl.values[static_cast<size_t>(id)] = Value();
    for (const Slot& slot : impl.slots) {
      if (slot.kind == Slot::Kind::kInterpreted) impl.values[static_cast<size_t>(slot.value)] = Value();
    }
    for (const auto& [id, from] : impl.visible) {
      const Slot::Kind kind = impl.slots[static_cast<size_t>(impl.root_of(from))].kind;
      const bool is_here_to_stay = kind == Slot::Kind::kArena || kind == Slot::Kind::kConstant;
      if (!is_here_to_stay) impl.values[static_cast<size_t>(id)] = Value();
    }
    for (Tensor& tensor : impl.outputs) tensor = Tensor();
  }
};

Program::Program() : impl_(std::make_unique<Impl>()) {}
Program::~Program() = default;

std::unique_ptr<Program> Program::compile(Shared& shared, std::span<const Value> inputs, const CompileOptions& options,
                                          std::shared_ptr<BufferPool> buffers, ThreadPool& pool) {
  TRACE("graph.compile");
  std::unique_ptr<Program> program(new Program());
  Impl& impl = *program->impl_;
  impl.buffers = std::move(buffers);
  impl.model = specialise(*shared.model, inputs, options, shared.weights);
  const Graph& original = shared.model->graph;
  for (size_t i = 0; i < original.inputs.size(); ++i) {
    const bool is_constant = inputs[i].is_none() && original.value(original.inputs[i]).constant;
    if (!is_constant) impl.input_indices.push_back(static_cast<int>(i));
  }
  ProgramBuilder(impl, shared, options, pool).build();
  impl.data.resize(impl.slots.size(), nullptr);
  impl.outputs.resize(impl.slots.size());
  impl.values.resize(impl.model.graph.values.size());
  return program;
}

std::vector<Value> Program::run(std::span<const Value> inputs, void* arena, ThreadPool& pool,
                                const Interpret& interpret, std::vector<double>* seconds) {
  Impl& impl = *impl_;
  const Graph& graph = impl.model.graph;
  alignas(64) static std::byte nothing[64];  // where tensors without elements are
  auto place = [&](size_t i) -> void* {
    const Slot& slot = impl.slots[i];
    if (slot.base >= 0) {
      std::byte* base = static_cast<std::byte*>(impl.data[static_cast<size_t>(slot.base)]);
      return base == nullptr ? nullptr : base + slot.offset;
    }
    switch (slot.kind) {
      case Slot::Kind::kArena: return static_cast<std::byte*>(arena) + slot.arena_offset;
      case Slot::Kind::kConstant: return const_cast<void*>(slot.constant.raw());
      case Slot::Kind::kInput: {
        const Value& value = inputs[static_cast<size_t>(slot.index)];
        return value.tensor.bytes() == 0 ? nothing : const_cast<void*>(value.tensor.raw());
      }
      case Slot::Kind::kOutput: {
        const int64_t elements = slot.bytes / get_info(slot.info.type).bytes;
        impl.outputs[i] = Tensor(slot.info.type, Shape{elements}, impl.buffers.get());
        return elements == 0 ? nothing : impl.outputs[i].raw();
      }
      case Slot::Kind::kInterpreted: return nullptr;
    }
    return nullptr;
  };
  // A base may stand behind what lies in it.
  for (size_t i = 0; i < impl.slots.size(); ++i) {
    if (impl.slots[i].base < 0) impl.data[i] = place(i);
  }
  auto resolve = [&](auto&& self, int i) -> void* {
    const Slot& slot = impl.slots[static_cast<size_t>(i)];
    if (slot.base < 0) return impl.data[static_cast<size_t>(i)];
    std::byte* base = static_cast<std::byte*>(self(self, slot.base));
    return impl.data[static_cast<size_t>(i)] = base == nullptr ? nullptr : base + slot.offset;
  };
  for (size_t i = 0; i < graph.inputs.size(); ++i) {
    impl.values[static_cast<size_t>(graph.inputs[i])] = inputs[static_cast<size_t>(impl.input_indices[i])];
  }
  // What the interpreter sees may leave with what it makes: it keeps alive whose memory it is. What is in the block is
  // copied in the end.
  auto show = [&](ValueId id, int from) {
    Value& value = impl.values[static_cast<size_t>(id)];
    void* data = resolve(resolve, from);
    if (data == nullptr) return;  // of what the interpreter made: seen when it is there
    if (!value.is_none() && value.tensor.raw() == data) return;
    const auto root = static_cast<size_t>(impl.root_of(from));
    const Slot& owner = impl.slots[root];
    std::shared_ptr<const Tensor> keeper;
    if (owner.kind == Slot::Kind::kInput) keeper = keep(inputs[static_cast<size_t>(owner.index)].tensor);
    if (owner.kind == Slot::Kind::kConstant) keeper = keep(owner.constant);
    if (owner.kind == Slot::Kind::kOutput) keeper = keep(impl.outputs[root]);
    if (owner.kind == Slot::Kind::kInterpreted) keeper = keep(impl.values[static_cast<size_t>(owner.value)].tensor);
    const TensorInfo& info = impl.slots[static_cast<size_t>(from)].info;
    value = Value(Tensor::wrap(info.type, info.shape, data, std::move(keeper)));
  };
  const Forget forget{impl};
  for (const auto& [id, from] : impl.visible) show(id, from);
  if (seconds != nullptr) seconds->assign(impl.steps.size(), 0);
  for (size_t s = 0; s < impl.steps.size(); ++s) {
    Step& step = impl.steps[s];
    const auto begin = seconds != nullptr ? std::chrono::steady_clock::now() : std::chrono::steady_clock::time_point();
    if (step.kernel == nullptr) {
      interpret(graph, *step.node, impl.values);
      for (const int i : step.outputs) {
        const Slot& slot = impl.slots[static_cast<size_t>(i)];
        const Value& made = impl.values[static_cast<size_t>(slot.value)];
        check_made(*step.node, slot.info, made);
        impl.data[static_cast<size_t>(i)] =
            made.kind == Value::Kind::kTensor
                ? (made.tensor.bytes() == 0 ? static_cast<void*>(nothing) : const_cast<void*>(made.tensor.raw()))
                : nullptr;
      }
      for (const auto& [id, from] : impl.visible) {  // views of what was just made
        if (impl.slots[static_cast<size_t>(from)].base >= 0) show(id, from);
      }
    } else {
      for (size_t i = 0; i < step.inputs.size(); ++i) {
        step.input_data[i] = step.inputs[i] < 0 ? nullptr : resolve(resolve, step.inputs[i]);
      }
      for (size_t i = 0; i < step.outputs.size(); ++i) {
        step.output_data[i] = step.outputs[i] < 0 ? nullptr : resolve(resolve, step.outputs[i]);
      }
      try {
        step.kernel->run(step.input_data, step.output_data, static_cast<std::byte*>(arena) + step.scratch_offset, pool);
      } catch (const Error& error) {
        if (error.message().starts_with("node '")) throw;
        throw Error(error.code(), step.node->describe() + ": " + error.message(), error.param());
      }
    }
    for (const ValueId id : step.dead) impl.values[static_cast<size_t>(id)] = Value();
    if (seconds != nullptr) {
      (*seconds)[s] = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    }
  }
  std::vector<Value> results;
  results.reserve(graph.outputs.size());
  const auto* arena_begin = static_cast<const std::byte*>(arena);
  for (size_t i = 0; i < graph.outputs.size(); ++i) {
    const ValueId id = graph.outputs[i];
    const int from = impl.output_slots[i];
    if (from >= 0) {
      const Slot& slot = impl.slots[static_cast<size_t>(from)];
      const int root = impl.root_of(from);
      const auto* begin = static_cast<const std::byte*>(impl.data[static_cast<size_t>(root)]);
      const auto* at = static_cast<const std::byte*>(resolve(resolve, from));
      const int64_t offset = slot.bytes == 0 ? 0 : (at - begin) / get_info(slot.info.type).bytes;
      results.emplace_back(impl.outputs[static_cast<size_t>(root)].slice(offset, slot.info.shape));
      continue;
    }
    const Value& value = impl.values[static_cast<size_t>(id)];
    const std::optional<Value>& constant = graph.value(id).constant;
    if (value.is_none() && constant) {
      results.push_back(*constant);
      continue;
    }
    results.push_back(detach(value, arena_begin, arena_begin + impl.memory.bytes, impl.buffers.get()));
  }
  return results;
}

int64_t Program::arena_bytes() const { return impl_->memory.bytes; }
int64_t Program::bytes_without_reuse() const { return impl_->memory.bytes_without_reuse; }
const std::vector<StepInfo>& Program::steps() const { return impl_->infos; }
const Graph& Program::graph() const { return impl_->model.graph; }

}  // namespace sluice::graph
