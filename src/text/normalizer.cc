#include "text/normalizer.h"

#include "text/byte_map.h"

namespace sluice::text {
namespace {

constexpr std::string_view kSpaceSymbol = "\xE2\x96\x81";  // ▁

template <typename Keep>
std::string filter(std::string_view text, Keep&& keep) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    Utf8Character c = decode_utf8(text, at);
    if (keep(c.code_point)) out.append(text, at, c.num_bytes);
    at += c.num_bytes;
  }
  return out;
}

std::string apply(const FormStep& step, std::string text, bool) { return normalize(text, step.form); }

std::string apply(const LowercaseStep&, std::string text, bool) { return to_lowercase(text); }

std::string apply(const StripAccentsStep&, std::string text, bool) {
  return filter(text, [](uint32_t c) { return !is_mark(c); });
}

std::string apply(const StripStep& step, std::string text, bool) {
  size_t begin = 0, end = 0;
  bool seen = false;
  for (size_t at = 0; at < text.size();) {
    Utf8Character c = decode_utf8(text, at);
    if (!is_whitespace(c.code_point)) {
      if (!seen) begin = at;
      seen = true;
      end = at + c.num_bytes;
    }
    at += c.num_bytes;
  }
  if (!step.left) begin = 0;
  if (!step.right) end = text.size();
  if (!seen && (step.left || step.right)) return "";
  return text.substr(begin, end - begin);
}

std::string apply(const ReplaceStep& step, std::string text, bool) { return step.apply(text); }

std::string apply(const PrependStep& step, std::string text, bool) { return text.empty() ? text : step.prefix + text; }

std::string apply(const PrecompiledStep& step, std::string text, bool) { return step.map->apply_to_graphemes(text); }

std::string apply(const NmtStep&, std::string text, bool) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    Utf8Character c = decode_utf8(text, at);
    uint32_t p = c.code_point;
    bool dropped = (p >= 1 && p <= 8) || p == 0xB || (p >= 0xE && p <= 0x1F) || p == 0x7F || p == 0x8F || p == 0x9F;
    bool space = p == 9 || p == 0xA || p == 0xC || p == 0xD || p == 0x1680 || (p >= 0x200B && p <= 0x200F) ||
                 p == 0x2028 || p == 0x2029 || p == 0x2581 || p == 0xFEFF || p == 0xFFFD;
    if (space) {
      out.push_back(' ');
    } else if (!dropped) {
      out.append(text, at, c.num_bytes);
    }
    at += c.num_bytes;
  }
  return out;
}

std::string apply(const BertStep& step, std::string text, bool) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    Utf8Character c = decode_utf8(text, at);
    uint32_t p = c.code_point;
    if (step.clean_text) {
      bool kept_control = p == '\t' || p == '\n' || p == '\r';
      if (p == 0 || p == kReplacementCharacter || (!kept_control && is_other(p))) {
        at += c.num_bytes;
        continue;
      }
    }
    if (step.clean_text && is_whitespace(p)) {
      out.push_back(' ');
    } else if (step.handle_chinese_chars && is_han_ideograph(p)) {
      out.append(" ").append(text, at, c.num_bytes).append(" ");
    } else {
      out.append(text, at, c.num_bytes);
    }
    at += c.num_bytes;
  }
  if (step.strip_accents) {
    out = filter(normalize(out, NormalForm::kNfd), [](uint32_t c) { return !is_nonspacing_mark(c); });
  }
  return step.lowercase ? to_lowercase(out) : out;
}

std::string apply(const ByteMapStep&, std::string text, bool) {
  std::string out;
  append_mapped_bytes(out, text);
  return out;
}

std::string apply(const SentencePieceStep& step, std::string text, bool at_start) {
  std::string_view space = step.escape_whitespaces ? kSpaceSymbol : std::string_view(" ");
  std::string body;  // mapped, white space trimmed and escaped
  body.reserve(text.size() + text.size() / 2);
  bool after_space = step.remove_extra_whitespaces;  // spaces at the beginning are dropped too
  // Spaces are dropped where one part meets the next; those within a replacement stay.
  auto add = [&](std::string_view part) {
    while (after_space && part.starts_with(' ')) part.remove_prefix(1);
    if (part.empty()) return;
    for (char c : part) {
      if (c == ' ') {
        body += space;
      } else {
        body.push_back(c);
      }
    }
    after_space = step.remove_extra_whitespaces && part.back() == ' ';
  };
  for (size_t at = 0; at < text.size();) {
    if (step.unmapped != nullptr) {
      if (size_t length = step.unmapped->find_longest(text, at).first; length > 0) {
        add(std::string_view(text).substr(at, length));
        at += length;
        continue;
      }
    }
    if (step.map != nullptr && !step.map->empty()) {
      if (auto replacement = step.map->find_longest(text, at)) {
        add(replacement->text);
        at += replacement->num_bytes;
        continue;
      }
    }
    size_t length = decode_utf8(text, at).num_bytes;
    add(std::string_view(text).substr(at, length));
    at += length;
  }
  if (step.remove_extra_whitespaces) {
    while (body.ends_with(space)) body.resize(body.size() - space.size());
  }
  if (body.empty()) return body;
  if (!step.add_dummy_prefix || (step.prefix_only_at_start && !at_start)) return body;
  return step.treat_whitespace_as_suffix ? body + std::string(space) : std::string(space) + body;
}

}  // namespace

void Normalizer::add(NormalizerStep&& step) { steps_.push_back(std::move(step)); }

std::string ReplaceStep::apply(std::string_view text) const {
  std::string out;
  size_t done = 0;
  if (regex == nullptr) {
    if (literal.empty()) return std::string(text);
    for (size_t at; (at = text.find(literal, done)) != std::string_view::npos; done = at + literal.size()) {
      out.append(text, done, at - done).append(content);
    }
  } else {
    regex->for_each_match(text, [&](const Regex::Match& match) {
      out.append(text, done, match.begin - done).append(content);
      done = match.end;
    });
  }
  return out.append(text, done);
}

std::string Normalizer::apply(std::string text, bool at_start) const {
  for (const NormalizerStep& step : steps_) {
    text = std::visit([&](const auto& s) { return text::apply(s, std::move(text), at_start); }, step);
  }
  return text;
}

}  // namespace sluice::text
