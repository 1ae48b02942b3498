// Tokenizers from a GGUF file's metadata (VocabularySource).
#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "base/log.h"
#include "text/loaders.h"
#include "text/pipeline.h"
#include "text/pre_patterns.h"

namespace sluice::text {
namespace {

constexpr const char* kWhere = "tokenizer.ggml";
constexpr std::string_view kSpaceSymbol = "\xE2\x96\x81";  // ▁
enum TokenType { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

int32_t type_of(const VocabularySource& source, size_t id) { return source.types.empty() ? kNormal : source.types[id]; }

void check_source(const VocabularySource& source) {
  if (source.tokens.empty()) fail(Code::kInvalidArgument, "{}.tokens is empty; the file has no vocabulary", kWhere);
  if (!source.types.empty() && source.types.size() != source.tokens.size()) {
    fail(Code::kInvalidArgument, "{}.token_type has {} entries for {} tokens", kWhere, source.types.size(),
         source.tokens.size());
  }
  if (!source.scores.empty() && source.scores.size() != source.tokens.size()) {
    fail(Code::kInvalidArgument, "{}.scores has {} entries for {} tokens", kWhere, source.scores.size(),
         source.tokens.size());
  }
  for (float score : source.scores) {
    if (std::isnan(score)) fail(Code::kInvalidArgument, "{}.scores has a value that is not a number", kWhere);
  }
}

// The special ids that the file gives, else the defaults of its kind; ids outside the vocabulary are dropped.
SpecialIds resolve_ids(const VocabularySource& source, SpecialIds defaults) {
  int64_t size = static_cast<int64_t>(source.tokens.size());
  auto pick = [&](int32_t given, int32_t otherwise) {
    int32_t id = given >= 0 && given < size ? given : otherwise;
    return id < size ? id : -1;
  };
  const SpecialIds& s = source.special;
  return {pick(s.bos, defaults.bos), pick(s.eos, defaults.eos), pick(s.unknown, defaults.unknown),
          pick(s.pad, defaults.pad), pick(s.sep, defaults.sep), pick(s.cls, defaults.cls), pick(s.mask, defaults.mask)};
}

// Control, unknown and user-defined tokens are recognised as they stand and decode to their own text.
void add_special_tokens(const VocabularySource& source, PipelineParts& parts) {
  for (size_t id = 0; id < source.tokens.size(); ++id) {
    int32_t type = type_of(source, id);
    if (type != kControl && type != kUnknown && type != kUserDefined) continue;
    AddedToken token;
    token.id = static_cast<int32_t>(id);
    token.content = source.tokens[id];
    token.special = type != kUserDefined;
    parts.added_tokens.push_back(std::move(token));
    parts.raw_ids.push_back(static_cast<int32_t>(id));
  }
}

// Which special tokens swallow the white space beside them is not in the file: it is known of the families.
void set_stripping(const VocabularySource& source, std::vector<AddedToken>& tokens) {
  auto has = [&](std::string_view text) {
    return std::any_of(tokens.begin(), tokens.end(), [&](const AddedToken& token) { return token.content == text; });
  };
  bool is_roberta = source.model == "t5" || source.pre == "roberta-bpe" || source.pre.starts_with("jina-");
  bool is_phi3 = source.model == "llama" && has("<|placeholder1|>") && has("<|assistant|>") && has("<|end|>");
  for (AddedToken& token : tokens) {
    std::string_view text = token.content;
    if ((is_roberta && text == "<mask>") || (source.pre == "modern-bert" && text == "[MASK]")) token.lstrip = true;
    if (is_phi3 && text != "<unk>" && text != "<s>" && text != "<|endoftext|>") token.rstrip = true;
  }
}

void add_ends(bool bos, bool eos, int32_t bos_id, int32_t eos_id, PipelineParts& parts) {
  if (bos && bos_id >= 0) parts.prefix_ids.push_back(bos_id);
  if (eos && eos_id >= 0) parts.suffix_ids.push_back(eos_id);
}

void add_bpe(const VocabularySource& source, PipelineParts& parts) {
  const PrePattern& pre = get_pre_pattern(source.model == "gemma4" ? "gemma4" : std::string_view(source.pre));
  if (source.merges.empty()) {
    fail(Code::kInvalidArgument, "{}.merges is missing or empty; a byte-pair vocabulary needs it", kWhere);
  }
  auto vocabulary = std::make_shared<Vocabulary>();
  for (size_t id = 0; id < source.tokens.size(); ++id) {
    int32_t type = type_of(source, id);
    if (type != kControl && type != kUnknown) vocabulary->add(source.tokens[id], static_cast<int64_t>(id), kWhere);
  }
  std::vector<Bpe::MergeText> merges = split_merges(source.merges, *vocabulary, "tokenizer.ggml.merges");
  Bpe::Options options;
  options.ignore_merges = pre.ignores_merges();
  options.byte_fallback = !pre.maps_bytes();
  options.whole_newlines = pre.escapes_spaces();
  options.skip_unknown_merges = true;
  if (!pre.maps_bytes()) {
    options.unknown_id = parts.special.unknown;
    options.fuse_unknown = true;
  }
  parts.model = std::make_shared<TokenModel>(Bpe(vocabulary, merges, options));
  parts.vocabulary = std::move(vocabulary);
  if (pre.escapes_spaces()) parts.normalizer.add(ReplaceStep{" ", nullptr, std::string(kSpaceSymbol)});
  for (const std::string& pattern : pre.patterns) {
    parts.pre_tokenizer.add(RegexSplit{get_shared_regex(pattern), "", SplitBehavior::kIsolated, false});
  }
  if (pre.maps_bytes()) {
    parts.pre_tokenizer.add(ByteLevelSplit{source.add_space_prefix.value_or(false), nullptr});
    parts.decoder.add(ByteLevelDecode{});
  } else {
    add_sentencepiece_decoder(false, parts.decoder);
  }
  add_ends(source.add_bos.value_or(pre.adds_bos()), source.add_eos.value_or(false), parts.special.bos, parts.special.eos,
           parts);
  parts.description = fmt::format("{}, {} tokens, {} pattern", pre.maps_bytes() ? "byte-level BPE" : "BPE",
                                  source.tokens.size(), pre.names[0]);
}

void add_sentencepiece(const VocabularySource& source, bool unigram, PipelineParts& parts) {
  auto vocabulary = std::make_shared<Vocabulary>();
  std::vector<bool> matchable(source.tokens.size()), unused(source.tokens.size());
  bool any_unused = false, any_byte = false;
  for (size_t id = 0; id < source.tokens.size(); ++id) {
    int32_t type = type_of(source, id);
    vocabulary->add(source.tokens[id], static_cast<int64_t>(id), kWhere);
    matchable[id] = type == kNormal || type == kUserDefined || type == kUnused || type == 0;
    unused[id] = type == kUnused;
    any_unused |= unused[id];
    any_byte |= type == kByte;
  }
  std::vector<float> scores = source.scores;
  if (scores.empty()) scores.resize(source.tokens.size());
  SentencePieceStep step;
  step.add_dummy_prefix = source.add_space_prefix.value_or(true);
  if (!source.precompiled_charsmap.empty()) {
    step.map = std::make_shared<Charsmap>(source.precompiled_charsmap, "tokenizer.ggml.precompiled_charsmap");
  }
  if (unigram) {
    step.remove_extra_whitespaces = source.remove_extra_whitespaces.value_or(false);
    // Padding and added tokens have made-up scores, such as -10000.
    double lowest = std::numeric_limits<double>::infinity();
    for (size_t id = 0; id < scores.size(); ++id) {
      if (type_of(source, id) == kNormal) lowest = std::min(lowest, static_cast<double>(scores[id]));
    }
    parts.model = std::make_shared<TokenModel>(
        Unigram(vocabulary, std::vector<double>(scores.begin(), scores.end()), matchable, parts.special.unknown, any_byte,
                lowest));
  } else {
    Bpe::Options options;
    options.unknown_id = parts.special.unknown;
    options.fuse_unknown = true;
    options.byte_fallback = true;
    parts.model = std::make_shared<TokenModel>(Bpe(vocabulary, rank_by_score(scores, matchable),
                                                   any_unused ? std::move(unused) : std::vector<bool>(), options));
  }
  parts.normalizer.add(NormalizerStep(step));
  parts.vocabulary = std::move(vocabulary);
  add_sentencepiece_decoder(step.add_dummy_prefix, parts.decoder);
  add_ends(source.add_bos.value_or(!unigram), source.add_eos.value_or(unigram), parts.special.bos, parts.special.eos,
           parts);
  parts.description =
      fmt::format("{}, {} tokens", unigram ? "SentencePiece Unigram" : "SentencePiece BPE", source.tokens.size());
}

// GGUF files write a word's beginning as "▁the" and its continuation as "ing"; the files of before as BERT does.
void add_word_piece(const VocabularySource& source, PipelineParts& parts) {
  auto vocabulary = std::make_shared<Vocabulary>();
  size_t num_marked = 0, num_capital = 0;
  for (size_t id = 0; id < source.tokens.size(); ++id) {
    const std::string& token = source.tokens[id];
    vocabulary->add(token, static_cast<int64_t>(id), kWhere);
    num_marked += token.starts_with(kSpaceSymbol);
    bool bracketed = token.starts_with("[") || token.starts_with("<");
    num_capital += !bracketed && std::any_of(token.begin(), token.end(), [](char c) { return c >= 'A' && c <= 'Z'; });
  }
  WordPiece::Options options;
  options.unknown_id = parts.special.unknown;
  bool marked = num_marked > 0;
  if (marked) {
    options.start_prefix = std::string(kSpaceSymbol);
    options.continuing_prefix.clear();
  }
  parts.model = std::make_shared<TokenModel>(WordPiece(vocabulary, options));
  parts.vocabulary = std::move(vocabulary);
  // The file does not say whether the model knows capitals; its tokens do.
  bool cased = num_capital * 100 > source.tokens.size();
  parts.normalizer.add(BertStep{true, true, !cased, !cased});
  parts.pre_tokenizer.add(
      CharacterSplit{CharacterSplit::Class::kWhitespace, 0, SplitBehavior::kRemoved});
  parts.pre_tokenizer.add(
      CharacterSplit{CharacterSplit::Class::kPunctuation, 0, SplitBehavior::kIsolated});
  if (marked) {
    parts.decoder.add(ReplaceDecode{ReplaceStep{std::string(kSpaceSymbol), nullptr, " "}});
    parts.decoder.add(FuseDecode{});
    parts.decoder.add(StripDecode{" ", 1, 0});
  } else {
    parts.decoder.add(WordPieceDecode{});
  }
  int32_t cls = parts.special.cls >= 0 ? parts.special.cls : parts.special.bos;
  int32_t sep = parts.special.sep >= 0 ? parts.special.sep : parts.special.eos;
  add_ends(source.add_bos.value_or(true), source.add_eos.value_or(true), cls, sep, parts);
  parts.description = fmt::format("WordPiece, {} tokens, {}", source.tokens.size(), cased ? "cased" : "lower case");
}

}  // namespace

std::unique_ptr<Tokenizer> make_tokenizer(const VocabularySource& source) {
  check_source(source);
  PipelineParts parts;
  if (source.model == "gpt2" || source.model == "gemma4" || source.model == "whitespace") {
    parts.special = resolve_ids(source, {});
    add_bpe(source, parts);
  } else if (source.model == "llama") {
    parts.special = resolve_ids(source, {.bos = 1, .eos = 2, .unknown = 0});
    add_sentencepiece(source, false, parts);
  } else if (source.model == "t5") {
    parts.special = resolve_ids(source, {.eos = 1, .unknown = 2, .pad = 0});
    add_sentencepiece(source, true, parts);
  } else if (source.model == "bert") {
    parts.special = resolve_ids(source, {.unknown = 100, .pad = 0, .sep = 102, .cls = 101, .mask = 103});
    add_word_piece(source, parts);
  } else {
    fail(Code::kUnimplemented,
         "tokenizer.ggml.model is '{}'; supported are gpt2 (byte-level BPE), llama (SentencePiece BPE), t5 (Unigram), "
         "bert (WordPiece) and gemma4",
         source.model);
  }
  add_special_tokens(source, parts);
  set_stripping(source, parts.added_tokens);
  return std::make_unique<PipelineTokenizer>(std::move(parts));
}

}  // namespace sluice::text
