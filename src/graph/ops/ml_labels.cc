// Labels, words and maps (ONNX operator specification for machine learning, ai.onnx.ml 1 to 4): CastMap,
// CategoryMapper, DictVectorizer, LabelEncoder and ZipMap. Encoders look their keys up in one hash table, made once
// for a node: strings as they are, numbers by their bits, so that NaN is a key like any other; 0 and -0 are the same
// key. Of equal keys the first counts. Keys that a vectorizer does not know are left out.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <map>
#include <unordered_map>

#include "base/check.h"
#include "graph/ops/move.h"
#include "graph/ops/ops.h"

namespace sluice::graph::ops {
namespace {

// Keys to positions in `values`; a key that is not there has the last of them.
struct Encoder {
  std::unordered_map<std::string, int64_t> words;
  std::unordered_map<uint64_t, int64_t> numbers;
  ElementType key_type = ElementType::kUndefined;
  Tensor values;  // [keys + 1]
};

uint64_t key_of(double number) {
  if (number == 0) return 0;
  return std::isnan(number) ? ~uint64_t{0} : std::bit_cast<uint64_t>(number);
}
uint64_t key_of(int64_t number) { return static_cast<uint64_t>(number); }

// Calls visit(position, key) for each element; false if the type is no key.
template <typename Visit>
bool for_each_key(const Tensor& tensor, Visit&& visit) {
  return dispatch<std::string, float, double, int16_t, int32_t, int64_t>(tensor.type(), [&](auto zero) {
    using T = decltype(zero);
    const T* keys = tensor.data<T>();
    for (int64_t i = 0; i < tensor.count(); ++i) {
      if constexpr (std::is_same_v<T, std::string>) {
        visit(i, keys[i]);
      } else if constexpr (std::is_floating_point_v<T>) {
        visit(i, key_of(static_cast<double>(keys[i])));
      } else {
        visit(i, key_of(static_cast<int64_t>(keys[i])));
      }
    }
  });
}

std::shared_ptr<const Encoder> make_encoder(const Node& node, const Tensor& keys, const Tensor& values,
                                            const Tensor& otherwise) {
  auto encoder = std::make_shared<Encoder>();
  if (keys.count() != values.count()) {
    fail(Code::kInvalidArgument, "{}: has {} keys and {} values", node.describe(), keys.count(), values.count());
  }
  if (otherwise.type() != values.type() || otherwise.count() != 1) {
    fail(Code::kInvalidArgument, "{}: its default is {}, its values are of {}", node.describe(), to_string(otherwise),
         name(values.type()));
  }
  encoder->key_type = keys.type();
  const bool is_key = for_each_key(keys, [&](int64_t i, const auto& key) {
    if constexpr (std::is_same_v<std::decay_t<decltype(key)>, std::string>) {
      encoder->words.try_emplace(key, i);
    } else {
      encoder->numbers.try_emplace(key, i);
    }
  });
  if (!is_key) fail(Code::kInvalidArgument, "{}: keys cannot be {}", node.describe(), name(keys.type()));
  encoder->values = Tensor(values.type(), {values.count() + 1});
  dispatch_width(values.type(), [&](auto zero) {
    using T = decltype(zero);
    std::copy_n(values.data<T>(), values.count(), encoder->values.data<T>());
    encoder->values.data<T>()[values.count()] = otherwise.data<T>()[0];
  });
  return encoder;
}

// One of NAME_strings, NAME_int64s, NAME_floats and NAME_tensor.
Tensor read_list(const Node& node, const std::string& name) {
  std::vector<Tensor> lists;
  if (const Tensor* tensor = node.find_tensor(name + "_tensor")) lists.push_back(*tensor);
  if (node.has(name + "_strings")) lists.push_back(Tensor::vector(node.get_strings(name + "_strings")));
  if (node.has(name + "_int64s")) lists.push_back(Tensor::vector(node.get_ints(name + "_int64s")));
  if (node.has(name + "_floats")) lists.push_back(Tensor::vector(node.get_floats(name + "_floats")));
  if (lists.size() != 1) fail(Code::kInvalidArgument, "{}: needs one list of {}", node.describe(), name);
  return lists.front();
}

// What a missing key becomes.
Tensor read_default(const Node& node, ElementType type) {
  if (const Tensor* tensor = node.find_tensor("default_tensor")) return *tensor;
  switch (type) {
    case ElementType::kString: return Tensor::scalar(node.get_string("default_string", "_Unused"));
    case ElementType::kF32: return Tensor::scalar(node.get_float("default_float", -0.0f));
    case ElementType::kF64: return Tensor::scalar<double>(static_cast<double>(node.get_float("default_float", -0.0f)));
    case ElementType::kI16: return Tensor::scalar<int16_t>(-1);
    case ElementType::kI32: return Tensor::scalar<int32_t>(-1);
    default: return Tensor::scalar(node.get_int("default_int64", -1));
  }
}

// Two lists that go both ways: strings become integers and integers strings. `node.prepared` holds both directions.
struct TwoWays {
  std::shared_ptr<const Encoder> of_strings, of_ints;
};

std::shared_ptr<const TwoWays> make_two_ways(const Node& node, const Tensor& strings, const Tensor& ints) {
  auto both = std::make_shared<TwoWays>();
  both->of_strings = make_encoder(node, strings, ints, read_default(node, ElementType::kI64));
  both->of_ints = make_encoder(node, ints, strings, read_default(node, ElementType::kString));
  return both;
}

std::shared_ptr<const TwoWays> prepare_two_ways(const Node& node) {
  return node.prepared.get<TwoWays>([&] {
    if (node.op_type == "CategoryMapper") {
      return make_two_ways(node, Tensor::vector(node.get_strings("cats_strings")),
                           Tensor::vector(node.get_ints("cats_int64s")));
    }
    const Tensor strings = Tensor::vector(node.get_strings("classes_strings"));
    std::vector<int64_t> positions(static_cast<size_t>(strings.count()));
    for (size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<int64_t>(i);
    return make_two_ways(node, strings, Tensor::vector(positions));
  });
}

std::shared_ptr<const Encoder> prepare_encoder(const Node& node) {
  return node.prepared.get<Encoder>([&] {
    const Tensor values = read_list(node, "values");
    return make_encoder(node, read_list(node, "keys"), values, read_default(node, values.type()));
  });
}

void set_like_input(InferContext& context, ElementType element) {
  if (context.has_rank(0)) return context.set_output(0, element, context.dims(0));
  context.set_output(0, element);
}

void infer_two_ways(InferContext& context) {
  prepare_two_ways(context.node());
  const ElementType element = context.element(0);
  if (element == ElementType::kUndefined) return;
  if (element != ElementType::kString && element != ElementType::kI64) {
    context.fail("input 1 has to be of strings or int64");
  }
  set_like_input(context, element == ElementType::kString ? ElementType::kI64 : ElementType::kString);
}

void infer_encoder(InferContext& context) { set_like_input(context, prepare_encoder(context.node())->values.type()); }

void run_lookup(RunContext& context, const Encoder& encoder) {
  const Tensor& input = context.input(0);
  if (input.type() != encoder.key_type) {
    context.fail("input 1 is of {}, its keys are of {}", name(input.type()), name(encoder.key_type));
  }
  Tensor& output = context.output(0);
  const int64_t missing = encoder.values.count() - 1;
  dispatch_width(output.type(), [&](auto zero) {
    using T = decltype(zero);
    const T* values = encoder.values.data<T>();
    T* to = output.data<T>();
    for_each_key(input, [&](int64_t i, const auto& key) {
      int64_t position = missing;
      if constexpr (std::is_same_v<std::decay_t<decltype(key)>, std::string>) {
        const auto found = encoder.words.find(key);
        if (found != encoder.words.end()) position = found->second;
      } else {
        const auto found = encoder.numbers.find(key);
        if (found != encoder.numbers.end()) position = found->second;
      }
      to[i] = values[position];
    });
  });
}

void run_two_ways(RunContext& context) {
  const auto both = prepare_two_ways(context.node());
  run_lookup(context, context.input(0).type() == ElementType::kString ? *both->of_strings : *both->of_ints);
}

void run_encoder(RunContext& context) { run_lookup(context, *prepare_encoder(context.node())); }

// Maps

const MapValue& get_map(const RunContext& context) {
  const Value& value = context.input_value(0);
  if (value.kind != Value::Kind::kMap) context.fail("input 1 has to be a map");
  if (value.map->keys.count() != value.map->values.count()) {
    context.fail("its map has {} keys and {} values", value.map->keys.count(), value.map->values.count());
  }
  return *value.map;
}

ElementType read_cast(const Node& node) {
  const std::string to = node.get_string("cast_to", "TO_FLOAT");
  if (to == "TO_FLOAT") return ElementType::kF32;
  if (to == "TO_STRING") return ElementType::kString;
  if (to == "TO_INT64") return ElementType::kI64;
  fail(Code::kInvalidArgument, "{}: cast_to '{}' is none of TO_FLOAT, TO_STRING and TO_INT64", node.describe(), to);
}

// The length of a sparse tensor; nullopt: it is dense.
std::optional<int64_t> read_sparse_length(const Node& node) {
  const std::string form = node.get_string("map_form", "DENSE");
  if (form == "DENSE") return std::nullopt;
  const int64_t length = node.get_int("max_map", 1);
  if (form != "SPARSE" || length < 1) {
    fail(Code::kInvalidArgument, "{}: map_form '{}' with max_map {} is neither DENSE nor SPARSE with at least 1",
         node.describe(), form, length);
  }
  return length;
}

void infer_cast_map(InferContext& context) {
  const std::optional<int64_t> length = read_sparse_length(context.node());
  context.set_output(0, read_cast(context.node()), {1, length ? Dim(*length) : Dim::unknown()});
}

// A number at the beginning of a string. Throws Error if there is none.
double parse_number(const RunContext& context, const std::string& text) {
  char* end = nullptr;
  const double number = std::strtod(text.c_str(), &end);
  if (end == text.c_str()) context.fail("'{}' is no number", text);
  return number;
}

int64_t round_to_zero(const RunContext& context, double number) {
  constexpr double kLimit = 9223372036854775808.0;
  if (!(number >= -kLimit && number < kLimit)) context.fail("{} is no int64", number);
  return static_cast<int64_t>(number);
}

void run_cast_map(RunContext& context) {
  const MapValue& map = get_map(context);
  if (map.keys.type() != ElementType::kI64) context.fail("the keys of its map have to be int64");
  if (map.values.type() != ElementType::kString && map.values.type() != ElementType::kF32) {
    context.fail("the values of its map have to be strings or float32");
  }
  const std::optional<int64_t> length = read_sparse_length(context.node());
  const ElementType type = read_cast(context.node());
  std::map<int64_t, int64_t> positions;
  for (int64_t i = 0; i < map.keys.count(); ++i) positions.emplace(map.keys.data<int64_t>()[i], i);
  const int64_t size = length.value_or(static_cast<int64_t>(positions.size()));
  Tensor& output = context.allocate(0, type, {1, size});
  fill_with_zeros(output);
  int64_t at = 0;
  for (const auto& [key, position] : positions) {
    if (length) at = key;
    if (at < 0 || at >= size) context.fail("key {} is outside a tensor of {}", key, size);
    const bool is_string = map.values.type() == ElementType::kString;
    const std::string* text = is_string ? map.values.data<std::string>() + position : nullptr;
    if (type == ElementType::kString) {
      output.data<std::string>()[at] = is_string ? *text : fmt::format("{}", map.values.data<float>()[position]);
    } else {
      const double number =
          is_string ? parse_number(context, *text) : static_cast<double>(map.values.data<float>()[position]);
      if (type == ElementType::kF32) {
        output.data<float>()[at] = static_cast<float>(number);
      } else {
        output.data<int64_t>()[at] = round_to_zero(context, number);
      }
    }
    ++at;
  }
}

struct Vocabulary {
  std::unordered_map<std::string, int64_t> words;
  std::unordered_map<int64_t, int64_t> ints;
  int64_t size() const { return static_cast<int64_t>(words.size() + ints.size()); }
};

std::shared_ptr<const Vocabulary> prepare_vocabulary(const Node& node) {
  return node.prepared.get<Vocabulary>([&] {
    auto made = std::make_shared<Vocabulary>();
    const std::vector<std::string> words = node.get_strings("string_vocabulary");
    const std::vector<int64_t> ints = node.get_ints("int64_vocabulary");
    if (words.empty() == ints.empty()) {
      fail(Code::kInvalidArgument, "{}: needs one of string_vocabulary and int64_vocabulary", node.describe());
    }
    for (size_t i = 0; i < words.size(); ++i) made->words.emplace(words[i], static_cast<int64_t>(i));
    for (size_t i = 0; i < ints.size(); ++i) made->ints.emplace(ints[i], static_cast<int64_t>(i));
    if (made->size() != static_cast<int64_t>(words.size() + ints.size())) {
      fail(Code::kInvalidArgument, "{}: its vocabulary has a key twice", node.describe());
    }
    return made;
  });
}

void infer_dict_vectorizer(InferContext& context) {
  const ValueType& type = context.type(0);
  if (type.kind != ValueType::Kind::kMap) {
    if (type.kind != ValueType::Kind::kUnknown) context.fail("input 1 is {}; it has to be a map", to_string(type));
    return;
  }
  context.set_output(0, type.element, {1, prepare_vocabulary(context.node())->size()});
}

void run_dict_vectorizer(RunContext& context) {
  const MapValue& map = get_map(context);
  const auto vocabulary = prepare_vocabulary(context.node());
  const bool has_words = !vocabulary->words.empty();
  if (map.keys.type() != (has_words ? ElementType::kString : ElementType::kI64)) {
    context.fail("the keys of its map are {} and its vocabulary is not", name(map.keys.type()));
  }
  Tensor& output = context.output(0);
  fill_with_zeros(output);
  for (int64_t i = 0; i < map.keys.count(); ++i) {
    int64_t position = -1;
    if (has_words) {
      const auto found = vocabulary->words.find(map.keys.data<std::string>()[i]);
      if (found != vocabulary->words.end()) position = found->second;
    } else {
      const auto found = vocabulary->ints.find(map.keys.data<int64_t>()[i]);
      if (found != vocabulary->ints.end()) position = found->second;
    }
    if (position < 0) continue;
    dispatch_width(output.type(), [&](auto zero) {
      using T = decltype(zero);
      output.data<T>()[position] = map.values.data<T>()[i];
    });
  }
}

// ZipMap

Tensor read_zip_keys(const Node& node) {
  const std::vector<std::string> strings = node.get_strings("classlabels_strings");
  const std::vector<int64_t> ints = node.get_ints("classlabels_int64s");
  if (strings.empty() == ints.empty()) {
    fail(Code::kInvalidArgument, "{}: needs one of classlabels_strings and classlabels_int64s", node.describe());
  }
  return ints.empty() ? Tensor::vector(strings) : Tensor::vector(ints);
}

void infer_zip_map(InferContext& context) {
  const Tensor keys = read_zip_keys(context.node());
  if (context.has_rank(0)) {
    const Dims& dims = context.dims(0);
    const bool fits =
        (dims.size() == 1 || dims.size() == 2) && (!dims.back().is_known() || dims.back() == Dim(keys.count()));
    if (!fits) context.fail("input 1 is {}; it has to be [N x {}]", to_string(context.type(0)), keys.count());
  }
  ValueType map{.kind = ValueType::Kind::kMap,
                .element = context.element(0),
                .dims = std::nullopt,
                .inner = nullptr,
                .key = keys.type()};
  context.set_type(0, ValueType::sequence(std::move(map)));
}

void run_zip_map(RunContext& context) {
  const Tensor& input = context.input(0);
  const Tensor keys = read_zip_keys(context.node());
  const int64_t num_rows = input.rank() == 1 ? 1 : input.dim(0);
  std::vector<Value> maps;
  maps.reserve(static_cast<size_t>(num_rows));
  for (int64_t row = 0; row < num_rows; ++row) {
    maps.emplace_back(MapValue{.keys = keys, .values = input.slice(row * keys.count(), {keys.count()})});
  }
  context.set(0, Value(std::move(maps)));
}

constexpr OpInfo kOps[] = {
    {kMl, "CastMap", 1, 0, infer_cast_map, run_cast_map, OpInfo::kMakesOutputs},
    {kMl, "CategoryMapper", 1, 0, infer_two_ways, run_two_ways},
    {kMl, "DictVectorizer", 1, 0, infer_dict_vectorizer, run_dict_vectorizer},
    {kMl, "LabelEncoder", 1, 1, infer_two_ways, run_two_ways},
    {kMl, "LabelEncoder", 2, 0, infer_encoder, run_encoder},
    {kMl, "ZipMap", 1, 0, infer_zip_map, run_zip_map, OpInfo::kMakesOutputs},
};

}  // namespace

std::span<const OpInfo> ml_label_ops() { return kOps; }

}  // namespace sluice::graph::ops
