// A macro as a value: its syntax and the scope it was defined in.
#pragma once

#include <memory>
#include <string>

#include "text/jinja/ast.h"
#include "text/jinja/value.h"

namespace sluice::jinja {

struct Scope;

struct Macro {
  const MacroSyntax* syntax;
  std::shared_ptr<Scope> scope;
};

inline const std::string& get_macro_name(const Value& macro) { return macro.as<const Macro>().syntax->name; }

}  // namespace sluice::jinja
