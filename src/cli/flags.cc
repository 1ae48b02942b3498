#include "cli/flags.h"

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <iterator>

#include "base/error.h"
#include "base/mmap.h"
#include "cli/commands.h"

namespace sluice::cli {

CLI::Option* add_bytes_option(CLI::App& command, const std::string& flag, int64_t& bytes, const std::string& meaning) {
  return command.add_option_function<std::string>(
      flag, [flag, &bytes](const std::string& text) { bytes = parse_bytes(text, flag.substr(0, flag.find(','))); }, meaning)
      ->type_name("SIZE");
}

void add_load_flags(CLI::App& command, engine::LoadOptions& options) {
  command.add_option("-t,--threads", options.num_threads, "threads that compute; 0: all cores")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str()
      ->group("Model");
  command.add_flag("--pin-threads", options.pin_threads, "pin each of them to a core")->group("Model");
  command.add_flag_callback("--no-repack", [&options] { options.repack = false; },
                            "read weights as they lie in the file: loads sooner, computes slower")
      ->group("Model");
  command.add_option("--tokenizer", options.tokenizer_path, "tokenizer file or folder, if not beside the model")
      ->group("Model");
  command.add_option_function<std::string>(
             "--chat-template",
             [&options](const std::string& text) {
               // A template without a tag would say the same to every chat: it must be the name of a file.
               bool is_template = text.find("{{") != std::string::npos || text.find("{%") != std::string::npos;
               options.chat_template = is_template ? text : read_file(text, 16 << 20);
             },
             "Jinja template instead of the model's: a file, or written out")
      ->group("Model");
  command.add_option("--generation-config", options.generation_config,
                     "sampling defaults: auto (the model's), vllm (none), or a folder with a generation_config.json")
      ->capture_default_str()
      ->group("Model");
}

void add_engine_flags(CLI::App& command, EngineFlags& flags, EngineFlagSet set) {
  engine::EngineOptions& options = flags.options;
  const std::string group = "Engine";
  command.add_option("--max-model-len", options.max_model_len, "longest prompt and answer together; 0: the model's")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 31))->capture_default_str()->group(group);
  add_bytes_option(command, "--kv-cache-memory,--kv-cache-memory-bytes", options.kv_cache_memory_bytes,
                   "memory for keys and values, such as 2G; default: from free memory")->group(group);
  command.add_option("--kv-cache-dtype", flags.kv_cache_dtype, "type of keys and values: f16, bf16, q8_0 or f32")
      ->check(CLI::IsMember({"auto", "f16", "float16", "bf16", "bfloat16", "q8_0", "f32", "float32"}))
      ->capture_default_str()->group(group);
  if (set == EngineFlagSet::kFew) return;
  command.add_option("--max-num-batched-tokens", options.max_num_batched_tokens, "tokens computed in one step at most")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))->capture_default_str()->group(group);
  command.add_option("--max-num-seqs", options.max_num_seqs, "sequences in one step at most")
      ->check(CLI::Range(1, 65536))->capture_default_str()->group(group);
  command.add_option("--max-queue", options.max_queue, "requests that may wait; more get status 429")
      ->check(CLI::Range(0, 10'000'000))->capture_default_str()->group(group);
  command.add_option("--long-prefill-token-threshold", options.long_prefill_token_threshold,
                     "prompt tokens of one sequence in one step at most; 0: half of the batch")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 31))->capture_default_str()->group(group);
  command.add_option("--interleaved-step-ms", options.interleaved_step_ms,
                     "how long prompts may hold up others' next token; 0: as long as a full batch takes")
      ->check(CLI::Range(0, 3'600'000))->capture_default_str()->group(group);
  command.add_option("--scheduling-policy", flags.scheduling_policy, "who goes first: fcfs (by arrival) or priority")
      ->check(CLI::IsMember({"fcfs", "priority"}))->capture_default_str()->group(group);
  command.add_flag("--no-prefix-cache,--no-enable-prefix-caching", flags.no_prefix_cache,
                   "never reuse the pages of an equal prompt start")->group(group);
}

engine::EngineOptions EngineFlags::resolve(const engine::LoadedModel& model) const {
  engine::EngineOptions resolved = options;
  if (kv_cache_dtype == "bf16" || kv_cache_dtype == "bfloat16") resolved.kv_cache_type = DType::kBF16;
  if (kv_cache_dtype == "q8_0") resolved.kv_cache_type = DType::kQ8_0;
  if (kv_cache_dtype == "f32" || kv_cache_dtype == "float32") resolved.kv_cache_type = DType::kF32;
  resolved.policy = scheduling_policy == "priority" ? engine::SchedulingPolicy::kPriority
                                                    : engine::SchedulingPolicy::kFcfs;
  resolved.enable_prefix_caching = !no_prefix_cache;
  resolved.end_tokens = model.end_tokens;
  return resolved;
}

std::string is_not_empty(const std::string& text) { return text.empty() ? "it is empty" : ""; }

int64_t parse_bytes(const std::string& text, const std::string& flag) {
  size_t used = 0;
  double number = -1;
  try {
    number = std::stod(text, &used);
  } catch (const std::exception&) {
    used = 0;
  }
  std::string unit = text.substr(used);
  double factor = 0;
  if (unit.empty() || unit == "B") factor = 1;
  if (unit == "K" || unit == "KB" || unit == "KiB") factor = 1 << 10;
  if (unit == "M" || unit == "MB" || unit == "MiB") factor = 1 << 20;
  if (unit == "G" || unit == "GB" || unit == "GiB") factor = 1 << 30;
  double bytes = number * factor;
  if (used == 0 || factor == 0 || !std::isfinite(bytes) || bytes < 1 || bytes > 1e15) {
    throw UsageError{flag + ": '" + text + "' is not a size; write bytes or a number with K, M or G, such as 2G"};
  }
  return static_cast<int64_t>(bytes);
}

std::string format_bytes(int64_t bytes) {
  if (bytes < 1000) return fmt::format("{} B", bytes);
  double value = static_cast<double>(bytes);
  const char* unit = "B";
  for (const char* next : {"kB", "MB", "GB", "TB"}) {
    if (value < 1000) break;
    value /= 1000;
    unit = next;
  }
  return fmt::format("{:.{}f} {}", value, value < 10 ? 2 : value < 100 ? 1 : 0, unit);
}

std::string format_count(int64_t count) {
  double value = static_cast<double>(count);
  if (value >= 1e9) return fmt::format("{:.{}f}B", value / 1e9, value < 1e10 ? 2 : 1);
  if (value >= 1e6) return fmt::format("{:.{}f}M", value / 1e6, value < 1e7 ? 1 : 0);
  if (value >= 1e3) return fmt::format("{:.0f}K", value / 1e3);
  return fmt::format("{}", count);
}

std::string read_stream_or_file(const std::string& path) {
  if (path != "-") return read_file(path);
  return std::string(std::istreambuf_iterator<char>(std::cin), {});
}

std::string builtin_model_path() {
  namespace fs = std::filesystem;
  std::error_code error;
  fs::path binary = fs::read_symlink("/proc/self/exe", error);
  const fs::path relative = "models/stories260K/stories260K.gguf";
  std::vector<fs::path> places = {binary.parent_path() / "../share/sluice" / relative,
                                  binary.parent_path() / relative};
  // In a source tree the binary is build/PRESET/sluice.
  places.push_back(binary.parent_path() / "../.." / relative);
  for (const fs::path& place : places) {
    if (fs::exists(place, error)) return fs::weakly_canonical(place).string();
  }
  fail(Code::kNotFound, "the built-in model is not beside the program ({}); name one with --model",
       places.back().lexically_normal().string());
}

}  // namespace sluice::cli
