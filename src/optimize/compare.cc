#include "optimize/compare.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/error.h"
#include "graph/float_types.h"

namespace sluice::optimize {
namespace {

using graph::ElementType;
using graph::Shape;
using graph::Tensor;
using graph::Value;

void gather_tensors(const Value& value, std::vector<Tensor>& tensors) {
  switch (value.kind) {
    case Value::Kind::kNone:
      return;
    case Value::Kind::kTensor:
      return tensors.push_back(value.tensor);
    case Value::Kind::kSequence:
      for (const Value& element : *value.sequence) gather_tensors(element, tensors);
      return;
    case Value::Kind::kMap:
      tensors.push_back(value.map->keys);
      tensors.push_back(value.map->values);
  }
}

// False for types that are no numbers.
bool read_numbers(const Tensor& tensor, std::vector<double>& numbers) {
  numbers.resize(static_cast<size_t>(tensor.count()));
  auto convert = [&](auto zero) {
    using T = decltype(zero);
    const T* from = tensor.data<T>();
    for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<double>(from[i]);
  };
  if (graph::dispatch_numbers(tensor.type(), convert) || graph::dispatch<bool>(tensor.type(), convert)) return true;
  if (!graph::is_half(tensor.type())) return false;
  const uint16_t* from = tensor.data<uint16_t>();
  const bool is_f16 = tensor.type() == ElementType::kF16;
  for (size_t i = 0; i < numbers.size(); ++i)
    numbers[i] = is_f16 ? f16_to_float(from[i]) : bf16_to_float(from[i]);
  return true;
}

int64_t count_equal(const Tensor& a, const Tensor& b) {
  int64_t equal = 0;
  graph::dispatch_width(a.type(), [&](auto zero) {
    using T = decltype(zero);
    const T *x = static_cast<const T*>(a.raw()), *y = static_cast<const T*>(b.raw());
    for (int64_t i = 0; i < a.count(); ++i) equal += x[i] == y[i] ? 1 : 0;
  });
  return equal;
}

// The classes that rows are about lie `step` elements apart.
struct Rows {
  int64_t num_classes = 0, step = 1;
};
Rows rows_of(const Shape& shape) {
  if (shape.rank() == 0) return {};
  const int axis = shape.rank() < 4 ? shape.rank() - 1 : 1;
  return {shape[axis], shape.count(axis + 1, shape.rank())};
}

int64_t find_largest(const double* values, Rows rows) {
  int64_t largest = 0;
  for (int64_t c = 1; c < rows.num_classes; ++c) {
    if (values[c * rows.step] > values[largest * rows.step]) largest = c;
  }
  return largest;
}

void compare_rows(const Shape& shape, const std::vector<double>& a, const std::vector<double>& b,
                  OutputComparison& output) {
  const Rows rows = rows_of(shape);
  if (rows.num_classes < 2 || rows.step == 0) return;
  const auto count = static_cast<int64_t>(a.size()) / rows.num_classes;
  for (int64_t r = 0; r < count; ++r) {
    const int64_t at = r / rows.step * rows.step * rows.num_classes + r % rows.step;
    ++output.num_rows;
    output.num_rows_agreed += find_largest(a.data() + at, rows) == find_largest(b.data() + at, rows) ? 1 : 0;
  }
}

}  // namespace

double Comparison::worst_relative_l2() const {
  double worst = 0;
  for (const OutputComparison& output : outputs) {
    if (!(output.relative_l2 <= worst)) worst = output.relative_l2;  // NaN is worse than all
  }
  return worst;
}

OutputComparer::OutputComparer(std::vector<std::string> output_names) : sums_(output_names.size()) {
  for (std::string& name : output_names) comparison_.outputs.push_back({.name = std::move(name)});
}

void OutputComparer::add(std::span<const Value> reference, std::span<const Value> found) {
  CHECK(reference.size() == sums_.size() && found.size() == sums_.size(), reference.size(), found.size());
  ++comparison_.num_samples;
  std::vector<double> x, y;
  for (size_t i = 0; i < sums_.size(); ++i) {
    OutputComparison& output = comparison_.outputs[i];
    std::vector<Tensor> a, b;
    gather_tensors(reference[i], a);
    gather_tensors(found[i], b);
    if (a.size() != b.size())
      fail(Code::kInvalidArgument, "output '{}' holds {} tensors in one model and {} in the other", output.name,
           a.size(), b.size());
    double dot = 0, norm_x = 0, norm_y = 0, error = 0;
    for (size_t t = 0; t < a.size(); ++t) {
      if (!(a[t].shape() == b[t].shape())) {
        fail(Code::kInvalidArgument, "output '{}' is {} in one model and {} in the other", output.name,
             graph::to_string(a[t]), graph::to_string(b[t]));
      }
      output.num_values += a[t].count();
      const bool are_numbers = read_numbers(a[t], x) && read_numbers(b[t], y);
      if (!are_numbers) {
        if (a[t].type() == b[t].type()) output.num_equal += count_equal(a[t], b[t]);
        continue;
      }
      for (size_t k = 0; k < x.size(); ++k) {
        if (x[k] == y[k] || (std::isnan(x[k]) && std::isnan(y[k]))) {
          ++output.num_equal;
          if (!std::isfinite(x[k])) continue;
        }
        const double difference = std::abs(y[k] - x[k]);
        if (!(difference <= output.max_abs_error)) output.max_abs_error = difference;
        dot += x[k] * y[k], norm_x += x[k] * x[k], norm_y += y[k] * y[k];
        error += difference * difference;
      }
      compare_rows(a[t].shape(), x, y, output);
    }
    sums_[i].error += error;
    sums_[i].reference += norm_x;
    const double cosine = norm_x == 0 && norm_y == 0 ? 1 : norm_x == 0 || norm_y == 0 ? 0
                          : std::min(1.0, dot / (std::sqrt(norm_x) * std::sqrt(norm_y)));
    sums_[i].cosine += cosine;
    if (!(cosine >= output.worst_cosine)) output.worst_cosine = cosine;
  }
}

Comparison OutputComparer::finish() const {
  Comparison comparison = comparison_;
  for (size_t i = 0; i < sums_.size(); ++i) {
    OutputComparison& output = comparison.outputs[i];
    if (comparison.num_samples > 0) output.cosine = sums_[i].cosine / static_cast<double>(comparison.num_samples);
    output.relative_l2 = sums_[i].error == 0 ? 0 : std::sqrt(sums_[i].error / sums_[i].reference);
    output.signal_to_noise = -20 * std::log10(output.relative_l2);
  }
  return comparison;
}

Comparison compare_models(const RunModel& reference, const RunModel& candidate,
                          const std::vector<std::string>& output_names, const Samples& samples) {
  if (samples.count <= 0) fail(Code::kInvalidArgument, "there are no samples to compare the models on");
  OutputComparer comparer(output_names);
  for (int64_t i = 0; i < samples.count; ++i) {
    const std::vector<Value> inputs = samples.load(i);
    const std::vector<Value> expected = reference(inputs);
    comparer.add(expected, candidate(inputs));
  }
  return comparer.finish();
}

Comparison compare_models(graph::Executor& reference, graph::Executor& candidate, const Samples& samples) {
  const graph::Graph &a = reference.model().graph, &b = candidate.model().graph;
  if (a.outputs.size() != b.outputs.size() || a.inputs.size() != b.inputs.size()) {
    fail(Code::kInvalidArgument, "one model has {} inputs and {} outputs, the other {} and {}: they are not alike",
         a.inputs.size(), a.outputs.size(), b.inputs.size(), b.outputs.size());
  }
  for (size_t i = 0; i < a.inputs.size(); ++i) {
    const std::string &name = a.value(a.inputs[i]).name, &other = b.value(b.inputs[i]).name;
    if (name != other)
      fail(Code::kInvalidArgument, "input {} is '{}' in one model and '{}' in the other", i + 1, name, other);
  }
  auto run_with = [](graph::Executor& executor) -> RunModel {
    return [&executor](std::span<const Value> inputs) { return executor.run(inputs); };
  };
  return compare_models(run_with(reference), run_with(candidate), a.output_names, samples);
}

std::string format_comparison(const Comparison& comparison) {
  size_t width = 6;
  for (const OutputComparison& output : comparison.outputs) width = std::max(width, output.name.size());
  std::string text = fmt::format("{:<{}}  {:>10}  {:>10}  {:>11}  {:>11}  {:>8}\n", "output", width, "cosine",
                                 "worst", "largest err", "relative L2", "top-1");
  for (const OutputComparison& output : comparison.outputs) {
    const std::string top1 = output.num_rows == 0 ? "-" : fmt::format("{:.2f}%", 100 * output.top1_agreement());
    text += fmt::format("{:<{}}  {:>10.6f}  {:>10.6f}  {:>11.4g}  {:>11.4g}  {:>8}\n", output.name, width,
                        output.cosine, output.worst_cosine, output.max_abs_error, output.relative_l2, top1);
  }
  return text;
}

}  // namespace sluice::optimize
