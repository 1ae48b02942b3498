#include "text/jinja/interpreter.h"

#include <algorithm>

#include "text/jinja/budget.h"
#include "text/jinja/python_format.h"

namespace sluice::jinja {

class Interpreter::ScopeSwitch {
 public:
  ScopeSwitch(Interpreter& interpreter, std::shared_ptr<Scope> scope)
      : interpreter_(interpreter), previous_(std::exchange(interpreter.scope_, std::move(scope))) {}
  ~ScopeSwitch() { interpreter_.scope_ = std::move(previous_); }
  ScopeSwitch(const ScopeSwitch&) = delete;
  ScopeSwitch& operator=(const ScopeSwitch&) = delete;

 private:
  Interpreter& interpreter_;
  std::shared_ptr<Scope> previous_;
};

class Interpreter::OutputSwitch {
 public:
  OutputSwitch(Interpreter& interpreter, std::string& output)
      : interpreter_(interpreter), previous_(std::exchange(interpreter.output_, &output)) {}
  ~OutputSwitch() { interpreter_.output_ = previous_; }
  OutputSwitch(const OutputSwitch&) = delete;
  OutputSwitch& operator=(const OutputSwitch&) = delete;

 private:
  Interpreter& interpreter_;
  std::string* previous_;
};

namespace {

std::shared_ptr<Scope> make_scope(std::shared_ptr<Scope> parent) {
  auto scope = std::make_shared<Scope>();
  scope->parent = std::move(parent);
  return scope;
}

void set_in(Scope& scope, int name_id, Value value) {
  for (auto& [id, existing] : scope.variables) {
    if (id == name_id) {
      existing = std::move(value);
      return;
    }
  }
  scope.variables.emplace_back(name_id, std::move(value));
}

void apply(std::vector<std::pair<std::string, Value>>& named, const std::string& name, Value value) {
  for (const auto& [existing, other] : named) {
    if (existing == name) fail(Code::kInvalidArgument, "got multiple values for keyword argument '{}'", name);
  }
  named.emplace_back(name, std::move(value));
}

}  // namespace

Interpreter::Interpreter(const Ast& ast, std::vector<Value> variables, int64_t now_unix_seconds)
    : ast_(ast),
      globals_(std::move(variables)),
      top_level_(ast.names.size()),
      is_set_(ast.names.size(), false),
      output_(nullptr),
      now_(now_unix_seconds),
      loop_id_(ast.find_name("loop")),
      caller_id_(ast.find_name("caller")),
      varargs_id_(ast.find_name("varargs")),
      kwargs_id_(ast.find_name("kwargs")) {}

Interpreter::~Interpreter() {
  // Macros hold scopes that hold macros, namespaces hold each other: emptying all of them first breaks every circle, and
  // keeps the freeing of long chains flat.
  for (auto& scope : captured_) scope->variables.clear();
  for (auto& one : namespaces_) one->variables = Dict();
}

std::string Interpreter::render() {
  std::string out;
  OutputSwitch output(*this, out);
  try {
    run(ast_.body);
  } catch (const Error& e) {
    throw Error(e.code(), fmt::format("line {}: {}", line_, e.what()), e.param());
  }
  return out;
}

Value Interpreter::make_namespace(Dict variables) {
  auto made = std::make_shared<Namespace>();
  made->variables = std::move(variables);
  charge_bytes(256);
  namespaces_.push_back(made);
  return Value::object(Kind::kNamespace, std::move(made));
}

// Statements.

void Interpreter::write(std::string_view text) {
  charge_steps(static_cast<int64_t>(text.size()) / kBytesPerStep);
  check_string_size(static_cast<int64_t>(output_->size() + text.size()));
  output_->append(text);
}

void Interpreter::write(const Value& value) {
  if (value.is_string()) write(value.text());
  else write(to_str(value));
}

Interpreter::Flow Interpreter::run(const Body& body) {
  FrameGuard guard;
  for (const Stmt& stmt : body) {
    Flow flow = run(stmt);
    if (flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::run(const Stmt& stmt) {
  charge_steps(1);
  line_ = stmt.line;
  switch (stmt.kind) {
    case StmtKind::kText: write(stmt.text); break;
    case StmtKind::kOutput: write(evaluate(*stmt.value)); break;
    case StmtKind::kFor: return run_for(stmt);
    case StmtKind::kIf: return run_if(stmt);
    case StmtKind::kSet: assign(stmt.target, evaluate(*stmt.value)); break;
    case StmtKind::kSetBlock: run_set_block(stmt); break;
    case StmtKind::kMacro: set_variable(stmt.target.name_id, define_macro(*stmt.macro)); break;
    case StmtKind::kCallBlock: run_call_block(stmt); break;
    case StmtKind::kFilterBlock: run_filter_block(stmt); break;
    case StmtKind::kWith: return run_with(stmt);
    case StmtKind::kScope: return run_scope(stmt.body);
    case StmtKind::kBreak: return Flow::kBreak;
    case StmtKind::kContinue: return Flow::kContinue;
    case StmtKind::kDo: evaluate(*stmt.value); break;
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::run_if(const Stmt& stmt) {
  for (const auto& [condition, body] : stmt.branches) {
    if (is_true(evaluate(*condition))) return run(body);
  }
  return run(stmt.otherwise);
}

Interpreter::Flow Interpreter::run_scope(const Body& body) {
  ScopeSwitch scope(*this, make_scope(scope_));
  return run(body);
}

Interpreter::Flow Interpreter::run_with(const Stmt& stmt) {
  std::vector<Value> values;
  for (const auto& [target, value] : stmt.bindings) values.push_back(evaluate(*value));
  ScopeSwitch scope(*this, make_scope(scope_));
  for (size_t i = 0; i < values.size(); ++i) assign(stmt.bindings[i].first, values[i]);
  return run(stmt.body);
}

void Interpreter::run_set_block(const Stmt& stmt) {
  std::string text;
  {
    OutputSwitch output(*this, text);
    run_scope(stmt.body);
  }
  Value input = Value::string(std::move(text));
  const Value* outer = std::exchange(filter_input_, &input);
  Value result = evaluate(*stmt.filters);
  filter_input_ = outer;
  assign(stmt.target, result);
}

void Interpreter::run_filter_block(const Stmt& stmt) {
  std::string text;
  {
    OutputSwitch output(*this, text);
    run_scope(stmt.body);
  }
  Value input = Value::string(std::move(text));
  const Value* outer = std::exchange(filter_input_, &input);
  Value result = evaluate(*stmt.filters);
  filter_input_ = outer;
  write(result);
}

Value Interpreter::define_macro(const MacroSyntax& syntax) {
  if (scope_ != nullptr && (captured_.empty() || captured_.back() != scope_)) {
    charge_bytes(256);
    captured_.push_back(scope_);
  }
  return Value::object(Kind::kMacro, std::make_shared<Macro>(Macro{&syntax, scope_}));
}

void Interpreter::run_call_block(const Stmt& stmt) {
  Value caller = define_macro(*stmt.macro);
  write(evaluate_call(*stmt.value, &caller));
}

Interpreter::Flow Interpreter::run_for(const Stmt& stmt) {
  Value sequence = evaluate(*stmt.value);
  line_ = stmt.line;
  return run_loop(stmt, sequence, 0);
}

std::shared_ptr<const List> Interpreter::filter_items(const Stmt& stmt, std::shared_ptr<const List> items) {
  if (stmt.filters == nullptr) return items;
  std::vector<Value> kept;
  for (const Value& item : items->items) {
    charge_steps(1);
    ScopeSwitch scope(*this, make_scope(scope_));
    assign(stmt.target, item);
    if (is_true(evaluate(*stmt.filters))) kept.push_back(item);
  }
  return Value::list(std::move(kept)).share<const List>();
}

Interpreter::Flow Interpreter::run_loop(const Stmt& stmt, const Value& sequence, int depth0) {
  auto loop = std::make_shared<Loop>();
  loop->items = filter_items(stmt, iterate(sequence));
  loop->depth0 = depth0;
  loop->statement = stmt.recursive ? &stmt : nullptr;
  loop->scope = scope_;
  Value loop_value = Value::object(Kind::kLoop, loop);
  // What the loop remembers may refer to the loop; it must not outlive the statement.
  struct Forget {
    Loop& loop;
    ~Forget() {
      loop.changed_values.clear();
      loop.scope.reset();
    }
  } forget{*loop};
  std::shared_ptr<Scope> reusable;
  for (size_t i = 0; i < loop->items->items.size(); ++i) {
    charge_steps(1);
    loop->index0 = static_cast<int64_t>(i);
    if (reusable == nullptr || reusable.use_count() > 1) reusable = make_scope(scope_);
    reusable->variables.clear();
    ScopeSwitch scope(*this, reusable);
    if (loop_id_ >= 0) set_in(*reusable, loop_id_, loop_value);
    line_ = stmt.line;
    assign(stmt.target, loop->items->items[i]);
    if (run(stmt.body) == Flow::kBreak) break;
  }
  return loop->items->items.empty() ? run_scope(stmt.otherwise) : Flow::kNext;
}

Value Interpreter::call_loop(const Value& value, const CallArgs& args) {
  const Loop& loop = value.as<const Loop>();
  if (loop.statement == nullptr) fail(Code::kInvalidArgument, "the loop must have the 'recursive' marker to be called recursively");
  if (args.positional.size() != 1 || !args.named.empty()) fail(Code::kInvalidArgument, "loop() takes one argument");
  if (calls_ >= current_budget()->limits.max_depth) {
    fail(Code::kInvalidArgument, "loops and macros are nested more than {} deep", calls_);
  }
  const Stmt& stmt = *static_cast<const Stmt*>(loop.statement);
  ScopeSwitch scope(*this, std::static_pointer_cast<Scope>(loop.scope));
  std::string text;
  OutputSwitch output(*this, text);
  ++calls_;
  int depth0 = loop.depth0 + 1;
  try {
    run_loop(stmt, args.positional[0], depth0);
  } catch (...) {
    --calls_;
    throw;
  }
  --calls_;
  return Value::string(std::move(text));
}

void Interpreter::set_variable(int name_id, Value value) {
  if (scope_ != nullptr) {
    set_in(*scope_, name_id, std::move(value));
    return;
  }
  top_level_[static_cast<size_t>(name_id)] = std::move(value);
  is_set_[static_cast<size_t>(name_id)] = true;
}

void Interpreter::assign(const Target& target, const Value& value) {
  if (!target.attribute.empty()) {
    const Value* object = find_variable(target.name_id);
    if (object == nullptr || !object->is(Kind::kNamespace)) {
      fail(Code::kInvalidArgument, "cannot assign attribute on non-namespace object '{}'; make it with namespace()",
           ast_.names[static_cast<size_t>(target.name_id)]);
    }
    object->as<Namespace>().variables.set(Value::string(target.attribute), value);
    return;
  }
  if (target.name_id >= 0) {
    set_variable(target.name_id, value);
    return;
  }
  std::shared_ptr<const List> items = iterate(value);
  if (items->items.size() != target.parts.size()) {
    fail(Code::kInvalidArgument, "{} values to unpack (expected {}, got {})",
         items->items.size() < target.parts.size() ? "not enough" : "too many", target.parts.size(), items->items.size());
  }
  for (size_t i = 0; i < target.parts.size(); ++i) assign(target.parts[i], items->items[i]);
}

// Calls.

Value Interpreter::call_macro(const Macro& macro, const CallArgs& args) {
  const MacroSyntax& syntax = *macro.syntax;
  if (calls_ >= current_budget()->limits.max_depth) {
    fail(Code::kInvalidArgument, "loops and macros are nested more than {} deep", calls_);
  }
  auto scope = make_scope(macro.scope);
  std::vector<const Expr*> defaults(syntax.parameters.size(), nullptr);
  std::vector<bool> used(args.named.size(), false);
  auto take_named = [&](std::string_view name) -> const Value* {
    for (size_t i = 0; i < args.named.size(); ++i) {
      if (!used[i] && args.named[i].first == name) {
        used[i] = true;
        return &args.named[i].second;
      }
    }
    return nullptr;
  };

  // Which arguments are given; the defaults of the others are evaluated below, where they see the earlier parameters.
  std::vector<const Value*> given(syntax.parameters.size(), nullptr);
  for (size_t i = 0; i < syntax.parameters.size(); ++i) {
    const std::string& name = ast_.names[static_cast<size_t>(syntax.parameters[i].first)];
    given[i] = i < args.positional.size() ? &args.positional[i] : take_named(name);
  }
  Value caller;
  if (syntax.uses_caller && !syntax.declares_caller) {
    const Value* found = take_named("caller");
    caller = found != nullptr && !found->is_none() ? *found : Value::undefined_hint("No caller defined", "caller");
  }
  Dict rest;
  for (size_t i = 0; i < args.named.size(); ++i) {
    if (used[i]) continue;
    if (!syntax.uses_kwargs) fail(Code::kInvalidArgument, "macro '{}' takes no keyword argument '{}'", syntax.name, args.named[i].first);
    rest.set(Value::string(args.named[i].first), args.named[i].second);
  }
  if (!syntax.uses_varargs && args.positional.size() > given.size()) {
    fail(Code::kInvalidArgument, "macro '{}' takes not more than {} argument(s)", syntax.name, given.size());
  }

  ScopeSwitch scope_switch(*this, scope);
  std::string text;
  OutputSwitch output(*this, text);
  struct Count {
    int& calls;
    explicit Count(int& calls) : calls(calls) { ++calls; }
    ~Count() { --calls; }
  } count(calls_);
  if (syntax.uses_caller && !syntax.declares_caller) set_in(*scope, caller_id_, caller);
  if (syntax.uses_kwargs) set_in(*scope, kwargs_id_, Value::dict(std::move(rest)));
  if (syntax.uses_varargs) {
    std::vector<Value> more;
    for (size_t i = given.size(); i < args.positional.size(); ++i) more.push_back(args.positional[i]);
    set_in(*scope, varargs_id_, Value::tuple(std::move(more)));
  }
  for (size_t i = 0; i < given.size(); ++i) {
    const auto& [id, otherwise] = syntax.parameters[i];
    Value value;
    if (given[i] != nullptr) value = *given[i];
    else if (otherwise != nullptr) value = evaluate(*otherwise);
    else {
      const std::string& name = ast_.names[static_cast<size_t>(id)];
      value = Value::undefined_hint(fmt::format("parameter '{}' was not provided", name), name);
    }
    set_in(*scope, id, std::move(value));
  }
  int call_line = line_;
  run(*syntax.body);
  line_ = call_line;
  return Value::string(std::move(text));
}

Value Interpreter::call(const Value& callee, const CallArgs& args) {
  switch (callee.kind()) {
    case Kind::kMacro: return call_macro(callee.as<const Macro>(), args);
    case Kind::kFunction: return callee.as<const Function>().body(*this, args);
    case Kind::kMethod: {
      const Method& method = callee.as<const Method>();
      charge_steps(method.self.is_string() ? 1 + static_cast<int64_t>(method.self.text().size()) / kBytesPerStep : 1);
      return method.body(*this, method.self, args);
    }
    case Kind::kLoop: return call_loop(callee, args);
    case Kind::kJoiner: {
      if (!args.positional.empty() || !args.named.empty()) fail(Code::kInvalidArgument, "a joiner takes no arguments");
      Joiner& joiner = callee.as<Joiner>();
      return std::exchange(joiner.used, true) ? joiner.separator : Value::string("");
    }
    case Kind::kUndefined: fail_undefined(callee);
    default: fail(Code::kInvalidArgument, "'{}' object is not callable", type_name(callee));
  }
}

CallArgs Interpreter::evaluate_arguments(const CallSyntax& syntax) {
  CallArgs args;
  args.positional = evaluate_all(syntax.positional);
  if (syntax.star != nullptr) {
    std::shared_ptr<const List> more = iterate(evaluate(*syntax.star));
    charge_steps(static_cast<int64_t>(more->items.size()));
    args.positional.insert(args.positional.end(), more->items.begin(), more->items.end());
  }
  for (const auto& [name, value] : syntax.named) apply(args.named, name, evaluate(*value));
  if (syntax.star_star != nullptr) {
    Value more = evaluate(*syntax.star_star);
    if (more.is_undefined()) fail_undefined(more);
    if (!more.is(Kind::kDict)) fail(Code::kInvalidArgument, "argument after ** must be a mapping, not {}", type_name(more));
    charge_steps(static_cast<int64_t>(more.dict().items.size()));
    for (const auto& [key, value] : more.dict().items) {
      if (!key.is_string()) fail(Code::kInvalidArgument, "keywords must be strings");
      apply(args.named, key.text(), value);
    }
  }
  return args;
}

// Expressions.

std::vector<Value> Interpreter::evaluate_all(const std::vector<ExprPtr>& exprs) {
  std::vector<Value> values;
  values.reserve(exprs.size());
  for (const ExprPtr& expr : exprs) values.push_back(evaluate(*expr));
  return values;
}

Value Interpreter::evaluate_or_none(const Expr* expr) { return expr != nullptr ? evaluate(*expr) : Value::none(); }

const Value* Interpreter::find_variable(int name_id) const {
  for (const Scope* scope = scope_.get(); scope != nullptr; scope = scope->parent.get()) {
    for (const auto& [id, value] : scope->variables) {
      if (id == name_id) return &value;
    }
  }
  size_t index = static_cast<size_t>(name_id);
  if (is_set_[index]) return &top_level_[index];
  return globals_[index].is_undefined() ? nullptr : &globals_[index];
}

Value Interpreter::evaluate_name(const Expr& expr) {
  const Value* found = find_variable(expr.name_id);
  if (found != nullptr) return *found;
  return Value::undefined_name(ast_.names[static_cast<size_t>(expr.name_id)]);
}

Value Interpreter::evaluate_dict(const Expr& expr) {
  Dict dict;
  for (size_t i = 0; i + 1 < expr.children.size(); i += 2) {
    Value key = evaluate(*expr.children[i]);
    dict.set(std::move(key), evaluate(*expr.children[i + 1]));
  }
  return Value::dict(std::move(dict));
}

Value Interpreter::evaluate_compare(const Expr& expr) {
  Value left = evaluate(*expr.children[0]);
  for (size_t i = 0; i < expr.operators.size(); ++i) {
    Value right = evaluate(*expr.children[i + 1]);
    line_ = expr.line;
    if (!compare(expr.operators[i], left, right)) return Value::boolean(false);
    left = std::move(right);
  }
  return Value::boolean(true);
}

Value Interpreter::evaluate_conditional(const Expr& expr) {
  if (is_true(evaluate(*expr.children[0]))) return evaluate(*expr.children[1]);
  if (expr.children[2] != nullptr) return evaluate(*expr.children[2]);
  return Value::undefined_hint(fmt::format(
      "the inline if-expression on line {} evaluated to false and no else section was defined.", expr.line));
}

Value Interpreter::evaluate_filter(const Expr& expr) {
  Value input = evaluate(*expr.children[0]);
  CallArgs args = evaluate_arguments(expr.args);
  line_ = expr.line;
  if (expr.filter == nullptr) fail(Code::kInvalidArgument, "no filter named '{}'", expr.text);
  int64_t length = input.is_string() ? static_cast<int64_t>(input.text().size()) / kBytesPerStep : std::max<int64_t>(0, find_length(input));
  charge_steps(1 + length);
  return expr.filter(*this, input, args);
}

Value Interpreter::evaluate_test(const Expr& expr) {
  Value input = evaluate(*expr.children[0]);
  CallArgs args = evaluate_arguments(expr.args);
  line_ = expr.line;
  if (expr.test == nullptr) fail(Code::kInvalidArgument, "no test named '{}'", expr.text);
  return Value::boolean(expr.test(*this, input, args));
}

Value Interpreter::evaluate_call(const Expr& expr, const Value* caller) {
  Value callee = evaluate(*expr.children[0]);
  CallArgs args = evaluate_arguments(expr.args);
  if (caller != nullptr) apply(args.named, "caller", *caller);
  line_ = expr.line;
  return call(callee, args);
}

Value Interpreter::evaluate(const Expr& expr) {
  FrameGuard guard;
  charge_steps(1);
  switch (expr.kind) {
    case ExprKind::kConst: return expr.constant.is_undefined() && filter_input_ != nullptr ? *filter_input_ : expr.constant;
    case ExprKind::kName: return evaluate_name(expr);
    case ExprKind::kTuple: return Value::tuple(evaluate_all(expr.children));
    case ExprKind::kList: return Value::list(evaluate_all(expr.children));
    case ExprKind::kDict: return evaluate_dict(expr);
    case ExprKind::kAttribute: {
      Value object = evaluate(*expr.children[0]);
      line_ = expr.line;
      return get_attribute(object, expr.text);
    }
    case ExprKind::kItem: {
      Value object = evaluate(*expr.children[0]);
      Value key = evaluate(*expr.children[1]);
      line_ = expr.line;
      return get_item(object, key);
    }
    case ExprKind::kSlice: {
      Value object = evaluate(*expr.children[0]);
      Value start = evaluate_or_none(expr.children[1].get());
      Value stop = evaluate_or_none(expr.children[2].get());
      Value step = evaluate_or_none(expr.children[3].get());
      line_ = expr.line;
      return get_slice(object, start, stop, step);
    }
    case ExprKind::kCall: return evaluate_call(expr, nullptr);
    case ExprKind::kFilter: return evaluate_filter(expr);
    case ExprKind::kTest: return evaluate_test(expr);
    case ExprKind::kNot: return Value::boolean(!is_true(evaluate(*expr.children[0])));
    case ExprKind::kNegate:
    case ExprKind::kPositive: {
      Value operand = evaluate(*expr.children[0]);
      line_ = expr.line;
      return expr.kind == ExprKind::kNegate ? negate(operand) : positive(operand);
    }
    case ExprKind::kBinary: {
      Value left = evaluate(*expr.children[0]);
      Value right = evaluate(*expr.children[1]);
      line_ = expr.line;
      return calculate(expr.op, left, right);
    }
    case ExprKind::kAnd: {
      Value left = evaluate(*expr.children[0]);
      return is_true(left) ? evaluate(*expr.children[1]) : left;
    }
    case ExprKind::kOr: {
      Value left = evaluate(*expr.children[0]);
      return is_true(left) ? left : evaluate(*expr.children[1]);
    }
    case ExprKind::kCompare: return evaluate_compare(expr);
    case ExprKind::kConcat: {
      std::vector<Value> parts = evaluate_all(expr.children);
      line_ = expr.line;
      return concatenate(parts);
    }
    case ExprKind::kConditional: return evaluate_conditional(expr);
  }
  return Value();
}

}  // namespace sluice::jinja
