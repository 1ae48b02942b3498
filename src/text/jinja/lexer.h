// Splits a template into tokens, applying white space control: trim_blocks (the newline after a block goes), lstrip_blocks
// (blanks before a block on its own line go), "-" and "+" marks, comments and raw blocks. Throws Error "line N: what".
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/jinja/value.h"

namespace sluice::jinja {

enum class TokenKind : uint8_t {
  kText, kVariableBegin, kVariableEnd, kBlockBegin, kBlockEnd, kName, kString, kInteger, kFloat, kOperator, kEnd,
};

struct Token {
  TokenKind kind;
  int line;
  std::string text;  // the data, name, decoded string or operator
  Value number;      // kInteger, kFloat
};

std::vector<Token> tokenize(std::string_view source);

}  // namespace sluice::jinja
