#include "cli/graph_inputs.h"

#include <charconv>
#include <string_view>

#include <fmt/format.h>

#include "base/error.h"
#include "base/float16.h"
#include "base/random.h"
#include "cli/commands.h"

namespace sluice::cli {
namespace {

using graph::ElementType;

graph::Shape parse_shape(std::string_view text, std::string_view whole, const std::string& option) {
  graph::Shape shape;
  while (!text.empty()) {
    const size_t end = std::min(text.find('x'), text.size());
    int64_t dim = 0;
    const auto [after, error] = std::from_chars(text.data(), text.data() + end, dim);
    if (error != std::errc() || after != text.data() + end || dim < 0 || end + 1 == text.size()) {
      throw UsageError{fmt::format("{} {}: a shape is NAME:1x3x224x224", option, whole)};
    }
    shape.push_back(dim);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return shape;
}

graph::Tensor make_tensor(const graph::GraphValue& input, ElementType type, const graph::Shape& shape, Random& random) {
  graph::Tensor tensor(type, shape);
  const int64_t count = tensor.count();
  switch (type) {
    case ElementType::kF32:
      for (int64_t i = 0; i < count; ++i) tensor.data<float>()[i] = static_cast<float>(random.uniform());
      break;
    case ElementType::kF64:
      for (int64_t i = 0; i < count; ++i) tensor.data<double>()[i] = random.uniform();
      break;
    case ElementType::kF16:
      for (int64_t i = 0; i < count; ++i) {
        tensor.data<uint16_t>()[i] = float_to_f16(static_cast<float>(random.uniform()));
      }
      break;
    case ElementType::kBF16:
      for (int64_t i = 0; i < count; ++i) {
        tensor.data<uint16_t>()[i] = float_to_bf16(static_cast<float>(random.uniform()));
      }
      break;
    case ElementType::kI64:
    case ElementType::kU64:
      for (int64_t i = 0; i < count; ++i) tensor.data<int64_t>()[i] = 1;
      break;
    case ElementType::kI32:
    case ElementType::kU32:
      for (int64_t i = 0; i < count; ++i) tensor.data<int32_t>()[i] = 1;
      break;
    case ElementType::kI16:
    case ElementType::kU16:
      for (int64_t i = 0; i < count; ++i) tensor.data<int16_t>()[i] = 1;
      break;
    case ElementType::kI8:
    case ElementType::kU8:
    case ElementType::kBool:
      for (int64_t i = 0; i < count; ++i) tensor.data<uint8_t>()[i] = 1;
      break;
    default:
      fail(Code::kUnimplemented, "input '{}' is {}, of which no numbers can be made up", input.name,
           graph::name(type));
  }
  return tensor;
}

// The sizes of symbols that shapes tell.
std::map<std::string, int64_t> read_symbols(const graph::Graph& graph,
                                            const std::map<std::string, graph::Shape>& shapes) {
  std::map<std::string, int64_t> symbols;
  for (const auto& [name, shape] : shapes) {
    const graph::GraphValue* found = nullptr;
    std::string names;
    for (const graph::ValueId id : graph.inputs) {
      if (graph.value(id).name == name) found = &graph.value(id);
      names += (names.empty() ? "" : ", ") + graph.value(id).name;
    }
    if (found == nullptr) fail(Code::kInvalidArgument, "the model has no input '{}', only {}", name, names);
    if (!found->type.has_rank()) continue;
    if (found->type.rank() != shape.rank()) {
      fail(Code::kInvalidArgument, "input '{}' is {} and cannot have the shape {}", name, to_string(found->type),
           to_string(shape));
    }
    for (int d = 0; d < shape.rank(); ++d) {
      const graph::Dim& dim = (*found->type.dims)[static_cast<size_t>(d)];
      if (!dim.is_known()) symbols.emplace(dim.to_string(), shape[d]);
    }
  }
  return symbols;
}

}  // namespace

std::map<std::string, graph::Shape> parse_shapes(const std::vector<std::string>& texts, const std::string& option) {
  std::map<std::string, graph::Shape> shapes;
  for (const std::string& text : texts) {
    std::string_view rest = text;
    while (!rest.empty()) {
      const std::string_view part = rest.substr(0, rest.find(','));
      rest.remove_prefix(std::min(part.size() + 1, rest.size()));
      // Names may hold colons themselves.
      const size_t colon = part.rfind(':');
      if (colon == std::string_view::npos || colon == 0) {
        throw UsageError{fmt::format("{} {}: a shape is NAME:1x3x224x224", option, part)};
      }
      shapes[std::string(part.substr(0, colon))] = parse_shape(part.substr(colon + 1), part, option);
    }
  }
  return shapes;
}

void check_shapes(const graph::Graph& graph, const std::map<std::string, graph::Shape>& shapes) {
  read_symbols(graph, shapes);
}

std::vector<graph::Value> make_inputs(const graph::Graph& graph, const std::map<std::string, graph::Shape>& shapes,
                                      uint64_t seed) {
  const std::map<std::string, int64_t> symbols = read_symbols(graph, shapes);
  std::vector<graph::Value> inputs;
  Random random(seed);
  for (const graph::ValueId id : graph.inputs) {
    const graph::GraphValue& input = graph.value(id);
    const auto given = shapes.find(input.name);
    if (input.constant && given == shapes.end()) {
      inputs.emplace_back();
      continue;
    }
    if (!input.type.is_tensor()) {
      fail(Code::kUnimplemented, "input '{}' is {}, of which no numbers can be made up", input.name,
           to_string(input.type));
    }
    graph::Shape shape;
    if (given != shapes.end()) {
      shape = given->second;
    } else if (!input.type.has_rank()) {
      fail(Code::kInvalidArgument, "the model does not tell the shape of input '{}': say --shapes {}:...", input.name,
           input.name);
    } else {
      for (const graph::Dim& dim : *input.type.dims) {
        const auto symbol = dim.is_known() ? symbols.end() : symbols.find(dim.to_string());
        shape.push_back(dim.is_known() ? dim.value() : symbol == symbols.end() ? 1 : symbol->second);
      }
    }
    inputs.emplace_back(make_tensor(input, input.type.element, shape, random));
  }
  return inputs;
}

std::string describe_inputs(const graph::Graph& graph, const std::vector<graph::Value>& inputs) {
  std::string text;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i].is_none()) continue;
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", graph.value(graph.inputs[i]).name,
                        to_string(inputs[i].tensor));
  }
  return text;
}

}  // namespace sluice::cli
