// Normalisers, pre-tokenisers, decoders and post-processors of a tokenizer.json.
#include "base/error.h"
#include "text/loaders.h"
#include "text/tokenizer_json.h"

namespace sluice::text {
namespace {

constexpr int kMaxDepth = 16;  // of Sequences within Sequences

bool read_flag(const json::object& object, std::string_view key, bool otherwise) {
  return json::read_bool(object, key).value_or(otherwise);
}

std::string read_text(const json::object& object, std::string_view key, std::string_view otherwise) {
  return json::read_string(object, key).value_or(std::string(otherwise));
}

const json::array& get_list(const json::object& object, std::string_view key, const char* part) {
  const json::value& list = get_field(object, key, part);
  if (!list.is_array()) fail(Code::kInvalidArgument, "tokenizer.json: {}.{} must be a list", part, key);
  return list.get_array();
}

// {"String": "..."} or {"Regex": "..."}; a bare string is literal.
void read_pattern(const json::object& object, const char* part, std::string& literal, std::shared_ptr<const Regex>& regex) {
  const json::value& pattern = get_field(object, "pattern", part);
  if (pattern.is_string()) {
    literal = std::string(pattern.get_string());
    return;
  }
  const json::object& fields = get_object(pattern, part);
  if (auto text = json::read_string(fields, "String")) {
    literal = *text;
  } else if (auto expression = json::read_string(fields, "Regex")) {
    regex = get_shared_regex(*expression);
  } else {
    fail(Code::kInvalidArgument, "tokenizer.json: {}.pattern has neither 'String' nor 'Regex'", part);
  }
}

SplitBehavior read_behavior(const json::object& object, std::string_view otherwise, const char* part) {
  std::string name = read_text(object, "behavior", otherwise);
  if (name == "Removed" || name == "removed") return SplitBehavior::kRemoved;
  if (name == "Isolated" || name == "isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious" || name == "merged_with_previous") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext" || name == "merged_with_next") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous" || name == "contiguous") return SplitBehavior::kContiguous;
  fail(Code::kInvalidArgument, "tokenizer.json: {}.behavior is '{}'", part, name);
}

MetaspaceSplit::Prepend read_prepend_scheme(const json::object& object, const char* part) {
  // Old files have add_prefix_space instead.
  std::string scheme = read_text(object, "prepend_scheme", read_flag(object, "add_prefix_space", true) ? "always" : "never");
  if (scheme == "always") return MetaspaceSplit::Prepend::kAlways;
  if (scheme == "first") return MetaspaceSplit::Prepend::kFirst;
  if (scheme == "never") return MetaspaceSplit::Prepend::kNever;
  fail(Code::kInvalidArgument, "tokenizer.json: {}.prepend_scheme is '{}'", part, scheme);
}

[[noreturn]] void unknown_type(const std::string& type, const char* part) {
  fail(Code::kUnimplemented, "tokenizer.json: {} of type '{}' is not supported", part, type);
}

void read_normalizer(const json::value& value, Normalizer& out, int depth) {
  constexpr const char* kPart = "normalizer";
  if (value.is_null()) return;
  if (depth > kMaxDepth) fail(Code::kInvalidArgument, "tokenizer.json: {}: Sequences are nested too deeply", kPart);
  const json::object& object = get_object(value, kPart);
  std::string type = get_type(object, kPart);
  if (type == "Sequence") {
    for (const json::value& item : get_list(object, "normalizers", kPart)) read_normalizer(item, out, depth + 1);
  } else if (type == "NFC") {
    out.add(FormStep{NormalForm::kNfc});
  } else if (type == "NFD") {
    out.add(FormStep{NormalForm::kNfd});
  } else if (type == "NFKC") {
    out.add(FormStep{NormalForm::kNfkc});
  } else if (type == "NFKD") {
    out.add(FormStep{NormalForm::kNfkd});
  } else if (type == "Lowercase") {
    out.add(LowercaseStep{});
  } else if (type == "StripAccents") {
    out.add(StripAccentsStep{});
  } else if (type == "Strip") {
    out.add(StripStep{read_flag(object, "strip_left", true), read_flag(object, "strip_right", true)});
  } else if (type == "Replace") {
    ReplaceStep step;
    read_pattern(object, kPart, step.literal, step.regex);
    step.content = read_text(object, "content", "");
    out.add(std::move(step));
  } else if (type == "Prepend") {
    out.add(PrependStep{read_text(object, "prepend", "")});
  } else if (type == "Precompiled") {
    std::string map = decode_base64(read_text(object, "precompiled_charsmap", ""), "tokenizer.json: normalizer");
    out.add(PrecompiledStep{std::make_shared<Charsmap>(map, "tokenizer.json: normalizer")});
  } else if (type == "BertNormalizer") {
    BertStep step;
    step.clean_text = read_flag(object, "clean_text", true);
    step.handle_chinese_chars = read_flag(object, "handle_chinese_chars", true);
    step.lowercase = read_flag(object, "lowercase", true);
    step.strip_accents = read_flag(object, "strip_accents", step.lowercase);
    out.add(step);
  } else if (type == "ByteLevel") {
    out.add(ByteMapStep{});
  } else if (type == "Nmt") {
    out.add(NmtStep{});
  } else {
    unknown_type(type, kPart);
  }
}

void read_pre_tokenizer(const json::value& value, PreTokenizer& out, int depth) {
  constexpr const char* kPart = "pre_tokenizer";
  using Class = CharacterSplit::Class;
  if (value.is_null()) return;
  if (depth > kMaxDepth) fail(Code::kInvalidArgument, "tokenizer.json: {}: Sequences are nested too deeply", kPart);
  const json::object& object = get_object(value, kPart);
  std::string type = get_type(object, kPart);
  if (type == "Sequence") {
    for (const json::value& item : get_list(object, "pretokenizers", kPart)) read_pre_tokenizer(item, out, depth + 1);
  } else if (type == "ByteLevel") {
    out.add(ByteLevelSplit{read_flag(object, "add_prefix_space", true),
                           read_flag(object, "use_regex", true) ? get_gpt2_regex() : nullptr});
  } else if (type == "Metaspace") {
    out.add(MetaspaceSplit{read_text(object, "replacement", "\xE2\x96\x81"), read_prepend_scheme(object, kPart),
                           read_flag(object, "split", true)});
  } else if (type == "Split") {
    RegexSplit step;
    read_pattern(object, kPart, step.literal, step.regex);
    step.behavior = read_behavior(object, "Isolated", kPart);
    step.invert = read_flag(object, "invert", false);
    out.add(std::move(step));
  } else if (type == "Whitespace") {
    // Rust's \w: also what joins letters.
    const std::string word = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{200c}\x{200d})";
    out.add(RegexSplit{get_shared_regex("[" + word + "]+|[^" + word + "\\s]+"), "", SplitBehavior::kRemoved, true});
  } else if (type == "WhitespaceSplit") {
    out.add(CharacterSplit{Class::kWhitespace, 0, SplitBehavior::kRemoved});
  } else if (type == "Punctuation") {
    out.add(CharacterSplit{Class::kPunctuation, 0, read_behavior(object, "Isolated", kPart)});
  } else if (type == "Digits") {
    out.add(CharacterSplit{Class::kNumber, 0, read_flag(object, "individual_digits", false) ? SplitBehavior::kIsolated
                                                                                            : SplitBehavior::kContiguous});
  } else if (type == "BertPreTokenizer") {
    out.add(CharacterSplit{Class::kWhitespace, 0, SplitBehavior::kRemoved});
    out.add(CharacterSplit{Class::kPunctuation, 0, SplitBehavior::kIsolated});
  } else if (type == "CharDelimiterSplit") {
    std::string delimiter = read_text(object, "delimiter", " ");
    Utf8Character c = delimiter.empty() ? Utf8Character{} : decode_utf8(delimiter, 0);
    if (!c.valid || c.num_bytes != delimiter.size()) {
      fail(Code::kInvalidArgument, "tokenizer.json: {}.delimiter must be one character, not '{}'", kPart, delimiter);
    }
    out.add(CharacterSplit{Class::kDelimiter, c.code_point, SplitBehavior::kRemoved});
  } else if (type == "UnicodeScripts") {
    out.add(ScriptSplit{});
  } else if (type == "FixedLength") {
    out.add(FixedLengthSplit{static_cast<size_t>(json::read_int(object, "length", 1, 1 << 20).value_or(5))});
  } else {
    unknown_type(type, kPart);
  }
}

void read_decoder(const json::value& value, Decoder& out, int depth) {
  constexpr const char* kPart = "decoder";
  if (value.is_null()) return;
  if (depth > kMaxDepth) fail(Code::kInvalidArgument, "tokenizer.json: {}: Sequences are nested too deeply", kPart);
  const json::object& object = get_object(value, kPart);
  std::string type = get_type(object, kPart);
  if (type == "Sequence") {
    for (const json::value& item : get_list(object, "decoders", kPart)) read_decoder(item, out, depth + 1);
  } else if (type == "ByteLevel") {
    out.add(ByteLevelDecode{});
  } else if (type == "Metaspace") {
    out.add(MetaspaceDecode{read_text(object, "replacement", "\xE2\x96\x81"),
                            read_prepend_scheme(object, kPart) != MetaspaceSplit::Prepend::kNever});
  } else if (type == "WordPiece") {
    out.add(WordPieceDecode{read_text(object, "prefix", "##"), read_flag(object, "cleanup", true)});
  } else if (type == "BPEDecoder") {
    out.add(BpeSuffixDecode{read_text(object, "suffix", "</w>")});
  } else if (type == "ByteFallback") {
    out.add(ByteFallbackDecode{});
  } else if (type == "Fuse") {
    out.add(FuseDecode{});
  } else if (type == "Strip") {
    out.add(StripDecode{read_text(object, "content", " "),
                        static_cast<size_t>(json::read_int(object, "start", 0, 1 << 20).value_or(0)),
                        static_cast<size_t>(json::read_int(object, "stop", 0, 1 << 20).value_or(0))});
  } else if (type == "Replace") {
    ReplaceDecode step;
    read_pattern(object, kPart, step.step.literal, step.step.regex);
    step.step.content = read_text(object, "content", "");
    out.add(std::move(step));
  } else if (type == "CTC") {
    out.add(CtcDecode{read_text(object, "pad_token", "<pad>"), read_text(object, "word_delimiter_token", "|"),
                      read_flag(object, "cleanup", true)});
  } else {
    unknown_type(type, kPart);
  }
}

using Ids = std::vector<int32_t>;

// ["[SEP]", 102].
int32_t read_pair_id(const json::object& object, std::string_view key, const char* part) {
  const json::value& pair = get_field(object, key, part);
  if (!pair.is_array() || pair.get_array().size() != 2 || !pair.get_array()[1].is_int64()) {
    fail(Code::kInvalidArgument, "tokenizer.json: {}.{} must be [text, id]", part, key);
  }
  int64_t id = pair.get_array()[1].get_int64();
  if (id < 0 || id >= Vocabulary::kMaxTokens) fail(Code::kInvalidArgument, "tokenizer.json: {}.{}: bad id {}", part, key, id);
  return static_cast<int32_t>(id);
}

void read_template(const json::object& object, const char* part, Ids& prefix, Ids& suffix) {
  const json::value& tokens = get_field(object, "special_tokens", part);
  Ids before, after;
  bool seen_text = false;
  for (const json::value& piece : get_list(object, "single", part)) {
    const json::object& fields = get_object(piece, part);
    if (fields.contains("Sequence")) {
      seen_text = true;
      continue;
    }
    const json::object& special = get_object(get_field(fields, "SpecialToken", part), part);
    const json::object& known = get_object(tokens, part);
    std::string name = read_text(special, "id", "");
    const json::object& token = get_object(get_field(known, name, part), part);
    for (int64_t id : json::read_ints(token, "ids", 64)) {
      if (id < 0 || id >= Vocabulary::kMaxTokens) fail(Code::kInvalidArgument, "tokenizer.json: {}: '{}' has id {}", part, name, id);
      (seen_text ? after : before).push_back(static_cast<int32_t>(id));
    }
  }
  prefix.insert(prefix.begin(), before.begin(), before.end());
  suffix.insert(suffix.end(), after.begin(), after.end());
}

void read_post_processor(const json::value& value, Ids& prefix, Ids& suffix, int depth) {
  constexpr const char* kPart = "post_processor";
  if (value.is_null()) return;
  if (depth > kMaxDepth) fail(Code::kInvalidArgument, "tokenizer.json: {}: Sequences are nested too deeply", kPart);
  const json::object& object = get_object(value, kPart);
  std::string type = get_type(object, kPart);
  if (type == "Sequence") {
    for (const json::value& item : get_list(object, "processors", kPart)) read_post_processor(item, prefix, suffix, depth + 1);
  } else if (type == "TemplateProcessing") {
    read_template(object, kPart, prefix, suffix);
  } else if (type == "RobertaProcessing" || type == "BertProcessing") {
    prefix.insert(prefix.begin(), read_pair_id(object, "cls", kPart));
    suffix.push_back(read_pair_id(object, "sep", kPart));
  } else if (type != "ByteLevel") {  // that one only moves offsets
    unknown_type(type, kPart);
  }
}

}  // namespace

const json::object& get_object(const json::value& value, const char* part) {
  if (!value.is_object()) {
    fail(Code::kInvalidArgument, "tokenizer.json: {} must be an object, not {}", part, json::describe(value));
  }
  return value.get_object();
}

std::string get_type(const json::object& object, const char* part) {
  auto type = json::read_string(object, "type");
  if (!type) fail(Code::kInvalidArgument, "tokenizer.json: {} has no 'type'", part);
  return *type;
}

const json::value& get_field(const json::object& object, std::string_view key, const char* part) {
  const json::value* value = json::find(object, key);
  if (value == nullptr) fail(Code::kInvalidArgument, "tokenizer.json: {} has no '{}'", part, key);
  return *value;
}

void read_normalizer(const json::value& value, Normalizer& normalizer) { read_normalizer(value, normalizer, 0); }
void read_pre_tokenizer(const json::value& value, PreTokenizer& out) { read_pre_tokenizer(value, out, 0); }
void read_decoder(const json::value& value, Decoder& decoder) { read_decoder(value, decoder, 0); }
void read_post_processor(const json::value& value, Ids& prefix_ids, Ids& suffix_ids) {
  read_post_processor(value, prefix_ids, suffix_ids, 0);
}

}  // namespace sluice::text
