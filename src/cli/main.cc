// The `sluice` program: parse the command line, run one subcommand, turn what it throws into one line and an exit code.
#include <csignal>
#include <cstdio>
#include <exception>

#include "base/env.h"
#include "base/log.h"
#include "cli/commands.h"
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
  CLI::App app("Sluice serves language models over the interfaces clients already speak.", "sluice");
  app.set_version_flag("--version", std::string("sluice ") + SLUICE_VERSION);
  app.require_subcommand(1);
  app.get_formatter()->column_width(34);
  app.failure_message(CLI::FailureMessage::simple);
  std::string log_level = "info", log_format = "text";
  app.add_option("--log-level", log_level, "debug, info, warning, error or off")->capture_default_str();
  app.add_option("--log-format", log_format, "text or json, one line an event on standard error")
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
  add_info(app);
  app.footer("Examples:\n"
             "  sluice serve                          serve the built-in model on 127.0.0.1:8000\n"
             "  sluice serve --model llama.gguf       serve your own\n"
             "  sluice run llama.gguf \"Tell a story\"  answer at the terminal\n"
             "`sluice COMMAND --help` tells more.");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    return complain(std::string(error.what()) + " (see sluice --help)", kUsage);
  }
  return 0;
}

}  // namespace
}  // namespace sluice::cli

int main(int argc, char** argv) {
  using namespace sluice;
  std::signal(SIGPIPE, SIG_IGN);  // a closed pipe or socket is a failed write, not the end of the process
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
