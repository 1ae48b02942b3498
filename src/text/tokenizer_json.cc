#include "text/tokenizer_json.h"

#include <algorithm>

#include "base/error.h"
#include "text/loaders.h"

namespace sluice::text {
namespace {

std::vector<AddedToken> read_added_tokens(const json::object& root) {
  std::vector<AddedToken> tokens;
  const json::value* list = json::find(root, "added_tokens");
  if (list == nullptr) return tokens;
  if (!list->is_array()) fail(Code::kInvalidArgument, "tokenizer.json: added_tokens must be a list");
  for (const json::value& item : list->get_array()) {
    const json::object& fields = get_object(item, "added_tokens[]");
    AddedToken token;
    auto id = json::read_int(fields, "id", 0, Vocabulary::kMaxTokens - 1);
    if (!id) fail(Code::kInvalidArgument, "tokenizer.json: added_tokens[{}] has no 'id'", tokens.size());
    token.id = static_cast<int32_t>(*id);
    token.content = json::read_string(fields, "content").value_or("");
    token.special = json::read_bool(fields, "special").value_or(false);
    token.normalized = json::read_bool(fields, "normalized").value_or(!token.special);
    token.single_word = json::read_bool(fields, "single_word").value_or(false);
    token.lstrip = json::read_bool(fields, "lstrip").value_or(false);
    token.rstrip = json::read_bool(fields, "rstrip").value_or(false);
    tokens.push_back(std::move(token));
  }
  return tokens;
}

// Without a tokenizer_config.json: the first of the names that families use.
void guess_special_ids(const PipelineTokenizer& tokenizer, const PipelineParts& parts, SpecialIds& ids) {
  auto find_first = [&](std::initializer_list<const char*> names, int32_t& id) {
    for (const char* name : names) {
      if (id >= 0) return;
      auto found = tokenizer.find_token(name);
      if (found && tokenizer.is_special(*found)) id = *found;
    }
  };
  if (ids.bos < 0 && !parts.prefix_ids.empty()) ids.bos = parts.prefix_ids[0];
  find_first({"<s>", "<|begin_of_text|>", "<bos>", "<|startoftext|>", "<|bos|>"}, ids.bos);
  find_first({"</s>", "<|end_of_text|>", "<|endoftext|>", "<eos>", "<|im_end|>", "<|eos|>"}, ids.eos);
  if (ids.eos < 0 && !parts.suffix_ids.empty()) ids.eos = parts.suffix_ids.back();
  find_first({"<pad>", "[PAD]", "<|pad|>"}, ids.pad);
  find_first({"[CLS]"}, ids.cls);
  find_first({"[SEP]"}, ids.sep);
  find_first({"[MASK]", "<mask>"}, ids.mask);
}

}  // namespace

std::unique_ptr<Tokenizer> load_tokenizer_json(std::string_view tokenizer_json, std::string_view tokenizer_config) {
  TokenizerConfig config = parse_tokenizer_config(tokenizer_config);
  json::value root_value;
  try {
    root_value = json::parse(tokenizer_json);
  } catch (const Error& error) {
    fail(Code::kInvalidArgument, "tokenizer.json: {}", error.message());
  }
  const json::object& root = get_object(root_value, "the file");
  auto part = [&](std::string_view key) {
    const json::value* value = json::find(root, key);
    return value != nullptr ? *value : json::value();
  };
  PipelineParts parts;
  parts.added_tokens = read_added_tokens(root);
  read_model(get_field(root, "model", "the file"), parts);
  merge_added_tokens(config, parts.added_tokens);
  std::erase_if(parts.added_tokens, [](const AddedToken& token) { return token.content.empty(); });
  read_normalizer(part("normalizer"), parts.normalizer);
  read_pre_tokenizer(part("pre_tokenizer"), parts.pre_tokenizer);
  read_decoder(part("decoder"), parts.decoder);
  read_post_processor(part("post_processor"), parts.prefix_ids, parts.suffix_ids);

  auto find = [&](const std::string& text) -> std::optional<int32_t> {
    for (const AddedToken& token : parts.added_tokens) {
      if (token.content == text) return token.id;
    }
    return parts.vocabulary->find(text);
  };
  resolve_special_ids(config, find, parts.special);
  if (config.rebuilds_template() && (config.add_bos_token || config.add_eos_token)) {
    parts.prefix_ids.clear();
    parts.suffix_ids.clear();
    if (config.add_bos_token.value_or(true) && parts.special.bos >= 0) parts.prefix_ids = {parts.special.bos};
    if (config.add_eos_token.value_or(false) && parts.special.eos >= 0) parts.suffix_ids = {parts.special.eos};
  }
  // Special tokens that the config only names are special too.
  for (const std::string* name : {&config.bos_token, &config.eos_token, &config.pad_token, &config.unk_token,
                                  &config.cls_token, &config.sep_token, &config.mask_token}) {
    auto id = name->empty() ? std::nullopt : find(*name);
    if (!id) continue;
    auto same = std::find_if(parts.added_tokens.begin(), parts.added_tokens.end(),
                             [&](const AddedToken& token) { return token.id == *id; });
    if (same != parts.added_tokens.end()) {
      same->special = true;
    } else {
      AddedToken token;
      token.id = *id;
      token.content = *name;
      token.special = true;
      parts.added_tokens.push_back(std::move(token));
    }
  }
  SpecialIds ids = parts.special;
  guess_special_ids(PipelineTokenizer(parts), parts, ids);
  parts.special = ids;
  return std::make_unique<PipelineTokenizer>(std::move(parts));
}

}  // namespace sluice::text
