#include "text/pipeline.h"

#include <algorithm>

#include "base/check.h"
#include "text/unicode.h"

namespace sluice::text {
namespace {

constexpr std::string_view kSpaceSymbol = "\xE2\x96\x81";  // ▁

}  // namespace

// The ids of words met before in the same call: text repeats its words, and looking one up costs a tenth of merging it.
// One belongs to one call of encode(), so tokenizers stay immutable; its size is bounded.
class PipelineTokenizer::WordCache {
 public:
  explicit WordCache(size_t text_bytes) : enabled_(text_bytes > 400) {}

  template <typename Encode>
  void encode(std::string_view word, std::vector<int32_t>& ids, Encode&& encode_word) {
    if (!enabled_ || word.size() > kMaxWordBytes) return encode_word(word, ids);
    auto found = words_.find(word);
    if (found == words_.end()) {
      size_t begin = ids_.size();
      encode_word(word, ids_);
      found = words_.try_emplace(std::string(word), Range{begin, ids_.size()}).first;
      if (words_.size() > kMaxWords) {
        ids.insert(ids.end(), ids_.begin() + static_cast<std::ptrdiff_t>(begin), ids_.end());
        words_.clear();
        ids_.clear();
        return;
      }
    }
    const Range& range = found->second;
    ids.insert(ids.end(), ids_.begin() + static_cast<std::ptrdiff_t>(range.begin),
               ids_.begin() + static_cast<std::ptrdiff_t>(range.end));
  }

 private:
  static constexpr size_t kMaxWordBytes = 64, kMaxWords = 1 << 16;
  struct Range {
    size_t begin, end;
  };
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };
  bool enabled_;
  std::unordered_map<std::string, Range, Hash, std::equal_to<>> words_;
  std::vector<int32_t> ids_;
};

PipelineTokenizer::PipelineTokenizer(PipelineParts parts) : parts_(std::move(parts)) {
  CHECK(parts_.vocabulary != nullptr && parts_.model != nullptr);
  vocab_size_ = parts_.vocabulary->size();
  for (const AddedToken& token : parts_.added_tokens) vocab_size_ = std::max<int64_t>(vocab_size_, token.id + 1);
  flags_.resize(static_cast<size_t>(vocab_size_));
  for (const AddedToken& token : parts_.added_tokens) {
    added_texts_[token.id] = token.content;
    added_ids_.emplace(token.content, token.id);
    if (token.special) flags_[static_cast<size_t>(token.id)] |= kSpecial;
  }
  for (int32_t id : parts_.raw_ids) flags_[static_cast<size_t>(id)] |= kRaw;
  added_ = AddedTokens(parts_.added_tokens, parts_.normalizer);
  strips_leading_space_ = parts_.decoder.strips_leading_space();
}

bool PipelineTokenizer::contains(int32_t id) const {
  return parts_.vocabulary->contains(id) || added_texts_.count(id) != 0;
}

std::string PipelineTokenizer::token_text(int32_t id) const {
  auto added = added_texts_.find(id);
  return added != added_texts_.end() ? added->second : parts_.vocabulary->text(id);
}

std::optional<int32_t> PipelineTokenizer::find_token(std::string_view text) const {
  auto added = added_ids_.find(std::string(text));
  if (added != added_ids_.end()) return added->second;
  return parts_.vocabulary->find(text);
}

void PipelineTokenizer::encode_piece(std::string_view piece, WordCache& cache, std::vector<int32_t>& ids) const {
  std::visit(
      [&](const auto& model) {
        cache.encode(piece, ids, [&](std::string_view word, std::vector<int32_t>& out) { model.encode(word, out); });
      },
      *parts_.model);
}

void PipelineTokenizer::encode_text(std::string_view text, bool at_start, const EncodeOptions& options,
                                    WordCache& cache, std::vector<int32_t>& ids) const {
  std::string normalized = parts_.normalizer.apply(std::string(text), at_start);
  auto encode_cut = [&](std::string part, bool part_at_start) {
    Pieces pieces = parts_.pre_tokenizer.apply(std::move(part), part_at_start);
    const Bpe* bpe = std::get_if<Bpe>(parts_.model.get());
    bool cuts = bpe != nullptr && parts_.pre_tokenizer.empty() && bpe->can_cut_before_space();
    for (const Pieces::Span& span : pieces.spans) {
      std::string_view piece = pieces.piece(span);
      if (!cuts) {
        encode_piece(piece, cache, ids);
        continue;
      }
      // Words, each with the spaces before it: a cut is where a space symbol follows something else.
      for (size_t begin = 0; begin < piece.size();) {
        size_t end = begin;
        while (piece.compare(end, kSpaceSymbol.size(), kSpaceSymbol) == 0) end += kSpaceSymbol.size();
        end = std::min(piece.find(kSpaceSymbol, end), piece.size());
        encode_piece(piece.substr(begin, end - begin), cache, ids);
        begin = end;
      }
    }
  };
  if (!added_.has_normalized()) return encode_cut(std::move(normalized), at_start);
  for (const AddedTokens::Segment& segment : added_.split(normalized, true, options.parse_special)) {
    if (segment.id >= 0) {
      ids.push_back(segment.id);
    } else {
      encode_cut(normalized.substr(segment.begin, segment.end - segment.begin), at_start && segment.begin == 0);
    }
  }
}

std::vector<int32_t> PipelineTokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  std::string sanitized;
  if (!is_valid_utf8(text)) text = sanitized = sanitize_utf8(text);
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 3 + 8);
  if (options.add_special) ids = parts_.prefix_ids;
  WordCache cache(text.size());
  for (const AddedTokens::Segment& segment : added_.split(text, false, options.parse_special)) {
    if (segment.id >= 0) {
      ids.push_back(segment.id);
    } else {
      encode_text(text.substr(segment.begin, segment.end - segment.begin), segment.begin == 0, options, cache, ids);
    }
  }
  if (options.add_special) ids.insert(ids.end(), parts_.suffix_ids.begin(), parts_.suffix_ids.end());
  return ids;
}

std::string PipelineTokenizer::decode(const std::vector<int32_t>& ids, bool skip_special) const {
  std::vector<TokenText> tokens;
  tokens.reserve(ids.size());
  for (int32_t id : ids) {
    if (!contains(id) || (skip_special && is_special(id))) continue;
    tokens.push_back({token_text(id), has_flag(id, kRaw)});
  }
  std::string text = parts_.decoder.decode(std::move(tokens));
  if (!parts_.end_of_word_suffix.empty()) text = ReplaceStep{parts_.end_of_word_suffix, nullptr, " "}.apply(text);
  return text;
}

std::string PipelineTokenizer::token_bytes(int32_t id) const {
  if (!contains(id)) return "";
  std::string bytes = parts_.decoder.decode_middle({token_text(id), has_flag(id, kRaw)});
  if (!parts_.end_of_word_suffix.empty()) bytes = ReplaceStep{parts_.end_of_word_suffix, nullptr, " "}.apply(bytes);
  return bytes;
}

}  // namespace sluice::text
