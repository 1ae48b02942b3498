// A dimension that may not be known before run time: an integer, or an expression over symbols ("batch", "2*length +
// 1").
//
// Expressions are polynomials in symbols with integer coefficients, in a normal form, so that equal ones compare equal;
// what no polynomial says (floor division, minimum) is a symbol of its own with a name that tells its arguments, again
// in normal form. Values without state: any thread, copies are cheap. Shape functions compute with Dims alone; at run
// time, when everything is known, these are plain integers and cost no memory.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "graph/tensor.h"

namespace sluice::graph {

struct DimExpression;

class Dim {
 public:
  Dim(int64_t value = 0) : value_(value) {}
  // REQUIRES: it does not begin with '?' and has no '(': those are names that are made here.
  static Dim symbol(const std::string& name);
  // A symbol that is equal to nothing else.
  static Dim unknown();

  bool is_known() const { return expression_ == nullptr; }
  int64_t value() const { return value_; }  // REQUIRES: is_known()
  std::optional<int64_t> known() const { return is_known() ? std::optional(value_) : std::nullopt; }
  std::string to_string() const;

  // True only if they are equal whatever the symbols are.
  bool operator==(const Dim& other) const;
  Dim operator+(const Dim& other) const;
  Dim operator-(const Dim& other) const;
  Dim operator*(const Dim& other) const;
  Dim& operator+=(const Dim& other) { return *this = *this + other; }
  Dim& operator*=(const Dim& other) { return *this = *this * other; }

  // Puts values in place of symbols; a symbol that `values` does not know stays.
  Dim substitute(const std::function<std::optional<int64_t>(const std::string&)>& values) const;

 private:
  friend struct DimExpression;
  explicit Dim(std::shared_ptr<const DimExpression> expression) : expression_(std::move(expression)) {}
  int64_t value_ = 0;
  std::shared_ptr<const DimExpression> expression_;  // null: value_
};

// Rounded towards minus infinity. A divisor of 0 gives an unknown dimension.
Dim floor_divide(const Dim& a, const Dim& b);
Dim ceil_divide(const Dim& a, const Dim& b);
Dim min_of(const Dim& a, const Dim& b);
Dim max_of(const Dim& a, const Dim& b);

using Dims = std::vector<Dim>;
Dims to_dims(const Shape& shape);
std::optional<Shape> known_shape(const Dims& dims);  // nullopt unless every one is known
Dim product(const Dims& dims, size_t begin = 0, size_t end = SIZE_MAX);
std::string to_string(const Dims& dims);  // "batch x 3 x 2*height"

}  // namespace sluice::graph
