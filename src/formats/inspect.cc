#include "formats/inspect.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>

#include "formats/names.h"

namespace sluice::formats {
namespace {

struct Total {
  int64_t num_tensors = 0, num_parameters = 0, num_bytes = 0;

  void add(const TensorView& view) {
    ++num_tensors;
    num_parameters += view.num_rows() * view.row_size();
    num_bytes += view.num_bytes();
  }
  double bits_per_weight() const {
    return num_parameters == 0 ? 0.0
                               : 8.0 * static_cast<double>(num_bytes) / static_cast<double>(num_parameters);
  }
};

struct Totals {
  Total all;
  std::array<Total, kNumDTypes> by_type;
};

Totals count_totals(const WeightFile& file) {
  Totals totals;
  for (const TensorEntry& entry : file.tensors()) {
    totals.all.add(entry.view);
    totals.by_type[static_cast<size_t>(entry.view.type)].add(entry.view);
  }
  return totals;
}

// The types that occur, most bytes first.
std::vector<DType> list_types(const Totals& totals) {
  std::vector<DType> types;
  for (int i = 0; i < kNumDTypes; ++i) {
    if (totals.by_type[static_cast<size_t>(i)].num_tensors > 0) types.push_back(static_cast<DType>(i));
  }
  std::stable_sort(types.begin(), types.end(), [&](DType a, DType b) {
    return totals.by_type[static_cast<size_t>(a)].num_bytes >
           totals.by_type[static_cast<size_t>(b)].num_bytes;
  });
  return types;
}

std::string show_bytes(int64_t num_bytes) {
  static constexpr const char* kUnits[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  if (num_bytes < 1024) return fmt::format("{} B", num_bytes);
  double value = static_cast<double>(num_bytes) / 1024.0;
  size_t unit = 0;
  for (; value >= 1024.0 && unit + 1 < std::size(kUnits); ++unit) value /= 1024.0;
  return fmt::format("{:.1f} {}", value, kUnits[unit]);
}

std::string show_count(int64_t count) {
  static constexpr struct {
    double unit;
    const char* suffix;
  } kScales[] = {{1e12, " T"}, {1e9, " B"}, {1e6, " M"}, {1e3, " K"}};
  for (const auto& scale : kScales) {
    double value = static_cast<double>(count) / scale.unit;
    if (value >= 1.0) {
      return fmt::format("{:.{}f}{}", value, value >= 100.0 ? 0 : value >= 10.0 ? 1 : 2, scale.suffix);
    }
  }
  return std::to_string(count);
}

std::string plural(int64_t count, const char* noun) {
  return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

// "text" on one line: escapes as in JSON, cut with a note of the full length.
std::string show_string(std::string_view text, size_t max_bytes) {
  size_t cut = std::min(text.size(), max_bytes);
  while (cut < text.size() && cut > 0 && (static_cast<uint8_t>(text[cut]) & 0xC0) == 0x80) {
    --cut;  // no half characters
  }
  std::string shown = json::serialize(json::value(to_utf8(text.substr(0, cut))));
  if (cut == text.size()) return shown;
  return fmt::format("{}... ({} bytes)", shown, text.size());
}

// The shortest form that reads back as the same f32: most numbers were stored as one.
std::string show_number(double number) {
  float narrow = static_cast<float>(number);
  return static_cast<double>(narrow) == number ? fmt::format("{}", narrow) : fmt::format("{}", number);
}

template <typename Items, typename Show>
std::string show_array(const Items& items, const char* noun, const InspectOptions& options, Show show) {
  // One more than the limit costs no more room than "...".
  size_t shown = items.size() <= options.max_array_items + 1 ? items.size() : options.max_array_items;
  std::string list;
  for (size_t i = 0; i < shown; ++i) list += (i == 0 ? "" : ", ") + show(items[i]);
  if (shown < items.size()) list += ", ...";
  return fmt::format("[{}{}{}]", plural(static_cast<int64_t>(items.size()), noun), items.empty() ? "" : ": ",
                     list);
}

struct ValueShower {
  const InspectOptions& options;

  std::string operator()(bool value) const { return value ? "true" : "false"; }
  std::string operator()(int64_t value) const { return std::to_string(value); }
  std::string operator()(uint64_t value) const { return std::to_string(value); }
  std::string operator()(double value) const { return show_number(value); }
  std::string operator()(const std::string& value) const {
    return show_string(value, options.max_string_bytes);
  }
  std::string operator()(const std::vector<bool>& values) const {
    return show_array(values, "boolean", options,
                      [](bool value) { return std::string(value ? "true" : "false"); });
  }
  std::string operator()(const std::vector<int64_t>& values) const {
    return show_array(values, "integer", options, [](int64_t value) { return std::to_string(value); });
  }
  std::string operator()(const std::vector<double>& values) const {
    return show_array(values, "number", options, [](double value) { return show_number(value); });
  }
  std::string operator()(const std::vector<std::string>& values) const {
    return show_array(values, "string", options,
                      [](const std::string& value) { return show_string(value, 24); });
  }
};

bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

// What a number stands for, where the format says: the token of an id, the name of a file type.
std::string explain(const Metadata& metadata, std::string_view key, const MetadataValue& value) {
  static constexpr const char* kFileTypes[] = {
      "F32",   "F16",     "Q4_0",   "Q4_1",   nullptr,  nullptr,   nullptr,  "Q8_0",   "Q5_0",
      "Q5_1",  "Q2_K",    "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S",  "Q4_K_M", "Q5_K_S", "Q5_K_M",
      "Q6_K",  "IQ2_XXS", "IQ2_XS", "Q2_K_S", "IQ3_XS", "IQ3_XXS", "IQ1_S",  "IQ4_NL", "IQ3_S",
      "IQ3_M", "IQ2_S",   "IQ2_M",  "IQ4_XS", "IQ1_M",  "BF16"};
  if (!std::holds_alternative<int64_t>(value) && !std::holds_alternative<uint64_t>(value)) return "";
  double as_number = *metadata.find_float(key);
  if (ends_with(key, "_token_id") && (as_number == -1.0 || as_number == 4294967295.0)) return "  (none)";
  if (as_number < 0 || as_number >= 1e9) return "";
  size_t number = static_cast<size_t>(as_number);
  if (key == "general.file_type") {
    return number < std::size(kFileTypes) && kFileTypes[number] != nullptr
               ? fmt::format("  ({})", kFileTypes[number])
               : "";
  }
  auto tokens = metadata.values.find("tokenizer.ggml.tokens");
  if (!ends_with(key, "_token_id") || tokens == metadata.values.end()) return "";
  const auto* texts = std::get_if<std::vector<std::string>>(&tokens->second);
  return texts != nullptr && number < texts->size() ? fmt::format("  ({})", show_string((*texts)[number], 40))
                                                    : "";
}

// Columns a terminal gives the text: code points, which is near enough for names.
size_t width_of(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(),
                                           [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; }));
}

struct Column {
  bool right = false;
  size_t width = 0;
};

// Rows of cells, two spaces in front and between; the widest cell sets each column.
std::string show_table(const std::vector<std::vector<std::string>>& rows, std::vector<Column> columns) {
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) columns[i].width = std::max(columns[i].width, width_of(row[i]));
  }
  std::string out;
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      std::string padding(columns[i].width - width_of(row[i]), ' ');
      line += "  " + (columns[i].right ? padding + row[i] : row[i] + padding);
    }
    line.resize(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

std::string show_name(std::string_view name) {
  std::string quoted = quote(name, 200);
  return quoted.substr(1, quoted.size() - 2);
}

std::string show_shape(const Shape& shape) {
  std::string text;
  for (int64_t dimension : shape) text += fmt::format("{}{}", text.empty() ? "" : " x ", dimension);
  return text.empty() ? "scalar" : text;
}

std::string describe_metadata(const Metadata& metadata, const InspectOptions& options) {
  static constexpr size_t kMaxKeyColumn = 44;  // a rare longer key pushes its own line only
  size_t width = 0;
  for (const auto& [key, value] : metadata.values) {
    if (key.size() <= kMaxKeyColumn) width = std::max(width, width_of(show_name(key)));
  }
  std::string out =
      fmt::format("\nmetadata ({})\n", plural(static_cast<int64_t>(metadata.values.size()), "key"));
  for (const auto& [key, value] : metadata.values) {
    std::string name = show_name(key), padding(width - std::min(width, width_of(name)), ' ');
    out += fmt::format("  {}{}  {}{}\n", name, padding, std::visit(ValueShower{options}, value),
                       explain(metadata, key, value));
  }
  return out;
}

std::string describe_tensors(const WeightFile& file) {
  std::vector<std::vector<std::string>> rows = {{"name", "type", "shape", "size"}};
  for (const TensorEntry& entry : file.tensors()) {
    rows.push_back({show_name(entry.name), name(entry.view.type), show_shape(entry.view.shape),
                    show_bytes(entry.view.num_bytes())});
  }
  return fmt::format("\ntensors ({}; shapes are outermost first)\n", file.tensors().size()) +
         show_table(rows, {{}, {}, {}, {.right = true}});
}

std::string describe_types(const Totals& totals) {
  std::vector<std::vector<std::string>> rows = {{"type", "tensors", "parameters", "size", "share"}};
  auto add_row = [&](const std::string& label, const Total& total) {
    double share = totals.all.num_bytes == 0 ? 0.0
                                             : 100.0 * static_cast<double>(total.num_bytes) /
                                                   static_cast<double>(totals.all.num_bytes);
    rows.push_back({label, std::to_string(total.num_tensors), show_count(total.num_parameters),
                    show_bytes(total.num_bytes), fmt::format("{:.1f}%", share)});
  };
  for (DType type : list_types(totals)) add_row(name(type), totals.by_type[static_cast<size_t>(type)]);
  if (rows.size() > 2) add_row("total", totals.all);
  return "\ntypes\n" +
         show_table(rows, {{}, {.right = true}, {.right = true}, {.right = true}, {.right = true}});
}

json::value to_json(const MetadataValue& value) {
  return std::visit(
      [](const auto& held) -> json::value {
        using Held = std::decay_t<decltype(held)>;
        if constexpr (std::is_same_v<Held, std::string>) {
          return json::value(to_utf8(held));
        } else if constexpr (std::is_arithmetic_v<Held>) {
          return json::value(held);
        } else {
          json::array items;
          items.reserve(held.size());
          for (const auto& item : held) {
            if constexpr (std::is_same_v<Held, std::vector<std::string>>) {
              items.emplace_back(to_utf8(item));
            } else {
              items.emplace_back(static_cast<typename Held::value_type>(item));
            }
          }
          return items;
        }
      },
      value);
}

json::object to_json(const Total& total) {
  return {{"tensors", total.num_tensors}, {"parameters", total.num_parameters}, {"bytes", total.num_bytes}};
}

}  // namespace

std::string describe(const WeightFile& file, const InspectOptions& options) {
  Totals totals = count_totals(file);
  std::vector<WeightPart> parts = file.parts();
  int64_t file_bytes = 0;
  for (const WeightPart& part : parts) file_bytes += part.num_bytes;

  std::string out = show_name(file.path()) + "\n" + file.description();
  if (!parts.empty()) out += ", " + show_bytes(file_bytes);
  out += ", " + plural(totals.all.num_tensors, "tensor");
  if (totals.all.num_parameters > 0) {
    out += fmt::format(", {} parameters, {:.2f} bits per weight", show_count(totals.all.num_parameters),
                       totals.all.bits_per_weight());
  }
  out += "\n";
  if (parts.size() > 1) {
    for (const WeightPart& part : parts) {
      out += fmt::format("  {}  {}\n", show_name(part.path), show_bytes(part.num_bytes));
    }
  }
  if (!file.metadata().values.empty()) out += describe_metadata(file.metadata(), options);
  if (!file.tensors().empty()) {
    if (options.with_tensors) out += describe_tensors(file);
    out += describe_types(totals);
  }
  return out;
}

json::value describe_as_json(const WeightFile& file, const InspectOptions& options) {
  json::object out;
  out["path"] = to_utf8(file.path());
  out["format"] = file.format();
  out["description"] = file.description();
  json::array parts;
  for (const WeightPart& part : file.parts()) {
    parts.push_back({{"path", to_utf8(part.path)}, {"bytes", part.num_bytes}});
  }
  out["parts"] = std::move(parts);
  json::object metadata;
  for (const auto& [key, value] : file.metadata().values) metadata[to_utf8(key)] = to_json(value);
  out["metadata"] = std::move(metadata);
  if (options.with_tensors) {
    json::array tensors;
    for (const TensorEntry& entry : file.tensors()) {
      json::array shape(entry.view.shape.begin(), entry.view.shape.end());
      tensors.push_back({{"name", to_utf8(entry.name)},
                         {"type", name(entry.view.type)},
                         {"shape", std::move(shape)},
                         {"bytes", entry.view.num_bytes()}});
    }
    out["tensors"] = std::move(tensors);
  }
  Totals totals = count_totals(file);
  json::object types;
  for (DType type : list_types(totals)) {
    types[name(type)] = to_json(totals.by_type[static_cast<size_t>(type)]);
  }
  json::object all = to_json(totals.all);
  all["bits_per_weight"] = totals.all.bits_per_weight();
  all["types"] = std::move(types);
  out["totals"] = std::move(all);
  return out;
}

}  // namespace sluice::formats
