// sluice template: what a chat template makes of a request.
#include <cstdio>
#include <ctime>

#include "base/clock.h"
#include "base/error.h"
#include "base/json.h"
#include "base/mmap.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "text/chat_template.h"

namespace sluice::cli {
namespace {

// "2024-07-26T00:00:00Z" -> seconds since 1970, UTC.
int64_t parse_time(const std::string& text) {
  std::tm time{};
  const char* end = strptime(text.c_str(), "%Y-%m-%dT%H:%M:%S", &time);
  if (end == nullptr || (*end != '\0' && std::string(end) != "Z")) {
    throw UsageError{"--now: '" + text + "' is not a time; write it as 2024-07-26T00:00:00Z"};
  }
  return timegm(&time);
}

}  // namespace

void add_template(CLI::App& parent) {
  struct Flags {
    std::string path, input = "-", now;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command = parent.add_subcommand("template", "Print what a chat template makes of a request");
  command->add_option("template", flags->path, "Jinja file")->required();
  command->add_option("-i,--input", flags->input,
                      "request as JSON: messages, tools, add_generation_prompt, any other variable; - for standard input")
      ->capture_default_str();
  command->add_option("--now", flags->now, "the time strftime_now sees, such as 2024-07-26T00:00:00Z; default: now");
  command->callback([flags] {
    int64_t now = flags->now.empty() ? unix_seconds() : parse_time(flags->now);
    std::string source = read_file(flags->path, 16 << 20);
    json::value request = json::parse(read_stream_or_file(flags->input));
    if (!request.is_object()) {
      fail(Code::kInvalidArgument, "{}: the request must be a JSON object, not {}",
           flags->input == "-" ? "standard input" : flags->input, json::describe(request));
    }
    std::string text = text::render_request(source, request.get_object(), now);
    std::fwrite(text.data(), 1, text.size(), stdout);
  });
}

}  // namespace sluice::cli
