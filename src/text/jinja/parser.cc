#include "text/jinja/parser.h"

#include <algorithm>
#include <optional>
#include <unordered_map>

#include "text/jinja/lexer.h"
#include "text/jinja/python_format.h"

namespace sluice::jinja {
namespace {

constexpr int kMaxExprDepth = 200;
constexpr int kMaxStmtDepth = 100;

// Counts nesting for the lifetime of one call.
class Nested {
 public:
  explicit Nested(int& depth) : depth_(depth) { ++depth_; }
  ~Nested() { --depth_; }
  Nested(const Nested&) = delete;
  Nested& operator=(const Nested&) = delete;

 private:
  int& depth_;
};

class Parser {
 public:
  explicit Parser(std::string_view source) : tokens_(tokenize(source)), ast_(std::make_unique<Ast>()) {}

  std::unique_ptr<Ast> run() {
    ast_->body = parse_until({});
    ast_->names.resize(name_ids_.size());
    for (const auto& [name, id] : name_ids_) ast_->names[static_cast<size_t>(id)] = name;
    return std::move(ast_);
  }

 private:
  // Tokens.

  const Token& current() const { return tokens_[at_]; }
  const Token& ahead() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  int line() const { return current().line; }

  Token take() {
    Token token = tokens_[at_];
    if (at_ + 1 < tokens_.size()) ++at_;
    return token;
  }

  static bool is(const Token& token, TokenKind kind, std::string_view text) { return token.kind == kind && token.text == text; }
  bool is_name(std::string_view text) const { return is(current(), TokenKind::kName, text); }
  bool is_operator(std::string_view text) const { return is(current(), TokenKind::kOperator, text); }
  bool skip_name(std::string_view text) { return is_name(text) && (take(), true); }
  bool skip_operator(std::string_view text) { return is_operator(text) && (take(), true); }

  template <typename... Args>
  [[noreturn]] void error_at(int line, fmt::format_string<Args...> format, Args&&... args) const {
    fail(Code::kInvalidArgument, "line {}: {}", line, fmt::format(format, std::forward<Args>(args)...));
  }

  std::string describe(const Token& token) const {
    switch (token.kind) {
      case TokenKind::kText: return "text";
      case TokenKind::kVariableBegin: return "{{";
      case TokenKind::kVariableEnd: return "}}";
      case TokenKind::kBlockBegin: return "{%";
      case TokenKind::kBlockEnd: return "%}";
      case TokenKind::kInteger:
      case TokenKind::kFloat: return to_str(token.number);
      case TokenKind::kEnd: return "end of template";
      default: return token.text;
    }
  }

  [[noreturn]] void unexpected(std::string_view wanted) const {
    error_at(line(), "expected {}, got '{}'", wanted, describe(current()));
  }

  void expect_operator(std::string_view text) {
    if (!skip_operator(text)) unexpected(fmt::format("'{}'", text));
  }

  std::string expect_name(std::string_view what = "a name") {
    if (current().kind != TokenKind::kName) unexpected(what);
    return take().text;
  }

  void expect(TokenKind kind) {
    if (current().kind != kind) unexpected(kind == TokenKind::kBlockEnd ? "'%}'" : "'}}'");
    take();
  }

  int name_id(const std::string& name) { return name_ids_.emplace(name, static_cast<int>(name_ids_.size())).first->second; }

  // Nodes.

  ExprPtr make(ExprKind kind, int line) {
    auto expr = std::make_unique<Expr>();
    expr->kind = kind;
    expr->line = line;
    return expr;
  }

  void grow(Expr& parent, const ExprPtr& child) {
    if (child == nullptr) return;
    parent.depth = std::max(parent.depth, child->depth + 1);
    if (parent.depth > kMaxExprDepth) error_at(parent.line, "the expression is nested more than {} deep", kMaxExprDepth);
  }

  void adopt(Expr& parent, ExprPtr child) {
    grow(parent, child);
    parent.children.push_back(std::move(child));
  }

  ExprPtr make_unary(ExprKind kind, int line, ExprPtr operand) {
    ExprPtr expr = make(kind, line);
    adopt(*expr, std::move(operand));
    return expr;
  }

  ExprPtr make_binary(ExprKind kind, int line, ExprPtr left, ExprPtr right, Operator op = Operator::kAdd) {
    ExprPtr expr = make(kind, line);
    expr->op = op;
    adopt(*expr, std::move(left));
    adopt(*expr, std::move(right));
    return expr;
  }

  ExprPtr make_const(int line, Value v) {
    ExprPtr expr = make(ExprKind::kConst, line);
    expr->constant = std::move(v);
    return expr;
  }

  // Statements.

  Body parse_until(const std::vector<std::string_view>& ends) {
    Nested nested(stmt_depth_);
    if (stmt_depth_ > kMaxStmtDepth) error_at(line(), "statements are nested more than {} deep", kMaxStmtDepth);
    Body body;
    int begin_line = line();
    while (true) {
      const Token& token = current();
      switch (token.kind) {
        case TokenKind::kEnd:
          if (!ends.empty()) {
            error_at(token.line, "unexpected end of template; the block that began near line {} needs '{}'", begin_line, ends.back());
          }
          return body;
        case TokenKind::kText: {
          Stmt stmt{StmtKind::kText, token.line};
          stmt.text = take().text;
          body.push_back(std::move(stmt));
          break;
        }
        case TokenKind::kVariableBegin: {
          Stmt stmt{StmtKind::kOutput, token.line};
          take();
          stmt.value = parse_tuple();
          expect(TokenKind::kVariableEnd);
          body.push_back(std::move(stmt));
          break;
        }
        default: {
          take();
          if (current().kind == TokenKind::kName &&
              std::find(ends.begin(), ends.end(), current().text) != ends.end()) {
            return body;
          }
          parse_statement(body);
          expect(TokenKind::kBlockEnd);
        }
      }
    }
  }

  // The rest of an opening tag, then statements up to one of `ends`, which stays the current token.
  Body parse_block(const std::vector<std::string_view>& ends) {
    skip_operator(":");
    expect(TokenKind::kBlockEnd);
    return parse_until(ends);
  }

  Body parse_closed_block(std::string_view end) {
    Body body = parse_block({end});
    take();
    return body;
  }

  void parse_statement(Body& body) {
    int begin = line();
    if (current().kind != TokenKind::kName) error_at(begin, "tag name expected, got '{}'", describe(current()));
    std::string tag = take().text;
    if (tag == "for") body.push_back(parse_for(begin));
    else if (tag == "if") body.push_back(parse_if(begin));
    else if (tag == "set") body.push_back(parse_set(begin));
    else if (tag == "macro") body.push_back(parse_macro(begin));
    else if (tag == "call") body.push_back(parse_call_block(begin));
    else if (tag == "filter") body.push_back(parse_filter_block(begin));
    else if (tag == "with") body.push_back(parse_with(begin));
    else if (tag == "generation") body.push_back(parse_scope(begin, "endgeneration", true));
    else if (tag == "block") {
      expect_name("the block's name");
      skip_name("scoped");
      skip_name("required");
      body.push_back(parse_scope(begin, "endblock", false));
      if (current().kind == TokenKind::kName) take();
    } else if (tag == "autoescape") {
      ExprPtr wanted = parse_expression();
      if (wanted->kind != ExprKind::kConst || is_true(wanted->constant)) error_at(begin, "autoescape is not supported in chat templates");
      body.push_back(parse_scope(begin, "endautoescape", false));
    } else if (tag == "break" || tag == "continue") {
      if (loop_depth_ == 0) error_at(begin, "'{}' outside loop", tag);
      body.push_back(Stmt{tag == "break" ? StmtKind::kBreak : StmtKind::kContinue, begin});
    } else if (tag == "do") {
      Stmt stmt{StmtKind::kDo, begin};
      stmt.value = parse_tuple();
      body.push_back(std::move(stmt));
    } else if (tag == "print") {
      for (bool first = true; current().kind != TokenKind::kBlockEnd; first = false) {
        if (!first) expect_operator(",");
        Stmt stmt{StmtKind::kOutput, begin};
        stmt.value = parse_expression();
        body.push_back(std::move(stmt));
      }
    } else if (tag == "include" || tag == "import" || tag == "from" || tag == "extends") {
      error_at(begin, "'{}' is not supported: a chat template stands alone", tag);
    } else {
      error_at(begin, "encountered unknown tag '{}'", tag);
    }
  }

  Stmt parse_for(int begin) {
    Stmt stmt{StmtKind::kFor, begin};
    stmt.target = parse_target(/*may_be_tuple=*/true, /*may_be_attribute=*/false, "in");
    if (!skip_name("in")) unexpected("'in'");
    if (binds_loop(stmt.target)) error_at(begin, "can't assign to the special variable 'loop' in a for statement");
    stmt.value = parse_tuple(/*with_condition=*/false, "recursive");
    if (skip_name("if")) stmt.filters = parse_expression();
    stmt.recursive = skip_name("recursive");
    ++loop_depth_;
    stmt.body = parse_block({"else", "endfor"});
    --loop_depth_;
    if (take().text == "else") stmt.otherwise = parse_closed_block("endfor");
    return stmt;
  }

  bool binds_loop(const Target& target) {
    if (target.name_id >= 0) return target.name_id == name_id("loop");
    return std::any_of(target.parts.begin(), target.parts.end(), [&](const Target& part) { return binds_loop(part); });
  }

  Stmt parse_if(int begin) {
    Stmt stmt{StmtKind::kIf, begin};
    while (true) {
      ExprPtr condition = parse_tuple(/*with_condition=*/false);
      Body body = parse_block({"elif", "else", "endif"});
      stmt.branches.emplace_back(std::move(condition), std::move(body));
      std::string tag = take().text;
      if (tag == "elif") continue;
      if (tag == "else") stmt.otherwise = parse_closed_block("endif");
      return stmt;
    }
  }

  Stmt parse_set(int begin) {
    Stmt stmt{StmtKind::kSet, begin};
    stmt.target = parse_target(/*may_be_tuple=*/true, /*may_be_attribute=*/true, "");
    if (skip_operator("=")) {
      stmt.value = parse_tuple();
      return stmt;
    }
    stmt.kind = StmtKind::kSetBlock;
    stmt.filters = parse_filters(make_const(begin, Value()));
    stmt.body = parse_closed_block("endset");
    return stmt;
  }

  // Parses a body that Jinja compiles to a function of its own: loops around it are out of reach of break.
  std::unique_ptr<Body> parse_function_body(MacroSyntax& macro, std::string_view end) {
    int outer_loops = std::exchange(loop_depth_, 0);
    macros_.push_back(&macro);
    auto body = std::make_unique<Body>(parse_closed_block(end));
    macros_.pop_back();
    loop_depth_ = outer_loops;
    for (auto& [id, otherwise] : macro.parameters) {
      if (id != name_id("caller")) continue;
      macro.declares_caller = true;
      if (macro.uses_caller && otherwise == nullptr) {
        error_at(macro.line, "the parameter 'caller' must be left out or have a default");
      }
    }
    return body;
  }

  void parse_signature(MacroSyntax& macro) {
    expect_operator("(");
    while (!is_operator(")")) {
      if (!macro.parameters.empty()) expect_operator(",");
      Target target = parse_target(/*may_be_tuple=*/false, /*may_be_attribute=*/false, "");
      ExprPtr otherwise;
      if (skip_operator("=")) otherwise = parse_expression();
      else if (!macro.parameters.empty() && macro.parameters.back().second != nullptr) {
        error_at(line(), "a parameter without a default follows one with a default");
      }
      macro.parameters.emplace_back(target.name_id, std::move(otherwise));
    }
    expect_operator(")");
  }

  Stmt parse_macro(int begin) {
    Stmt stmt{StmtKind::kMacro, begin};
    stmt.macro = std::make_unique<MacroSyntax>();
    stmt.macro->line = begin;
    stmt.target = parse_target(/*may_be_tuple=*/false, /*may_be_attribute=*/false, "");
    stmt.macro->name = last_name_;
    parse_signature(*stmt.macro);
    stmt.macro->body = parse_function_body(*stmt.macro, "endmacro");
    return stmt;
  }

  Stmt parse_call_block(int begin) {
    Stmt stmt{StmtKind::kCallBlock, begin};
    stmt.macro = std::make_unique<MacroSyntax>();
    stmt.macro->line = begin;
    stmt.macro->name = "caller";
    if (is_operator("(")) parse_signature(*stmt.macro);
    stmt.value = parse_expression();
    if (stmt.value->kind != ExprKind::kCall) error_at(begin, "expected call");
    stmt.macro->body = parse_function_body(*stmt.macro, "endcall");
    return stmt;
  }

  Stmt parse_filter_block(int begin) {
    Stmt stmt{StmtKind::kFilterBlock, begin};
    stmt.filters = parse_filters(parse_filter(make_const(begin, Value())));
    stmt.body = parse_closed_block("endfilter");
    return stmt;
  }

  Stmt parse_with(int begin) {
    Stmt stmt{StmtKind::kWith, begin};
    while (current().kind != TokenKind::kBlockEnd) {
      if (!stmt.bindings.empty()) expect_operator(",");
      Target target = parse_target(/*may_be_tuple=*/true, /*may_be_attribute=*/false, "");
      expect_operator("=");
      stmt.bindings.emplace_back(std::move(target), parse_expression());
    }
    stmt.body = parse_closed_block("endwith");
    return stmt;
  }

  Stmt parse_scope(int begin, std::string_view end, bool is_function) {
    Stmt stmt{StmtKind::kScope, begin};
    int outer_loops = loop_depth_;
    if (is_function) loop_depth_ = 0;
    stmt.body = parse_closed_block(end);
    loop_depth_ = outer_loops;
    return stmt;
  }

  Target parse_target(bool may_be_tuple, bool may_be_attribute, std::string_view end) {
    Nested nested(expr_depth_);
    if (expr_depth_ > kMaxExprDepth) error_at(line(), "the assignment is nested too deeply");
    Target first = parse_one_target(may_be_tuple, may_be_attribute);
    if (!may_be_tuple || !is_operator(",")) return first;
    Target tuple;
    tuple.line = first.line;
    tuple.parts.push_back(std::move(first));
    while (skip_operator(",")) {
      bool ends = current().kind == TokenKind::kBlockEnd || is_operator("=") || is_operator(")") || (!end.empty() && is_name(end));
      if (ends) break;
      tuple.parts.push_back(parse_one_target(may_be_tuple, may_be_attribute));
    }
    return tuple;
  }

  Target parse_one_target(bool may_be_tuple, bool may_be_attribute) {
    Target target;
    target.line = line();
    if (may_be_tuple && (is_operator("(") || is_operator("["))) {
      std::string_view close = take().text == "(" ? ")" : "]";
      target = parse_target(true, may_be_attribute, "");
      expect_operator(close);
      return target;
    }
    if (current().kind != TokenKind::kName) error_at(line(), "can't assign to '{}'", describe(current()));
    last_name_ = take().text;
    static constexpr std::string_view kReserved[] = {"true", "false", "none", "True", "False", "None"};
    if (std::find(std::begin(kReserved), std::end(kReserved), last_name_) != std::end(kReserved)) {
      error_at(target.line, "can't assign to '{}'", last_name_);
    }
    target.name_id = name_id(last_name_);
    if (may_be_attribute && skip_operator(".")) target.attribute = expect_name("an attribute");
    return target;
  }

  // Expressions, from loose to tight.

  bool is_tuple_end(std::string_view end) const {
    return current().kind == TokenKind::kVariableEnd || current().kind == TokenKind::kBlockEnd || is_operator(")") ||
           (!end.empty() && is_name(end));
  }

  ExprPtr parse_tuple(bool with_condition = true, std::string_view end = "", bool in_parentheses = false) {
    int begin = line();
    std::vector<ExprPtr> items;
    bool is_tuple = false;
    while (true) {
      if (!items.empty()) expect_operator(",");
      if (is_tuple_end(end)) break;
      items.push_back(parse_expression(with_condition));
      if (!is_operator(",")) break;
      is_tuple = true;
    }
    if (!is_tuple && !items.empty()) return std::move(items[0]);
    if (!is_tuple && !in_parentheses) unexpected("an expression");
    ExprPtr expr = make(ExprKind::kTuple, begin);
    for (ExprPtr& item : items) adopt(*expr, std::move(item));
    return expr;
  }

  ExprPtr parse_expression(bool with_condition = true) {
    Nested nested(expr_depth_);
    if (expr_depth_ > kMaxExprDepth) error_at(line(), "the expression is nested more than {} deep", kMaxExprDepth);
    return with_condition ? parse_conditional() : parse_or();
  }

  ExprPtr parse_conditional() {
    int begin = line();
    ExprPtr expr = parse_or();
    while (skip_name("if")) {
      ExprPtr condition = parse_or();
      ExprPtr otherwise;
      if (skip_name("else")) otherwise = parse_expression();
      ExprPtr whole = make(ExprKind::kConditional, begin);
      adopt(*whole, std::move(condition));
      adopt(*whole, std::move(expr));
      adopt(*whole, std::move(otherwise));
      expr = std::move(whole);
      begin = line();
    }
    return expr;
  }

  ExprPtr parse_or() {
    ExprPtr left = parse_and();
    while (is_name("or")) {
      int begin = take().line;
      left = make_binary(ExprKind::kOr, begin, std::move(left), parse_and());
    }
    return left;
  }

  ExprPtr parse_and() {
    ExprPtr left = parse_not();
    while (is_name("and")) {
      int begin = take().line;
      left = make_binary(ExprKind::kAnd, begin, std::move(left), parse_not());
    }
    return left;
  }

  ExprPtr parse_not() {
    if (!is_name("not")) return parse_compare();
    Nested nested(expr_depth_);
    if (expr_depth_ > kMaxExprDepth) error_at(line(), "the expression is nested more than {} deep", kMaxExprDepth);
    int begin = take().line;
    return make_unary(ExprKind::kNot, begin, parse_not());
  }

  std::optional<Operator> take_comparison() {
    if (current().kind == TokenKind::kOperator) {
      static const std::unordered_map<std::string_view, Operator> kComparisons = {
          {"==", Operator::kEqual},     {"!=", Operator::kNotEqual}, {"<", Operator::kLess},
          {"<=", Operator::kLessEqual}, {">", Operator::kGreater},   {">=", Operator::kGreaterEqual}};
      auto found = kComparisons.find(current().text);
      if (found == kComparisons.end()) return std::nullopt;
      take();
      return found->second;
    }
    if (skip_name("in")) return Operator::kIn;
    if (is_name("not") && is(ahead(), TokenKind::kName, "in")) {
      take();
      take();
      return Operator::kNotIn;
    }
    return std::nullopt;
  }

  ExprPtr parse_compare() {
    int begin = line();
    ExprPtr first = parse_sum();
    ExprPtr whole;
    while (std::optional<Operator> op = take_comparison()) {
      if (whole == nullptr) {
        whole = make(ExprKind::kCompare, begin);
        adopt(*whole, std::move(first));
      }
      whole->operators.push_back(*op);
      adopt(*whole, parse_sum());
    }
    return whole != nullptr ? std::move(whole) : std::move(first);
  }

  ExprPtr parse_sum() {
    ExprPtr left = parse_concat();
    while (is_operator("+") || is_operator("-")) {
      Token token = take();
      left = make_binary(ExprKind::kBinary, token.line, std::move(left), parse_concat(),
                         token.text == "+" ? Operator::kAdd : Operator::kSubtract);
    }
    return left;
  }

  ExprPtr parse_concat() {
    int begin = line();
    ExprPtr first = parse_product();
    if (!is_operator("~")) return first;
    ExprPtr expr = make(ExprKind::kConcat, begin);
    adopt(*expr, std::move(first));
    while (skip_operator("~")) adopt(*expr, parse_product());
    return expr;
  }

  ExprPtr parse_product() {
    ExprPtr left = parse_power();
    while (is_operator("*") || is_operator("/") || is_operator("//") || is_operator("%")) {
      Token token = take();
      Operator op = token.text == "*"    ? Operator::kMultiply
                    : token.text == "/"  ? Operator::kDivide
                    : token.text == "//" ? Operator::kFloorDivide
                                         : Operator::kModulo;
      left = make_binary(ExprKind::kBinary, token.line, std::move(left), parse_power(), op);
    }
    return left;
  }

  ExprPtr parse_power() {
    ExprPtr left = parse_unary(true);
    while (is_operator("**")) {
      int begin = take().line;
      left = make_binary(ExprKind::kBinary, begin, std::move(left), parse_unary(true), Operator::kPower);
    }
    return left;
  }

  ExprPtr parse_unary(bool with_filter) {
    ExprPtr expr;
    if (is_operator("-") || is_operator("+")) {
      Nested nested(expr_depth_);
      if (expr_depth_ > kMaxExprDepth) error_at(line(), "the expression is nested more than {} deep", kMaxExprDepth);
      Token token = take();
      expr = make_unary(token.text == "-" ? ExprKind::kNegate : ExprKind::kPositive, token.line, parse_unary(false));
    } else {
      expr = parse_primary();
    }
    expr = parse_postfix(std::move(expr));
    return with_filter ? parse_filters_and_tests(std::move(expr)) : std::move(expr);
  }

  ExprPtr parse_primary() {
    const Token& token = current();
    int begin = token.line;
    switch (token.kind) {
      case TokenKind::kName: {
        std::string name = take().text;
        if (name == "true" || name == "True") return make_const(begin, Value::boolean(true));
        if (name == "false" || name == "False") return make_const(begin, Value::boolean(false));
        if (name == "none" || name == "None") return make_const(begin, Value::none());
        note_special(name);
        ExprPtr expr = make(ExprKind::kName, begin);
        expr->name_id = name_id(name);
        return expr;
      }
      case TokenKind::kString: {
        std::string text = take().text;
        while (current().kind == TokenKind::kString) text += take().text;
        return make_const(begin, Value::string(std::move(text)));
      }
      case TokenKind::kInteger:
      case TokenKind::kFloat: return make_const(begin, take().number);
      case TokenKind::kOperator:
        if (skip_operator("(")) {
          Nested nested(expr_depth_);
          ExprPtr expr = parse_tuple(true, "", true);
          expect_operator(")");
          return expr;
        }
        if (skip_operator("[")) return parse_list(begin);
        if (skip_operator("{")) return parse_dict(begin);
        break;
      default: break;
    }
    error_at(begin, "unexpected '{}'", describe(token));
  }

  // Macros that mention these take them; the others reject them.
  void note_special(const std::string& name) {
    for (MacroSyntax* macro : macros_) {
      if (name == "caller") macro->uses_caller = true;
      if (name == "varargs") macro->uses_varargs = true;
      if (name == "kwargs") macro->uses_kwargs = true;
    }
  }

  ExprPtr parse_list(int begin) {
    ExprPtr expr = make(ExprKind::kList, begin);
    while (!is_operator("]")) {
      if (!expr->children.empty()) expect_operator(",");
      if (is_operator("]")) break;
      adopt(*expr, parse_expression());
    }
    expect_operator("]");
    return expr;
  }

  ExprPtr parse_dict(int begin) {
    ExprPtr expr = make(ExprKind::kDict, begin);
    while (!is_operator("}")) {
      if (!expr->children.empty()) expect_operator(",");
      if (is_operator("}")) break;
      adopt(*expr, parse_expression());
      expect_operator(":");
      adopt(*expr, parse_expression());
    }
    expect_operator("}");
    return expr;
  }

  ExprPtr parse_postfix(ExprPtr expr) {
    while (true) {
      if (is_operator(".")) {
        int begin = take().line;
        if (current().kind == TokenKind::kName) {
          expr = make_unary(ExprKind::kAttribute, begin, std::move(expr));
          expr->text = take().text;
        } else if (current().kind == TokenKind::kInteger) {
          ExprPtr index = make_const(begin, take().number);
          expr = make_binary(ExprKind::kItem, begin, std::move(expr), std::move(index));
        } else {
          unexpected("a name or a number after '.'");
        }
      } else if (is_operator("[")) {
        expr = parse_subscript(std::move(expr));
      } else if (is_operator("(")) {
        expr = parse_call(std::move(expr));
      } else {
        return expr;
      }
    }
  }

  ExprPtr parse_subscript(ExprPtr object) {
    int begin = take().line;
    std::vector<ExprPtr> keys;
    if (!is_operator("]")) {
      ExprPtr first;
      if (!is_operator(":")) first = parse_expression();
      if (is_operator(":")) return parse_slice(begin, std::move(object), std::move(first));
      keys.push_back(std::move(first));
    }
    while (!is_operator("]")) {
      expect_operator(",");
      if (is_operator(":")) error_at(line(), "a slice cannot stand among several keys");
      keys.push_back(parse_expression());
    }
    expect_operator("]");
    if (keys.size() == 1) return make_binary(ExprKind::kItem, begin, std::move(object), std::move(keys[0]));
    ExprPtr tuple = make(ExprKind::kTuple, begin);
    for (ExprPtr& key : keys) adopt(*tuple, std::move(key));
    return make_binary(ExprKind::kItem, begin, std::move(object), std::move(tuple));
  }

  ExprPtr parse_slice(int begin, ExprPtr object, ExprPtr start) {
    ExprPtr expr = make(ExprKind::kSlice, begin);
    adopt(*expr, std::move(object));
    adopt(*expr, std::move(start));
    for (int part = 0; part < 2; ++part) {
      ExprPtr bound;
      if (skip_operator(":") && !is_operator("]") && !is_operator(":")) bound = parse_expression();
      adopt(*expr, std::move(bound));
    }
    expect_operator("]");
    return expr;
  }

  void parse_arguments(Expr& call) {
    expect_operator("(");
    CallSyntax& args = call.args;
    auto ensure = [&](bool ok) {
      if (!ok) error_at(line(), "invalid syntax for function call expression");
    };
    for (bool first = true; !is_operator(")"); first = false) {
      if (!first) {
        expect_operator(",");
        if (is_operator(")")) break;
      }
      if (skip_operator("*")) {
        ensure(args.star == nullptr && args.star_star == nullptr);
        args.star = parse_expression();
        grow(call, args.star);
      } else if (skip_operator("**")) {
        ensure(args.star_star == nullptr);
        args.star_star = parse_expression();
        grow(call, args.star_star);
      } else if (current().kind == TokenKind::kName && is(ahead(), TokenKind::kOperator, "=")) {
        ensure(args.star_star == nullptr);
        std::string name = take().text;
        take();
        args.named.emplace_back(std::move(name), parse_expression());
        grow(call, args.named.back().second);
      } else {
        ensure(args.star == nullptr && args.star_star == nullptr && args.named.empty());
        args.positional.push_back(parse_expression());
        grow(call, args.positional.back());
      }
    }
    expect_operator(")");
  }

  ExprPtr parse_call(ExprPtr callee) {
    ExprPtr expr = make_unary(ExprKind::kCall, line(), std::move(callee));
    parse_arguments(*expr);
    return expr;
  }

  std::string parse_dotted_name(const char* what) {
    std::string name = expect_name(what);
    while (skip_operator(".")) name += "." + expect_name(what);
    return name;
  }

  // The filter's name and arguments, the "|" already taken.
  ExprPtr parse_filter(ExprPtr input) {
    ExprPtr expr = make_unary(ExprKind::kFilter, line(), std::move(input));
    expr->text = parse_dotted_name("a filter's name");
    expr->filter = find_filter(expr->text);
    if (is_operator("(")) parse_arguments(*expr);
    return expr;
  }

  ExprPtr parse_filters(ExprPtr expr) {
    while (skip_operator("|")) expr = parse_filter(std::move(expr));
    return expr;
  }

  ExprPtr parse_filters_and_tests(ExprPtr expr) {
    while (true) {
      if (skip_operator("|")) expr = parse_filter(std::move(expr));
      else if (is_name("is")) expr = parse_test(std::move(expr));
      else if (is_operator("(")) expr = parse_call(std::move(expr));
      else return expr;
    }
  }

  ExprPtr parse_test(ExprPtr operand) {
    int begin = take().line;
    bool negated = skip_name("not");
    ExprPtr expr = make_unary(ExprKind::kTest, begin, std::move(operand));
    expr->text = parse_dotted_name("a test's name");
    expr->test = find_test(expr->text);
    if (is_operator("(")) {
      parse_arguments(*expr);
    } else if (starts_test_argument()) {
      if (is_name("is")) error_at(line(), "you cannot chain multiple tests with is");
      Nested nested(expr_depth_);
      if (expr_depth_ > kMaxExprDepth) error_at(line(), "the expression is nested more than {} deep", kMaxExprDepth);
      expr->args.positional.push_back(parse_postfix(parse_primary()));
      grow(*expr, expr->args.positional.back());
    }
    return negated ? make_unary(ExprKind::kNot, begin, std::move(expr)) : std::move(expr);
  }

  bool starts_test_argument() const {
    switch (current().kind) {
      case TokenKind::kString:
      case TokenKind::kInteger:
      case TokenKind::kFloat: return true;
      case TokenKind::kOperator: return is_operator("[") || is_operator("{");
      case TokenKind::kName: return !is_name("else") && !is_name("or") && !is_name("and");
      default: return false;
    }
  }

  std::vector<Token> tokens_;
  size_t at_ = 0;
  std::unique_ptr<Ast> ast_;
  std::unordered_map<std::string, int> name_ids_;
  std::vector<MacroSyntax*> macros_;  // around the current token
  std::string last_name_;
  int expr_depth_ = 0, stmt_depth_ = 0, loop_depth_ = 0;
};

// Unknown filters and tests are errors at once, except where Jinja waits until they are used: under an if statement (not
// inside a block that opens a scope) or in a conditional expression.
class NameChecker {
 public:
  void check(const Body& body, bool waits) {
    for (const Stmt& stmt : body) check(stmt, waits);
  }

 private:
  void check(const Stmt& stmt, bool waits) {
    bool is_if = stmt.kind == StmtKind::kIf;
    bool opens_scope = !is_if;
    check(stmt.value.get(), waits);
    check(stmt.filters.get(), false);
    for (const auto& [condition, body] : stmt.branches) {
      check(condition.get(), true);
      check(body, true);
    }
    for (const auto& [target, value] : stmt.bindings) check(value.get(), waits);
    check(stmt.body, opens_scope ? false : waits);
    check(stmt.otherwise, is_if);
    if (stmt.macro != nullptr) {
      for (const auto& [id, otherwise] : stmt.macro->parameters) check(otherwise.get(), false);
      check(*stmt.macro->body, false);
    }
  }

  void check(const Expr* expr, bool waits) {
    if (expr == nullptr) return;
    if (!waits && expr->kind == ExprKind::kFilter && expr->filter == nullptr) {
      fail(Code::kInvalidArgument, "line {}: no filter named '{}'", expr->line, expr->text);
    }
    if (!waits && expr->kind == ExprKind::kTest && expr->test == nullptr) {
      fail(Code::kInvalidArgument, "line {}: no test named '{}'", expr->line, expr->text);
    }
    waits = waits || expr->kind == ExprKind::kConditional;
    for (const ExprPtr& child : expr->children) check(child.get(), waits);
    for (const ExprPtr& arg : expr->args.positional) check(arg.get(), waits);
    for (const auto& [name, arg] : expr->args.named) check(arg.get(), waits);
    check(expr->args.star.get(), waits);
    check(expr->args.star_star.get(), waits);
  }
};

}  // namespace

std::unique_ptr<Ast> parse(std::string_view source) {
  std::unique_ptr<Ast> ast = Parser(source).run();
  NameChecker().check(ast->body, false);
  return ast;
}

}  // namespace sluice::jinja
