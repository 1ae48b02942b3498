// Mistral's tekken.json: byte-level BPE whose tokens are ranks with their bytes, behind a block of special tokens. An
// ordinary token's id is its rank plus the number of special tokens.
#include <array>

#include "base/error.h"
#include "base/json.h"
#include "text/byte_map.h"
#include "text/loaders.h"
#include "text/tokenizer.h"

namespace sluice::text {
namespace {

constexpr const char* kWhere = "tekken.json";

// The special tokens of the files that do not list them.
constexpr std::array<const char*, 20> kDefaultSpecials = {
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]",
    "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"};

const json::object& get_part(const json::value* value, const char* name) {
  if (value == nullptr || !value->is_object()) fail(Code::kInvalidArgument, "{}: {} must be an object", kWhere, name);
  return value->get_object();
}

std::vector<std::string> read_specials(const json::object& root, int64_t count) {
  std::vector<std::string> names(static_cast<size_t>(count));
  const json::value* list = json::find(root, "special_tokens");
  if (list != nullptr && list->is_array()) {
    for (const json::value& item : list->get_array()) {
      const json::object& fields = get_part(&item, "special_tokens[]");
      auto rank = json::read_int(fields, "rank", 0, count - 1);
      if (rank) names[static_cast<size_t>(*rank)] = json::read_string(fields, "token_str").value_or("");
    }
  } else {
    for (size_t i = 0; i < names.size() && i < kDefaultSpecials.size(); ++i) names[i] = kDefaultSpecials[i];
  }
  for (size_t i = 0; i < names.size(); ++i) {
    if (names[i].empty()) names[i] = fmt::format("<SPECIAL_{}>", i);
  }
  return names;
}

}  // namespace

std::unique_ptr<Tokenizer> load_tekken(std::string_view text) {
  json::value value;
  try {
    value = json::parse(text);
  } catch (const Error& error) {
    fail(Code::kInvalidArgument, "{}: {}", kWhere, error.message());
  }
  const json::object& root = get_part(&value, "the file");
  const json::object& config = get_part(json::find(root, "config"), "config");
  const json::value* list = json::find(root, "vocab");
  if (list == nullptr || !list->is_array()) fail(Code::kInvalidArgument, "{}: vocab must be a list", kWhere);
  auto pattern = json::read_string(config, "pattern");
  if (!pattern) fail(Code::kInvalidArgument, "{}: config has no 'pattern'", kWhere);
  int64_t num_specials = json::read_int(config, "default_num_special_tokens", 0, 1 << 20).value_or(1000);
  int64_t available = num_specials + static_cast<int64_t>(list->get_array().size());
  // The list may be longer than the vocabulary in use.
  int64_t size = json::read_int(config, "default_vocab_size", num_specials, Vocabulary::kMaxTokens).value_or(available);

  PipelineParts parts;
  auto vocabulary = std::make_shared<Vocabulary>();
  std::vector<std::string> specials = read_specials(root, num_specials);
  for (size_t i = 0; i < specials.size(); ++i) {
    AddedToken token;
    token.id = static_cast<int32_t>(i);
    token.content = specials[i];
    token.special = true;
    parts.added_tokens.push_back(std::move(token));
    if (specials[i] == "<unk>") parts.special.unknown = static_cast<int32_t>(i);
    if (specials[i] == "<s>") parts.special.bos = static_cast<int32_t>(i);
    if (specials[i] == "</s>") parts.special.eos = static_cast<int32_t>(i);
    if (specials[i] == "<pad>") parts.special.pad = static_cast<int32_t>(i);
  }
  for (const json::value& item : list->get_array()) {
    const json::object& fields = get_part(&item, "vocab[]");
    auto rank = json::read_int(fields, "rank", 0, Vocabulary::kMaxTokens);
    auto bytes = json::read_string(fields, "token_bytes");
    if (!rank || !bytes) fail(Code::kInvalidArgument, "{}: an entry of vocab has no 'rank' or no 'token_bytes'", kWhere);
    if (num_specials + *rank >= std::min(size, available)) continue;
    std::string mapped;
    append_mapped_bytes(mapped, decode_base64(*bytes, kWhere));
    if (!mapped.empty()) vocabulary->add(mapped, num_specials + *rank, kWhere);
  }
  if (vocabulary->size() == 0) fail(Code::kInvalidArgument, "{}: vocab has no tokens", kWhere);
  std::vector<uint32_t> ranks(static_cast<size_t>(vocabulary->size()), Bpe::kNoRank);
  for (size_t id = 0; id < ranks.size(); ++id) {
    if (vocabulary->contains(static_cast<int64_t>(id))) ranks[id] = static_cast<uint32_t>(id);
  }
  Bpe::Options options;
  options.ignore_merges = true;
  parts.model = std::make_shared<TokenModel>(Bpe(vocabulary, ranks, {}, options));
  parts.description = fmt::format("byte-level BPE, {} tokens, Tekken", vocabulary->size());
  parts.vocabulary = std::move(vocabulary);
  parts.pre_tokenizer.add(RegexSplit{get_shared_regex(*pattern), "", SplitBehavior::kIsolated, false});
  parts.pre_tokenizer.add(ByteLevelSplit{false, nullptr});
  parts.decoder.add(ByteLevelDecode{});
  if (parts.special.bos >= 0) parts.prefix_ids.push_back(parts.special.bos);
  return std::make_unique<PipelineTokenizer>(std::move(parts));
}

}  // namespace sluice::text
