#include "bench/server_info.h"

#include <charconv>
#include <cmath>

#include <fmt/format.h>

namespace sluice::bench {
namespace {

const json::value* find_in(const json::value& value, std::string_view key) {
  return value.is_object() ? json::find(value.get_object(), key) : nullptr;
}

std::string find_text(const json::value& value, std::string_view key) {
  const json::value* found = find_in(value, key);
  return found != nullptr && found->is_string() ? std::string(found->get_string()) : "";
}

int64_t find_count(const json::value& value, std::string_view key) {
  const json::value* found = find_in(value, key);
  return found != nullptr && found->is_int64() && found->get_int64() > 0 ? found->get_int64() : 0;
}

// The labels of `{a="b",c="d"}`, without the braces, name one of another model. No label of that name: they do not.
bool is_of_another_model(std::string_view labels, const ServedModel& model) {
  constexpr std::string_view kKey = "model_name=\"";
  for (size_t at = labels.find(kKey); at != std::string_view::npos; at = labels.find(kKey, at + 1)) {
    if (at > 0 && labels[at - 1] != ',' && labels[at - 1] != ' ') continue;  // the end of a longer name
    std::string_view value = labels.substr(at + kKey.size());
    value = value.substr(0, value.find('"'));
    return value != model.id && value != model.root;
  }
  return false;
}

}  // namespace

ServedModel find_served_model(const json::value& body, const std::string& name) {
  const json::value* data = find_in(body, "data");
  if (data == nullptr || !data->is_array()) return {};
  for (const json::value& model : data->get_array()) {
    ServedModel served{.id = find_text(model, "id"), .root = find_text(model, "root")};
    if (served.id.empty() || (!name.empty() && served.id != name)) continue;
    served.max_model_len = find_count(model, "max_model_len");
    if (const json::value* meta = find_in(model, "meta")) {
      served.num_parameters = find_count(*meta, "n_params");
      served.weight_bytes = find_count(*meta, "size");
    }
    return served;
  }
  return {};
}

std::optional<double> find_counter(std::string_view text, std::string_view name, const ServedModel& model) {
  std::optional<double> sum;
  while (!text.empty()) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    if (!line.starts_with(name)) continue;
    line.remove_prefix(name.size());
    if (line.starts_with('{')) {
      const size_t end = line.rfind('}');
      if (end == std::string_view::npos || is_of_another_model(line.substr(1, end - 1), model)) continue;
      line.remove_prefix(end + 1);
    }
    if (!line.starts_with(' ')) continue;  // the beginning of a longer name
    line.remove_prefix(1);
    double value = 0;
    auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), value);  // a time may follow
    if (error == std::errc() && std::isfinite(value)) sum = sum.value_or(0) + value;
  }
  return sum;
}

std::optional<StepCounts> find_step_counts(std::string_view metrics, const ServedModel& model) {
  constexpr std::string_view kSteps = "vllm:iteration_tokens_total";
  const auto num_steps = find_counter(metrics, fmt::format("{}_count", kSteps), model);
  const auto num_tokens = find_counter(metrics, fmt::format("{}_sum", kSteps), model);
  if (!num_steps || !num_tokens) return std::nullopt;
  return StepCounts{*num_steps, *num_tokens};
}

bool is_loopback(const std::string& host) {
  return host == "localhost" || host == "::1" || host.starts_with("127.");
}

}  // namespace sluice::bench
