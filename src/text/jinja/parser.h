// Source text to tree. Throws Error(kInvalidArgument) "line N: what". Nesting is bounded, so that neither parsing nor
// evaluating the tree can exhaust the stack.
#pragma once

#include <memory>
#include <string_view>

#include "text/jinja/ast.h"

namespace sluice::jinja {

std::unique_ptr<Ast> parse(std::string_view source);

}  // namespace sluice::jinja
