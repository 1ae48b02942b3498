// What the passes over quantised models share: which float values are integers with a scale (made by DequantizeLinear),
// and where values become such integers (QuantizeLinear).
//
// Only scales of float32 and integers of 8 bits are looked at; others stay as they are in the model.
#pragma once

#include <optional>

#include "graph/passes/match.h"

namespace sluice::graph::passes {

// Integers, and what they stand for: (integer - zero) * scale.
struct Quantised {
  ValueId integers = kNoValue;
  ElementType type = ElementType::kU8;  // of the integers: kU8 or kI8
  ValueId scale = kNoValue;             // float32: one number, or one for each index of `axis`
  ValueId zero = kNoValue;              // of `type` and of scale's shape; kNoValue: 0
  std::optional<int> axis;              // may be negative, as in the node; nullopt: one scale for all
};

// What DequantizeLinear made this value of; nullopt if something else made it, or of other kinds.
std::optional<Quantised> find_quantised(const Rewriter& rewriter, ValueId real);
// What a QuantizeLinear makes, with one scale for all.
std::optional<Quantised> find_quantisation(const Rewriter& rewriter, const Node& node);
// Constant scales and zero points with the same numbers, or the same values; one scale for all.
bool is_same(const Rewriter& rewriter, const Quantised& a, const Quantised& b);
// The zero point as a value: a constant is made where there is none.
ValueId get_zero(Rewriter& rewriter, const Quantised& quantised);
// The one number, if it is known.
std::optional<int> find_zero(const Rewriter& rewriter, const Quantised& quantised);
// One number or several, float32, and positive as far as they are known.
bool is_positive_scale(const Rewriter& rewriter, ValueId scale);
bool is_byte(ElementType type);

// Whether a node cuts off nothing that rounding to these integers would keep: Relu, Clip.
bool is_within_range(const Rewriter& rewriter, const Activation& activation, const Quantised& to);

}  // namespace sluice::graph::passes
