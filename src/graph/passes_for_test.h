// What the tests of passes share: a graph after one pass as text, and the comparison of a graph's results before and
// after all of them.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <regex>
#include <string>
#include <vector>

#include "base/random.h"
#include "graph/dump.h"
#include "graph/ops_for_test.h"
#include "graph/passes.h"

namespace sluice::graph::for_test {

inline ValueType floats(Dims dims) { return ValueType::tensor(ElementType::kF32, std::move(dims)); }

// Numbers in (-1, 1), others for each seed.
inline Tensor random_tensor(const Shape& shape, uint64_t seed) {
  Tensor tensor(ElementType::kF32, shape);
  Random random(seed);
  for (int64_t i = 0; i < tensor.count(); ++i) {
    tensor.data<float>()[i] = static_cast<float>(static_cast<double>(random.next() >> 11) * 0x1p-52 - 1);
  }
  return tensor;
}

inline Model make_model(Graph graph) {
  Model model;
  model.graph = std::move(graph);
  for (size_t i = model.graph.output_names.size(); i < model.graph.outputs.size(); ++i) {
    model.graph.output_names.push_back("y" + std::to_string(i));
  }
  std::vector<std::string> problems;
  infer_types(model.graph, problems);
  EXPECT_THAT(problems, testing::IsEmpty());
  return model;
}

// After these passes, over and over; what is dead goes too.
inline std::string after(const std::vector<std::string>& passes, Graph graph) {
  Model model = make_model(std::move(graph));
  std::vector<std::string> disabled;
  for (const Pass& pass : list_passes()) {
    const bool runs =
        pass.name == std::string("remove-dead") || std::find(passes.begin(), passes.end(), pass.name) != passes.end();
    if (!runs) disabled.emplace_back(pass.name);
  }
  optimise(model, {.disabled = disabled, .stop_after = {}});
  return dump(model.graph);
}

inline std::vector<Value> run_plain(Model model, const std::vector<Value>& inputs) {
  Executor::Options options;
  options.num_threads = 2;
  options.compiles = false;
  return Executor(std::make_shared<Model>(std::move(model)), options).run(inputs);
}

// The results of the operators' own code, before the passes and after. Gives the graph as text after them; a second
// run of the passes changes nothing.
inline std::string expect_agrees(const Graph& graph, const std::vector<Value>& inputs, double tolerance = 2e-5) {
  Model plain = make_model(copy_graph(graph));
  Model optimised = copy_model(plain);
  optimise(optimised);
  const std::string text = dump(optimised.graph);
  optimise(optimised);
  const std::regex unknown("\\?[0-9]+");  // sizes that nobody knows have new names each time
  EXPECT_EQ(std::regex_replace(dump(optimised.graph), unknown, "?"), std::regex_replace(text, unknown, "?"));
  const std::vector<Value> a = run_plain(std::move(plain), inputs), b = run_plain(std::move(optimised), inputs);
  EXPECT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size() && i < b.size(); ++i) {
    EXPECT_EQ(to_string(a[i].tensor), to_string(b[i].tensor)) << text;
    if (to_string(a[i].tensor) != to_string(b[i].tensor) || a[i].tensor.type() != ElementType::kF32) continue;
    for (int64_t e = 0; e < a[i].tensor.count(); ++e) {
      const double x = a[i].tensor.data<float>()[e], y = b[i].tensor.data<float>()[e];
      if (std::isnan(x) && std::isnan(y)) continue;
      if (x == y || std::abs(x - y) <= tolerance * std::max(1.0, std::abs(x))) continue;
      ADD_FAILURE() << "output " << i << ", element " << e << ": " << x << " and " << y << "\n" << text;
      break;
    }
  }
  return text;
}

}  // namespace sluice::graph::for_test
