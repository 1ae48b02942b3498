#include "text/decoder.h"

#include <algorithm>

#include "text/byte_map.h"
#include "text/unicode.h"
#include "text/vocabulary.h"

namespace sluice::text {
namespace {

using Tokens = std::vector<TokenText>;

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  if (from.empty() || text.find(from) == std::string::npos) return;
  text = ReplaceStep{std::string(from), nullptr, std::string(to)}.apply(text);
}

// English punctuation and contractions joined to the word before them (Hugging Face's clean-up).
void clean_up(std::string& text) {
  static constexpr std::pair<std::string_view, std::string_view> kReplacements[] = {
      {" .", "."}, {" ?", "?"}, {" !", "!"}, {" ,", ","}, {" ' ", "'"}, {" n't", "n't"}, {" 'm", "'m"},
      {" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
  for (const auto& [from, to] : kReplacements) replace_all(text, from, to);
}

std::string to_bytes(const TokenText& token) {
  if (token.raw) return token.text;
  auto bytes = unmap_bytes(token.text);
  return bytes ? *bytes : token.text;
}

std::string strip(const StripDecode& step, const std::string& text) {
  size_t begin = 0, end = text.size(), size = step.content.size();
  if (size == 0) return text;
  auto is_content = [&](size_t at) { return end - begin >= size && text.compare(at, size, step.content) == 0; };
  for (size_t i = 0; i < step.start && is_content(begin); ++i) begin += size;
  for (size_t i = 0; i < step.stop && end - begin >= size && is_content(end - size); ++i) end -= size;
  return text.substr(begin, end - begin);
}

void apply(const ByteLevelDecode&, Tokens& tokens) {
  std::string bytes;
  for (const TokenText& token : tokens) bytes += to_bytes(token);
  tokens.assign(1, {sanitize_utf8(bytes), false});
}

void apply(const MetaspaceDecode& step, Tokens& tokens) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (!tokens[i].raw) replace_all(tokens[i].text, step.replacement, i == 0 && step.strip_first ? "" : " ");
  }
}

void decode_word_piece(const WordPieceDecode& step, std::string& text, bool first) {
  if (!first) {
    if (text.starts_with(step.prefix)) {
      text.erase(0, step.prefix.size());
    } else {
      text.insert(0, 1, ' ');
    }
  }
  if (step.cleanup) clean_up(text);
}

void apply(const WordPieceDecode& step, Tokens& tokens) {
  for (size_t i = 0; i < tokens.size(); ++i) decode_word_piece(step, tokens[i].text, i == 0);
}

void apply(const BpeSuffixDecode& step, Tokens& tokens) {
  for (size_t i = 0; i < tokens.size(); ++i) replace_all(tokens[i].text, step.suffix, i + 1 == tokens.size() ? "" : " ");
}

// A run of byte tokens that is not valid UTF-8 as a whole becomes one U+FFFD a byte.
void apply(const ByteFallbackDecode&, Tokens& tokens) {
  Tokens out;
  std::string run;
  auto flush = [&] {
    if (run.empty()) return;
    if (is_valid_utf8(run)) {
      out.push_back({run, false});
    } else {
      for (size_t i = 0; i < run.size(); ++i) out.push_back({"\xEF\xBF\xBD", false});
    }
    run.clear();
  };
  for (TokenText& token : tokens) {
    if (auto byte = token.raw ? std::nullopt : parse_byte_token(token.text)) {
      run.push_back(static_cast<char>(*byte));
    } else {
      flush();
      out.push_back(std::move(token));
    }
  }
  flush();
  tokens = std::move(out);
}

void apply(const FuseDecode&, Tokens& tokens) {
  std::string all;
  for (const TokenText& token : tokens) all += token.text;
  tokens.assign(1, {std::move(all), false});
}

void apply(const StripDecode& step, Tokens& tokens) {
  for (TokenText& token : tokens) token.text = strip(step, token.text);
}

void apply(const ReplaceDecode& step, Tokens& tokens) {
  for (TokenText& token : tokens) {
    if (!token.raw) token.text = step.step.apply(token.text);
  }
}

void decode_ctc(const CtcDecode& step, std::string& text) {
  replace_all(text, step.pad, "");
  if (step.cleanup) {
    clean_up(text);
    replace_all(text, step.word_delimiter, " ");
  }
}

void apply(const CtcDecode& step, Tokens& tokens) {
  auto last = std::unique(tokens.begin(), tokens.end(),
                          [](const TokenText& a, const TokenText& b) { return a.text == b.text; });
  tokens.erase(last, tokens.end());
  for (TokenText& token : tokens) decode_ctc(step, token.text);
}

}  // namespace

void Decoder::add(DecoderStep&& step) { steps_.push_back(std::move(step)); }

std::string Decoder::decode(std::vector<TokenText> tokens) const {
  if (tokens.empty()) return "";
  for (const DecoderStep& step : steps_) {
    std::visit([&](const auto& s) { text::apply(s, tokens); }, step);
  }
  std::string out;
  for (const TokenText& token : tokens) {
    if (steps_.empty() && !out.empty()) out.push_back(' ');
    out += token.text;
  }
  return sanitize_utf8(out);
}

std::string Decoder::decode_middle(TokenText token) const {
  if (steps_.empty()) return " " + token.text;
  bool fused = false;
  for (const DecoderStep& step : steps_) {
    std::string& text = token.text;
    if (std::holds_alternative<ByteLevelDecode>(step)) {
      text = to_bytes(token);
      fused = true;
    } else if (const auto* metaspace = std::get_if<MetaspaceDecode>(&step)) {
      if (!token.raw) replace_all(text, metaspace->replacement, " ");
    } else if (const auto* word_piece = std::get_if<WordPieceDecode>(&step)) {
      decode_word_piece(*word_piece, text, false);
    } else if (const auto* suffix = std::get_if<BpeSuffixDecode>(&step)) {
      replace_all(text, suffix->suffix, " ");
    } else if (std::holds_alternative<ByteFallbackDecode>(step)) {
      auto byte = token.raw ? std::nullopt : parse_byte_token(text);
      if (byte) text.assign(1, static_cast<char>(*byte));
    } else if (std::holds_alternative<FuseDecode>(step)) {
      fused = true;
    } else if (const auto* stripping = std::get_if<StripDecode>(&step)) {
      if (!fused) text = strip(*stripping, text);
    } else if (const auto* replacing = std::get_if<ReplaceDecode>(&step)) {
      if (!token.raw && (replacing->step.regex == nullptr || is_valid_utf8(text))) text = replacing->step.apply(text);
    } else if (const auto* ctc = std::get_if<CtcDecode>(&step)) {
      decode_ctc(*ctc, text);
    }
  }
  return token.text;
}

bool Decoder::strips_leading_space() const {
  bool fused = false;
  for (const DecoderStep& step : steps_) {
    if (const auto* metaspace = std::get_if<MetaspaceDecode>(&step)) {
      if (metaspace->strip_first) return true;
    } else if (const auto* stripping = std::get_if<StripDecode>(&step)) {
      if (fused && stripping->start > 0 && stripping->content == " ") return true;
    } else if (std::holds_alternative<WordPieceDecode>(step)) {
      return true;
    }
    fused |= std::holds_alternative<FuseDecode>(step) || std::holds_alternative<ByteLevelDecode>(step);
  }
  return steps_.empty();
}

}  // namespace sluice::text
