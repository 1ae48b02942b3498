// The model of a tokenizer.json: BPE, Unigram, WordPiece, WordLevel.
#include <cmath>

#include "base/error.h"
#include "text/loaders.h"
#include "text/tokenizer_json.h"

namespace sluice::text {
namespace {

constexpr const char* kPart = "model";
constexpr const char* kWhere = "tokenizer.json: model.vocab";

// Files from before "type" was written are told apart by their fields.
std::string find_model_type(const json::object& object) {
  if (auto type = json::read_string(object, "type")) return *type;
  const json::value* vocab = json::find(object, "vocab");
  if (vocab != nullptr && vocab->is_array()) return "Unigram";
  if (object.contains("merges")) return "BPE";
  if (object.contains("max_input_chars_per_word") || object.contains("continuing_subword_prefix")) return "WordPiece";
  return "WordLevel";
}

std::shared_ptr<Vocabulary> read_vocabulary(const json::object& object) {
  const json::object& entries = get_object(get_field(object, "vocab", kPart), kWhere);
  auto vocabulary = std::make_shared<Vocabulary>();
  for (const auto& entry : entries) {
    if (!entry.value().is_int64()) {
      std::string_view key(entry.key().data(), entry.key().size());
      fail(Code::kInvalidArgument, "{}: '{}' has {} for an id", kWhere, key, json::describe(entry.value()));
    }
    vocabulary->add(std::string_view(entry.key().data(), entry.key().size()), entry.value().get_int64(), kWhere);
  }
  // An id far beyond the number of tokens would make the table of texts mostly holes.
  if (vocabulary->size() > 4 * static_cast<int64_t>(entries.size()) + 100'000) {
    fail(Code::kInvalidArgument, "{}: {} tokens have ids up to {}", kWhere, entries.size(), vocabulary->size() - 1);
  }
  return vocabulary;
}

std::vector<Bpe::MergeText> read_merges(const json::object& object, const Vocabulary& vocabulary) {
  const json::value& list = get_field(object, "merges", kPart);
  if (!list.is_array()) fail(Code::kInvalidArgument, "tokenizer.json: model.merges must be a list");
  std::vector<Bpe::MergeText> merges;
  merges.reserve(list.get_array().size());
  for (const json::value& item : list.get_array()) {
    const json::array* pair = item.if_array();
    if (pair != nullptr && pair->size() == 2 && (*pair)[0].is_string() && (*pair)[1].is_string()) {
      merges.push_back({std::string((*pair)[0].get_string()), std::string((*pair)[1].get_string())});
    } else if (item.is_string()) {
      std::string_view text(item.get_string().data(), item.get_string().size());
      merges.push_back(split_merge(text, vocabulary, "model.merges", merges.size()));
    } else {
      fail(Code::kInvalidArgument, "tokenizer.json: model.merges[{}] must be \"a b\" or [\"a\", \"b\"]", merges.size());
    }
  }
  return merges;
}

// unk_token's id; -1 if there is none. The token may be an added one only.
int32_t find_unknown(const json::object& object, const Vocabulary& vocabulary, const PipelineParts& parts) {
  auto name = json::read_string(object, "unk_token");
  if (!name) return -1;
  if (auto id = vocabulary.find(*name)) return *id;
  for (const AddedToken& token : parts.added_tokens) {
    if (token.content == *name) return token.id;
  }
  return -1;
}

void read_bpe(const json::object& object, PipelineParts& parts) {
  auto vocabulary = read_vocabulary(object);
  Bpe::Options options;
  options.unknown_id = find_unknown(object, *vocabulary, parts);
  options.fuse_unknown = json::read_bool(object, "fuse_unk").value_or(false);
  options.byte_fallback = json::read_bool(object, "byte_fallback").value_or(false);
  options.ignore_merges = json::read_bool(object, "ignore_merges").value_or(false);
  options.continuing_subword_prefix = json::read_string(object, "continuing_subword_prefix").value_or("");
  options.end_of_word_suffix = json::read_string(object, "end_of_word_suffix").value_or("");
  parts.end_of_word_suffix = options.end_of_word_suffix;
  parts.special.unknown = options.unknown_id;
  try {
    parts.model = std::make_shared<TokenModel>(Bpe(vocabulary, read_merges(object, *vocabulary), options));
  } catch (const Error& error) {
    fail(error.code(), "tokenizer.json: {}", error.message());
  }
  parts.description = fmt::format("BPE, {} tokens", vocabulary->size());
  parts.vocabulary = std::move(vocabulary);
}

void read_unigram(const json::object& object, PipelineParts& parts) {
  const json::value& list = get_field(object, "vocab", kPart);
  if (!list.is_array()) fail(Code::kInvalidArgument, "{} must be a list of [text, score]", kWhere);
  auto vocabulary = std::make_shared<Vocabulary>();
  std::vector<double> scores;
  for (const json::value& item : list.get_array()) {
    const json::array* pair = item.if_array();
    bool good = pair != nullptr && pair->size() == 2 && (*pair)[0].is_string() && (*pair)[1].is_number();
    double score = good ? (*pair)[1].to_number<double>() : 0.0;
    if (!good || !std::isfinite(score)) fail(Code::kInvalidArgument, "{}[{}] must be [text, score]", kWhere, scores.size());
    std::string_view text((*pair)[0].get_string().data(), (*pair)[0].get_string().size());
    vocabulary->add(text, static_cast<int64_t>(scores.size()), kWhere);
    scores.push_back(score);
  }
  int64_t unknown_id = json::read_int(object, "unk_id", 0, Vocabulary::kMaxTokens).value_or(-1);
  if (unknown_id >= vocabulary->size()) {
    fail(Code::kInvalidArgument, "tokenizer.json: model.unk_id is {} for {} tokens", unknown_id, vocabulary->size());
  }
  parts.special.unknown = static_cast<int32_t>(unknown_id);
  parts.description = fmt::format("Unigram, {} tokens", vocabulary->size());
  parts.model = std::make_shared<TokenModel>(Unigram(vocabulary, std::move(scores), {}, parts.special.unknown,
                                                     json::read_bool(object, "byte_fallback").value_or(false)));
  parts.vocabulary = std::move(vocabulary);
}

void read_word_piece(const json::object& object, PipelineParts& parts) {
  auto vocabulary = read_vocabulary(object);
  WordPiece::Options options;
  options.unknown_id = parts.special.unknown = find_unknown(object, *vocabulary, parts);
  options.continuing_prefix = json::read_string(object, "continuing_subword_prefix").value_or("##");
  options.max_characters = static_cast<size_t>(json::read_int(object, "max_input_chars_per_word", 1, 1 << 20).value_or(100));
  parts.model = std::make_shared<TokenModel>(WordPiece(vocabulary, options));
  parts.description = fmt::format("WordPiece, {} tokens", vocabulary->size());
  parts.vocabulary = std::move(vocabulary);
}

}  // namespace

void read_model(const json::value& value, PipelineParts& parts) {
  const json::object& object = get_object(value, kPart);
  std::string type = find_model_type(object);
  if (type == "BPE") {
    read_bpe(object, parts);
  } else if (type == "Unigram") {
    read_unigram(object, parts);
  } else if (type == "WordPiece") {
    read_word_piece(object, parts);
  } else if (type == "WordLevel") {
    auto vocabulary = read_vocabulary(object);
    parts.special.unknown = find_unknown(object, *vocabulary, parts);
    parts.model = std::make_shared<TokenModel>(WordLevel(vocabulary, parts.special.unknown));
    parts.description = fmt::format("WordLevel, {} tokens", vocabulary->size());
    parts.vocabulary = std::move(vocabulary);
  } else {
    fail(Code::kUnimplemented, "tokenizer.json: model of type '{}'; supported are BPE, Unigram, WordPiece, WordLevel", type);
  }
}

}  // namespace sluice::text
