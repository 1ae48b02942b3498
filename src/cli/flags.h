// Flags and small things that several subcommands share.
#pragma once

#include <CLI/CLI.hpp>

#include <cstdint>
#include <string>

#include "engine/engine.h"
#include "engine/load.h"

namespace sluice::cli {

// --threads, --pin-threads, --tokenizer, --chat-template, --generation-config.
void add_load_flags(CLI::App& command, engine::LoadOptions& options);

// What the user types for the engine, before it is checked and put into EngineOptions.
struct EngineFlags {
  std::string kv_cache_dtype = "f16";
  std::string scheduling_policy = "fcfs";
  bool no_prefix_cache = false;
  engine::EngineOptions options;

  engine::EngineOptions resolve(const engine::LoadedModel& model) const;
};
// `kFew`: for a program with one user, who has no use for queues and batches.
enum class EngineFlagSet { kAll, kFew };
void add_engine_flags(CLI::App& command, EngineFlags& flags, EngineFlagSet set = EngineFlagSet::kAll);

// A CLI11 check.
std::string is_not_empty(const std::string& text);

// "4096", "512M", "2G", "1.5GiB" -> bytes; throws UsageError naming `flag`.
int64_t parse_bytes(const std::string& text, const std::string& flag);
// A flag that takes such a size.
CLI::Option* add_bytes_option(CLI::App& command, const std::string& flag, int64_t& bytes, const std::string& meaning);
std::string format_bytes(int64_t bytes);       // "1.2 MB"
std::string format_count(int64_t count);       // "1.1B", "260K"
std::string read_stream_or_file(const std::string& path);  // "-": standard input

// The path of the built-in model: beside the installed binary, or in the source tree it was built from.
std::string builtin_model_path();

}  // namespace sluice::cli
