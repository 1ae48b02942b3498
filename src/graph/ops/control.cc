// If and Loop (ONNX operator specification, opsets 1 to 25). A body is a graph of its own, run by the executor, which
// also hands it what it captures; here is decided which body runs, how often and with what. What a loop carries may
// change its shape from one time to the next, so its type inside the body is what holds for the first time and for
// every later one; a few passes over the body find that. A loop's scan outputs grow as they come: a trip count,
// however large, reserves nothing. A condition or trip count that is left out, or an optional that holds nothing,
// means true and without end.
#include <algorithm>
#include <limits>
#include <set>

#include "graph/ops/bodies.h"
#include "graph/ops/ops.h"
#include "graph/ops/pieces.h"

namespace sluice::graph::ops {

ValueType join_types(const InferContext& context, int output, const ValueType& a, const ValueType& b) {
  using Kind = ValueType::Kind;
  if (a.kind == Kind::kUnknown) return a;
  if (b.kind == Kind::kUnknown) return b;
  if (a.kind != b.kind) {
    // An optional that holds something is that something.
    if (a.kind == Kind::kOptional && a.inner != nullptr) {
      return ValueType::optional(join_types(context, output, *a.inner, b));
    }
    if (b.kind == Kind::kOptional && b.inner != nullptr) {
      return ValueType::optional(join_types(context, output, a, *b.inner));
    }
    context.fail("output {} is {} one time and {} another", output + 1, to_string(a), to_string(b));
  }
  ValueType joined = a;
  switch (a.kind) {
    case Kind::kSequence:
    case Kind::kOptional: {
      const ValueType inner = a.inner && b.inner ? join_types(context, output, *a.inner, *b.inner) : ValueType();
      joined.inner = std::make_shared<const ValueType>(inner);
      break;
    }
    case Kind::kTensor:
    case Kind::kMap:
      if (a.element == ElementType::kUndefined || b.element == ElementType::kUndefined) {
        joined.element = ElementType::kUndefined;
      } else if (a.element != b.element || a.key != b.key) {
        context.fail("output {} is {} one time and {} another", output + 1, to_string(a), to_string(b));
      }
      if (!a.has_rank() || !b.has_rank() || a.rank() != b.rank()) {
        joined.dims = std::nullopt;
        break;
      }
      for (size_t d = 0; d < a.dims->size(); ++d) {
        if (!((*a.dims)[d] == (*b.dims)[d])) (*joined.dims)[d] = Dim::unknown();
      }
      break;
    case Kind::kUnknown: break;
  }
  return joined;
}

bool are_equal(const ValueType& a, const ValueType& b) {
  if (a.kind != b.kind || a.element != b.element || a.key != b.key || a.dims != b.dims) return false;
  if ((a.inner == nullptr) != (b.inner == nullptr)) return false;
  return a.inner == nullptr || are_equal(*a.inner, *b.inner);
}

void check_body(const Node& node, const Graph& body, int64_t num_inputs, int64_t num_outputs) {
  const auto inputs = static_cast<int64_t>(body.inputs.size()), outputs = static_cast<int64_t>(body.outputs.size());
  if (inputs != num_inputs || outputs != num_outputs) {
    fail(Code::kInvalidArgument, "{}: its body has {} inputs and {} outputs; {} and {} are needed", node.describe(),
         inputs, outputs, num_inputs, num_outputs);
  }
}

int depth_of(const Graph& body) {
  int depth = 0;
  for (const Node& node : body.nodes) {
    for (const auto& [name, attribute] : node.attributes) {
      for (const auto& graph : attribute.graphs) depth = std::max(depth, 1 + depth_of(*graph));
    }
  }
  return depth;
}

namespace {

bool get_condition(const RunContext& context, const Value& value) {
  if (value.kind != Value::Kind::kTensor || value.tensor.type() != ElementType::kBool || value.tensor.count() != 1) {
    context.fail("its condition has to be one bool");
  }
  return value.tensor.data<bool>()[0];
}

void check_condition(const InferContext& context, int i) {
  const ValueType& type = context.type(i);
  const bool is_bool =
      type.kind == ValueType::Kind::kUnknown ||
      (type.is_tensor() && (type.element == ElementType::kBool || type.element == ElementType::kUndefined));
  if (!is_bool) context.fail("input {} is {}; it has to be one bool", i + 1, to_string(type));
}

// If

void infer_if(InferContext& context) {
  check_condition(context, 0);
  const Graph* branches[] = {&context.node().get_graph("then_branch"), &context.node().get_graph("else_branch")};
  for (const Graph* branch : branches) {
    check_body(context.node(), *branch, 0, static_cast<int64_t>(branch->outputs.size()));
    if (static_cast<int>(branch->outputs.size()) < context.num_outputs()) {
      context.fail("a branch gives {} values, the node has {} outputs", branch->outputs.size(), context.num_outputs());
    }
  }
  // The branch that is never taken may well be wrong: it was made for other shapes.
  const std::optional<std::vector<int64_t>> taken = context.known_ints(0);
  if (taken && taken->size() == 1) {
    const std::vector<ValueType> types = context.infer_graph(*branches[taken->front() != 0 ? 0 : 1], {});
    for (int i = 0; i < context.num_outputs(); ++i) context.set_type(i, types[static_cast<size_t>(i)]);
    return;
  }
  const std::vector<ValueType> a = context.infer_graph(*branches[0], {}), b = context.infer_graph(*branches[1], {});
  for (int i = 0; i < context.num_outputs(); ++i) {
    context.set_type(i, join_types(context, i, a[static_cast<size_t>(i)], b[static_cast<size_t>(i)]));
  }
}

void run_if(RunContext& context) {
  const bool condition = get_condition(context, context.input_value(0));
  std::vector<Value> results =
      context.run_graph(context.node().get_graph(condition ? "then_branch" : "else_branch"), {});
  for (int i = 0; i < context.num_outputs(); ++i) context.set(i, std::move(results[static_cast<size_t>(i)]));
}

// Loop: inputs M, cond, carried...; its body takes (iteration, cond, carried...) and gives (cond, carried...,
// scanned...).

constexpr int kFirstCarried = 2;

// A type that a body may declare in place of what it is given: old exporters write [1] for a scalar.
ValueType scalar_for(const Graph& body, int i, ElementType element) {
  const ValueType& declared = body.value(body.inputs[static_cast<size_t>(i)]).type;
  const bool is_vector = declared.is_tensor() && declared.has_rank() && declared.rank() == 1;
  return ValueType::tensor(element, is_vector ? Dims{1} : Dims{});
}

// True if a body that is given true never answers anything else.
bool never_stops(const Graph& body) {
  const ValueId answer = body.outputs[0], given = body.inputs[1];
  if (answer == given) return true;
  const std::optional<Value>& constant = body.value(answer).constant;
  const bool is_input = std::find(body.inputs.begin(), body.inputs.end(), answer) != body.inputs.end();
  if (constant && !is_input) {
    return constant->kind == Value::Kind::kTensor && constant->tensor.type() == ElementType::kBool &&
           constant->tensor.count() == 1 && constant->tensor.data<bool>()[0];
  }
  for (const Node& node : body.nodes) {
    const bool is_identity = node.op_type == "Identity" && node.domain.empty() && node.inputs.size() == 1;
    if (is_identity && node.outputs.size() == 1 && node.outputs[0] == answer) return node.inputs[0] == given;
  }
  return false;
}

std::optional<Dim> find_trip_count(const InferContext& context, const Graph& body) {
  if (!context.has_input(0) || !never_stops(body)) return std::nullopt;
  if (context.has_input(1)) {
    const std::optional<std::vector<int64_t>> condition = context.known_ints(1);
    if (!condition || condition->size() != 1) return std::nullopt;
    if (condition->front() == 0) return Dim(0);
  }
  const std::optional<std::vector<Dim>> trips = context.ints(0);
  if (!trips || trips->size() != 1) return std::nullopt;
  const Dim& count = trips->front();
  return count.is_known() ? Dim(std::max<int64_t>(count.value(), 0)) : max_of(count, 0);
}

// What a pass over the body changed: a dimension that an earlier pass gave up already stays the symbol that it is.
void keep_symbols(const ValueType& given, ValueType& joined, std::vector<Dim>& given_up) {
  if (given.inner != nullptr && joined.inner != nullptr) {
    ValueType inner = *joined.inner;
    keep_symbols(*given.inner, inner, given_up);
    joined.inner = std::make_shared<const ValueType>(std::move(inner));
  }
  if (!given.has_rank() || !joined.has_rank() || given.rank() != joined.rank()) return;
  for (size_t d = 0; d < joined.dims->size(); ++d) {
    const Dim& old = (*given.dims)[d];
    Dim& now = (*joined.dims)[d];
    if (now == old) continue;
    if (std::find(given_up.begin(), given_up.end(), old) != given_up.end()) {
      now = old;
    } else {
      given_up.push_back(now);
    }
  }
}

// Outside the loop a size that differs from one time to the next has to be no symbol of the body: a carried value shows
// the last one, a scan output one of each.
ValueType outside_loop(ValueType type, const std::vector<Dim>& given_up) {
  if (type.inner != nullptr) type.inner = std::make_shared<const ValueType>(outside_loop(*type.inner, given_up));
  if (!type.dims || given_up.empty()) return type;
  std::set<std::string> names;
  for (const Dim& dim : given_up) names.insert(dim.to_string());
  for (Dim& dim : *type.dims) {
    bool is_given_up = false;
    dim.substitute([&](const std::string& name) -> std::optional<int64_t> {
      is_given_up |= names.contains(name);
      return std::nullopt;
    });
    if (is_given_up) dim = Dim::unknown();
  }
  return type;
}

ValueType without_dims(ValueType type) {
  type.dims = std::nullopt;
  if (type.inner != nullptr) type.inner = std::make_shared<const ValueType>(without_dims(*type.inner));
  return type;
}

void infer_loop(InferContext& context) {
  const Graph& body = context.node().get_graph("body");
  const int num_carried = std::max(context.num_inputs() - kFirstCarried, 0);
  const int num_scanned = static_cast<int>(body.outputs.size()) - 1 - num_carried;
  check_body(context.node(), body, kFirstCarried + num_carried, 1 + num_carried + std::max(num_scanned, 0));
  if (context.num_outputs() > num_carried + num_scanned) {
    context.fail("has {} outputs, but its body gives {} values", context.num_outputs(), num_carried + num_scanned);
  }
  if (context.has_input(1)) check_condition(context, 1);

  std::vector<ValueType> given = {scalar_for(body, 0, ElementType::kI64), scalar_for(body, 1, ElementType::kBool)};
  for (int i = 0; i < num_carried; ++i) {
    ValueType type = context.has_input(kFirstCarried + i) ? context.type(kFirstCarried + i) : ValueType();
    if (type.kind == ValueType::Kind::kUnknown) {
      type = without_dims(body.value(body.inputs[static_cast<size_t>(kFirstCarried + i)]).type);
    }
    given.push_back(std::move(type));
  }
  // Each pass forgets what the body changes. Bodies in bodies cost the product of their passes.
  constexpr int kMaxPasses = 3, kMaxDepthOfPasses = 2;
  const int num_passes = depth_of(body) <= kMaxDepthOfPasses ? kMaxPasses : 0;
  std::vector<ValueType> results;
  std::vector<Dim> given_up;
  for (int pass = 0;; ++pass) {
    if (pass == num_passes) {
      for (size_t i = kFirstCarried; i < given.size(); ++i) given[i] = without_dims(std::move(given[i]));
    }
    results = context.infer_graph(body, given);
    bool is_stable = true;
    for (size_t i = kFirstCarried; i < given.size(); ++i) {
      const ValueType& result = results[i - kFirstCarried + 1];
      if (given[i].kind == ValueType::Kind::kUnknown) continue;
      ValueType joined = result.kind == ValueType::Kind::kUnknown
                             ? without_dims(given[i])
                             : join_types(context, static_cast<int>(i) - kFirstCarried, given[i], result);
      keep_symbols(given[i], joined, given_up);
      is_stable = is_stable && are_equal(joined, given[i]);
      given[i] = std::move(joined);
    }
    if (is_stable || pass >= num_passes) break;
  }
  for (int i = 0; i < std::min(num_carried, context.num_outputs()); ++i) {
    const ValueType& type = given[static_cast<size_t>(kFirstCarried + i)];
    const ValueType& result = results[static_cast<size_t>(1 + i)];
    // An optional that the body fills is what it fills it with: models declare it so.
    const bool is_filled = type.kind == ValueType::Kind::kOptional && result.kind != ValueType::Kind::kOptional;
    context.set_type(i, outside_loop(type.kind == ValueType::Kind::kUnknown || is_filled ? result : type, given_up));
  }
  const std::optional<Dim> num_trips = find_trip_count(context, body);
  for (int i = num_carried; i < context.num_outputs(); ++i) {
    ValueType type = outside_loop(results[static_cast<size_t>(1 + i)], given_up);
    if (!type.is_tensor()) continue;
    if (type.dims) type.dims->insert(type.dims->begin(), num_trips.value_or(Dim::unknown()));
    context.set_type(i, std::move(type));
  }
}

Value make_scalar(const RunContext& context, const Graph& body, int i, ElementType element, int64_t value) {
  Tensor tensor = context.make(element, *known_shape(*scalar_for(body, i, element).dims));
  if (element == ElementType::kBool) {
    tensor.data<bool>()[0] = value != 0;
  } else {
    tensor.data<int64_t>()[0] = value;
  }
  return tensor;
}

void run_loop(RunContext& context) {
  const Graph& body = context.node().get_graph("body");
  int64_t max_trips = std::numeric_limits<int64_t>::max();
  if (context.has_input(0) && !context.input_value(0).is_none()) {
    const std::vector<int64_t> trips = to_ints(context.input(0));
    if (trips.size() != 1) context.fail("its trip count has {} elements and has to be one", trips.size());
    max_trips = trips[0];
  }
  bool condition = true;
  if (context.has_input(1) && !context.input_value(1).is_none()) {
    condition = get_condition(context, context.input_value(1));
  }
  const int num_carried = std::max(context.num_inputs() - kFirstCarried, 0);
  std::vector<Value> carried(static_cast<size_t>(num_carried));
  for (int i = 0; i < num_carried; ++i) {
    if (context.has_input(kFirstCarried + i)) carried[static_cast<size_t>(i)] = context.input_value(kFirstCarried + i);
  }
  std::vector<Stack> scanned(body.outputs.size() - 1 - carried.size(), Stack(max_trips, /*is_exact=*/false));
  int64_t num_trips = 0;
  for (; condition && num_trips < max_trips; ++num_trips) {
    std::vector<Value> given;
    given.reserve(body.inputs.size());
    given.push_back(make_scalar(context, body, 0, ElementType::kI64, num_trips));
    given.push_back(make_scalar(context, body, 1, ElementType::kBool, 1));
    for (Value& value : carried) given.push_back(std::move(value));
    std::vector<Value> results = context.run_graph(body, std::move(given));
    condition = get_condition(context, results[0]);
    for (size_t i = 0; i < carried.size(); ++i) carried[i] = std::move(results[1 + i]);
    for (size_t k = 0; k < scanned.size(); ++k) {
      const int output = num_carried + static_cast<int>(k);
      if (context.has_output(output)) scanned[k].put(context, output, num_trips, results[1 + carried.size() + k]);
    }
  }
  for (int i = 0; i < context.num_outputs(); ++i) {
    if (!context.has_output(i)) continue;
    if (i < num_carried) {
      context.set(i, std::move(carried[static_cast<size_t>(i)]));
    } else {
      const ValueType& declared = body.value(body.outputs[static_cast<size_t>(1 + i)]).type;
      context.set(i, scanned[static_cast<size_t>(i - num_carried)].take(context, i, num_trips, declared));
    }
  }
}

constexpr OpInfo kOps[] = {
    {"", "If", 1, 0, infer_if, run_if, OpInfo::kMakesOutputs},
    {"", "Loop", 1, 0, infer_loop, run_loop, OpInfo::kMakesOutputs},
};

}  // namespace

std::span<const OpInfo> control_ops() { return kOps; }

}  // namespace sluice::graph::ops
