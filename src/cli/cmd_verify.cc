// sluice verify: does a model give the outputs that somebody recorded beside it?
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "cli/commands.h"
#include "cli/graph_flags.h"
#include "cli/graph_load.h"
#include "cli/verify_against.h"
#include "graph/executor.h"
#include "graph/export_onnx.h"
#include "graph/import_model.h"
#include "graph/import_onnx.h"
#include "graph/passes.h"
#include "graph/test_case.h"
#include "sluice/error.h"

namespace sluice::cli {
namespace {

struct Flags {
  std::vector<std::string> folders;
  graph::Tolerance tolerance;
  int threads = 0;
  bool quiet = false, reexport = false;
  std::vector<std::string> disabled;
  std::string precision = "fp32";
  AgainstFlags against;
};

// The model as it is after it was written, with large constants in memory beside it, and read again.
graph::Model reexport(const graph::Model& model, const std::string& name) {
  const auto data = std::make_shared<std::vector<std::vector<uint8_t>>>();
  const std::string file = graph::export_onnx(model, [&](std::span<const uint8_t> bytes) {
    data->emplace_back(bytes.begin(), bytes.end());
    return graph::ExternalPlace{std::to_string(data->size() - 1)};
  });
  const graph::ReadExternal read = [&](const std::string& location, int64_t, int64_t) {
    const std::vector<uint8_t>& bytes = data->at(std::stoul(location));
    return graph::ExternalBytes{bytes.data(), bytes.size(), data};
  };
  return graph::import_onnx({reinterpret_cast<const uint8_t*>(file.data()), file.size()}, name, read);
}

// Passes rely on declared shapes; inputs that are not as declared get a model that no pass has seen.
std::unique_ptr<graph::Executor> make_executor(const graph::TestFolder& folder, const Flags& flags,
                                               bool is_as_declared) {
  auto model = std::make_shared<graph::Model>(graph::import_model(folder.model));
  if (is_as_declared) graph::optimise(*model, {.disabled = resolve_disabled(flags.disabled)});
  if (flags.reexport) *model = reexport(*model, folder.model);
  const graph::Executor::Options options{.num_threads = flags.threads, .takes_any_shape = !is_as_declared};
  return std::make_unique<graph::Executor>(std::move(model), options);
}

// Empty if every output is as recorded.
std::string verify_data_set(graph::Executor& executor, const graph::TestData& data, const Flags& flags, double& worst) {
  const graph::Graph& model = executor.model().graph;
  const std::vector<graph::Value> outputs = executor.run(data.inputs);
  for (size_t i = 0; i < outputs.size(); ++i) {
    const graph::Difference difference = graph::compare(outputs[i], data.outputs[i], flags.tolerance);
    worst = std::max(worst, difference.worst_error);
    if (difference.message.empty()) continue;
    return fmt::format("output '{}' {}", model.output_names[i], difference.message);
  }
  return "";
}

// One line a data set. Returns how many failed.
int verify_folder(const graph::TestFolder& folder, const Flags& flags) {
  auto print = [&](const std::string& data_set, const std::string& problem, double worst) {
    if (!problem.empty()) {
      std::printf("FAILED  %s  %s\n", data_set.c_str(), problem.c_str());
    } else if (!flags.quiet) {
      std::printf("ok      %s  largest error %.3g\n", data_set.c_str(), worst);
    }
    std::fflush(stdout);
  };
  std::unique_ptr<graph::Executor> executor;
  int num_failed = 0;
  for (const std::string& data_set : folder.data_sets) {
    std::string problem;
    double worst = 0;
    try {
      if (executor == nullptr) executor = make_executor(folder, flags, /*is_as_declared=*/true);
      const graph::TestData data = graph::load_test_data(data_set, executor->model());
      if (executor->takes(data.inputs)) {
        problem = verify_data_set(*executor, data, flags, worst);
      } else {
        // Some recorded inputs have other shapes than their model declares; what was recorded with them still counts.
        problem = verify_data_set(*make_executor(folder, flags, false), data, flags, worst);
      }
    } catch (const Error& error) {
      problem = error.message();
    }
    num_failed += problem.empty() ? 0 : 1;
    print(data_set, problem, worst);
  }
  return num_failed;
}

std::string is_tolerance(const std::string& text) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  const bool is_number = !text.empty() && *end == 0 && value >= 0 && std::isfinite(value);
  return is_number ? "" : "'" + text + "' is not a number of at least 0";
}

}  // namespace

void add_verify(CLI::App& parent) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command =
      parent.add_subcommand("verify", "Run ONNX and TFLite models on recorded inputs and compare the outputs");
  command
      ->add_option("folder", flags->folders,
                   "folders with an .onnx or .tflite file and test_data_set_N folders of input_N.pb and output_N.pb, "
                   "or folders of such folders")
      ->required();
  command->add_option("--rtol", flags->tolerance.relative, "error allowed, as a share of the recorded value")
      ->check(is_tolerance)
      ->capture_default_str();
  command->add_option("--atol", flags->tolerance.absolute, "error allowed besides")
      ->check(is_tolerance)
      ->capture_default_str();
  command
      ->add_option("--steps", flags->tolerance.steps,
                   "error allowed of integers of 8 and 16 bits, in their steps: quantised models")
      ->check(CLI::Range(0, 1 << 16))
      ->capture_default_str();
  command->add_option("-t,--threads", flags->threads, "threads that compute (0: as many as there are cores)")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  command->add_flag("--reexport", flags->reexport,
                    "write each model as ONNX after the passes and run what is read from that: tests the writer");
  command->add_flag("-q,--quiet", flags->quiet, "print only what fails, and the last line");
  command->add_option("--precision", flags->precision, "of the model that --against compares: fp32, or bf16")
      ->check(CLI::IsMember({"fp32", "bf16"}))->capture_default_str();
  add_against_flags(*command, flags->against);
  add_disable_pass(*command, flags->disabled);
  command->callback([flags, command] {
    if (!flags->against.reference.empty()) {
      if (flags->folders.size() != 1) throw UsageError{"--against compares one model with another: name one"};
      return verify_against(flags->folders[0], flags->against,
                            {.threads = flags->threads, .precision = flags->precision, .disabled = flags->disabled});
    }
    for (const char* option : {"--data", "--shapes", "--precision"}) {
      if (command->count(option) > 0) throw UsageError{std::string(option) + " needs --against"};
    }
    resolve_disabled(flags->disabled);  // wrong names are told once
    for (const std::string& path : flags->folders) {
      if (!is_graph_path(path) || std::filesystem::is_directory(path)) continue;
      throw UsageError{fmt::format("{} is a model: name the folder that has recorded inputs beside it, or another "
                                   "model to compare it with, by --against", path)};
    }
    int num_sets = 0, num_failed = 0;
    for (const std::string& path : flags->folders) {
      for (const graph::TestFolder& folder : graph::find_test_folders(path)) {
        num_sets += static_cast<int>(folder.data_sets.size());
        num_failed += verify_folder(folder, *flags);
      }
    }
    std::printf("%d of %d as recorded\n", num_sets - num_failed, num_sets);
    if (num_failed > 0) throw ExitCode{1};
  });
}

}  // namespace sluice::cli
