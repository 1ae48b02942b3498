// The subcommands of `sluice`. Each cmd_NAME.cc registers its own flags on the parser it is given and sets the callback
// that runs it; main.cc knows nothing else about them. A callback returns normally (exit code 0), throws sluice::Error
// (exit code 1, one line on standard error), or throws UsageError (exit code 2).
#pragma once

#include <CLI/CLI.hpp>

#include <string>

namespace sluice::cli {

struct UsageError {
  std::string message;
};

// A command that ran to its end and found a "no": its exit code, nothing more to print.
struct ExitCode {
  int code;
};

void add_serve(CLI::App& parent);
void add_run(CLI::App& parent);
void add_bench(CLI::App& parent);
void add_perplexity(CLI::App& parent);
void add_tokenize(CLI::App& parent);
void add_template(CLI::App& parent);
void add_inspect(CLI::App& parent);
void add_verify(CLI::App& parent);
void add_optimize(CLI::App& parent);
void add_dump(CLI::App& parent);
void add_info(CLI::App& parent);

}  // namespace sluice::cli
