// Binds the arguments of a filter, test, method or function to named parameters, with Python's errors for too many, too few,
// unknown and repeated ones. Borrowed: lives no longer than the CallArgs it reads.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "text/jinja/python_format.h"
#include "text/jinja/value.h"

namespace sluice::jinja {

class Arguments {
 public:
  // A parameter named "" takes positional arguments only.
  Arguments(std::string_view callee, const CallArgs& args, std::initializer_list<std::string_view> names,
            size_t num_required = 0)
      : callee_(callee), values_(names.size(), nullptr) {
    if (args.positional.size() > names.size()) {
      fail(Code::kInvalidArgument, "{} takes at most {} arguments ({} given)", callee, names.size(), args.positional.size());
    }
    for (size_t i = 0; i < args.positional.size(); ++i) values_[i] = &args.positional[i];
    for (const auto& [name, value] : args.named) {
      size_t position = 0;
      for (std::string_view candidate : names) {
        if (!candidate.empty() && candidate == name) break;
        ++position;
      }
      if (position == names.size()) fail(Code::kInvalidArgument, "{} has no argument '{}'", callee, name);
      if (values_[position] != nullptr) fail(Code::kInvalidArgument, "{} got two values for '{}'", callee, name);
      values_[position] = &value;
    }
    for (size_t i = 0; i < num_required; ++i) {
      if (values_[i] == nullptr) fail(Code::kInvalidArgument, "{} needs at least {} arguments", callee, num_required);
    }
  }

  const Value* get(size_t i) const { return values_[i]; }
  bool has(size_t i) const { return values_[i] != nullptr; }
  bool has_value(size_t i) const { return values_[i] != nullptr && !values_[i]->is_none(); }
  Value value(size_t i, Value otherwise = Value::none()) const { return has(i) ? *values_[i] : otherwise; }
  bool boolean(size_t i, bool otherwise) const { return has(i) ? is_true(*values_[i]) : otherwise; }

  int64_t integer(size_t i, int64_t otherwise) const {
    if (!has(i)) return otherwise;
    if (values_[i]->is_undefined()) fail_undefined(*values_[i]);
    if (!values_[i]->is_integral()) {
      fail(Code::kInvalidArgument, "{}: an integer is wanted, not {}", callee_, type_name(*values_[i]));
    }
    Int number = values_[i]->get_int();
    if (number > INT64_MAX / 4 || number < INT64_MIN / 4) fail(Code::kInvalidArgument, "{}: the number is too large", callee_);
    return static_cast<int64_t>(number);
  }

  std::string_view text(size_t i, std::string_view otherwise = "") const {
    if (!has(i)) return otherwise;
    if (values_[i]->is_undefined()) fail_undefined(*values_[i]);
    if (!values_[i]->is_string()) fail(Code::kInvalidArgument, "{}: a str is wanted, not {}", callee_, type_name(*values_[i]));
    return values_[i]->text();
  }

  std::string_view callee() const { return callee_; }

 private:
  std::string_view callee_;
  std::vector<const Value*> values_;
};

}  // namespace sluice::jinja
