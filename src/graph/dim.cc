#include "graph/dim.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <utility>

namespace sluice::graph {
namespace {

constexpr size_t kMaxTerms = 64;  // beyond that nobody gains from knowing the formula
constexpr size_t kMaxDegree = 16;
constexpr size_t kMaxNameLength = 512;

// What a polynomial multiplies: a named symbol, or a function of two dimensions.
struct Atom {
  enum class Kind : uint8_t { kSymbol, kFloorDivide, kMin, kMax };
  Kind kind = Kind::kSymbol;
  Dim a, b;  // of a function
};

// Atoms by name, each as often as its power, sorted. The empty one is the constant term.
using Monomial = std::vector<std::string>;

}  // namespace

struct DimExpression {
  std::map<Monomial, int64_t> terms;
  std::map<std::string, Atom> atoms;  // by a name that says what the atom stands for

  static DimExpression of(const Dim& dim) {
    if (dim.expression_ != nullptr) return *dim.expression_;
    DimExpression made;
    if (dim.value_ != 0) made.terms[{}] = dim.value_;
    return made;
  }

  static Dim to_dim(DimExpression expression) {
    std::erase_if(expression.terms, [](const auto& term) { return term.second == 0; });
    if (expression.terms.empty()) return Dim(0);
    if (expression.terms.size() == 1 && expression.terms.begin()->first.empty())
      return Dim(expression.terms.begin()->second);
    if (expression.terms.size() > kMaxTerms) return Dim::unknown();
    return Dim(std::make_shared<const DimExpression>(std::move(expression)));
  }

  static Dim of_atom(std::string name, Atom atom) {
    if (name.size() > kMaxNameLength) return Dim::unknown();
    DimExpression made;
    made.terms[{name}] = 1;
    made.atoms[std::move(name)] = std::move(atom);
    return to_dim(std::move(made));
  }

  static const DimExpression* find(const Dim& dim) { return dim.expression_.get(); }
};

namespace {

Dim make_function(Atom::Kind kind, const char* word, const Dim& a, const Dim& b) {
  return DimExpression::of_atom(fmt::format("{}({}, {})", word, a.to_string(), b.to_string()), {kind, a, b});
}

}  // namespace

Dim Dim::symbol(const std::string& name) { return DimExpression::of_atom(name, {}); }

Dim Dim::unknown() {
  static std::atomic<int64_t> next{0};
  return symbol(fmt::format("?{}", next.fetch_add(1)));
}

bool Dim::operator==(const Dim& other) const {
  if (is_known() != other.is_known()) return false;
  if (is_known()) return value_ == other.value_;
  return expression_ == other.expression_ || expression_->terms == other.expression_->terms;
}

Dim Dim::operator+(const Dim& other) const {
  if (is_known() && other.is_known()) {
    int64_t sum;
    return __builtin_add_overflow(value_, other.value_, &sum) ? unknown() : Dim(sum);
  }
  DimExpression sum = DimExpression::of(*this), more = DimExpression::of(other);
  for (const auto& [monomial, factor] : more.terms) {
    int64_t& term = sum.terms[monomial];
    if (__builtin_add_overflow(term, factor, &term)) return unknown();
  }
  sum.atoms.merge(more.atoms);
  return DimExpression::to_dim(std::move(sum));
}

Dim Dim::operator-(const Dim& other) const { return *this + other * Dim(-1); }

Dim Dim::operator*(const Dim& other) const {
  if (is_known() && other.is_known()) {
    int64_t product;
    return __builtin_mul_overflow(value_, other.value_, &product) ? unknown() : Dim(product);
  }
  const DimExpression a = DimExpression::of(*this), b = DimExpression::of(other);
  if (a.terms.size() * b.terms.size() > kMaxTerms) return unknown();
  DimExpression result;
  for (const auto& [left, left_factor] : a.terms) {
    for (const auto& [right, right_factor] : b.terms) {
      if (left.size() + right.size() > kMaxDegree) return unknown();
      Monomial monomial = left;
      monomial.insert(monomial.end(), right.begin(), right.end());
      std::sort(monomial.begin(), monomial.end());
      int64_t factor;
      int64_t& term = result.terms[std::move(monomial)];
      if (__builtin_mul_overflow(left_factor, right_factor, &factor) || __builtin_add_overflow(term, factor, &term)) {
        return unknown();
      }
    }
  }
  result.atoms = a.atoms;
  result.atoms.insert(b.atoms.begin(), b.atoms.end());
  return DimExpression::to_dim(std::move(result));
}

std::string Dim::to_string() const {
  if (is_known()) return fmt::format("{}", value_);
  std::string text;
  // The constant term, whose monomial sorts first, is read best at the end.
  auto add = [&](const Monomial& monomial, int64_t factor) {
    if (!text.empty())
      text += factor < 0 ? " - " : " + ";
    else if (factor < 0)
      text += "-";
    const uint64_t magnitude = factor < 0 ? 0 - static_cast<uint64_t>(factor) : static_cast<uint64_t>(factor);
    if (monomial.empty())
      text += fmt::format("{}", magnitude);
    else if (magnitude == 1)
      text += fmt::format("{}", fmt::join(monomial, "*"));
    else
      text += fmt::format("{}*{}", magnitude, fmt::join(monomial, "*"));
  };
  for (const auto& [monomial, factor] : expression_->terms) {
    if (!monomial.empty()) add(monomial, factor);
  }
  if (const auto found = expression_->terms.find({}); found != expression_->terms.end()) add({}, found->second);
  return text;
}

Dim Dim::substitute(const std::function<std::optional<int64_t>(const std::string&)>& values) const {
  if (is_known()) return *this;
  std::map<std::string, Dim> known;
  for (const auto& [name, atom] : expression_->atoms) {
    if (atom.kind == Atom::Kind::kSymbol) {
      const std::optional<int64_t> value = values(name);
      known.emplace(name, value ? Dim(*value) : symbol(name));
      continue;
    }
    const Dim a = atom.a.substitute(values), b = atom.b.substitute(values);
    known.emplace(name, atom.kind == Atom::Kind::kFloorDivide ? floor_divide(a, b)
                        : atom.kind == Atom::Kind::kMin       ? min_of(a, b)
                                                              : max_of(a, b));
  }
  Dim sum = 0;
  for (const auto& [monomial, factor] : expression_->terms) {
    Dim term = factor;
    for (const std::string& name : monomial) term *= known.at(name);
    sum += term;
  }
  return sum;
}

Dim floor_divide(const Dim& a, const Dim& b) {
  if (b == Dim(1)) return a;
  if (b == Dim(0)) return Dim::unknown();
  if (a.is_known() && b.is_known()) {
    if (b.value() == -1) return Dim(0) - a;
    const int64_t quotient = a.value() / b.value();
    const bool rounds_up = a.value() % b.value() != 0 && (a.value() < 0) != (b.value() < 0);
    return quotient - (rounds_up ? 1 : 0);
  }
  if (a == b) return 1;
  if (b.is_known()) {  // exact, term by term
    DimExpression quotient = DimExpression::of(a);
    const bool is_exact =
        b.value() != -1 && std::all_of(quotient.terms.begin(), quotient.terms.end(),
                                       [&](const auto& term) { return term.second % b.value() == 0; });
    if (is_exact) {
      for (auto& term : quotient.terms) term.second /= b.value();
      return DimExpression::to_dim(std::move(quotient));
    }
  } else if (const DimExpression* divisor = DimExpression::find(b); divisor != nullptr && divisor->terms.size() == 1) {
    // A product by one of its factors: batch * length / batch.
    const auto& [monomial, factor] = *divisor->terms.begin();
    DimExpression quotient;
    const DimExpression dividend = DimExpression::of(a);
    quotient.atoms = dividend.atoms;
    bool is_exact = true;
    for (const auto& [term, term_factor] : dividend.terms) {
      Monomial rest;
      is_exact &= (factor != -1 && term_factor % factor == 0) &&
                  std::includes(term.begin(), term.end(), monomial.begin(), monomial.end());
      if (!is_exact) break;
      std::set_difference(term.begin(), term.end(), monomial.begin(), monomial.end(), std::back_inserter(rest));
      quotient.terms[rest] = term_factor / factor;
    }
    if (is_exact) return DimExpression::to_dim(std::move(quotient));
  }
  return make_function(Atom::Kind::kFloorDivide, "floor", a, b);
}

Dim ceil_divide(const Dim& a, const Dim& b) { return Dim(0) - floor_divide(Dim(0) - a, b); }

Dim min_of(const Dim& a, const Dim& b) {
  if (a.is_known() && b.is_known()) return std::min(a.value(), b.value());
  if (const Dim difference = a - b; difference.is_known()) return difference.value() <= 0 ? a : b;
  return make_function(Atom::Kind::kMin, "min", a, b);
}

Dim max_of(const Dim& a, const Dim& b) {
  if (a.is_known() && b.is_known()) return std::max(a.value(), b.value());
  if (const Dim difference = a - b; difference.is_known()) return difference.value() >= 0 ? a : b;
  return make_function(Atom::Kind::kMax, "max", a, b);
}

Dims to_dims(const Shape& shape) { return Dims(shape.begin(), shape.end()); }

std::optional<Shape> known_shape(const Dims& dims) {
  Shape shape;
  for (const Dim& dim : dims) {
    if (!dim.is_known()) return std::nullopt;
    shape.push_back(dim.value());
  }
  return shape;
}

Dim product(const Dims& dims, size_t begin, size_t end) {
  Dim result = 1;
  for (size_t i = begin; i < std::min(end, dims.size()); ++i) result *= dims[i];
  return result;
}

std::string to_string(const Dims& dims) {
  std::string text;
  for (const Dim& dim : dims) text += (text.empty() ? "" : " x ") + dim.to_string();
  return text.empty() ? "scalar" : text;
}

}  // namespace sluice::graph
