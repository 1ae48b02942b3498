// Runs one rendering of a parsed template: scopes, statements, expressions, calls. Made for one rendering on one thread and
// thrown away; it changes neither the tree nor the context. Scopes follow Jinja: for, with, call, filter, block set and
// macro bodies open one, if does not, and assignments never leak out of theirs.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "text/jinja/ast.h"
#include "text/jinja/macro.h"
#include "text/jinja/value.h"

namespace sluice::jinja {

// The template called raise_exception(); its message is for the user as it is.
struct RaisedException {
  std::string message;
};

struct Scope {
  std::shared_ptr<Scope> parent;  // null: the template's top level
  std::vector<std::pair<int, Value>> variables;
};

class Interpreter {
 public:
  // `variables[name_id]` is what the context or the globals give for each name of the tree; undefined where nothing does.
  Interpreter(const Ast& ast, std::vector<Value> variables, int64_t now_unix_seconds);
  ~Interpreter();
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

  std::string render();

  // For filters, tests and functions.
  Value call(const Value& callee, const CallArgs& args);
  int64_t now() const { return now_; }
  int line() const { return line_; }
  // Namespaces live until the rendering ends, because they can refer to each other in circles.
  Value make_namespace(Dict variables);

 private:
  enum class Flow { kNext, kBreak, kContinue };

  // Switches to a scope (or an output) for the lifetime of the object.
  class ScopeSwitch;
  class OutputSwitch;

  Flow run(const Body& body);
  Flow run(const Stmt& stmt);
  Flow run_if(const Stmt& stmt);
  Flow run_for(const Stmt& stmt);
  Flow run_scope(const Body& body);
  void run_set_block(const Stmt& stmt);
  void run_call_block(const Stmt& stmt);
  void run_filter_block(const Stmt& stmt);
  Flow run_with(const Stmt& stmt);
  Flow run_loop(const Stmt& stmt, const Value& sequence, int depth0);
  std::shared_ptr<const List> filter_items(const Stmt& stmt, std::shared_ptr<const List> items);
  Value call_loop(const Value& loop, const CallArgs& args);
  Value call_macro(const Macro& macro, const CallArgs& args);
  Value define_macro(const MacroSyntax& syntax);
  void assign(const Target& target, const Value& value);
  void set_variable(int name_id, Value value);
  void write(std::string_view text);
  void write(const Value& value);

  Value evaluate(const Expr& expr);
  Value evaluate_or_none(const Expr* expr);
  const Value* find_variable(int name_id) const;
  Value evaluate_name(const Expr& expr);
  Value evaluate_dict(const Expr& expr);
  Value evaluate_compare(const Expr& expr);
  Value evaluate_conditional(const Expr& expr);
  Value evaluate_filter(const Expr& expr);
  Value evaluate_test(const Expr& expr);
  Value evaluate_call(const Expr& expr, const Value* caller);
  std::vector<Value> evaluate_all(const std::vector<ExprPtr>& exprs);
  CallArgs evaluate_arguments(const CallSyntax& syntax);

  const Ast& ast_;
  std::vector<Value> globals_;                // by name_id: the context, then the functions
  std::vector<Value> top_level_;              // by name_id: what the top level has set
  std::vector<bool> is_set_;                  // by name_id: whether it has
  std::shared_ptr<Scope> scope_;              // null at the top level
  std::vector<std::shared_ptr<Scope>> captured_;    // scopes that macros refer to; emptied at the end
  std::vector<std::shared_ptr<Namespace>> namespaces_;
  const Value* filter_input_ = nullptr;       // what the placeholder below a block's filters stands for
  std::string* output_;
  int64_t now_;
  int line_ = 0;
  int calls_ = 0;                             // nested macros, callers and recursive loops
  const int loop_id_, caller_id_, varargs_id_, kwargs_id_;
};

// range, dict, namespace, cycler, joiner, raise_exception, strftime_now; undefined for other names.
Value find_global(std::string_view name);

}  // namespace sluice::jinja
