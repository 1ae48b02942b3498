// sluice inspect: what is in a weight file.
#include <cstdio>

#include "base/json.h"
#include "cli/commands.h"
#include "cli/graph_load.h"
#include "formats/inspect.h"
#include "formats/weight_file.h"

namespace sluice::cli {

void add_inspect(CLI::App& parent) {
  struct Flags {
    std::string path;
    bool json = false;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command = parent.add_subcommand("inspect", "Show the metadata and tensors of a GGUF or safetensors model");
  command->add_option("file", flags->path, "GGUF or safetensors file, or a folder of them")->required();
  command->add_flag("--json", flags->json, "as one JSON object");
  command->callback([flags] {
    refuse_graph(flags->path, "inspect");
    auto file = formats::open_weights(flags->path);
    if (flags->json) {
      std::printf("%s\n", json::serialize(formats::describe_as_json(*file)).c_str());
    } else {
      std::printf("%s", formats::describe(*file).c_str());
    }
  });
}

}  // namespace sluice::cli
