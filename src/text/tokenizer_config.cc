#include "text/tokenizer_config.h"

#include <charconv>

#include "base/error.h"
#include "base/json.h"

namespace sluice::text {
namespace {

constexpr const char* kFile = "tokenizer_config.json";

// "<s>" or {"content": "<s>", ...}.
std::string read_token(const json::object& object, std::string_view key) {
  const json::value* value = json::find(object, key);
  if (value == nullptr) return "";
  if (value->is_string()) return std::string(value->get_string());
  if (value->is_object()) return json::read_string(value->get_object(), "content").value_or("");
  fail(Code::kInvalidArgument, "{}: '{}' must be a string or an object with 'content', not {}", kFile, key,
       json::describe(*value));
}

}  // namespace

bool TokenizerConfig::rebuilds_template() const {
  for (std::string_view name : {"LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer", "CohereTokenizer"}) {
    if (tokenizer_class == name) return true;
  }
  return false;
}

TokenizerConfig parse_tokenizer_config(std::string_view text) {
  TokenizerConfig config;
  if (text.empty()) return config;
  json::value root;
  try {
    root = json::parse(text);
  } catch (const Error& error) {
    fail(Code::kInvalidArgument, "{}: {}", kFile, error.message());
  }
  if (!root.is_object()) fail(Code::kInvalidArgument, "{}: must be an object, not {}", kFile, json::describe(root));
  const json::object& object = root.get_object();
  if (const json::value* name = json::find(object, "tokenizer_class"); name != nullptr && name->is_string()) {
    config.tokenizer_class = std::string(name->get_string());
    if (config.tokenizer_class.ends_with("Fast")) config.tokenizer_class.resize(config.tokenizer_class.size() - 4);
  }
  config.bos_token = read_token(object, "bos_token");
  config.eos_token = read_token(object, "eos_token");
  config.unk_token = read_token(object, "unk_token");
  config.pad_token = read_token(object, "pad_token");
  config.sep_token = read_token(object, "sep_token");
  config.cls_token = read_token(object, "cls_token");
  config.mask_token = read_token(object, "mask_token");
  config.add_bos_token = json::read_bool(object, "add_bos_token");
  config.add_eos_token = json::read_bool(object, "add_eos_token");
  config.legacy = json::read_bool(object, "legacy");
  config.add_prefix_space = json::read_bool(object, "add_prefix_space");
  const json::value* added = json::find(object, "added_tokens_decoder");
  if (added == nullptr) return config;
  if (!added->is_object()) fail(Code::kInvalidArgument, "{}: 'added_tokens_decoder' must be an object", kFile);
  for (const auto& entry : added->get_object()) {
    std::string_view key(entry.key().data(), entry.key().size());
    int64_t id = -1;
    auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size() || id < 0 || id >= Vocabulary::kMaxTokens) {
      fail(Code::kInvalidArgument, "{}: 'added_tokens_decoder' has key '{}', which is not a token id", kFile, key);
    }
    if (!entry.value().is_object()) {
      fail(Code::kInvalidArgument, "{}: 'added_tokens_decoder.{}' must be an object", kFile, key);
    }
    const json::object& fields = entry.value().get_object();
    AddedToken token;
    token.id = static_cast<int32_t>(id);
    token.content = json::read_string(fields, "content").value_or("");
    token.special = json::read_bool(fields, "special").value_or(false);
    token.normalized = json::read_bool(fields, "normalized").value_or(!token.special);
    token.single_word = json::read_bool(fields, "single_word").value_or(false);
    token.lstrip = json::read_bool(fields, "lstrip").value_or(false);
    token.rstrip = json::read_bool(fields, "rstrip").value_or(false);
    config.added_tokens.push_back(std::move(token));
  }
  return config;
}

}  // namespace sluice::text
