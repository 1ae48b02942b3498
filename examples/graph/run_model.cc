// Runs an ONNX or TFLite model, or a plan, through the C++ API: run_model MODEL [NAME:DIMxDIM...]
//
// Prints what the model takes and gives, feeds it zeros (floats: 0.5) of the sizes that the arguments say (1 where
// nobody says one), and prints the beginning of each output.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string>
#include <vector>

#include "sluice/graph.h"

namespace {

// "image:1x3x224x224" into `shapes`.
void parse_shape(const std::string& text, sluice::GraphShapes& shapes) {
  const size_t colon = text.rfind(':');
  std::vector<int64_t>& dims = shapes[text.substr(0, colon)];
  const char* at = colon == std::string::npos ? "" : text.c_str() + colon + 1;
  while (*at != 0) {
    char* end = nullptr;
    dims.push_back(std::strtoll(at, &end, 10));
    at = *end == 'x' ? end + 1 : "";
  }
}

int run(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: run_model MODEL [NAME:1x3x224x224...]\n");
    return 2;
  }
  sluice::GraphShapes shapes;
  for (int i = 2; i < argc; ++i) parse_shape(argv[i], shapes);
  const sluice::GraphModel model = sluice::GraphModel::load(argv[1]);
  for (const auto& port : model.inputs()) std::printf("takes %s: %s\n", port.name.c_str(), port.description.c_str());
  for (const auto& port : model.outputs()) std::printf("gives %s: %s\n", port.name.c_str(), port.description.c_str());

  // The memory of inputs is ours; the instance only reads it, and only while it runs.
  std::vector<std::vector<float>> floats;
  std::vector<std::vector<std::byte>> others;
  std::vector<sluice::GraphInput> inputs;
  for (const sluice::GraphPort& port : model.inputs()) {
    if (port.is_optional && !shapes.contains(port.name)) continue;
    std::vector<int64_t>& dims = shapes[port.name];
    if (dims.empty() && port.dims) {
      for (const sluice::GraphDim& dim : *port.dims) dims.push_back(dim.size < 0 ? 1 : dim.size);
    }
    size_t count = 1;
    for (const int64_t dim : dims) count *= static_cast<size_t>(dim);
    sluice::GraphInput input{.name = port.name, .type = port.type, .dims = dims};
    input.bytes = count * sluice::bytes_of(port.type);
    if (port.type == sluice::TensorType::kFloat32) {
      input.data = floats.emplace_back(count, 0.5f).data();
    } else {
      input.data = others.emplace_back(input.bytes).data();
    }
    inputs.push_back(input);
  }

  sluice::GraphInstance instance(model);
  const auto prepared = instance.prepare(shapes);
  std::printf("runs %zu steps on %d threads, activations %.2f MB\n", prepared.num_steps, instance.num_threads(),
              static_cast<double>(prepared.activation_bytes) / 1e6);
  for (const sluice::GraphOutput& output : instance.run(inputs)) {
    std::printf("%s =", output.name().c_str());
    if (output.type() == sluice::TensorType::kFloat32) {
      const std::span<const float> values = output.values<float>();
      for (const float value : values.first(std::min<size_t>(values.size(), 5))) std::printf(" %g", value);
      std::printf("%s\n", values.size() > 5 ? " ..." : "");
    } else {
      std::printf(" %zu bytes of %s\n", output.bytes(), sluice::name(output.type()));
    }
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const sluice::Error& error) {
    std::fprintf(stderr, "run_model: %s\n", error.what());
    return 1;
  }
}
