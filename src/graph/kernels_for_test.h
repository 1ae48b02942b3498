// Every kernel of a node against the operator's own run(): what the tests of kernels share. Inputs are brought into a
// kernel's layouts by loops of their own, memory is surrounded by bytes that nobody may touch, and where a kernel may
// write into an input's memory that is tried too.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "graph/float_types.h"
#include "graph/kernels/kernel.h"
#include "graph/ops/convert.h"
#include "graph/ops_for_test.h"

namespace sluice::graph::for_test {

struct KernelCase {
  std::string op, domain;
  std::vector<Value> inputs;   // none: left out
  std::set<size_t> constants;  // inputs that are known before run time
  Attributes attributes;
  double tolerance = 2e-6;  // of the largest number of the result
  int steps = 0;            // by which integers may differ
  int opset = 20;
};

inline Tensor converted(const Tensor& tensor, ElementType type) {
  if (tensor.type() == type) return tensor;
  Tensor made(type, tensor.shape());
  ThreadPool pool(1);
  ops::convert_elements(tensor, made, {}, pool);
  return made;
}

// Numbers of [low, high), whole ones for integers.
inline Tensor random_tensor(Random& random, const Shape& shape, ElementType type = ElementType::kF32, double low = -1,
                            double high = 1) {
  Tensor made(ElementType::kF32, shape);
  for (int64_t i = 0; i < made.count(); ++i) {
    made.data<float>()[i] = static_cast<float>(low + (high - low) * random.uniform());
    if (is_integer(type)) made.data<float>()[i] = std::floor(made.data<float>()[i]);
  }
  return converted(made, type);
}

// Where element e of the plain order lies.
inline int64_t position(const Shape& shape, Layout layout, int64_t e) {
  if (layout == Layout::kPlain) return e;
  const int64_t channels = shape[1], points = shape.count(2, shape.rank());
  const int64_t s = e % points, c = e / points % channels, n = e / points / channels;
  if (layout == Layout::kChannelsLast) return (n * points + s) * channels + c;
  return ((n * ((channels + 15) / 16) + c / 16) * points + s) * 16 + c % 16;
}

// Aligned memory between two stretches of a known byte.
class Guarded {
 public:
  explicit Guarded(int64_t bytes, int fill = 0xCD)
      : bytes_(static_cast<size_t>(bytes)), memory_(bytes_ + 2 * kGuardBytes + 64, std::byte{kGuard}) {
    const auto at = reinterpret_cast<uintptr_t>(memory_.data()) + kGuardBytes;
    data_ = memory_.data() + kGuardBytes + (64 - at % 64) % 64;
    std::memset(data_, fill, bytes_);
  }
  std::byte* data() { return data_; }
  bool is_intact() const {
    for (const std::byte& b : memory_) {
      if ((&b < data_ || &b >= data_ + bytes_) && b != std::byte{kGuard}) return false;
    }
    return true;
  }

 private:
  static constexpr unsigned char kGuard = 0xA5;
  static constexpr size_t kGuardBytes = 256;
  const size_t bytes_;
  std::vector<std::byte> memory_;
  std::byte* data_;
};

inline std::unique_ptr<Guarded> in_layout(const Tensor& tensor, Layout layout) {
  const TensorInfo info{tensor.type(), tensor.shape(), layout};
  auto made = std::make_unique<Guarded>(bytes_of(info), 0);
  const auto size = static_cast<size_t>(get_info(tensor.type()).bytes);
  for (int64_t e = 0; e < tensor.count(); ++e) {
    std::memcpy(made->data() + static_cast<size_t>(position(tensor.shape(), layout, e)) * size,
                static_cast<const std::byte*>(tensor.raw()) + static_cast<size_t>(e) * size, size);
  }
  return made;
}

inline Tensor from_layout(const std::byte* data, const TensorInfo& info) {
  Tensor made(info.type, info.shape);
  const auto size = static_cast<size_t>(get_info(info.type).bytes);
  for (int64_t e = 0; e < made.count(); ++e) {
    std::memcpy(static_cast<std::byte*>(made.raw()) + static_cast<size_t>(e) * size,
                data + static_cast<size_t>(position(info.shape, info.layout, e)) * size, size);
  }
  return made;
}

inline void expect_close(const Tensor& got, const Tensor& wanted, double tolerance, int steps,
                         const std::string& what) {
  ASSERT_EQ(to_string(got), to_string(wanted)) << what;
  if (is_integer(wanted.type()) || wanted.type() == ElementType::kBool) {
    const std::vector<int64_t> a = to_ints(converted(got, ElementType::kI64)),
                               b = to_ints(converted(wanted, ElementType::kI64));
    for (size_t i = 0; i < a.size(); ++i)
      ASSERT_LE(std::abs(a[i] - b[i]), steps) << what << " at " << i << ": " << a[i] << " for " << b[i];
    return;
  }
  const Tensor a = converted(got, ElementType::kF32), b = converted(wanted, ElementType::kF32);
  double largest = 0.1;
  for (const float v : b.values<float>()) {
    if (std::isfinite(v)) largest = std::max(largest, std::abs(static_cast<double>(v)));
  }
  for (int64_t i = 0; i < a.count(); ++i) {
    const float x = a.data<float>()[i], y = b.data<float>()[i];
    if (x == y || (std::isnan(x) && std::isnan(y))) continue;
    ASSERT_LE(std::abs(x - y), tolerance * largest) << what << " at " << i << ": " << x << " for " << y;
  }
}

inline Tensor evaluate_op(const std::string& op, const std::vector<Tensor>& inputs, const Attributes& attributes,
                          int opset = 20, const std::string& domain = "") {
  Node node{.op_type = op, .domain = domain, .name = op, .opset = opset, .outputs = {100}};
  node.attributes = attributes;
  node.op = find_op(domain, op, opset);
  const std::vector<Value> values(inputs.begin(), inputs.end());
  std::vector<const Value*> given;
  for (const Value& value : values) {
    given.push_back(&value);
    node.inputs.push_back(static_cast<ValueId>(given.size()));
  }
  ThreadPool pool(1);
  return evaluate(node, given, pool)[0].tensor;
}

// Gives the names of the kernels that there are.
inline std::vector<std::string> check_kernels(const KernelCase& c) {
  ThreadPool pool(2);
  const KernelThreads threads(pool);
  Node node{.op_type = c.op, .domain = c.domain, .name = c.op, .opset = c.opset, .outputs = {100}};
  node.attributes = c.attributes;
  node.op = find_op(c.domain, c.op, c.opset);
  std::vector<TensorInfo> infos;
  std::vector<const Tensor*> constants;
  std::vector<const Value*> given;
  std::string what = c.op;
  for (size_t i = 0; i < c.inputs.size(); ++i) {
    const Value& value = c.inputs[i];
    node.inputs.push_back(value.is_none() ? kNoValue : static_cast<ValueId>(i));
    given.push_back(value.is_none() ? nullptr : &value);
    infos.push_back(value.is_none() ? TensorInfo() : TensorInfo{value.tensor.type(), value.tensor.shape()});
    constants.push_back(c.constants.contains(i) ? &value.tensor : nullptr);
    what += " " + (value.is_none() ? std::string("-") : to_string(infos.back()));
  }
  const Tensor wanted = evaluate(node, given, pool)[0].tensor;
  const std::vector<TensorInfo> outputs = {{wanted.type(), wanted.shape()}};
  what += " -> " + to_string(outputs[0]) + " " + node.get_string("activation", "") + ", ";
  PackedWeights weights;
  const KernelRequest request{node, infos, constants, outputs, weights, pool.num_threads()};
  std::vector<std::string> names;
  for (const KernelChoice& choice : list_kernels(request)) {
    EXPECT_EQ(choice.inputs.size(), c.inputs.size()) << what << choice.name;
    EXPECT_EQ(choice.outputs.size(), 1u) << what << choice.name;
    const std::unique_ptr<Kernel> kernel = choice.make();
    if (kernel == nullptr) continue;
    names.push_back(choice.name);
    TensorInfo output = outputs[0];
    output.layout = choice.outputs[0];
    const double tolerance = choice.name == "conv winograd" ? 2e-4 : c.tolerance;
    // Once with memory of its own, once more with other memory, once in place.
    for (int round = 0; round < (choice.in_place >= 0 ? 3 : 2); ++round) {
      std::vector<std::unique_ptr<Guarded>> memory;
      std::vector<const void*> pointers;
      for (size_t i = 0; i < c.inputs.size(); ++i) {
        memory.push_back(given[i] == nullptr ? nullptr : in_layout(c.inputs[i].tensor, choice.inputs[i]));
        pointers.push_back(given[i] == nullptr ? nullptr : memory.back()->data());
      }
      Guarded made(bytes_of(output)), scratch(static_cast<int64_t>(kernel->scratch_bytes()));
      void* to = made.data();
      if (round == 2) to = memory[static_cast<size_t>(choice.in_place)]->data();
      kernel->run(pointers, {&to, 1}, scratch.data(), pool);
      expect_close(from_layout(static_cast<std::byte*>(to), output), wanted, tolerance, c.steps,
                   what + choice.name + (round == 2 ? " in place" : ""));
      EXPECT_TRUE(made.is_intact() && scratch.is_intact()) << what << choice.name;
      for (size_t i = 0; i < memory.size(); ++i) {
        if (memory[i] == nullptr) continue;
        EXPECT_TRUE(memory[i]->is_intact()) << what << choice.name;
        const bool is_overwritten = round == 2 && static_cast<int>(i) == choice.in_place;
        const std::unique_ptr<Guarded> before = in_layout(c.inputs[i].tensor, choice.inputs[i]);
        TensorInfo info = infos[i];
        info.layout = choice.inputs[i];
        EXPECT_TRUE(is_overwritten ||
                    std::memcmp(memory[i]->data(), before->data(), static_cast<size_t>(bytes_of(info))) == 0)
            << what << choice.name << " writes to input " << i;
      }
      if (output.layout == Layout::kBlocked16) {  // what fills the last block up
        const auto size = static_cast<size_t>(get_info(output.type).bytes);
        std::set<size_t> filled;
        for (int64_t e = 0; e < wanted.count(); ++e) {
          filled.insert(static_cast<size_t>(position(output.shape, output.layout, e)));
        }
        for (size_t at = 0; at < static_cast<size_t>(bytes_of(output)) / size; ++at) {
          if (filled.contains(at)) continue;
          for (size_t b = 0; b < size; ++b) {
            EXPECT_EQ(static_cast<std::byte*>(to)[at * size + b], std::byte{0}) << what << choice.name << " fill";
          }
        }
      }
      if (testing::Test::HasFailure()) return names;
    }
  }
  return names;
}

}  // namespace sluice::graph::for_test
