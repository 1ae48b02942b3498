#include "base/error.h"
#include "formats/names.h"
#include "formats/weight_file.h"

namespace sluice::formats {
namespace {

[[noreturn]] void wrong_kind(const Metadata& metadata, std::string_view key, const char* wanted,
                             const char* got) {
  std::string where = metadata.source.empty() ? "" : metadata.source + ": ";
  fail_param(std::string(key), "{}metadata key {} must be {}, not {}", where, quote(key), wanted, got);
}

const MetadataValue* find_value(const Metadata& metadata, std::string_view key) {
  auto found = metadata.values.find(key);
  return found == metadata.values.end() ? nullptr : &found->second;
}

bool is_empty_array(const MetadataValue& value) {
  return std::visit(
      [](const auto& held) {
        using Held = std::decay_t<decltype(held)>;
        if constexpr (std::is_arithmetic_v<Held> || std::is_same_v<Held, std::string>) {
          return false;
        } else {
          return held.empty();
        }
      },
      value);
}

template <typename Array>
const Array* find_array(const Metadata& metadata, std::string_view key, const char* wanted) {
  static const Array kEmpty;
  const MetadataValue* value = find_value(metadata, key);
  if (value == nullptr) return nullptr;
  if (const Array* array = std::get_if<Array>(value)) return array;
  if (is_empty_array(*value)) return &kEmpty;
  wrong_kind(metadata, key, wanted, describe_kind(*value));
}

}  // namespace

const char* describe_kind(const MetadataValue& value) {
  static constexpr const char* kNames[] = {
      "a boolean",          "an integer",           "an integer",           "a number",
      "a string",           "an array of booleans", "an array of integers", "an array of numbers",
      "an array of strings"};
  static_assert(std::size(kNames) == std::variant_size_v<MetadataValue>);
  return kNames[value.index()];
}

std::optional<int64_t> Metadata::find_int(std::string_view key) const {
  const MetadataValue* value = find_value(*this, key);
  if (value == nullptr) return std::nullopt;
  if (const int64_t* number = std::get_if<int64_t>(value)) return *number;
  if (const uint64_t* number = std::get_if<uint64_t>(value)) {
    if (*number <= static_cast<uint64_t>(INT64_MAX)) return static_cast<int64_t>(*number);
    wrong_kind(*this, key, "an integer below 2^63", std::to_string(*number).c_str());
  }
  wrong_kind(*this, key, "an integer", describe_kind(*value));
}

std::optional<double> Metadata::find_float(std::string_view key) const {
  const MetadataValue* value = find_value(*this, key);
  if (value == nullptr) return std::nullopt;
  if (const double* number = std::get_if<double>(value)) return *number;
  if (const int64_t* number = std::get_if<int64_t>(value)) return static_cast<double>(*number);
  if (const uint64_t* number = std::get_if<uint64_t>(value)) return static_cast<double>(*number);
  wrong_kind(*this, key, "a number", describe_kind(*value));
}

std::optional<bool> Metadata::find_bool(std::string_view key) const {
  const MetadataValue* value = find_value(*this, key);
  if (value == nullptr) return std::nullopt;
  if (const bool* held = std::get_if<bool>(value)) return *held;
  wrong_kind(*this, key, "a boolean", describe_kind(*value));
}

const std::string* Metadata::find_string(std::string_view key) const {
  const MetadataValue* value = find_value(*this, key);
  if (value == nullptr) return nullptr;
  if (const std::string* held = std::get_if<std::string>(value)) return held;
  wrong_kind(*this, key, "a string", describe_kind(*value));
}

const std::vector<std::string>* Metadata::find_strings(std::string_view key) const {
  return find_array<std::vector<std::string>>(*this, key, "an array of strings");
}

const std::vector<int64_t>* Metadata::find_ints(std::string_view key) const {
  return find_array<std::vector<int64_t>>(*this, key, "an array of integers");
}

const std::vector<double>* Metadata::find_floats(std::string_view key) const {
  return find_array<std::vector<double>>(*this, key, "an array of numbers");
}

}  // namespace sluice::formats
