#include "cli/verify_against.h"

#include <cstdio>

#include <fmt/format.h>

#include "cli/graph_inputs.h"
#include "graph/executor.h"
#include "optimize/calibration_data.h"
#include "optimize/compare.h"

namespace sluice::cli {

void add_against_flags(CLI::App& command, AgainstFlags& flags) {
  command.add_option("--against", flags.reference,
                     "compare the outputs of the model, or plan, named first with this model's")
      ->type_name("MODEL");
  command.add_option("--data", flags.data, "samples for --against: .npz, folders of pictures or test_data_set_N, .pb")
      ->type_name("DATA")->allow_extra_args(false);
  command.add_option("--shapes", flags.shapes, "shapes of inputs that --against makes up, where there is no --data")
      ->type_name("SHAPES")->allow_extra_args(false);
}

void verify_against(const std::string& model, const AgainstFlags& against, const GraphFlags& flags) {
  constexpr int64_t kMadeUp = 4;
  LoadedGraph candidate = load_graph(model, flags);
  GraphFlags plain = flags;
  plain.precision = "fp32";
  LoadedGraph reference = load_graph(against.reference, plain);
  const graph::Model& first = *reference.shared->model;
  optimize::Samples samples;
  if (against.data.empty()) {
    const auto shapes = find_shapes(candidate, against.shapes);
    samples.count = kMadeUp;
    samples.load = [&first, shapes](int64_t index) {
      return make_inputs(first.graph, shapes, static_cast<uint64_t>(index));
    };
  } else {
    samples = optimize::open_samples(against.data, first);
  }
  graph::Executor expected(reference.shared, reference.options), found(candidate.shared, candidate.options);
  const optimize::Comparison comparison = optimize::compare_models(expected, found, samples);
  std::printf("%s against %s, %lld samples%s\n%s", model.c_str(), against.reference.c_str(),
              static_cast<long long>(comparison.num_samples), against.data.empty() ? " of made-up numbers" : "",
              optimize::format_comparison(comparison).c_str());
}

}  // namespace sluice::cli
