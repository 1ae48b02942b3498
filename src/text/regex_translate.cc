// Oniguruma (Ruby syntax) to PCRE2: see regex.h.
#include <array>
#include <utility>
#include <vector>

#include "base/error.h"
#include "text/regex.h"

namespace sluice::text {
namespace {

// White_Space, and its complement, as the inside of a class.
constexpr const char* kSpaces =
    "\\x09-\\x0d\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}";
constexpr const char* kNotSpaces =
    "\\x00-\\x08\\x0e-\\x1f\\x21-\\x84\\x86-\\x9f\\xa1-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}"
    "\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}";
constexpr const char* kWord = "\\p{L}\\p{M}\\p{Nd}\\p{Pc}";
constexpr int kMaxClassDepth = 16;

// Names of general categories that PCRE2 knows only by their two letters, lower case without '_', ' ' and '-'.
constexpr std::array<std::pair<std::string_view, std::string_view>, 40> kLongNames = {{
    {"letter", "L"}, {"casedletter", "L&"}, {"uppercaseletter", "Lu"}, {"lowercaseletter", "Ll"},
    {"titlecaseletter", "Lt"}, {"modifierletter", "Lm"}, {"otherletter", "Lo"}, {"mark", "M"},
    {"nonspacingmark", "Mn"}, {"spacingmark", "Mc"}, {"enclosingmark", "Me"}, {"number", "N"},
    {"decimalnumber", "Nd"}, {"letternumber", "Nl"}, {"othernumber", "No"}, {"punctuation", "P"},
    {"connectorpunctuation", "Pc"}, {"dashpunctuation", "Pd"}, {"openpunctuation", "Ps"}, {"closepunctuation", "Pe"},
    {"initialpunctuation", "Pi"}, {"finalpunctuation", "Pf"}, {"otherpunctuation", "Po"}, {"symbol", "S"},
    {"mathsymbol", "Sm"}, {"currencysymbol", "Sc"}, {"modifiersymbol", "Sk"}, {"othersymbol", "So"},
    {"separator", "Z"}, {"spaceseparator", "Zs"}, {"lineseparator", "Zl"}, {"paragraphseparator", "Zp"},
    {"other", "C"}, {"control", "Cc"}, {"format", "Cf"}, {"surrogate", "Cs"}, {"privateuse", "Co"},
    {"unassigned", "Cn"}, {"alpha", "Alphabetic"}, {"digit", "Nd"},
}};

// Scripts that real tokenizers name; PCRE2 reads a bare script name as Script_Extensions, Oniguruma as Script.
constexpr std::array<std::string_view, 32> kScripts = {
    "han", "hiragana", "katakana", "hangul", "bopomofo", "latin", "greek", "cyrillic", "armenian", "hebrew", "arabic",
    "syriac", "thaana", "devanagari", "bengali", "gurmukhi", "gujarati", "oriya", "tamil", "telugu", "kannada",
    "malayalam", "sinhala", "thai", "lao", "tibetan", "myanmar", "georgian", "ethiopic", "khmer", "mongolian", "common"};

class Translator {
 public:
  explicit Translator(std::string_view pattern) : in_(pattern) {}

  std::string run() {
    while (at_ < in_.size()) {
      char c = in_[at_];
      if (c == '\\') {
        translate_escape(out_, false);
      } else if (c == '[') {
        ++at_;
        out_ += emit(read_class(0));
      } else if (c == '(' && in_.substr(at_, 2) == "(?") {
        translate_group();
      } else if (c == '{' && in_.substr(at_, 2) == "{,") {
        out_ += "{0,";  // Ruby's {,n}
        at_ += 2;
      } else {
        out_.push_back(c);
        ++at_;
      }
    }
    return std::move(out_);
  }

 private:
  struct Class {
    bool negated = false;
    std::string body;                    // what stands between the brackets
    std::vector<std::string> conjuncts;  // further classes that must match too (&&)
  };

  [[noreturn]] void unsupported(const char* what) const {
    fail(Code::kUnimplemented, "regular expression '{}': {} at offset {} is not supported", in_.substr(0, 500), what, at_);
  }

  static std::string emit(const Class& c) {
    if (c.conjuncts.empty()) return (c.negated ? "[^" : "[") + c.body + "]";
    std::string all;
    for (const std::string& conjunct : c.conjuncts) all += "(?=" + conjunct + ")";
    all += "[" + c.body + "]";
    return c.negated ? "(?:(?!" + all + ")[\\x00-\\x{10ffff}])" : "(?:" + all + ")";
  }

  // (?m:...) is dot-all in Ruby; its ^ and $ always match at lines, which PCRE2_MULTILINE does.
  void translate_group() {
    size_t end = at_ + 2;
    while (end < in_.size() && (in_[end] == 'i' || in_[end] == 'm' || in_[end] == 'x' || in_[end] == '-')) ++end;
    if (end == at_ + 2 || end >= in_.size() || (in_[end] != ':' && in_[end] != ')')) {
      out_ += "(?";
      at_ += 2;
      return;
    }
    out_ += "(?";
    for (size_t i = at_ + 2; i < end; ++i) out_.push_back(in_[i] == 'm' ? 's' : in_[i]);
    at_ = end;
  }

  // One escape at at_, outside a class or inside one.
  void translate_escape(std::string& out, bool in_class) {
    if (at_ + 1 >= in_.size()) {
      out.push_back('\\');  // PCRE2 says what is wrong
      ++at_;
      return;
    }
    char c = in_[at_ + 1];
    auto wrap = [&](const char* open, const char* body) {
      if (in_class) {
        out += body;
      } else {
        out.append(open).append(body).append("]");
      }
      at_ += 2;
    };
    switch (c) {
      case 's': return wrap("[", kSpaces);
      case 'S': return wrap("[", kNotSpaces);
      case 'w': return wrap("[", kWord);
      case 'h': return wrap("[", "0-9a-fA-F");
      case 'W':
        if (!in_class) return wrap("[^", kWord);
        break;
      case 'u':
        if (at_ + 6 <= in_.size()) {
          out.append("\\x{").append(in_.substr(at_ + 2, 4)).append("}");
          at_ += 6;
          return;
        }
        break;
      case 'p':
      case 'P':
        if (at_ + 2 < in_.size() && in_[at_ + 2] == '{') return translate_property(out, in_class);
        break;
      default: break;
    }
    out.append(in_.substr(at_, 2));
    at_ += 2;
  }

  void translate_property(std::string& out, bool in_class) {
    size_t close = in_.find('}', at_);
    if (close == std::string_view::npos) unsupported("an unclosed \\p{");
    bool negated = in_[at_ + 1] == 'P';
    std::string_view name = in_.substr(at_ + 3, close - at_ - 3);
    if (!name.empty() && name[0] == '^') {
      negated = !negated;
      name.remove_prefix(1);
    }
    std::string plain;
    for (char c : name) {
      if (c != '_' && c != ' ' && c != '-') plain.push_back(static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c));
    }
    std::string mapped(name);
    for (const auto& [long_name, short_name] : kLongNames) {
      if (plain == long_name) mapped = short_name;
    }
    for (std::string_view script : kScripts) {
      if (plain == script) mapped = "sc:" + plain;
    }
    at_ = close + 1;
    if (plain == "alnum" || plain == "space" || plain == "punct" || plain == "word") {
      // POSIX brackets as properties; negated ones only stand outside classes.
      if (in_class && negated) unsupported("a negated POSIX property in a class");
      if (!in_class) out += negated ? "[^" : "[";
      out += plain == "alnum" ? "\\p{Alphabetic}\\p{Nd}" : plain == "space" ? kSpaces : plain == "punct" ? "\\p{P}" : kWord;
      if (!in_class) out += "]";
      return;
    }
    out += (negated ? "\\P{" : "\\p{") + mapped + "}";
  }

  // The class whose '[' was just read.
  Class read_class(int depth) {
    if (depth > kMaxClassDepth) unsupported("a class nested this deep");
    Class result;
    if (at_ < in_.size() && in_[at_] == '^') {
      result.negated = true;
      ++at_;
    }
    bool first = true;
    for (;; first = false) {
      if (at_ >= in_.size()) unsupported("an unclosed class");
      char c = in_[at_];
      if (c == ']' && !first) {
        ++at_;
        return result;
      }
      if (c == '\\') {
        translate_escape(result.body, true);
      } else if (in_.substr(at_, 2) == "[:") {
        size_t close = in_.find(":]", at_);
        if (close == std::string_view::npos) unsupported("an unclosed [:");
        result.body.append(in_.substr(at_, close + 2 - at_));
        at_ = close + 2;
      } else if (c == '[') {
        ++at_;
        Class inner = read_class(depth + 1);
        if (inner.negated || !inner.conjuncts.empty()) unsupported("a union with such a class");
        result.body += inner.body;
      } else if (in_.substr(at_, 2) == "&&") {
        at_ += 2;
        result.conjuncts.push_back(read_conjunct(depth));
      } else {
        result.body.push_back(c);
        ++at_;
      }
    }
  }

  // What follows && up to the next && or the closing bracket (left unread), as a class of its own.
  std::string read_conjunct(int depth) {
    Class bare;
    std::string all;
    while (at_ < in_.size() && in_[at_] != ']' && in_.substr(at_, 2) != "&&") {
      if (in_[at_] == '[' && in_.substr(at_, 2) != "[:") {
        ++at_;
        all += (all.empty() ? "" : "|") + emit(read_class(depth + 1));
      } else if (in_[at_] == '\\') {
        translate_escape(bare.body, true);
      } else {
        bare.body.push_back(in_[at_++]);
      }
    }
    if (!bare.body.empty()) all += (all.empty() ? "" : "|") + emit(bare);
    if (all.empty()) unsupported("an empty intersection");
    return all;
  }

  std::string_view in_;
  size_t at_ = 0;
  std::string out_;
};

}  // namespace

std::string translate_pattern(std::string_view pattern) {
  // Searching for \s+$ tries every space of a long run; from the run's first space alone it is linear and the same.
  if (pattern == "\\s+$") return "(?<![" + std::string(kSpaces) + "])[" + kSpaces + "]+$";
  return Translator(pattern).run();
}

}  // namespace sluice::text
