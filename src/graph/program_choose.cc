// Which kernel computes which node, and in which layout.
//
// The cost of a choice is its time, measured if asked for, and that of the reorders that it makes necessary on its own
// edges. Starting from several assignments (everything in one layout, or greedily from front to back) each node in turn
// takes the choice that is cheapest as its neighbours stand, until nobody changes his mind; the cheapest end wins. For
// the chains with short side branches that networks are, this finds what an exhaustive search would.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <limits>

#include <fmt/format.h>

#include "graph/op_kernel.h"
#include "graph/program_builder.h"
#include "kernels/cpu.h"

namespace sluice::graph {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kImpossible = 1e12;
constexpr double kReorderStart = 3;          // microseconds
constexpr double kReorderBytes = 15000;      // read and written, a microsecond
constexpr int kMaxSweeps = 12;

std::string attribute_text(const Attribute& attribute) {
  std::string text = fmt::format("{}{}{}", attribute.f, attribute.i, attribute.s);
  for (const float f : attribute.floats) text += fmt::format(",{}", f);
  for (const int64_t i : attribute.ints) text += fmt::format(",{}", i);
  for (const std::string& s : attribute.strings) text += "," + s;
  return text;
}

// Everything that the time of a choice depends on.
std::string timing_key(const Node& node, const NodePlan& plan, const KernelChoice& choice, int num_threads,
                       bool is_cold) {
  std::string key = fmt::format("{} x{}{} {}.{}-{}", kernel_isa(), num_threads, is_cold ? " cold" : "", node.domain,
                                node.op_type, node.opset);
  for (const auto& [name, attribute] : node.attributes) key += fmt::format(" {}={}", name, attribute_text(attribute));
  key += ":";
  for (size_t i = 0; i < plan.inputs.size(); ++i) {
    key += fmt::format(" {}{}", plan.constants[i] != nullptr ? "constant " : "",
                       plan.inputs[i].type == ElementType::kUndefined ? "-" : to_string(plan.inputs[i]));
  }
  key += " ->";
  for (const TensorInfo& info : plan.outputs) key += " " + to_string(info);
  std::replace(key.begin(), key.end(), '\n', ' ');
  return key + " by " + choice.name;
}

// Reads memory into the caches.
void read_all(const void* data, int64_t bytes, ThreadPool& pool) {
  pool.parallel_for(bytes / 64, 1 << 12, [&](int64_t begin, int64_t end, int) {
    uint8_t sum = 0;
    const auto* lines = static_cast<const volatile uint8_t*>(data);
    for (int64_t line = begin; line < end; ++line) sum = static_cast<uint8_t>(sum + lines[line * 64]);
    static_cast<void>(sum);
  });
}

// In a model with more weights than the caches hold, every kernel finds its weights in memory only; measured on its own
// it would find them where it left them, and algorithms that need more of them would look better than they are.
class Evictor {
 public:
  static bool is_needed_for(const Graph& graph) {
    int64_t bytes = 0;
    for (const GraphValue& value : graph.values) {
      if (value.constant && value.constant->kind == Value::Kind::kTensor) bytes += value.constant->tensor.bytes();
    }
    return bytes > cache_bytes();
  }
  explicit Evictor(bool is_needed) {
    if (!is_needed) return;
    memory_ = Tensor(ElementType::kU8, Shape{std::min<int64_t>(2 * cache_bytes(), int64_t{256} << 20)});
    std::memset(memory_.raw(), 1, static_cast<size_t>(memory_.bytes()));
  }
  bool is_needed() const { return !memory_.is_null(); }
  void evict(ThreadPool& pool) const {
    if (is_needed()) read_all(memory_.raw(), memory_.bytes(), pool);
  }

 private:
  static int64_t cache_bytes() {
    const int64_t told = ::sluice::kernels::get_cpu().l3_bytes;
    return told > 0 ? told : int64_t{32} << 20;
  }
  Tensor memory_;
};

// The shortest of a few runs on memory of its own: what others do to the machine only adds.
double measure(Kernel& kernel, const NodePlan& plan, const KernelChoice& choice, ThreadPool& pool,
               const Evictor& evictor) {
  std::vector<Tensor> memory;
  auto make = [&](TensorInfo info, Layout layout) -> void* {
    info.layout = layout;
    memory.emplace_back(ElementType::kU8, Shape{std::max<int64_t>(1, bytes_of(info))});
    std::memset(memory.back().raw(), 0, static_cast<size_t>(memory.back().bytes()));
    return memory.back().raw();
  };
  std::vector<const void*> inputs;
  std::vector<void*> outputs;
  for (size_t i = 0; i < plan.inputs.size(); ++i) {
    const bool is_left_out = plan.inputs[i].type == ElementType::kUndefined;
    const bool is_plain_constant = plan.constants[i] != nullptr && choice.inputs[i] == Layout::kPlain;
    if (is_left_out) inputs.push_back(nullptr);
    else if (is_plain_constant) inputs.push_back(plan.constants[i]->raw());
    else inputs.push_back(make(plan.inputs[i], choice.inputs[i]));
  }
  for (size_t i = 0; i < plan.outputs.size(); ++i) outputs.push_back(make(plan.outputs[i], choice.outputs[i]));
  void* scratch = make({.type = ElementType::kU8, .shape = {static_cast<int64_t>(kernel.scratch_bytes()) + 64}},
                       Layout::kPlain);
  scratch = reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(scratch) + 63) / 64 * 64);
  auto run = [&] {
    evictor.evict(pool);
    for (size_t i = 0; i < plan.inputs.size(); ++i) {  // what the step before has just made
      if (plan.constants[i] != nullptr || inputs[i] == nullptr) continue;
      TensorInfo info = plan.inputs[i];
      info.layout = choice.inputs[i];
      read_all(inputs[i], bytes_of(info), pool);
    }
    const auto begin = Clock::now();
    kernel.run(inputs, outputs, scratch, pool);
    return std::chrono::duration<double, std::micro>(Clock::now() - begin).count();
  };
  run();
  constexpr double kMaxMicroseconds = 10000;
  double best = run(), total = best;
  const int max_runs = evictor.is_needed() ? 6 : 20;
  for (int i = 1; i < 4 || (i < max_runs && total < kMaxMicroseconds); ++i) {
    const double time = run();
    best = std::min(best, time);
    total += time;
  }
  return best;
}

class Chooser {
 public:
  Chooser(const Graph& graph, std::vector<NodePlan>& plans) : graph_(graph), plans_(plans) {
    producer_.assign(graph.values.size(), {-1, 0});
    consumers_.resize(graph.values.size());
    for (size_t n = 0; n < graph.nodes.size(); ++n) {
      const Node& node = graph.nodes[n];
      for (size_t i = 0; i < node.outputs.size(); ++i) {
        if (node.outputs[i] != kNoValue) producer_[static_cast<size_t>(node.outputs[i])] = {static_cast<int>(n), i};
      }
      for (size_t i = 0; i < node.inputs.size(); ++i) {
        const ValueId id = node.inputs[i];
        if (id != kNoValue) consumers_[static_cast<size_t>(id)].push_back({static_cast<int>(n), i});
      }
    }
    is_output_.assign(graph.values.size(), false);
    for (const ValueId id : graph.outputs) is_output_[static_cast<size_t>(id)] = true;
  }

  void choose() {
    std::vector<int> best;
    double best_cost = std::numeric_limits<double>::infinity();
    for (const Layout start : {Layout::kChannelsLast, Layout::kBlocked16, Layout::kPlain}) {
      begin_with(start);
      improve();
      const double cost = total_cost();
      if (cost >= best_cost) continue;
      best_cost = cost;
      best.clear();
      for (const NodePlan& plan : plans_) best.push_back(plan.chosen);
    }
    for (size_t n = 0; n < plans_.size(); ++n) plans_[n].chosen = best[n];
  }

 private:
  static double time_of(const NodePlan& plan, int choice) {
    return choice < 0 ? 0 : plan.microseconds[static_cast<size_t>(choice)];
  }

  double reorder_cost(const TensorInfo& info, Layout from, Layout to) const {
    if (from == to || is_same_order(info.shape, from, to)) return 0;
    return kReorderStart + 2 * static_cast<double>(bytes_of(info)) / kReorderBytes;
  }

  Layout home_of(ValueId id) const {
    const auto [node, output] = producer_[static_cast<size_t>(id)];
    return node < 0 ? Layout::kPlain : plans_[static_cast<size_t>(node)].output_layout(output);
  }

  double input_cost(size_t n, int choice) const {
    const NodePlan& plan = plans_[n];
    double cost = 0;
    for (size_t i = 0; i < plan.inputs.size(); ++i) {
      const ValueId id = graph_.nodes[n].inputs[i];
      if (id == kNoValue || plan.constants[i] != nullptr) continue;
      const Layout wanted = choice < 0 ? Layout::kPlain : plan.choices[static_cast<size_t>(choice)].inputs[i];
      cost += reorder_cost(plan.inputs[i], home_of(id), wanted);
    }
    return cost;
  }

  double output_cost(size_t n, int choice) const {
    const NodePlan& plan = plans_[n];
    double cost = 0;
    for (size_t i = 0; i < plan.outputs.size(); ++i) {
      const ValueId id = graph_.nodes[n].outputs[i];
      if (id == kNoValue) continue;
      const Layout home = choice < 0 ? Layout::kPlain : plan.choices[static_cast<size_t>(choice)].outputs[i];
      for (const auto& [consumer, input] : consumers_[static_cast<size_t>(id)]) {
        const NodePlan& other = plans_[static_cast<size_t>(consumer)];
        const Layout wanted = other.is_static && !other.is_alias ? other.input_layout(input) : Layout::kPlain;
        cost += reorder_cost(plan.outputs[i], home, wanted);
      }
      if (is_output_[static_cast<size_t>(id)]) cost += reorder_cost(plan.outputs[i], home, Layout::kPlain);
    }
    return cost;
  }

  // Whether the choice is in that layout, or in none.
  static bool is_in(const KernelChoice& choice, Layout layout) {
    return choice.outputs.empty() || choice.outputs[0] == layout;
  }

  void begin_with(Layout layout) {
    for (size_t n = 0; n < plans_.size(); ++n) {
      NodePlan& plan = plans_[n];
      plan.chosen = -1;
      if (plan.choices.empty()) continue;
      double best = std::numeric_limits<double>::infinity();
      for (size_t c = 0; c < plan.choices.size(); ++c) {
        // "Plain" begins greedily; the other layouts are taken wherever there are any.
        const bool is_other = layout != Layout::kPlain && !is_in(plan.choices[c], layout);
        const double cost =
            time_of(plan, static_cast<int>(c)) + input_cost(n, static_cast<int>(c)) + (is_other ? 1e6 : 0);
        if (cost < best) {
          best = cost;
          plan.chosen = static_cast<int>(c);
        }
      }
    }
  }

  void improve() {
    for (int sweep = 0; sweep < kMaxSweeps; ++sweep) {
      bool has_changed = false;
      for (size_t n = 0; n < plans_.size(); ++n) {
        NodePlan& plan = plans_[n];
        auto cost_of = [&](int c) { return time_of(plan, c) + input_cost(n, c) + output_cost(n, c); };
        double best = plan.choices.empty() ? 0 : cost_of(plan.chosen);
        for (size_t c = 0; c < plan.choices.size(); ++c) {
          const double cost = cost_of(static_cast<int>(c));
          if (cost >= best - 1e-9) continue;
          best = cost;
          plan.chosen = static_cast<int>(c);
          has_changed = true;
        }
      }
      if (!has_changed) return;
    }
  }

  double total_cost() const {
    double cost = 0;
    for (size_t n = 0; n < plans_.size(); ++n) {
      if (!plans_[n].is_static || plans_[n].is_alias) continue;
      cost += time_of(plans_[n], plans_[n].chosen) + input_cost(n, plans_[n].chosen);
    }
    for (const ValueId id : graph_.outputs) {
      const auto [n, output] = producer_[static_cast<size_t>(id)];
      if (n >= 0) cost += reorder_cost(plans_[static_cast<size_t>(n)].outputs[output], home_of(id), Layout::kPlain);
    }
    return cost;
  }

  const Graph& graph_;
  std::vector<NodePlan>& plans_;
  std::vector<std::pair<int, size_t>> producer_;                 // by value: node, output
  std::vector<std::vector<std::pair<int, size_t>>> consumers_;   // by value: node, input
  std::vector<bool> is_output_;
};

// All of them or none: a measured time says nothing beside a guess.
void take_known_times(const Node& node, NodePlan& plan, const std::vector<KernelChoice>& choices,
                      const Timings& timings, int num_threads, bool is_cold) {
  std::vector<double> times;
  for (const KernelChoice& choice : choices) {
    const std::optional<double> known = timings.find(timing_key(node, plan, choice, num_threads, is_cold));
    if (!known) return;
    times.push_back(*known);
  }
  plan.microseconds = std::move(times);
}

}  // namespace

void choose_kernels(const Graph& graph, std::vector<NodePlan>& plans, Shared& shared, const CompileOptions& options,
                    ThreadPool& pool) {
  const bool is_cold = Evictor::is_needed_for(graph);
  std::optional<Evictor> evictor;
  for (size_t n = 0; n < plans.size(); ++n) {
    NodePlan& plan = plans[n];
    if (!plan.is_static || plan.is_alias) continue;
    const Node& node = graph.nodes[n];
    const KernelRequest request{node, plan.inputs, plan.constants, plan.outputs, shared.weights, pool.num_threads()};
    plan.choices = list_kernels(request);
    plan.made.resize(plan.choices.size());
    for (const KernelChoice& choice : plan.choices) plan.microseconds.push_back(choice.handicap);
    if (options.tuning == Tuning::kNone || plan.choices.size() < 2) continue;
    PackedWeights rejected;  // what kernels that are only measured pack is not kept
    const KernelRequest trial{node, plan.inputs, plan.constants, plan.outputs, rejected, pool.num_threads()};
    const std::vector<KernelChoice> trials = list_kernels(trial);
    if (options.tuning == Tuning::kKnown) {
      take_known_times(node, plan, trials, shared.timings, pool.num_threads(), is_cold);
      continue;
    }
    for (size_t c = 0; c < trials.size(); ++c) {
      const std::string key = timing_key(node, plan, trials[c], pool.num_threads(), is_cold);
      if (const std::optional<double> known = shared.timings.find(key)) {
        plan.microseconds[c] = *known;
        continue;
      }
      const std::unique_ptr<Kernel> kernel = trials[c].make();
      if (!evictor) evictor.emplace(is_cold);
      plan.microseconds[c] = kernel == nullptr ? kImpossible / 10 : measure(*kernel, plan, trials[c], pool, *evictor);
      shared.timings.put(key, plan.microseconds[c]);
    }
  }
  // What cannot be made falls away, and what stood on it is thought over.
  Chooser chooser(graph, plans);
  for (bool is_settled = false; !is_settled;) {
    chooser.choose();
    is_settled = true;
    for (size_t n = 0; n < plans.size(); ++n) {
      NodePlan& plan = plans[n];
      if (plan.chosen < 0 || plan.made[static_cast<size_t>(plan.chosen)] != nullptr) continue;
      const auto c = static_cast<size_t>(plan.chosen);
      plan.made[c] = plan.choices[c].make();
      if (plan.made[c] != nullptr) continue;
      is_settled = false;
      plan.choices.erase(plan.choices.begin() + plan.chosen);
      plan.made.erase(plan.made.begin() + plan.chosen);
      plan.microseconds.erase(plan.microseconds.begin() + plan.chosen);
    }
  }
}

double count_flops(const Node& node, const NodePlan& plan) {
  if (plan.outputs.empty() || plan.inputs.size() < 2) return 0;
  const double outputs = static_cast<double>(plan.outputs[0].shape.count());
  const std::string& op = node.op_type;
  const bool is_quantised = op == "QConv" || op == "QMatMul" || op == "QLinearConv" || op == "QLinearMatMul";
  const size_t w = is_quantised ? 3 : 1;
  if (op == "Conv" || op == "FusedConv" || op == "QConv" || op == "QLinearConv") {
    const Shape& weights = plan.inputs[w].shape;
    return 2 * outputs * static_cast<double>(weights.count(1, weights.rank()));
  }
  if (op == "MatMul" || op == "FusedMatMul" || op == "Gemm" || op == "QMatMul" || op == "QLinearMatMul") {
    const Shape& a = plan.inputs[0].shape;
    const bool is_transposed = a.rank() > 1 && node.get_int("transA", 0) != 0;
    return a.empty() ? 0 : 2 * outputs * static_cast<double>(is_transposed ? a[a.rank() - 2] : a.back());
  }
  return 0;
}

}  // namespace sluice::graph
