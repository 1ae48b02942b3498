#include "cli/bench_options.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <numeric>
#include <optional>

#include <fmt/format.h>

#include "base/thread_pool.h"
#include "cli/commands.h"

namespace sluice::cli {
namespace {

constexpr int kThreadsPerCoreMax = 4;
const char* const kModes[] = {"serve", "latency", "throughput"};

template <typename Number>
std::optional<Number> parse_number(const std::string& text) {
  Number value{};
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// More threads than cores only wait for each other; a few more are for those who want to see that.
std::string check_threads(const std::string& text) {
  const int most = kThreadsPerCoreMax * num_available_cores();
  const std::optional<int64_t> threads = parse_number<int64_t>(text);
  if (threads && *threads >= 0 && *threads <= most) return "";
  return fmt::format("'{}' is not a whole number from 0 to {}, {} for each core that this process may use", text, most,
                     kThreadsPerCoreMax);
}

// Letters to add, take away or change to make one of the other (Levenshtein).
size_t count_slips(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t k = 1; k <= b.size(); ++k) {
      const size_t changed = diagonal + (a[i - 1] == b[k - 1] ? 0 : 1);
      diagonal = row[k];
      row[k] = std::min({row[k] + 1, row[k - 1] + 1, changed});
    }
  }
  return row.back();
}

void remove_option(CLI::App& command, const std::string& name) { command.remove_option(command.get_option(name)); }

}  // namespace

CLI::Validator whole_number(int64_t low, int64_t high) {
  auto check = [low, high](std::string& text) -> std::string {
    const std::optional<int64_t> value = parse_number<int64_t>(text);
    if (value && *value >= low && *value <= high) return "";
    return high == INT64_MAX ? fmt::format("'{}' is not a whole number of at least {}", text, low)
                             : fmt::format("'{}' is not a whole number from {} to {}", text, low, high);
  };
  return {check, ""};
}

CLI::Validator number(double low, double high) {
  auto check = [low, high](std::string& text) -> std::string {
    const std::optional<double> value = parse_number<double>(text);
    if (value && *value >= low && *value <= high) return "";
    return fmt::format("'{}' is not a number from {} to {}", text, low, high);
  };
  return {check, ""};
}

void add_bench_model_options(CLI::App& command, std::string& model, engine::LoadOptions& load, EngineFlags& engine,
                             PrefixCache cache) {
  command.add_option("model,-m,--model", model, "GGUF file or Hugging Face folder; default: the built-in model")
      ->check(is_not_empty);
  add_load_flags(command, load);
  command.get_option("--threads")->transform(CLI::Validator([](std::string& text) { return check_threads(text); }, ""));
  add_engine_flags(command, engine);
  // Prompts are random ids, sampling is greedy, requests are all alike and as many may wait as there are.
  for (const char* name : {"--chat-template", "--generation-config", "--max-queue", "--scheduling-policy"}) {
    remove_option(command, name);
  }
  if (cache == PrefixCache::kOff) remove_option(command, "--no-prefix-cache");
}

bool is_given(const CLI::App& command, const std::string& option) { return command.get_option(option)->count() > 0; }

void reject_with(const CLI::App& command, const std::string& option, const std::string& other, const std::string& why) {
  if (!is_given(command, option)) return;
  throw UsageError{fmt::format("{} {} means nothing with {}: {}", option, command.get_option(option)->results().back(),
                               other, why)};
}

void make_room_for_batch(const CLI::App& command, EngineFlags& engine, int64_t batch,
                         const std::string& batch_option) {
  int64_t& most = engine.options.max_num_seqs;
  if (is_given(command, "--max-num-seqs") && most < batch) {
    throw UsageError{fmt::format("--max-num-seqs {} is less than the {} of {}, which run together; raise it or leave "
                                 "it away", most, batch, batch_option)};
  }
  if (batch > engine.options.max_num_batched_tokens) {
    throw UsageError{fmt::format("{} {} is more than the {} tokens of a step: raise --max-num-batched-tokens", batch_option,
                                 batch, engine.options.max_num_batched_tokens)};
  }
  most = std::max(most, batch);
}

void reject_grid_options(const CLI::App& mode) {
  const CLI::App& bench = *mode.get_parent();
  const std::string& name = mode.get_name();
  for (const CLI::Option* option : bench.get_options()) {
    if (option->count() == 0 || option == bench.get_help_ptr()) continue;
    if (option->get_name() != "--model") {
      throw UsageError{fmt::format("{} belongs to `sluice bench` without '{}' (see sluice bench {} --help)",
                                   option->get_name(), name, name)};
    }
    throw UsageError{fmt::format("'{}' is not expected there: sluice bench {} takes {}", option->results().back(), name,
                                 name == "serve" ? "no model file, and --model NAME after 'serve' if the server has "
                                                   "several"
                                                 : "one model, after '" + name + "'")};
  }
}

void reject_unknown_mode(const std::string& model) {
  std::error_code ignored;
  if (model.find_first_of("/.") != std::string::npos || std::filesystem::exists(model, ignored)) return;
  std::string names;
  for (const std::string mode : kModes) {
    const bool is_start = model.size() > 2 && mode.starts_with(model);
    if (is_start || count_slips(model, mode) <= 2) {
      throw UsageError{fmt::format("there is no mode '{}', nor a model of that name; did you mean sluice bench {}?",
                                   model, mode)};
    }
    names += (names.empty() ? "" : ", ") + mode;
  }
  throw UsageError{
      fmt::format("'{}' is no file or folder with a model, nor a mode of sluice bench ({})", model, names)};
}

}  // namespace sluice::cli
