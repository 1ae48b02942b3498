// The parsed template: statements and expressions as plain structs. Built by the parser, never changed afterwards, shared
// by all renderings. Names are numbered, so that looking a variable up compares integers.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "text/jinja/access.h"
#include "text/jinja/value.h"

namespace sluice::jinja {

class Interpreter;
using Filter = Value (*)(Interpreter&, const Value& input, const CallArgs& args);
using Test = bool (*)(Interpreter&, const Value& input, const CallArgs& args);
// Null when there is none of that name.
Filter find_filter(std::string_view name);
Test find_test(std::string_view name);

enum class ExprKind : uint8_t {
  kConst, kName, kTuple, kList, kDict, kAttribute, kItem, kSlice, kCall, kFilter, kTest,
  kNot, kNegate, kPositive, kBinary, kAnd, kOr, kCompare, kConcat, kConditional,
};

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

struct CallSyntax {
  std::vector<ExprPtr> positional;
  std::vector<std::pair<std::string, ExprPtr>> named;
  ExprPtr star, star_star;
};

struct Expr {
  ExprKind kind;
  int line;
  int depth = 1;                   // of this tree, bounded by the parser
  int name_id = -1;                // kName
  Operator op = Operator::kAdd;    // kBinary
  Value constant;                  // kConst
  std::string text;                // the attribute, filter or test
  // kTuple, kList, kConcat: elements; kDict: key, value, key, value...; kSlice: object, start, stop, step (may be null);
  // kConditional: condition, then, else (may be null); kCompare: operands; the others: operands in source order.
  std::vector<ExprPtr> children;
  std::vector<Operator> operators;  // kCompare, one fewer than children
  CallSyntax args;                 // kCall, kFilter, kTest
  Filter filter = nullptr;
  Test test = nullptr;
};

// What a for, set, with or macro binds: a name, an attribute of a namespace, or a tuple of targets.
struct Target {
  int name_id = -1;
  std::string attribute;        // of the namespace called name_id, if not empty
  std::vector<Target> parts;    // a tuple, if name_id is -1
  int line = 0;
};

enum class StmtKind : uint8_t {
  kText, kOutput, kFor, kIf, kSet, kSetBlock, kMacro, kCallBlock, kFilterBlock, kWith, kScope, kBreak, kContinue, kDo,
};

struct Stmt;
using Body = std::vector<Stmt>;

// The signature and body of a macro or of the caller of a call block.
struct MacroSyntax {
  std::string name;
  std::vector<std::pair<int, ExprPtr>> parameters;  // name and default (may be null)
  std::unique_ptr<Body> body;
  bool uses_caller = false, uses_varargs = false, uses_kwargs = false;
  bool declares_caller = false;
  int line = 0;
};

struct Stmt {
  StmtKind kind;
  int line;
  std::string text;               // kText
  Target target;                  // kFor, kSet, kSetBlock
  ExprPtr value;                  // kOutput, kFor: the sequence, kSet, kDo, kCallBlock: the call
  ExprPtr filters;                // kSetBlock, kFilterBlock: filters over an empty kConst placeholder; kFor: the condition
  std::vector<std::pair<ExprPtr, Body>> branches;  // kIf
  std::vector<std::pair<Target, ExprPtr>> bindings;  // kWith
  Body body;
  Body otherwise;                 // kIf, kFor: else
  bool recursive = false;
  std::unique_ptr<MacroSyntax> macro;  // kMacro, kCallBlock
};

struct Ast {
  Body body;
  std::vector<std::string> names;  // by name_id
  int find_name(std::string_view name) const {
    for (size_t i = 0; i < names.size(); ++i) {
      if (names[i] == name) return static_cast<int>(i);
    }
    return -1;
  }
};

}  // namespace sluice::jinja
