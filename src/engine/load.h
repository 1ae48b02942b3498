// A path in; model, tokenizer, template and defaults out. The only place of the engine that knows file formats.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "engine/request.h"
#include "llm/model.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace sluice::engine {

// What generation_config.json says, where it says anything.
struct GenerationDefaults {
  std::optional<double> temperature, top_p, min_p, repetition_penalty;
  std::optional<int64_t> top_k, max_new_tokens;
};

struct LoadOptions {
  int num_threads = 0;          // 0: all available cores
  bool pin_threads = false;
  bool repack = true;           // weights into the order that this machine's kernels like best
  std::string tokenizer_path;   // empty: beside the model
  std::string chat_template;    // Jinja source; empty: the model's
  std::string generation_config = "auto";  // "auto": the model's; "none" or "vllm": ignore it
};

struct LoadedModel {
  std::string path;
  std::unique_ptr<ThreadPool> pool;      // outlives model
  std::unique_ptr<llm::Model> model;
  std::unique_ptr<text::Tokenizer> tokenizer;          // null if the folder has none and it was not asked for
  std::unique_ptr<text::ChatTemplate> chat_template;   // null if the model has none
  std::vector<int32_t> end_tokens;       // eos, eot, eom: whatever ends a turn
  GenerationDefaults defaults;
  double load_seconds = 0;
};

// GGUF file, safetensors file, or folder. Throws Error.
LoadedModel load(const std::string& path, const LoadOptions& options);
// The tokenizer alone, from a GGUF file, a folder, or a tokenizer file.
std::unique_ptr<text::Tokenizer> load_tokenizer(const std::string& path, const std::string& pre = "");

}  // namespace sluice::engine
