// What import_tflite.cc builds while it reads a file: the graph so far, and for each tensor of the file the values that
// hold it.
//
// A tensor may be there in up to four forms. Layout: the file has channels last (NHWC), our convolutions and pools want
// them second (NCHW); such an operator makes its result in NCHW, elementwise operators go along, and a Transpose
// appears where something needs the other layout, once a tensor. Numbers: a quantised tensor is `raw` as stored, and
// `real` behind a DequantizeLinear; what is computed in reals goes through a QuantizeLinear. Forms are made when they
// are first asked for. Throws Error for what the file has wrong; the caller says which operator it was.
#pragma once

#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "graph/ir.h"

namespace sluice::graph {

using Attributes = std::map<std::string, Attribute, std::less<>>;

inline constexpr size_t kMaxTfliteNodes = 500'000, kMaxTfliteValues = 4'000'000;  // that a file may become

inline Attribute int_attribute(int64_t value) {
  Attribute a;
  a.kind = Attribute::Kind::kInt;
  a.i = value;
  return a;
}
inline Attribute ints_attribute(std::vector<int64_t> values) {
  Attribute a;
  a.kind = Attribute::Kind::kInts;
  a.ints = std::move(values);
  return a;
}
inline Attribute float_attribute(float value) {
  Attribute a;
  a.kind = Attribute::Kind::kFloat;
  a.f = value;
  return a;
}
inline Attribute string_attribute(std::string value) {
  Attribute a;
  a.kind = Attribute::Kind::kString;
  a.s = std::move(value);
  return a;
}

enum class TfliteLayout : uint8_t { kLast, kSecond };  // where channels are; kLast also for everything that is not 4-D

struct TfliteTensor {
  std::string name;
  ElementType element = ElementType::kUndefined;
  bool has_rank = false;
  Dims dims;  // REQUIRES: has_rank; unknown where the file has a symbol
  bool is_constant = false, is_input = false, is_variable = false;
  Tensor data;                // of constants
  std::vector<float> scales;  // one, or one for each index of `axis`; empty: not quantised
  std::vector<int64_t> zeros;
  int axis = 0;
  ValueId raw[2] = {kNoValue, kNoValue}, real[2] = {kNoValue, kNoValue};  // by layout
  bool is_made = false, has_failed = false;

  bool is_quantised() const { return !scales.empty(); }
  int rank() const { return static_cast<int>(dims.size()); }
  bool is_image() const { return has_rank && dims.size() == 4; }
};

// A tensor that an operator before should have made; that one has been told already.
struct TfliteInputFailed {};

class TfliteGraph {
 public:
  static constexpr int kOpset = 21;

  // `max_new_bytes`: of constants that are not in the file as we need them. A few bytes of file could name the same
  // weights many times.
  TfliteGraph(Graph& graph, int64_t max_new_bytes) : graph_(graph), bytes_left_(max_new_bytes) {}

  std::vector<TfliteTensor> tensors;

  const TfliteTensor& tensor(int i) const { return tensors[static_cast<size_t>(i)]; }

  // The tensor as it is stored; numbers of a quantised one mean something only with its scale.
  ValueId raw(int tensor, TfliteLayout layout = TfliteLayout::kLast);
  // The tensor as floats, where it is quantised; as it is where not.
  ValueId real(int tensor, TfliteLayout layout = TfliteLayout::kLast);
  // What an operator has made.
  void set_raw(int tensor, ValueId value, TfliteLayout layout = TfliteLayout::kLast);
  void set_real(int tensor, ValueId value, TfliteLayout layout = TfliteLayout::kLast);

  // Floats as that tensor would store them.
  ValueId quantise(const TfliteTensor& tensor, ValueId value);
  // Numbers stored with the scale of that tensor, as floats. `axis` is where channels are in `value`.
  ValueId dequantise(const TfliteTensor& tensor, ValueId value, int64_t axis);

  // Whether it is there with channels second at no cost.
  bool has_second(int tensor) const;
  // What a layout makes of an axis of a 4-D tensor.
  static int64_t axis_in(int64_t axis, TfliteLayout layout) {
    return layout == TfliteLayout::kLast || axis == 0 ? axis : axis == 3 ? 1 : axis + 1;
  }
  // An operand of something elementwise over 4-D tensors with channels second: constants of fewer dimensions get the
  // others in front. kNoValue if that cannot be had without computing.
  ValueId broadcast_second(int tensor, bool as_real);

  // Integers of a constant tensor; nullopt if it is none. Throws Error for more than `max_count`.
  std::optional<std::vector<int64_t>> find_ints(int tensor, int64_t max_count = 64) const;
  // The same tensor as int64, for operators that want their sizes so.
  ValueId ints(int tensor);

  // Names of the nodes that follow: "CONV_2D_12".
  void begin_operator(std::string name) { prefix_ = std::move(name), num_made_ = 0; }
  ValueId constant(Tensor tensor, const std::string& hint = "constant");
  ValueId ints_constant(const std::vector<int64_t>& values) { return constant(Tensor::vector(values), "ints"); }
  ValueId float_constant(float value) { return constant(Tensor::scalar(value), "number"); }
  // A node of ai.onnx.
  std::vector<ValueId> nodes(const std::string& op, std::vector<ValueId> inputs, int num_outputs,
                             Attributes attributes = {});
  ValueId node(const std::string& op, std::vector<ValueId> inputs, Attributes attributes = {}) {
    return nodes(op, std::move(inputs), 1, std::move(attributes))[0];
  }
  ValueId clip(ValueId x, float low, float high) {
    return node("Clip", {x, float_constant(low), float_constant(high)});
  }
  ValueId cast(ValueId x, ElementType to) {
    return node("Cast", {x}, {{"to", int_attribute(static_cast<int64_t>(to))}});
  }
  ValueId transpose(ValueId x, std::vector<int64_t> perm) {
    return node("Transpose", {x}, {{"perm", ints_attribute(std::move(perm))}});
  }
  // `type` is what the file says of the input.
  ValueId add_input(int tensor);
  std::string unique_name(const std::string& name);

 private:
  void spend(int64_t bytes);
  TfliteTensor& get(int tensor);
  ValueId convert_layout(const TfliteTensor& tensor, ValueId from, TfliteLayout to);

  Graph& graph_;
  std::set<std::string> names_;
  std::map<std::string, int> numbers_;  // the last one that was put behind a name
  std::set<ValueId> inputs_;            // of the graph
  std::string prefix_;
  int num_made_ = 0;
  int64_t bytes_left_;
};

// The elements in another order: result[i0, i1, ...] is from[i at perm]. For weights.
Tensor transpose_tensor(const Tensor& from, std::span<const int> perm);

}  // namespace sluice::graph
