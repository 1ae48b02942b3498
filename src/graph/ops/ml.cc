// The operators of ai.onnx.ml, version 1, that prepare features (ONNX operator specification for machine learning):
// ArrayFeatureExtractor, Binarizer, FeatureVectorizer, Imputer, Normalizer, OneHotEncoder and Scaler. Trees, linear
// models and labels have files of their own. Normalizer's L1 sums absolute values and its L2 keeps signs, which is
// what the names mean and what scikit-learn's models expect; MAX divides by the largest value as it is.
#include <algorithm>
#include <cmath>
#include <unordered_map>

#include "graph/ops/move.h"
#include "graph/ops/ops.h"

namespace sluice::graph::ops {
namespace {

// Of all operators here: float, double, int32 and int64.
template <typename Body>
void for_numbers(const RunContext& context, int i, Body&& body) {
  if (!dispatch<float, double, int32_t, int64_t>(context.input(i).type(), body)) context.fail_type(i);
}

void infer_as_float(InferContext& context) {
  ValueType type = context.type(0);
  if (type.is_tensor()) context.set_output(0, ElementType::kF32);
  if (type.has_rank()) context.set_output(0, ElementType::kF32, *type.dims);
}

// The last dimension; 1 of a scalar.
int64_t count_features(const Tensor& tensor) { return tensor.rank() == 0 ? 1 : tensor.shape().back(); }

// An attribute with one element for all features, or one for each.
template <typename T>
T get_of_feature(const std::vector<T>& values, int64_t feature) {
  return values[values.size() == 1 ? 0 : static_cast<size_t>(feature)];
}
void check_count(const RunContext& context, const char* name, size_t count, int64_t num_features) {
  if (count != 1 && static_cast<int64_t>(count) != num_features) {
    context.fail("{} has {} elements; it has to have 1 or one for each of {} features", name, count, num_features);
  }
}

// ArrayFeatureExtractor

void infer_extractor(InferContext& context) {
  const ElementType element = context.element(0);
  if (!context.has_rank(0)) return context.set_output(0, element);
  Dims dims = context.dims(0);
  if (dims.empty()) context.fail("input 1 is a scalar and has no last axis");
  if (dims.size() == 1) {
    dims = {1, Dim::unknown()};
  }
  dims.back() = context.has_rank(1) ? product(context.dims(1)) : Dim::unknown();
  context.set_output(0, element, std::move(dims));
}

void run_extractor(RunContext& context) {
  const Tensor& input = context.input(0);
  const std::vector<int64_t> indices = to_ints(context.input(1));
  const int64_t num_features = input.shape().back(), num_rows = input.shape().count(0, input.rank() - 1);
  for (const int64_t index : indices) {
    if (index < 0 || index >= num_features) {
      context.fail("index {} is outside the last axis of {}", index, num_features);
    }
  }
  Tensor& output = context.output(0);
  dispatch_width(input.type(), [&](auto zero) {
    using T = decltype(zero);
    const T* from = input.data<T>();
    T* to = output.data<T>();
    for (int64_t row = 0; row < num_rows; ++row, from += num_features) {
      for (const int64_t index : indices) *to++ = from[index];
    }
  });
}

// Binarizer



void run_binarizer(RunContext& context) {
  const float threshold = context.node().get_float("threshold", 0);
  for_numbers(context, 0, [&](auto zero) {
    using T = decltype(zero);
    const T* from = context.data<T>(0);
    T* to = context.output_data<T>(0);
    const int64_t count = context.input(0).count();
    for (int64_t i = 0; i < count; ++i) {
      to[i] = static_cast<T>(static_cast<double>(from[i]) > static_cast<double>(threshold));
    }
  });
}

// FeatureVectorizer

void infer_vectorizer(InferContext& context) {
  const std::vector<int64_t> sizes = context.node().get_ints("inputdimensions");
  if (context.num_inputs() == 0) context.fail("has no inputs");
  if (!sizes.empty() && static_cast<int>(sizes.size()) != context.num_inputs()) {
    context.fail("inputdimensions has {} elements for {} inputs", sizes.size(), context.num_inputs());
  }
  Dim num_features = 0, num_rows = Dim::unknown();
  for (int i = 0; i < context.num_inputs(); ++i) {
    if (!sizes.empty() && (sizes[static_cast<size_t>(i)] < 0 || sizes[static_cast<size_t>(i)] > INT32_MAX)) {
      context.fail("inputdimensions has {}", sizes[static_cast<size_t>(i)]);
    }
    const bool is_known = context.has_rank(i);
    if (is_known && (context.rank(i) < 1 || context.rank(i) > 2)) {
      context.fail("input {} is {}; it has to be [N x C] or [C]", i + 1, to_string(context.type(i)));
    }
    num_features += !sizes.empty() ? Dim(sizes[static_cast<size_t>(i)])
                    : is_known     ? context.dims(i).back()
                                   : Dim::unknown();
    if (!is_known) continue;
    const Dim rows = context.rank(i) == 1 ? Dim(1) : context.dims(i).front();
    if (num_rows.is_known() && rows.is_known() && !(num_rows == rows)) {
      context.fail("its inputs have {} and {} rows", num_rows.to_string(), rows.to_string());
    }
    if (!num_rows.is_known()) num_rows = rows;
  }
  context.set_output(0, ElementType::kF32, {num_rows, num_features});
}

void run_vectorizer(RunContext& context) {
  const std::vector<int64_t> sizes = context.node().get_ints("inputdimensions");
  Tensor& output = context.output(0);
  const int64_t num_rows = output.dim(0), num_features = output.dim(1);
  int64_t begin = 0;
  for (int i = 0; i < context.num_inputs(); ++i) {
    const Tensor& input = context.input(i);
    const int64_t given = input.shape().back(), size = sizes.empty() ? given : sizes[static_cast<size_t>(i)];
    for_numbers(context, i, [&](auto zero) {
      using T = decltype(zero);
      for (int64_t row = 0; row < num_rows; ++row) {
        const T* from = input.data<T>() + row * given;
        float* to = output.data<float>() + row * num_features + begin;
        for (int64_t c = 0; c < size; ++c) to[c] = c < given ? static_cast<float>(from[c]) : 0.0f;
      }
    });
    begin += size;
  }
}

// Imputer

void run_imputer(RunContext& context) {
  const Tensor& input = context.input(0);
  const int64_t num_features = count_features(input), count = input.count();
  for_numbers(context, 0, [&](auto zero) {
    using T = decltype(zero);
    const T* from = input.data<T>();
    T* to = context.output_data<T>(0);
    auto replace = [&](const auto& values, auto replaced, const char* name) {
      check_count(context, name, values.size(), num_features);
      const T old = static_cast<T>(replaced);
      int64_t feature = 0;
      for (int64_t i = 0; i < count; ++i) {
        const bool is_missing = from[i] == old || (from[i] != from[i] && old != old);
        to[i] = is_missing ? static_cast<T>(get_of_feature(values, feature)) : from[i];
        if (++feature == num_features) feature = 0;
      }
    };
    if constexpr (std::is_integral_v<T>) {
      replace(context.node().get_ints("imputed_value_int64s"), context.node().get_int("replaced_value_int64", 0),
              "imputed_value_int64s");
    } else {
      replace(context.node().get_floats("imputed_value_floats"), context.node().get_float("replaced_value_float", 0),
              "imputed_value_floats");
    }
  });
}

// Normalizer

enum class Norm : uint8_t { kMax, kL1, kL2 };

Norm read_norm(const Node& node) {
  const std::string name = node.get_string("norm", "MAX");
  if (name == "MAX") return Norm::kMax;
  if (name == "L1") return Norm::kL1;
  if (name == "L2") return Norm::kL2;
  fail(Code::kInvalidArgument, "{}: norm '{}' is none of MAX, L1 and L2", node.describe(), name);
}

void infer_normalizer(InferContext& context) {
  read_norm(context.node());
  if (context.has_rank(0) && (context.rank(0) < 1 || context.rank(0) > 2)) {
    context.fail("input 1 is {}; it has to be [N x C] or [C]", to_string(context.type(0)));
  }
  infer_as_float(context);
}

void run_normalizer(RunContext& context) {
  const Tensor& input = context.input(0);
  const Norm norm = read_norm(context.node());
  const int64_t size = input.shape().back(), num_rows = size == 0 ? 0 : input.count() / size;
  for_numbers(context, 0, [&](auto zero) {
    using T = decltype(zero);
    for (int64_t row = 0; row < num_rows; ++row) {
      const T* from = input.data<T>() + row * size;
      float* to = context.output_data<float>(0) + row * size;
      double divisor = norm == Norm::kMax ? static_cast<double>(from[0]) : 0;
      for (int64_t i = 0; i < size; ++i) {
        const double x = static_cast<double>(from[i]);
        divisor = norm == Norm::kMax  ? std::max(divisor, x)
                  : norm == Norm::kL1 ? divisor + std::abs(x)
                                      : divisor + x * x;
      }
      if (norm == Norm::kL2) divisor = std::sqrt(divisor);
      if (divisor == 0) divisor = 1;
      for (int64_t i = 0; i < size; ++i) to[i] = static_cast<float>(static_cast<double>(from[i]) / divisor);
    }
  });
}

// OneHotEncoder

void infer_one_hot(InferContext& context) {
  const size_t num_ints = context.node().get_ints("cats_int64s").size(),
               num_strings = context.node().get_strings("cats_strings").size();
  if ((num_ints == 0) == (num_strings == 0)) context.fail("needs one of cats_int64s and cats_strings");
  if (!context.has_rank(0)) return context.set_output(0, ElementType::kF32);
  Dims dims = context.dims(0);
  dims.push_back(static_cast<int64_t>(num_ints + num_strings));
  context.set_output(0, ElementType::kF32, std::move(dims));
}

void run_one_hot(RunContext& context) {
  const Tensor& input = context.input(0);
  Tensor& output = context.output(0);
  fill_with_zeros(output);
  const int64_t num_categories = output.shape().back();
  const bool allows_unknown = context.node().get_int("zeros", 1) != 0;
  float* row = output.data<float>();
  auto encode = [&](const auto& places, const auto& value) {
    const auto found = places.find(value);
    if (found != places.end()) {
      row[found->second] = 1;
    } else if (!allows_unknown) {
      context.fail("'{}' is none of its {} categories", value, num_categories);
    }
    row += num_categories;
  };
  auto make_places = [](const auto& categories) {
    std::unordered_map<typename std::decay_t<decltype(categories)>::value_type, int64_t> places;
    for (size_t i = 0; i < categories.size(); ++i) places.try_emplace(categories[i], static_cast<int64_t>(i));
    return places;
  };
  if (input.type() == ElementType::kString) {
    const std::vector<std::string> categories = context.node().get_strings("cats_strings");
    if (categories.empty()) context.fail_type(0);
    const auto places = make_places(categories);
    for (const std::string& value : input.values<std::string>()) encode(places, value);
    return;
  }
  const std::vector<int64_t> categories = context.node().get_ints("cats_int64s");
  if (categories.empty()) context.fail_type(0);
  const auto places = make_places(categories);
  for_numbers(context, 0, [&](auto zero) {
    using T = decltype(zero);
    for (const T value : input.values<T>()) {
      if constexpr (std::is_integral_v<T>) {
        encode(places, static_cast<int64_t>(value));
      } else {
        // What no int64 holds is no category; any number in its place may be one.
        constexpr double kLimit = 9223372036854775808.0;
        const double number = static_cast<double>(value);
        if (number >= -kLimit && number < kLimit) {
          encode(places, static_cast<int64_t>(number));
        } else if (!allows_unknown) {
          context.fail("{} is none of its categories", number);
        } else {
          row += num_categories;
        }
      }
    }
  });
}

// Scaler

void run_scaler(RunContext& context) {
  const Tensor& input = context.input(0);
  std::vector<float> offsets = context.node().get_floats("offset"), scales = context.node().get_floats("scale");
  if (offsets.empty()) offsets = {0};
  if (scales.empty()) scales = {1};
  const int64_t num_features = count_features(input), count = input.count();
  check_count(context, "offset", offsets.size(), num_features);
  check_count(context, "scale", scales.size(), num_features);
  offsets.resize(static_cast<size_t>(std::max<int64_t>(num_features, 1)), offsets.front());
  scales.resize(offsets.size(), scales.front());
  for_numbers(context, 0, [&](auto zero) {
    using T = decltype(zero);
    const T* from = input.data<T>();
    float* to = context.output_data<float>(0);
    for (int64_t begin = 0; begin < count; begin += num_features) {
      for (int64_t i = 0; i < num_features; ++i) {
        const auto f = static_cast<size_t>(i);
        to[begin + i] = (static_cast<float>(from[begin + i]) - offsets[f]) * scales[f];
      }
    }
  });
}

constexpr OpInfo kOps[] = {
    {kMl, "ArrayFeatureExtractor", 1, 0, infer_extractor, run_extractor},
    {kMl, "Binarizer", 1, 0, infer_same, run_binarizer},
    {kMl, "FeatureVectorizer", 1, 0, infer_vectorizer, run_vectorizer},
    {kMl, "Imputer", 1, 0, infer_same, run_imputer},
    {kMl, "Normalizer", 1, 0, infer_normalizer, run_normalizer},
    {kMl, "OneHotEncoder", 1, 0, infer_one_hot, run_one_hot},
    {kMl, "Scaler", 1, 0, infer_as_float, run_scaler},
};

}  // namespace

std::span<const OpInfo> ml_ops() { return kOps; }

}  // namespace sluice::graph::ops
