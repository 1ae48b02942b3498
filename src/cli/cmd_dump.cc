// sluice dump: a graph as text, as it was read or after a pass.
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>

#include "cli/commands.h"
#include "cli/graph_flags.h"
#include "graph/dump.h"
#include "graph/import_model.h"
#include "graph/passes.h"
#include "graph/plan_file.h"

namespace sluice::cli {

void add_dump(CLI::App& parent) {
  struct Flags {
    std::string path;
    std::string after;
    std::vector<std::string> disabled;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command = parent.add_subcommand("dump", "Show the graph of an ONNX or TFLite model, or of a plan, as text");
  command->add_option("model", flags->path, "ONNX or TFLite file, or a plan")->required();
  command->add_option("--after", flags->after,
                      "show it after this pass (without: as it is in the file); last: after all of them");
  add_disable_pass(*command, flags->disabled);
  command->footer(describe_passes());
  command->callback([flags] {
    if (std::filesystem::is_directory(flags->path)) {
      throw UsageError{flags->path + " is a folder: name the .onnx or .tflite file in it"};
    }
    if (graph::is_plan(flags->path)) {
      if (!flags->after.empty() || !flags->disabled.empty()) {
        throw UsageError{flags->path + " is a plan, after all passes already: --after and --disable-pass need a model"};
      }
      std::printf("%s", graph::dump(graph::load_plan(flags->path).shared->model->graph).c_str());
      return;
    }
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
