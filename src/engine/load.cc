#include "engine/load.h"

#include <algorithm>
#include <filesystem>
#include <limits>
#include <set>
#include <string_view>

#include "base/clock.h"
#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mmap.h"
#include "formats/weight_file.h"
#include "llm/registry.h"

namespace sluice::engine {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxConfigBytes = size_t{64} << 20;

// Control tokens that end a turn in one family of chat models or another. They count only where the
// vocabulary has them as special tokens: files often name only one of a model's several ends.
constexpr std::string_view kTurnEnds[] = {
    "</s>",
    "<eos>",
    "<|eos|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|eot|>",
    "<|eom|>",
    "<end_of_turn>",
    "<turn|>",
    "<|end_of_turn|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<EOT>",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
    "<|end_of_sentence|>",
    "<|endofresponse|>",
    "<|message_end|>",
};

bool is_file(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

bool is_folder(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

// A JSON object in a file; nullopt without the file. Throws Error naming the file.
std::optional<json::object> find_json(const fs::path& path) {
  if (!is_file(path)) return std::nullopt;
  std::string text = read_file(path.string(), kMaxConfigBytes);
  try {
    json::value parsed = json::parse(text);
    if (!parsed.is_object())
      fail(Code::kInvalidArgument, "expected an object, found {}", json::describe(parsed));
    return std::move(parsed.as_object());
  } catch (const Error& error) {
    fail(error.code(), "{}: {}", path.string(), error.message());
  }
}

// Calls read(), putting the file's name before what it complains about.
template <typename Read>
auto read_from(const fs::path& path, Read&& read) {
  try {
    return read();
  } catch (const Error& error) {
    if (error.message().starts_with(path.string())) throw;
    throw Error(error.code(), path.string() + ": " + error.message(), error.param());
  }
}

// End tokens.

class EndTokens {
 public:
  explicit EndTokens(int64_t vocab_size) : vocab_size_(vocab_size) {}
  void add(int64_t id) {
    if (id >= 0 && id < vocab_size_) ids_.insert(static_cast<int32_t>(id));
  }
  // "eos_token_id": a number, a list of numbers, or null. Anything else in such a file is not worth
  // failing over.
  void add(const json::object& config) {
    const json::value* ids = json::find(config, "eos_token_id");
    if (ids == nullptr) return;
    auto add_value = [&](const json::value& id) {
      if (id.is_int64()) add(id.as_int64());
    };
    add_value(*ids);
    if (ids->is_array()) {
      for (const json::value& id : ids->as_array()) add_value(id);
    }
  }
  void add(const text::Tokenizer& tokenizer) {
    add(tokenizer.special_ids().eos);
    auto find = [&](std::string_view text) -> std::optional<int32_t> {
      std::optional<int32_t> id = tokenizer.find_token(text);
      return id && tokenizer.is_special(*id) ? id : std::nullopt;
    };
    // In the harmony format <|end|> ends a message and not the turn, which <|return|> and <|call|>
    // do.
    bool is_harmony = find("<|return|>") && find("<|call|>");
    for (std::string_view text : kTurnEnds) {
      if (is_harmony && text == "<|end|>") continue;
      if (std::optional<int32_t> id = find(text)) add(*id);
    }
  }
  std::vector<int32_t> ids() const { return {ids_.begin(), ids_.end()}; }

 private:
  const int64_t vocab_size_;
  std::set<int32_t> ids_;
};

// Tokenizers.

std::optional<int32_t> find_id(const formats::Metadata& metadata, std::string_view key) {
  std::optional<int64_t> id = metadata.find_int(key);
  // Some files write -1 as 4294967295.
  if (!id || *id < 0 || *id > std::numeric_limits<int32_t>::max()) return std::nullopt;
  return static_cast<int32_t>(*id);
}

bool has_vocabulary(const formats::Metadata& metadata) {
  const std::string* model = metadata.find_string("tokenizer.ggml.model");
  return metadata.has("tokenizer.ggml.tokens") && (model == nullptr || *model != "no_vocab");
}

text::VocabularySource read_vocabulary(const formats::WeightFile& weights) {
  const formats::Metadata& metadata = weights.metadata();
  text::VocabularySource source;
  auto read_text = [&](std::string_view key) {
    const std::string* text = metadata.find_string(key);
    return text != nullptr ? *text : std::string();
  };
  source.model = read_text("tokenizer.ggml.model");
  if (!has_vocabulary(metadata) || source.model.empty()) {
    fail(Code::kInvalidArgument,
         "the file has no vocabulary (tokenizer.ggml.model and .tokens); give a tokenizer beside "
         "it");
  }
  source.pre = read_text("tokenizer.ggml.pre");
  if (const auto* tokens = metadata.find_strings("tokenizer.ggml.tokens")) source.tokens = *tokens;
  if (const auto* merges = metadata.find_strings("tokenizer.ggml.merges")) source.merges = *merges;
  if (metadata.has("tokenizer.ggml.scores")) {
    if (const auto* scores = metadata.find_floats("tokenizer.ggml.scores"))
      source.scores.assign(scores->begin(), scores->end());
  }
  if (metadata.has("tokenizer.ggml.token_type")) {
    if (const auto* types = metadata.find_ints("tokenizer.ggml.token_type"))
      source.types.assign(types->begin(), types->end());
  }
  auto read_id = [&](int32_t& id, std::initializer_list<std::string_view> keys) {
    for (std::string_view key : keys) {
      if (std::optional<int32_t> found = find_id(metadata, key)) {
        id = *found;
        return;
      }
    }
  };
  read_id(source.special.bos, {"tokenizer.ggml.bos_token_id"});
  read_id(source.special.eos, {"tokenizer.ggml.eos_token_id"});
  read_id(source.special.unknown, {"tokenizer.ggml.unknown_token_id"});
  read_id(source.special.sep,
          {"tokenizer.ggml.seperator_token_id", "tokenizer.ggml.separator_token_id"});  // spelt so
  read_id(source.special.pad, {"tokenizer.ggml.padding_token_id"});
  read_id(source.special.cls, {"tokenizer.ggml.cls_token_id"});
  read_id(source.special.mask, {"tokenizer.ggml.mask_token_id"});
  source.add_bos = metadata.find_bool("tokenizer.ggml.add_bos_token");
  source.add_eos = metadata.find_bool("tokenizer.ggml.add_eos_token");
  source.add_space_prefix = metadata.find_bool("tokenizer.ggml.add_space_prefix");
  source.remove_extra_whitespaces = metadata.find_bool("tokenizer.ggml.remove_extra_whitespaces");
  auto charsmap = metadata.values.find("tokenizer.ggml.precompiled_charsmap");
  if (charsmap != metadata.values.end()) {
    if (const auto* text = std::get_if<std::string>(&charsmap->second)) {
      source.precompiled_charsmap = *text;
    } else if (const auto* bytes = std::get_if<std::vector<int64_t>>(&charsmap->second)) {
      for (int64_t byte : *bytes)
        source.precompiled_charsmap += static_cast<char>(static_cast<uint8_t>(byte));
    } else {
      fail(Code::kInvalidArgument,
           "tokenizer.ggml.precompiled_charsmap is no list of bytes; convert the model again");
    }
  }
  return source;
}

std::unique_ptr<text::Tokenizer> make_gguf_tokenizer(const formats::WeightFile& weights,
                                                     const std::string& pre) {
  return read_from(weights.path(), [&] {
    text::VocabularySource source = read_vocabulary(weights);
    if (!pre.empty()) source.pre = pre;
    return text::make_tokenizer(source);
  });
}

std::unique_ptr<text::Tokenizer> load_model_tokenizer(const formats::WeightFile& weights,
                                                      const fs::path& folder, bool is_gguf,
                                                      const LoadOptions& options) {
  if (!options.tokenizer_path.empty()) return load_tokenizer(options.tokenizer_path);
  if (is_gguf && has_vocabulary(weights.metadata())) return make_gguf_tokenizer(weights, "");
  try {
    return text::load_tokenizer(folder.string());
  } catch (const Error& error) {
    if (error.code() != Code::kNotFound) throw;
    LOG(warning,
        "{}: no tokenizer, so the model takes token ids only; give one with --tokenizer ({})",
        weights.path(), error.message());
    return nullptr;
  }
}

// Chat templates.

// A chat_template field: the template, or a list of {"name", "template"} of which "default" is
// wanted.
std::string read_template_field(const json::object& config) {
  const json::value* field = json::find(config, "chat_template");
  if (field == nullptr) return "";
  if (field->is_string()) return std::string(field->as_string());
  std::string first;
  if (field->is_array()) {
    for (const json::value& each : field->as_array()) {
      if (!each.is_object()) continue;
      const json::value* name = json::find(each.as_object(), "name");
      const json::value* source = json::find(each.as_object(), "template");
      if (source == nullptr || !source->is_string()) continue;
      if (name != nullptr && name->is_string() && name->as_string() == "default")
        return std::string(source->as_string());
      if (first.empty()) first = std::string(source->as_string());
    }
  }
  return first;
}

std::string find_folder_template(const fs::path& folder) {
  if (is_file(folder / "chat_template.jinja"))
    return read_file((folder / "chat_template.jinja").string(), kMaxConfigBytes);
  for (const char* name : {"chat_template.json", "tokenizer_config.json"}) {
    if (std::optional<json::object> config = find_json(folder / name)) {
      std::string source = read_template_field(*config);
      if (!source.empty()) return source;
    }
  }
  return "";
}

std::string find_gguf_template(const formats::Metadata& metadata) {
  for (const char* key : {"tokenizer.chat_template", "tokenizer.chat_template.default"}) {
    if (const std::string* source = metadata.find_string(key)) return *source;
  }
  return "";
}

std::unique_ptr<text::ChatTemplate> make_template(const std::string& source,
                                                  const text::Tokenizer* tokenizer) {
  std::string bos, eos;
  if (tokenizer != nullptr) {
    bos = tokenizer->token_text(tokenizer->special_ids().bos);
    eos = tokenizer->token_text(tokenizer->special_ids().eos);
  }
  return std::make_unique<text::ChatTemplate>(source, bos, eos);
}

std::unique_ptr<text::ChatTemplate> load_template(const LoadedModel& loaded,
                                                  const formats::WeightFile& weights,
                                                  const fs::path& folder, bool is_gguf,
                                                  const LoadOptions& options) {
  if (!options.chat_template.empty())
    return make_template(options.chat_template, loaded.tokenizer.get());
  std::string source = is_gguf ? find_gguf_template(weights.metadata()) : "";
  // A lone GGUF file may lie among other models' files; only MODEL.jinja beside MODEL.gguf, or a folder
  // given as the model, speaks for it.
  if (source.empty() && is_gguf && !is_folder(loaded.path)) {
    fs::path beside = fs::path(loaded.path).replace_extension(".jinja");
    if (is_file(beside)) source = read_file(beside.string(), kMaxConfigBytes);
  } else if (source.empty()) {
    source = find_folder_template(folder);
  }
  if (source.empty()) return nullptr;
  try {
    return make_template(source, loaded.tokenizer.get());
  } catch (const Error& error) {
    // Completions need no template, so the model is still of use.
    LOG(warning,
        "{}: its chat template cannot be used, so there is no chat without --chat-template: {}",
        loaded.path, error.message());
    return nullptr;
  }
}

// Defaults.

void read_defaults(const fs::path& path, const json::object& config, GenerationDefaults& defaults) {
  constexpr double kHigh = 1e6;
  constexpr int64_t kMaxCount = std::numeric_limits<int32_t>::max();
  read_from(path, [&] {
    defaults.temperature = json::read_double(config, "temperature", 0, kHigh);
    defaults.top_p = json::read_double(config, "top_p", 0, 1);
    defaults.min_p = json::read_double(config, "min_p", 0, 1);
    defaults.repetition_penalty = json::read_double(config, "repetition_penalty", 0, kHigh);
    defaults.top_k = json::read_int(config, "top_k", -1, kMaxCount);
    defaults.max_new_tokens = json::read_int(config, "max_new_tokens", 0, kMaxCount);
  });
  // Values that some files use for "off" and no request may ask for.
  if (defaults.top_p == 0.0) defaults.top_p.reset();
  if (defaults.repetition_penalty == 0.0) defaults.repetition_penalty.reset();
  if (defaults.max_new_tokens == 0) defaults.max_new_tokens.reset();
}

// generation_config.json as `choice` says: the folder's, none, or one somewhere else.
// `beside`: where the model's own would lie.
std::optional<fs::path> choose_generation_config(const std::string& choice,
                                                 const fs::path& beside) {
  if (choice == "none" || choice == "vllm") return std::nullopt;
  if (choice.empty() || choice == "auto") return beside;
  fs::path path =
      is_folder(choice) ? fs::path(choice) / "generation_config.json" : fs::path(choice);
  if (!is_file(path)) {
    fail_param("generation_config",
               "{}: no such file; give auto, none, or a folder with a generation_config.json",
               path.string());
  }
  return path;
}

void check_vocabulary(const LoadedModel& loaded) {
  int64_t tokenizer_size = loaded.tokenizer->vocab_size(), model_size = loaded.model->vocab_size();
  if (tokenizer_size > model_size) {
    LOG(warning,
        "{}: the tokenizer has {} tokens and the model {}; texts with the tokens beyond cannot be "
        "used",
        loaded.path, tokenizer_size, model_size);
  }
}

}  // namespace

std::unique_ptr<text::Tokenizer> load_tokenizer(const std::string& path, const std::string& pre) {
  if (is_file(path) && formats::is_gguf(path)) {
    return make_gguf_tokenizer(*formats::open_gguf(path), pre);
  }
  try {
    return text::load_tokenizer(path, pre);
  } catch (const Error& error) {
    if (error.code() != Code::kNotFound || !is_folder(path)) throw;
    for (const fs::directory_entry& entry : fs::directory_iterator(path)) {
      if (is_file(entry.path()) && formats::is_gguf(entry.path().string())) {
        return make_gguf_tokenizer(*formats::open_weights(path), pre);
      }
    }
    throw;
  }
}

LoadedModel load(const std::string& path, const LoadOptions& options) {
  int64_t begin_us = monotonic_us();
  if (options.num_threads < 0 || options.num_threads > 4096) {
    fail_param("threads", "threads must be between 0 (all cores) and 4096, not {}",
               options.num_threads);
  }
  LoadedModel loaded;
  loaded.path = path;
  std::shared_ptr<const formats::WeightFile> weights = formats::open_weights(path);
  bool is_gguf = std::string_view(weights->format()) == "gguf";
  fs::path folder = is_folder(path) ? fs::path(path) : fs::path(path).parent_path();
  if (folder.empty()) folder = ".";

  loaded.pool = std::make_unique<ThreadPool>(
      options.num_threads > 0 ? options.num_threads : num_available_cores(), options.pin_threads);
  loaded.model = llm::load_model(weights, folder.string(), *loaded.pool, options.repack);
  loaded.tokenizer = load_model_tokenizer(*weights, folder, is_gguf, options);
  if (loaded.tokenizer) check_vocabulary(loaded);
  loaded.chat_template = load_template(loaded, *weights, folder, is_gguf, options);

  EndTokens ends(loaded.model->vocab_size());
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                          "tokenizer.ggml.eom_token_id"}) {
    if (std::optional<int32_t> id = find_id(weights->metadata(), key)) ends.add(*id);
  }
  if (loaded.tokenizer) ends.add(*loaded.tokenizer);
  // A lone MODEL.gguf has nothing to do with the configurations of other models beside it, but for
  // MODEL.generation_config.json.
  bool folder_counts = !is_gguf || is_folder(path);
  fs::path own_config = folder_counts ? folder / "generation_config.json"
                                      : fs::path(path).replace_extension(".generation_config.json");
  if (folder_counts) {
    if (std::optional<json::object> config = find_json(folder / "config.json")) ends.add(*config);
  }
  std::optional<fs::path> generation_config =
      choose_generation_config(options.generation_config, own_config);
  if (generation_config) {
    if (std::optional<json::object> config = find_json(*generation_config)) {
      ends.add(*config);
      read_defaults(*generation_config, *config, loaded.defaults);
    }
  }
  loaded.end_tokens = ends.ids();
  if (loaded.end_tokens.empty())
    LOG(warning, "{}: no end-of-sequence token is known; texts end by length or stop strings only",
        path);
  loaded.load_seconds = static_cast<double>(monotonic_us() - begin_us) / 1e6;
  return loaded;
}

}  // namespace sluice::engine
