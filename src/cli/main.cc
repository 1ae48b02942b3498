// The `sluice` program: parse the command line, run one subcommand, turn what it throws into one line and an exit code.
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "base/env.h"
#include "base/log.h"
#include "cli/commands.h"
#include "cli/graph_load.h"
#include "cli/help.h"
#include "sluice/error.h"
#include "sluice/version.h"

namespace sluice::cli {
namespace {

constexpr int kFailed = 1, kUsage = 2;

int complain(const std::string& message, int code) {
  std::fflush(stdout);
  std::fprintf(stderr, "sluice: %s\n", message.c_str());
  return code;
}

int run(int argc, char** argv) {
  CLI::App app("Sluice serves language models over the interfaces clients already speak, and runs ONNX and TFLite models.",
               "sluice");
  app.set_version_flag("--version", std::string("sluice ") + SLUICE_VERSION, "print the version");
  app.require_subcommand(1);
  app.formatter(std::make_shared<HelpFormatter>());
  app.set_help_flag("-h,--help", "print this");
  app.failure_message(CLI::FailureMessage::simple);
  std::string log_level = "info", log_format = "text";
  app.add_option("--log-level", log_level, "least important messages to show: debug, info, warning, error or off")
      ->check(CLI::IsMember({"debug", "info", "warning", "warn", "error", "off"}))
      ->capture_default_str();
  app.add_option("--log-format", log_format, "form of the lines on standard error: text or json")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();
  // A subcommand passes flags it does not know up to here, so --log-level may stand anywhere.
  app.fallthrough();
  app.parse_complete_callback([&] {
    env::check_environment();
    log::configure(log::parse_level(log_level), log_format == "json" ? log::Format::kJson : log::Format::kText);
  });
  add_serve(app);
  add_run(app);
  add_bench(app);
  add_perplexity(app);
  add_tokenize(app);
  add_template(app);
  add_inspect(app);
  add_verify(app);
  add_optimize(app);
  add_dump(app);
  add_info(app);
  app.footer("Examples:\n"
             "  sluice serve                          serve the built-in model on 127.0.0.1:8000\n"
             "  sluice serve --model llama.gguf       serve your own\n"
             "  sluice run llama.gguf \"Tell a story\"  answer at the terminal\n"
             "`sluice COMMAND --help` tells more. The options above may stand after any command.");
  std::string commands;
  for (CLI::App* command : app.get_subcommands({})) {
    command->group("Commands");
    commands += (commands.empty() ? "" : ", ") + command->get_name();
  }
  std::vector<std::string> arguments(argv + 1, argv + argc);
  // `sluice bench model.onnx`: the mode is clear from the model.
  const bool is_graph_bench = arguments.size() > 1 && arguments[0] == "bench" && arguments[1] != "graph" &&
                              std::any_of(arguments.begin() + 1, arguments.end(), is_graph_path);
  if (is_graph_bench) arguments.insert(arguments.begin() + 1, "graph");
  if (argc == 1) return complain("say what to do: " + commands + " (see sluice --help)", kUsage);
  try {
    app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));  // CLI11 takes them from the back
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    std::vector<CLI::App*> given = app.get_subcommands();
    std::string command = given.empty() ? "" : given.front()->get_name() + " ";
    std::string message = error.what();
    if (given.empty()) {  // CLI11 would say that one is required
      for (int i = 1; i < argc; ++i) {
        if (argv[i][0] != '-' && argv[i - 1][0] != '-') {
          message = fmt::format("there is no command '{}', only {}", argv[i], commands);
          break;
        }
      }
    }
    return complain(fmt::format("{} (see sluice {}--help)", message, command), kUsage);
  }
  return 0;
}

}  // namespace
}  // namespace sluice::cli

int main(int argc, char** argv) {
  using namespace sluice;
  std::signal(SIGPIPE, SIG_IGN);  // a closed pipe or socket is a failed write, not the end of the process
  std::signal(SIGXFSZ, SIG_IGN);  // and so is a file that may not grow further
  try {
    return cli::run(argc, argv);
  } catch (const cli::ExitCode& exit) {
    return exit.code;
  } catch (const cli::UsageError& error) {
    return cli::complain(error.message, cli::kUsage);
  } catch (const Error& error) {
    return cli::complain(error.message(), cli::kFailed);
  } catch (const std::bad_alloc&) {
    return cli::complain("out of memory", cli::kFailed);
  } catch (const std::exception& error) {
    return cli::complain(error.what(), cli::kFailed);
  }
}
