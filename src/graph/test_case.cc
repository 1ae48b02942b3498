#include "graph/test_case.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "base/error.h"
#include "base/float16.h"
#include "base/mmap.h"
#include "graph/onnx_values.h"

namespace sluice::graph {
namespace {

namespace fs = std::filesystem;

constexpr int kMaxFolderDepth = 8;
constexpr size_t kMaxFileBytes = size_t{1} << 31;

std::optional<TestFolder> read_folder(const fs::path& path) {
  TestFolder folder{.path = path.string()};
  std::vector<std::string> models;
  std::vector<std::pair<int, std::string>> sets;
  for (const auto& entry : fs::directory_iterator(path)) {
    const std::string name = entry.path().filename().string();
    const fs::path extension = entry.path().extension();
    if (extension == ".onnx" || extension == ".tflite") models.push_back(entry.path().string());
    if (entry.is_directory() && name.starts_with("test_data_set_")) {
      sets.emplace_back(std::atoi(name.c_str() + sizeof("test_data_set_") - 1), entry.path().string());
    }
  }
  if (sets.empty() || models.empty()) return std::nullopt;
  std::sort(models.begin(), models.end());
  const auto usual = std::find(models.begin(), models.end(), (path / "model.onnx").string());
  folder.model = usual != models.end() ? *usual : models.front();
  std::sort(sets.begin(), sets.end());
  for (auto& [number, set] : sets) folder.data_sets.push_back(std::move(set));
  return folder;
}

// Models with their outputs beside them.
void add_light_models(const fs::path& path, std::vector<TestFolder>& folders) {
  const size_t first = folders.size();
  for (const auto& entry : fs::directory_iterator(path)) {
    const std::string stem = (path / entry.path().stem()).string();
    if (entry.path().extension() != ".onnx" || !fs::exists(stem + "_output_0.pb")) continue;
    folders.push_back({.path = path.string(), .model = entry.path().string(), .data_sets = {stem}});
  }
  std::sort(folders.begin() + static_cast<std::ptrdiff_t>(first), folders.end(),
            [](const TestFolder& a, const TestFolder& b) { return a.model < b.model; });
}

void find_below(const fs::path& path, int depth, std::vector<TestFolder>& folders) {
  if (std::optional<TestFolder> folder = read_folder(path)) {
    folders.push_back(std::move(*folder));
    return;
  }
  add_light_models(path, folders);
  if (depth >= kMaxFolderDepth) return;
  std::vector<fs::path> inner;
  for (const auto& entry : fs::directory_iterator(path)) {
    if (entry.is_directory()) inner.push_back(entry.path());
  }
  std::sort(inner.begin(), inner.end());
  for (const fs::path& next : inner) find_below(next, depth + 1, folders);
}

// What a number may be off by, besides the tolerance: one unit in the last place.
double relative_step(ElementType type) {
  switch (type) {
    case ElementType::kBF16:
      return 0x1p-7;
    case ElementType::kF16:
      return 0x1p-10;
    default:
      return 0;
  }
}

std::string place_of(int64_t index, const Shape& shape) {
  std::string text;
  const Shape strides = strides_of(shape);
  for (int d = 0; d < shape.rank(); ++d) {
    text += fmt::format("{}{}", d == 0 ? "" : ",", index / strides[d]);
    index %= strides[d];
  }
  return "[" + text + "]";
}

template <typename Get>
Difference compare_numbers(const Tensor& found, const Tensor& expected, const Tolerance& tolerance, Get get) {
  Difference difference;
  int64_t num_wrong = 0, worst = -1;
  const double step = relative_step(expected.type());
  double worst_excess = 0;
  for (int64_t i = 0; i < expected.count(); ++i) {
    const double x = get(found, i), y = get(expected, i);
    if (x == y || (std::isnan(x) && std::isnan(y))) continue;
    double error = std::abs(x - y);
    if (!std::isfinite(error)) error = INFINITY;
    difference.worst_error = std::max(difference.worst_error, error);
    const double allowed = tolerance.absolute + std::max(tolerance.relative, step) * std::abs(y);
    if (error <= allowed && std::isfinite(error)) continue;
    ++num_wrong;
    const double excess = error - (std::isfinite(allowed) ? allowed : 0);
    if (worst < 0 || excess > worst_excess) worst = i, worst_excess = excess;
  }
  if (num_wrong > 0) {
    difference.message =
        fmt::format("{} of {} values differ, most at {}: {} instead of {}", num_wrong, expected.count(),
                    place_of(worst, expected.shape()), get(found, worst), get(expected, worst));
  }
  return difference;
}

Difference compare_tensors(const Tensor& found, const Tensor& expected, const Tolerance& tolerance) {
  if (found.type() != expected.type() || !(found.shape() == expected.shape())) {
    return {INFINITY, fmt::format("is {} instead of {}", to_string(found), to_string(expected))};
  }
  Difference difference;
  auto numbers = [&](auto zero) {
    using T = decltype(zero);
    difference = compare_numbers(found, expected, tolerance,
                                 [](const Tensor& t, int64_t i) { return static_cast<double>(t.data<T>()[i]); });
  };
  if (dispatch<float, double>(expected.type(), numbers)) return difference;
  if (tolerance.steps > 0) {
    const Tolerance in_steps{.relative = 0, .absolute = static_cast<double>(tolerance.steps)};
    auto narrow = [&](auto zero) {
      using T = decltype(zero);
      difference = compare_numbers(found, expected, in_steps,
                                   [](const Tensor& t, int64_t i) { return static_cast<double>(t.data<T>()[i]); });
    };
    if (dispatch<int8_t, uint8_t, int16_t, uint16_t>(expected.type(), narrow)) return difference;
  }
  // As doubles, large integers that differ would seem the same.
  auto integers = [&](auto zero) {
    using T = decltype(zero);
    const T *x = found.data<T>(), *y = expected.data<T>();
    const auto at = std::mismatch(y, y + expected.count(), x).first - y;
    if (at == expected.count()) return;
    difference.worst_error = std::abs(static_cast<double>(x[at]) - static_cast<double>(y[at]));
    difference.message = fmt::format("has {} instead of {} at {}", x[at], y[at], place_of(at, expected.shape()));
  };
  if (dispatch_integers(expected.type(), integers) || dispatch<bool>(expected.type(), integers)) return difference;
  switch (expected.type()) {
    case ElementType::kF16:
      return compare_numbers(found, expected, tolerance,
                             [](const Tensor& t, int64_t i) { return f16_to_float(t.data<uint16_t>()[i]); });
    case ElementType::kBF16:
      return compare_numbers(found, expected, tolerance,
                             [](const Tensor& t, int64_t i) { return bf16_to_float(t.data<uint16_t>()[i]); });
    case ElementType::kC64:
    case ElementType::kC128: {
      Shape parts = expected.shape();
      parts.push_back(2);
      const ElementType part = expected.type() == ElementType::kC64 ? ElementType::kF32 : ElementType::kF64;
      return compare_tensors(Tensor::wrap(part, parts, found.raw(), nullptr),
                             Tensor::wrap(part, parts, expected.raw(), nullptr), tolerance);
    }
    case ElementType::kString: {
      for (int64_t i = 0; i < expected.count(); ++i) {
        const std::string &x = found.data<std::string>()[i], &y = expected.data<std::string>()[i];
        if (x != y) return {INFINITY, fmt::format("'{}' instead of '{}' at {}", x, y, place_of(i, expected.shape()))};
      }
      return {};
    }
    default:
      return compare_numbers(found, expected, {0, 0, 0},
                             [](const Tensor& t, int64_t i) { return t.data<uint8_t>()[i]; });
  }
}

Value make_ramp(const GraphValue& input) {
  if (input.constant) return Value();
  if (input.type.element != ElementType::kF32 || !input.type.dims) {
    fail(Code::kInvalidArgument, "input '{}' is {}; without a file for it only float32 can be made up", input.name,
         to_string(input.type));
  }
  Shape shape;
  for (const Dim& dim : *input.type.dims) shape.push_back(dim.is_known() ? dim.value() : 1);
  Tensor ramp(ElementType::kF32, shape);
  for (int64_t i = 0; i < ramp.count(); ++i) {
    ramp.data<float>()[i] = static_cast<float>(static_cast<double>(i) / static_cast<double>(ramp.count()));
  }
  return ramp;
}

const char* name_of(Value::Kind kind) {
  switch (kind) {
    case Value::Kind::kNone:
      return "nothing";
    case Value::Kind::kTensor:
      return "a tensor";
    case Value::Kind::kSequence:
      return "a sequence";
    case Value::Kind::kMap:
      return "a map";
  }
  return "";
}

}  // namespace

std::vector<TestFolder> find_test_folders(const std::string& path) {
  if (!fs::is_directory(path)) fail(Code::kNotFound, "{}: is no folder", path);
  std::vector<TestFolder> folders;
  find_below(fs::path(path).lexically_normal(), 0, folders);
  if (folders.empty()) {
    fail(Code::kNotFound, "{}: has no folder with an .onnx or .tflite file and test_data_set_0 in it", path);
  }
  return folders;
}

TestData load_test_data(const std::string& data_set, const Model& model) {
  const Graph& graph = model.graph;
  const bool is_light = !fs::is_directory(data_set);
  auto load = [&](const char* kind, const std::vector<ValueId>& ids) {
    std::vector<Value> values;
    for (size_t i = 0; i < ids.size(); ++i) {
      const std::string path = fmt::format("{}{}{}_{}.pb", data_set, is_light ? "_" : "/", kind, i);
      const ValueType& type = graph.value(ids[i]).type;
      Value value = fs::exists(path) ? read_value(read_file(path, kMaxFileBytes), type, path) : Value();
      // Some were recorded by a NumPy that had no bfloat16.
      if (value.kind == Value::Kind::kTensor && type.element == ElementType::kBF16 &&
          value.tensor.type() == ElementType::kU16) {
        value = value.tensor.with_type(ElementType::kBF16);
      }
      values.push_back(std::move(value));
    }
    return values;
  };
  TestData data{.inputs = load("input", graph.inputs), .outputs = load("output", graph.outputs)};
  for (size_t i = 0; is_light && i < data.inputs.size(); ++i) {
    if (data.inputs[i].is_none()) data.inputs[i] = make_ramp(graph.value(graph.inputs[i]));
  }
  if (fs::exists(fmt::format("{}/input_{}.pb", data_set, graph.inputs.size()))) {
    fail(Code::kInvalidArgument, "{}: has more inputs than the model, which takes {}", data_set, graph.inputs.size());
  }
  return data;
}

Difference compare(const Value& found, const Value& expected, const Tolerance& tolerance) {
  if (found.kind != expected.kind)
    return {INFINITY, fmt::format("is {} instead of {}", name_of(found.kind), name_of(expected.kind))};
  switch (expected.kind) {
    case Value::Kind::kNone:
      return {};
    case Value::Kind::kTensor:
      return compare_tensors(found.tensor, expected.tensor, tolerance);
    case Value::Kind::kMap: {
      Difference keys = compare_tensors(found.map->keys, expected.map->keys, {0, 0, 0});
      if (!keys.message.empty()) return {INFINITY, "keys: " + keys.message};
      return compare_tensors(found.map->values, expected.map->values, tolerance);
    }
    case Value::Kind::kSequence:
      break;
  }
  const auto &xs = *found.sequence, &ys = *expected.sequence;
  if (xs.size() != ys.size()) return {INFINITY, fmt::format("is a sequence of {} instead of {}", xs.size(), ys.size())};
  Difference all;
  for (size_t i = 0; i < ys.size(); ++i) {
    Difference one = compare(xs[i], ys[i], tolerance);
    all.worst_error = std::max(all.worst_error, one.worst_error);
    if (!one.message.empty() && all.message.empty()) all.message = fmt::format("element {}: {}", i, one.message);
  }
  return all;
}

}  // namespace sluice::graph
