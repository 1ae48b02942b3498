#include "text/pre_tokenizer.h"

#include <array>

#include "text/byte_map.h"
#include "text/unicode.h"

namespace sluice::text {
namespace {

using Span = Pieces::Span;

// Collects the segments of one piece, which alternate between matches (delimiters) and the rest, into new pieces.
class Collector {
 public:
  Collector(SplitBehavior behavior, bool invert, std::vector<Span>& out)
      : behavior_(behavior), invert_(invert), out_(out) {}

  void begin_piece(const Span& parent) {
    parent_ = parent;
    first_ = out_.size();
    at_ = parent.begin;
    previous_ = false;
    merge_next_ = false;
  }

  // The next match, as offsets of the text; what lies between it and the one before is no match.
  void add_match(size_t begin, size_t end) {
    if (begin > at_) add(at_, begin, false);
    add(begin, end, true);
    at_ = end;
  }

  void end_piece() {
    if (parent_.end > at_) add(at_, parent_.end, false);
  }

 private:
  void push(size_t begin, size_t end) {
    if (end > begin) out_.push_back({begin, end, parent_.at_start && begin == parent_.begin});
  }

  void add(size_t begin, size_t end, bool match) {
    match = match != invert_;
    bool has_piece = out_.size() > first_;
    switch (behavior_) {
      case SplitBehavior::kRemoved:
        if (!match) push(begin, end);
        break;
      case SplitBehavior::kIsolated: push(begin, end); break;
      case SplitBehavior::kContiguous:
        if (has_piece && match == previous_ && out_.back().end == begin) {
          out_.back().end = end;
        } else {
          push(begin, end);
        }
        break;
      case SplitBehavior::kMergedWithPrevious:
        if (match && !previous_ && has_piece) {
          out_.back().end = end;
        } else {
          push(begin, end);
        }
        break;
      case SplitBehavior::kMergedWithNext:
        // Of several delimiters in a row only the last joins what follows.
        if (!match && merge_next_ && has_piece) {
          out_.back().end = end;
        } else {
          push(begin, end);
        }
        merge_next_ = match;
        break;
    }
    previous_ = match;
  }

  SplitBehavior behavior_;
  bool invert_;
  std::vector<Span>& out_;
  Span parent_;
  size_t first_ = 0, at_ = 0;
  bool previous_ = false, merge_next_ = false;
};

void apply(const RegexSplit& step, Pieces& pieces) {
  std::vector<Span> out;
  out.reserve(pieces.spans.size() * 2 + pieces.text.size() / 6);
  Collector collector(step.behavior, step.invert, out);
  for (const Span& span : pieces.spans) {
    std::string_view piece = pieces.piece(span);
    collector.begin_piece(span);
    if (step.regex != nullptr) {
      step.regex->for_each_match(piece, [&](const Regex::Match& match) {
        collector.add_match(span.begin + match.begin, span.begin + match.end);
      });
    } else if (!step.literal.empty()) {
      for (size_t at = 0; (at = piece.find(step.literal, at)) != std::string_view::npos; at += step.literal.size()) {
        collector.add_match(span.begin + at, span.begin + at + step.literal.size());
      }
    }
    collector.end_piece();
  }
  pieces.spans = std::move(out);
}

bool is_in_class(const CharacterSplit& step, uint32_t c) {
  switch (step.characters) {
    case CharacterSplit::Class::kWhitespace: return is_whitespace(c);
    case CharacterSplit::Class::kPunctuation: return is_punctuation(c);
    case CharacterSplit::Class::kNumber: return is_number(c);
    case CharacterSplit::Class::kDelimiter: return c == step.delimiter;
  }
  return false;
}

void apply(const CharacterSplit& step, Pieces& pieces) {
  std::vector<Span> out;
  out.reserve(pieces.spans.size() * 2);
  Collector collector(step.behavior, false, out);
  for (const Span& span : pieces.spans) {
    collector.begin_piece(span);
    for (size_t at = span.begin; at < span.end;) {
      Utf8Character c = decode_utf8(pieces.text, at);
      if (is_in_class(step, c.code_point)) collector.add_match(at, at + c.num_bytes);
      at += c.num_bytes;
    }
    collector.end_piece();
  }
  pieces.spans = std::move(out);
}

void apply(const MetaspaceSplit& step, Pieces& pieces) {
  Pieces out;
  out.text.reserve(pieces.text.size() + pieces.text.size() / 2);
  for (const Span& span : pieces.spans) {
    std::string_view piece = pieces.piece(span);
    size_t begin = out.text.size();
    bool prepend = step.prepend == MetaspaceSplit::Prepend::kAlways ||
                   (step.prepend == MetaspaceSplit::Prepend::kFirst && span.at_start);
    if (prepend && piece[0] != ' ' && !piece.starts_with(step.replacement)) out.text += step.replacement;
    for (char c : piece) {
      if (c == ' ') {
        out.text += step.replacement;
      } else {
        out.text.push_back(c);
      }
    }
    out.spans.push_back({begin, out.text.size(), span.at_start});
  }
  if (step.split) apply(RegexSplit{nullptr, step.replacement, SplitBehavior::kMergedWithNext, false}, out);
  pieces = std::move(out);
}

void apply(const ByteLevelSplit& step, Pieces& pieces) {
  if (step.add_prefix_space) {
    Pieces out;
    out.text.reserve(pieces.text.size() + pieces.spans.size());
    for (const Span& span : pieces.spans) {
      size_t begin = out.text.size();
      if (pieces.text[span.begin] != ' ') out.text.push_back(' ');
      out.text += pieces.piece(span);
      out.spans.push_back({begin, out.text.size(), span.at_start});
    }
    pieces = std::move(out);
  }
  if (step.regex != nullptr) apply(RegexSplit{step.regex, "", SplitBehavior::kIsolated, false}, pieces);
  std::string mapped;
  mapped.reserve(pieces.text.size() + pieces.text.size() / 2);
  for (Span& span : pieces.spans) {
    size_t begin = mapped.size();
    append_mapped_bytes(mapped, pieces.piece(span));
    span.begin = begin;
    span.end = mapped.size();
  }
  pieces.text = std::move(mapped);
}

void apply(const FixedLengthSplit& step, Pieces& pieces) {
  std::vector<Span> out;
  for (const Span& span : pieces.spans) {
    size_t begin = span.begin, count = 0;
    for (size_t at = span.begin; at < span.end;) {
      at += decode_utf8(pieces.text, at).num_bytes;
      if (++count == step.num_characters || at >= span.end) {
        out.push_back({begin, at, span.at_start && begin == span.begin});
        begin = at;
        count = 0;
      }
    }
  }
  pieces.spans = std::move(out);
}

// A run of one script a match; spaces are in none.
const Regex& get_script_regex() {
  static const Regex regex = [] {
    std::string pattern = "[\\p{Han}\\p{Hiragana}\\p{Katakana}\\x{30fc}]+|(?:(?! )\\p{sc:Common})+";
    for (const char* script :
         {"Latin", "Greek", "Cyrillic", "Armenian", "Hebrew", "Arabic", "Syriac", "Thaana", "Devanagari", "Bengali",
          "Gurmukhi", "Gujarati", "Oriya", "Tamil", "Telugu", "Kannada", "Malayalam", "Sinhala", "Thai", "Lao",
          "Tibetan", "Myanmar", "Georgian", "Hangul", "Ethiopic", "Khmer", "Mongolian", "Bopomofo", "Inherited",
          "Cherokee", "Runic", "Yi", "Braille", "Coptic", "Gothic"}) {
      pattern += std::string("|\\p{sc:") + script + "}+";
    }
    return Regex(pattern + "|[^ ]");
  }();
  return regex;
}

// Cuts only where two scripts touch: across a space the pieces stay together.
void apply(const ScriptSplit&, Pieces& pieces) {
  std::vector<Span> out;
  for (const Span& span : pieces.spans) {
    size_t begin = span.begin, last_end = SIZE_MAX;
    auto cut = [&](size_t at) {
      if (at > begin) out.push_back({begin, at, span.at_start && begin == span.begin});
      begin = at;
    };
    get_script_regex().for_each_match(pieces.piece(span), [&](const Regex::Match& match) {
      if (match.begin == last_end) cut(span.begin + match.begin);
      last_end = match.end;
    });
    cut(span.end);
  }
  pieces.spans = std::move(out);
}

}  // namespace

void PreTokenizer::add(PreTokenizerStep&& step) { steps_.push_back(std::move(step)); }

Pieces PreTokenizer::apply(std::string text, bool at_start) const {
  Pieces pieces;
  pieces.text = std::move(text);
  if (!pieces.text.empty()) pieces.spans.push_back({0, pieces.text.size(), at_start});
  for (const PreTokenizerStep& step : steps_) {
    std::visit([&](const auto& s) { text::apply(s, pieces); }, step);
  }
  return pieces;
}

std::shared_ptr<const Regex> get_gpt2_regex() {
  static const auto regex = std::make_shared<const Regex>(
      R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)");
  return regex;
}

}  // namespace sluice::text
