// Operators on strings (ONNX operator specification): StringNormalizer, StringConcat, StringSplit and RegexFullMatch.
// StringNormalizer drops whole elements that are stop words and changes case letter by letter, whatever the locale
// attribute says: results must not depend on the machine. A split at no delimiter is one at runs of ASCII white
// space, which leaves no empty pieces. How many pieces there are is known after looking at all strings only, so they
// are counted first.
#include <clocale>
#include <cwctype>

#include <algorithm>
#include <unordered_set>

#include "graph/ops/ops.h"
#include "graph/ops/shape_math.h"
#include "graph/regex.h"

namespace sluice::graph::ops {
namespace {

void check_strings(const InferContext& context, int i) {
  const ValueType& type = context.type(i);
  if (type.kind == ValueType::Kind::kUnknown) return;
  if (!type.is_tensor() || (type.element != ElementType::kString && type.element != ElementType::kUndefined)) {
    context.fail("input {} is {}; it has to be a tensor of strings", i + 1, to_string(type));
  }
}

const Tensor& get_strings(const RunContext& context, int i) {
  const Tensor& tensor = context.input(i);
  if (tensor.type() != ElementType::kString) context.fail_type(i);
  return tensor;
}

// StringNormalizer

enum class CaseChange : uint8_t { kNone, kLower, kUpper };

// Letters as Unicode's simple case mappings have them, in a locale that glibc has built in; null: there is none, and
// only ASCII changes.
locale_t get_case_locale() {
  static const locale_t locale = newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr);
  return locale;
}

// The character of two to four bytes at text[at] and how many they are; 0 if it is not valid UTF-8.
std::pair<uint32_t, size_t> decode(std::string_view text, size_t at) {
  const auto first = static_cast<unsigned char>(text[at]);
  const size_t count = first >= 0xF0 && first < 0xF8 ? 4 : first >= 0xE0 ? 3 : first >= 0xC0 ? 2 : 0;
  if (count == 0 || first >= 0xF8 || count > text.size() - at) return {0, 0};
  uint32_t code = first & (0x7Fu >> count);
  for (size_t i = 1; i < count; ++i) {
    const auto next = static_cast<unsigned char>(text[at + i]);
    if ((next & 0xC0) != 0x80) return {0, 0};
    code = code << 6 | (next & 0x3F);
  }
  return {code, count};
}

void append(std::string& out, uint32_t code) {
  if (code < 0x80) {
    out.push_back(static_cast<char>(code));
    return;
  }
  const int count = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
  out.push_back(static_cast<char>((0xF00 >> count & 0xFF) | code >> 6 * (count - 1)));
  for (int i = count - 2; i >= 0; --i) out.push_back(static_cast<char>(0x80 | (code >> 6 * i & 0x3F)));
}

// Bytes that are no UTF-8 stay as they are.
std::string change_case(std::string_view text, CaseChange change) {
  std::string changed;
  changed.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const char c = text[at];
    if (static_cast<unsigned char>(c) < 0x80) {
      const bool changes = change == CaseChange::kUpper ? c >= 'a' && c <= 'z' : c >= 'A' && c <= 'Z';
      changed.push_back(changes ? static_cast<char>(c ^ 32) : c);
      ++at;
      continue;
    }
    const auto [code, count] = decode(text, at);
    if (count == 0 || get_case_locale() == nullptr) {
      changed.push_back(c);
      ++at;
      continue;
    }
    const auto wide = static_cast<wint_t>(code);
    append(changed,
           change == CaseChange::kUpper ? towupper_l(wide, get_case_locale()) : towlower_l(wide, get_case_locale()));
    at += count;
  }
  return changed;
}

CaseChange read_case_change(const Node& node) {
  const std::string name = node.get_string("case_change_action", "NONE");
  if (name == "NONE") return CaseChange::kNone;
  if (name == "LOWER") return CaseChange::kLower;
  if (name == "UPPER") return CaseChange::kUpper;
  fail(Code::kInvalidArgument, "{}: case_change_action '{}' is none of NONE, LOWER and UPPER", node.describe(), name);
}

void infer_normalizer(InferContext& context) {
  check_strings(context, 0);
  read_case_change(context.node());
  if (!context.has_rank(0)) return context.set_output(0, ElementType::kString);
  Dims dims = context.dims(0);
  const bool is_row = dims.size() == 2 && (!dims[0].is_known() || dims[0] == Dim(1));
  if (dims.size() != 1 && !is_row) {
    context.fail("input 1 is {}; it has to be [C] or [1 x C]", to_string(context.type(0)));
  }
  if (is_row) dims[0] = 1;
  const bool keeps_all =
      context.node().get_strings("stopwords").empty() && dims.back().is_known() && dims.back().value() > 0;
  if (!keeps_all) dims.back() = Dim::unknown();
  context.set_output(0, ElementType::kString, std::move(dims));
}

void run_normalizer(RunContext& context) {
  const Tensor& input = get_strings(context, 0);
  const CaseChange change = read_case_change(context.node());
  const bool is_case_sensitive = context.node().get_int("is_case_sensitive", 0) != 0;
  std::unordered_set<std::string> stop_words;
  for (const std::string& word : context.node().get_strings("stopwords")) {
    stop_words.insert(is_case_sensitive ? word : change_case(word, CaseChange::kLower));
  }
  std::vector<std::string> kept;
  for (const std::string& word : input.values<std::string>()) {
    if (!stop_words.empty() && stop_words.contains(is_case_sensitive ? word : change_case(word, CaseChange::kLower))) {
      continue;
    }
    kept.push_back(change == CaseChange::kNone ? word : change_case(word, change));
  }
  if (kept.empty()) kept.emplace_back();
  const auto count = static_cast<int64_t>(kept.size());
  Tensor& output = context.allocate(0, ElementType::kString, input.rank() == 2 ? Shape{1, count} : Shape{count});
  std::move(kept.begin(), kept.end(), output.data<std::string>());
}

// StringConcat

void infer_concat(InferContext& context) {
  check_strings(context, 0);
  check_strings(context, 1);
  if (!context.has_rank(0) || !context.has_rank(1)) return context.set_output(0, ElementType::kString);
  context.set_output(0, ElementType::kString, broadcast(context, context.dims(0), context.dims(1)));
}

void run_concat(RunContext& context) {
  const Tensor* inputs[] = {&get_strings(context, 0), &get_strings(context, 1)};
  Tensor& output = context.output(0);
  const int rank = output.rank();
  Shape steps[2];  // of each input along each dimension of the output; 0 where it is repeated
  for (int i = 0; i < 2; ++i) {
    const Shape strides = strides_of(inputs[i]->shape());
    steps[i] = Shape(rank, 0);
    const int shift = rank - inputs[i]->rank();
    for (int d = 0; d < inputs[i]->rank(); ++d) steps[i][shift + d] = inputs[i]->dim(d) == 1 ? 0 : strides[d];
  }
  std::string* to = output.data<std::string>();
  const std::string *a = inputs[0]->data<std::string>(), *b = inputs[1]->data<std::string>();
  Shape index(rank, 0);
  for (int64_t n = 0; n < output.count(); ++n) {
    to[n].reserve(a->size() + b->size());
    to[n].append(*a).append(*b);
    for (int d = rank - 1; d >= 0; --d) {
      a += steps[0][d];
      b += steps[1][d];
      if (++index[d] < output.dim(d)) break;
      a -= steps[0][d] * index[d];
      b -= steps[1][d] * index[d];
      index[d] = 0;
    }
  }
}

// StringSplit

constexpr std::string_view kWhitespace = " \t\n\v\f\r";

// Calls visit(piece) for each piece of the text.
template <typename Visit>
void split(std::string_view text, std::string_view delimiter, int64_t max_splits, Visit&& visit) {
  if (delimiter.empty()) {
    size_t at = text.find_first_not_of(kWhitespace);
    for (int64_t n = 0; at != std::string_view::npos; ++n) {
      const size_t end = n < max_splits ? text.find_first_of(kWhitespace, at) : std::string_view::npos;
      visit(text.substr(at, end == std::string_view::npos ? end : end - at));
      at = end == std::string_view::npos ? end : text.find_first_not_of(kWhitespace, end);
    }
    return;
  }
  size_t at = 0;
  for (int64_t n = 0;; ++n) {
    const size_t end = n < max_splits ? text.find(delimiter, at) : std::string_view::npos;
    visit(text.substr(at, end == std::string_view::npos ? end : end - at));
    if (end == std::string_view::npos) return;
    at = end + delimiter.size();
  }
}

void infer_split(InferContext& context) {
  check_strings(context, 0);
  if (!context.has_rank(0)) {
    context.set_output(0, ElementType::kString);
    return context.set_output(1, ElementType::kI64);
  }
  Dims dims = context.dims(0);
  context.set_output(1, ElementType::kI64, dims);
  dims.push_back(Dim::unknown());
  context.set_output(0, ElementType::kString, std::move(dims));
}

void run_split(RunContext& context) {
  const Tensor& input = get_strings(context, 0);
  const std::string delimiter = context.node().get_string("delimiter", "");
  int64_t max_splits = context.node().get_int("maxsplit", -1);
  if (max_splits < 0) max_splits = std::numeric_limits<int64_t>::max();
  std::vector<int64_t> counts;
  int64_t most = 0;
  for (const std::string& text : input.values<std::string>()) {
    int64_t count = 0;
    split(text, delimiter, max_splits, [&](std::string_view) { ++count; });
    counts.push_back(count);
    most = std::max(most, count);
  }
  Shape shape = input.shape();
  shape.push_back(most);
  std::string* to = context.allocate(0, ElementType::kString, shape).data<std::string>();
  for (const std::string& text : input.values<std::string>()) {
    std::string* piece = to;
    split(text, delimiter, max_splits, [&](std::string_view found) { *piece++ = found; });
    to += most;
  }
  if (context.has_output(1)) std::copy(counts.begin(), counts.end(), context.output_data<int64_t>(1));
}

// RegexFullMatch

std::shared_ptr<const Regex> prepare_pattern(const Node& node) {
  return node.prepared.get<Regex>([&] {
    if (!node.has("pattern")) fail(Code::kInvalidArgument, "{}: has no attribute pattern", node.describe());
    return std::make_shared<const Regex>(node.get_string("pattern", ""));
  });
}

void infer_full_match(InferContext& context) {
  check_strings(context, 0);
  prepare_pattern(context.node());
  ValueType type = context.type(0);
  type.element = ElementType::kBool;
  if (type.is_tensor()) context.set_type(0, std::move(type));
}

void run_full_match(RunContext& context) {
  const Tensor& input = get_strings(context, 0);
  const std::shared_ptr<const Regex> pattern = prepare_pattern(context.node());
  bool* matches = context.output_data<bool>(0);
  for (const std::string& text : input.values<std::string>()) *matches++ = pattern->matches(text);
}

constexpr OpInfo kOps[] = {
    {"", "StringNormalizer", 10, 0, infer_normalizer, run_normalizer, OpInfo::kMakesOutputs},
    {"", "StringConcat", 20, 0, infer_concat, run_concat},
    {"", "StringSplit", 20, 0, infer_split, run_split},
    {"", "RegexFullMatch", 20, 0, infer_full_match, run_full_match},
};

}  // namespace

std::span<const OpInfo> text_ops() { return kOps; }

}  // namespace sluice::graph::ops
