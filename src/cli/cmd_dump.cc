// sluice dump: a graph as text, as it was read or after a pass.
#include <cstdio>
#include <memory>
#include <string>

#include "cli/commands.h"
#include "cli/graph_flags.h"
#include "graph/dump.h"
#include "graph/import_model.h"
#include "graph/passes.h"

namespace sluice::cli {

void add_dump(CLI::App& parent) {
  struct Flags {
    std::string path;
    std::string after;
    std::vector<std::string> disabled;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command = parent.add_subcommand("dump", "Show the graph of an ONNX or TFLite model as text");
  command->add_option("model", flags->path, "ONNX or TFLite file")->required();
  command->add_option("--after", flags->after,
                      "show it after this pass (without: as it is in the file); last: after all of them");
  add_disable_pass(*command, flags->disabled);
  command->footer(describe_passes());
  command->callback([flags] {
    graph::Model model = graph::import_model(flags->path);
    if (flags->after.empty() && !flags->disabled.empty())
      throw UsageError{"--disable-pass needs --after: without it no pass runs"};
    if (!flags->after.empty()) {
      graph::optimise(model, {.disabled = resolve_disabled(flags->disabled),
                              .stop_after = flags->after == "last" ? "" : flags->after});
    }
    std::printf("%s", graph::dump(model.graph).c_str());
  });
}

}  // namespace sluice::cli
