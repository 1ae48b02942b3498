#include "text/jinja/jinja.h"

#include "text/jinja/interpreter.h"
#include "text/jinja/parser.h"

namespace sluice::jinja {

Template::Template(std::string_view source) : ast_(parse(source)) {}
Template::~Template() = default;
Template::Template(Template&&) noexcept = default;

std::string Template::render(const json::object& context, int64_t now_unix_seconds, const Limits& limits) const {
  Budget budget(limits);
  BudgetScope scope(budget);
  std::vector<Value> variables(ast_->names.size());
  for (size_t i = 0; i < variables.size(); ++i) {
    const json::value* given = context.if_contains(ast_->names[i]);
    variables[i] = given != nullptr ? from_json(*given) : find_global(ast_->names[i]);
  }
  try {
    Interpreter interpreter(*ast_, std::move(variables), now_unix_seconds);
    return interpreter.render();
  } catch (const RaisedException& raised) {
    throw Error(Code::kInvalidArgument, raised.message);
  }
}

}  // namespace sluice::jinja
