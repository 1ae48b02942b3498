#include "cli/help.h"

#include <algorithm>
#include <string_view>

namespace sluice::cli {

namespace {

constexpr size_t kTextColumn = 30, kColumns = 100;

// A name, and beside it a text broken at spaces.
std::string lay_out(const std::string& name, std::string_view text) {
  std::string out = "  " + name;
  size_t column = out.size();
  if (column + 2 > kTextColumn) {
    out += '\n';
    column = 0;
  }
  out.append(kTextColumn - column, ' ');
  column = kTextColumn;
  while (!text.empty()) {
    std::string_view word = text.substr(0, text.find(' '));
    text.remove_prefix(std::min(text.size(), word.size() + 1));
    if (column > kTextColumn && column + 1 + word.size() > kColumns) {
      out += '\n';
      out.append(kTextColumn, ' ');
      column = kTextColumn;
    }
    if (column > kTextColumn) {
      out += ' ';
      ++column;
    }
    out += word;
    column += word.size();
  }
  return out + '\n';
}

}  // namespace

HelpFormatter::HelpFormatter() {
  label("Positionals", "Arguments");
  label("OPTIONS", "options");
  label("SUBCOMMAND", "COMMAND");
}

std::string HelpFormatter::make_help(const CLI::App* app, std::string name, CLI::AppFormatMode mode) const {
  std::string text = CLI::Formatter::make_help(app, std::move(name), mode);
  for (size_t at; (at = text.find("\n\n\n")) != std::string::npos;) text.erase(at, 1);
  while (text.ends_with("\n\n")) text.pop_back();
  return text;
}

std::string HelpFormatter::make_description(const CLI::App* app) const { return app->get_description() + "\n"; }

// "-t, --threads N"; the ranges are in the error messages.
std::string HelpFormatter::make_option(const CLI::Option* option, bool is_positional) const {
  std::string name;
  for (char c : option->get_name(is_positional, !is_positional)) name += c == ',' ? std::string(", ") : std::string(1, c);
  if (!is_positional && option->get_type_size() != 0) {
    std::string type = option->get_type_name();
    type = type.substr(0, type.find(':'));
    if (!type.empty()) name += type == "INT" || type == "UINT" || type == "FLOAT" ? " N" : " " + type;
  }
  std::string text = option->get_description(), value = option->get_default_str();
  if (value.starts_with('[') && value.ends_with(']')) value = value.substr(1, value.size() - 2);
  // What 0 and the like stand for has been said.
  bool is_explained = value.empty() || text.find(value + ":") != std::string::npos;
  return lay_out(name, is_explained ? text : text + " [" + value + "]");
}

std::string HelpFormatter::make_subcommand(const CLI::App* command) const {
  return lay_out(command->get_name(), command->get_description());
}

}  // namespace sluice::cli
