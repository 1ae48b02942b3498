// sluice optimize: a model, made smaller or faster once, as a plan that loads quickly; or quantised, as ONNX.
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <span>

#include <fmt/format.h>

#include "base/error.h"
#include "base/mmap.h"
#include "base/thread_pool.h"
#include "cli/commands.h"
#include "cli/graph_flags.h"
#include "cli/graph_inputs.h"
#include "cli/graph_load.h"
#include "graph/export_onnx.h"
#include "graph/import_model.h"
#include "graph/passes.h"
#include "graph/plan_file.h"
#include "optimize/quantize_model.h"
#include "sluice/version.h"

namespace sluice::cli {
namespace {

using Clock = std::chrono::steady_clock;

// That say how to quantise.
constexpr const char* kQuantizeOptions[] = {
    "--calibration", "--calibration-method", "--percentile", "--per-tensor", "--symmetric", "--exclude",
    "--accuracy-budget", "--dynamic", "--keep-first", "--keep-last", "--image-mean", "--image-deviation"};
// That say how to build a plan, and what it is for.
constexpr const char* kShapeOptions[] = {"--min-shapes", "--opt-shapes", "--max-shapes"};
constexpr const char* kBuildOptions[] = {"--timing-cache", "--no-tuning", "--disable-pass"};

struct Flags {
  std::string model, output, precision = "fp32", timing_cache;
  std::vector<std::string> min_shapes, opt_shapes, max_shapes, disabled;
  int threads = 0;
  bool no_tuning = false, rebuild = false;
  optimize::QuantizeModelOptions quantize;
  std::string method = "minmax";
  double budget = 0;
  std::vector<float> mean, deviation;
};

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

// Each repetition of --opt-shapes is a profile; --min-shapes and --max-shapes of the same number belong to it.
std::vector<graph::Profile> read_profiles(const Flags& flags, const graph::Graph& graph) {
  const size_t count = std::max({flags.min_shapes.size(), flags.opt_shapes.size(), flags.max_shapes.size()});
  std::vector<graph::Profile> profiles;
  for (size_t i = 0; i < count; ++i) {
    auto shapes_of = [&](const std::vector<std::string>& texts, const char* option) {
      return i < texts.size() ? parse_shapes({texts[i]}, option) : std::map<std::string, graph::Shape>();
    };
    graph::Profile profile{.min = shapes_of(flags.min_shapes, "--min-shapes"),
                           .opt = shapes_of(flags.opt_shapes, "--opt-shapes"),
                           .max = shapes_of(flags.max_shapes, "--max-shapes")};
    // As trtexec has it: what is not said is what is said next to it.
    if (profile.opt.empty()) profile.opt = profile.max.empty() ? profile.min : profile.max;
    for (const auto& [name, shape] : profile.opt) {
      profile.min.try_emplace(name, shape);
      profile.max.try_emplace(name, shape);
    }
    for (const auto& [name, min] : profile.min) {
      const auto opt = profile.opt.find(name), max = profile.max.find(name);
      if (opt == profile.opt.end() || max == profile.max.end()) {
        throw UsageError{fmt::format("--min-shapes and --max-shapes name '{}', --opt-shapes does not", name)};
      }
      bool fits = min.rank() == opt->second.rank() && min.rank() == max->second.rank();
      for (int d = 0; fits && d < min.rank(); ++d) fits = min[d] <= opt->second[d] && opt->second[d] <= max->second[d];
      if (!fits) {
        throw UsageError{fmt::format("the shapes of '{}' have to be of one rank and grow from min {} over opt {} to "
                                     "max {}", name, to_string(min), to_string(opt->second), to_string(max->second))};
      }
    }
    if (profile.max.size() != profile.opt.size()) {
      throw UsageError{"--max-shapes names an input that --opt-shapes does not"};
    }
    check_shapes(graph, profile.min);
    check_shapes(graph, profile.max);
    profiles.push_back(std::move(profile));
  }
  return profiles;
}

// Says now what would otherwise be found out after minutes, and refuses what a rename would destroy.
void check_output(const std::string& path, const std::string& input) {
  std::error_code error;
  if (std::filesystem::exists(path, error)) {
    if (!std::filesystem::is_regular_file(path, error)) {
      fail(Code::kInvalidArgument, "cannot write {}: it is no regular file", path);
    }
    if (std::filesystem::equivalent(path, input, error)) {
      throw UsageError{path + " is the model that is read: write to another file"};
    }
  }
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  if (!folder.empty() && !std::filesystem::is_directory(folder, error)) {
    fail(Code::kInvalidArgument, "cannot write {}: there is no folder {}", path, folder.string());
  }
}

void write_whole(const std::string& path, const std::string& bytes) {
  const std::string temporary = path + ".tmp";
  std::ofstream file(temporary, std::ios::binary);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  file.close();
  std::error_code error;
  if (file) std::filesystem::rename(temporary, path, error);
  if (file && !error) return;
  std::filesystem::remove(temporary, error);
  fail(Code::kInvalidArgument, "cannot write {}", path);
}

double megabytes(int64_t bytes) { return static_cast<double>(bytes) / 1e6; }

// A model of integers, and what that cost.
graph::Model quantize(const graph::Model& model, Flags& flags) {
  flags.quantize.method = optimize::read_calibration_method(flags.method);
  if (flags.budget > 0) flags.quantize.accuracy_budget = flags.budget;
  for (size_t c = 0; c < flags.mean.size(); ++c) flags.quantize.images.mean[c] = flags.mean[c];
  for (size_t c = 0; c < flags.deviation.size(); ++c) flags.quantize.images.deviation[c] = flags.deviation[c];
  flags.quantize.num_threads = flags.threads;
  flags.quantize.is_portable = flags.output.ends_with(".onnx");
  flags.quantize.log = [](const std::string& line) {
    std::printf("%s\n", line.c_str());
    std::fflush(stdout);
  };
  optimize::QuantizeModelResult result = optimize::quantize_model(model, flags.quantize);
  for (const optimize::LayerError& layer : result.float_layers) {
    std::printf("in floats    %s (%s), error %.4f alone\n", layer.name.c_str(), layer.op_type.c_str(), layer.error);
  }
  if (result.comparison) std::printf("\n%s\n", optimize::format_comparison(*result.comparison).c_str());
  return std::move(result.model);
}

void build_plan(const Flags& flags, graph::Model source, graph::PlanInfo info, std::vector<graph::Profile> profiles,
                const std::string& path) {
  const auto begin = Clock::now();
  if (info.stores_halves) graph::round_to_halves(source);
  graph::Model model = graph::copy_model(source);
  graph::optimise(model, {.disabled = info.disabled_passes, .stop_after = {}});
  if (info.stores_halves) graph::round_to_halves(model);
  auto shared = std::make_shared<graph::Shared>();
  shared->model = std::make_shared<graph::Model>(std::move(model));
  shared->profiles = std::move(profiles);
  if (!flags.timing_cache.empty() && std::filesystem::exists(flags.timing_cache)) {
    shared->timings.add_text(read_file(flags.timing_cache), flags.timing_cache);
  }
  const size_t known = shared->timings.size();

  graph::Executor executor(shared, {.num_threads = info.num_threads,
                                    .tuning = flags.no_tuning ? graph::Tuning::kNone : graph::Tuning::kMeasure,
                                    .precision = info.precision,
                                    .disabled_passes = info.disabled_passes});
  std::vector<std::map<std::string, graph::Shape>> tuned;
  for (const graph::Profile& profile : shared->profiles) tuned.push_back(profile.opt);
  if (tuned.empty()) tuned.emplace_back();
  for (const auto& shapes : tuned) {
    const std::vector<graph::Value> inputs = make_inputs(shared->model->graph, shapes);
    const graph::Program& program = executor.compile(inputs);
    std::printf("compiled     for %s: %zu steps, activations %.2f MB (%.2f MB without reuse)\n",
                describe_inputs(shared->model->graph, inputs).c_str(), program.steps().size(),
                megabytes(program.arena_bytes()), megabytes(program.bytes_without_reuse()));
  }
  if (!flags.timing_cache.empty() && shared->timings.size() > known) {
    write_whole(flags.timing_cache, shared->timings.to_text());
  }
  graph::write_plan(path, *shared, source, info);
  std::printf("plan         %s, %.1f MB, %s, built in %.2f s for %d threads and %s\n", path.c_str(),
              megabytes(static_cast<int64_t>(std::filesystem::file_size(path))),
              info.stores_halves ? "fp16 weights" : flags.precision == "int8" ? "int8" : graph::name(info.precision),
              seconds_since(begin),
              info.num_threads, info.isa.c_str());
}

void refuse(const CLI::App& command, std::span<const char* const> options, const char* reason) {
  for (const char* option : options) {
    if (command.count(option) > 0) throw UsageError{fmt::format("{} {}", option, reason)};
  }
}

void run(const CLI::App& command, Flags& flags) {
  if (flags.rebuild) {
    constexpr const char* kReason = "does not go with --rebuild: the plan knows";
    constexpr const char* kOthers[] = {"--precision", "--disable-pass"};
    for (const std::span<const char* const> options :
         {std::span<const char* const>(kShapeOptions), std::span<const char* const>(kQuantizeOptions),
          std::span<const char* const>(kOthers)}) {
      refuse(command, options, kReason);
    }
    graph::PlanSource source = graph::load_plan_source(flags.model);
    source.info.sluice_version = SLUICE_VERSION;
    source.info.isa = graph::kernel_isa();
    if (flags.threads > 0) source.info.num_threads = flags.threads;
    build_plan(flags, std::move(source.model), source.info, std::move(source.profiles),
               flags.output.empty() ? flags.model : flags.output);
    return;
  }
  if (flags.output.empty()) throw UsageError{"say where the plan goes: -o model.plan (see sluice optimize --help)"};
  const bool is_int8 = flags.precision == "int8", is_fp16 = flags.precision == "fp16";
  if (!is_int8) refuse(command, kQuantizeOptions, "needs --precision int8");
  const bool writes_onnx = flags.output.ends_with(".onnx");
  if (writes_onnx) {
    constexpr const char* kReason = "is for plans, and the output is an ONNX model";
    refuse(command, kShapeOptions, kReason);
    refuse(command, kBuildOptions, kReason);
    if (flags.precision == "bf16") throw UsageError{std::string("--precision bf16 ") + kReason};
  }
  if (graph::is_plan(flags.model)) {
    throw UsageError{flags.model + " is a plan already: --rebuild builds it anew, anything else needs the model"};
  }
  check_output(flags.output, flags.model);
  if (!flags.timing_cache.empty()) check_output(flags.timing_cache, flags.model);
  graph::Model model = graph::import_model(flags.model);
  std::vector<graph::Profile> profiles = read_profiles(flags, model.graph);
  if (is_int8) model = quantize(model, flags);
  if (writes_onnx) {
    if (is_fp16) graph::round_to_halves(model);
    write_whole(flags.output, graph::export_onnx(model));
    std::printf("model        %s, %.1f MB\n", flags.output.c_str(),
                megabytes(static_cast<int64_t>(std::filesystem::file_size(flags.output))));
    return;
  }
  graph::PlanInfo info{.sluice_version = SLUICE_VERSION,
                       .isa = graph::kernel_isa(),
                       .source = std::filesystem::path(flags.model).filename(),
                       .num_threads = flags.threads > 0 ? flags.threads : num_available_cores(),
                       .precision = flags.precision == "bf16" ? graph::Precision::kBF16 : graph::Precision::kF32,
                       .stores_halves = is_fp16,
                       .disabled_passes = resolve_disabled(flags.disabled)};
  build_plan(flags, std::move(model), std::move(info), std::move(profiles), flags.output);
}

}  // namespace

void add_optimize(CLI::App& parent) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = parent.add_subcommand("optimize", "Build a plan of an ONNX or TFLite model, or quantise it");
  command->add_option("model", flags->model, "ONNX or TFLite file; with --rebuild a plan")->required();
  command->add_option("-o,--output", flags->output, "plan to write; a name that ends in .onnx: a model as ONNX");
  command->add_option("--precision", flags->precision,
                      "fp32; bf16: products in bfloat16; fp16: weights stored in half floats; int8: quantised")
      ->check(CLI::IsMember({"fp32", "bf16", "fp16", "int8"}))->capture_default_str();
  for (const auto& [name, target, text] :
       {std::tuple{"--min-shapes", &flags->min_shapes, "least shapes, such as input:1x3x224x224,mask:1x128"},
        std::tuple{"--opt-shapes", &flags->opt_shapes, "shapes that kernels are chosen for (repeatable: profiles)"},
        std::tuple{"--max-shapes", &flags->max_shapes, "largest shapes; without any: whatever the model takes"}}) {
    command->add_option(name, *target, text)->type_name("SHAPES")->allow_extra_args(false);
  }
  command->add_option("-t,--threads", flags->threads, "threads that the plan is tuned for (default: one for each core)")
      ->check(CLI::Range(1, 1024));
  command->add_option("--timing-cache", flags->timing_cache, "file of kernel times: read if it is there, then written")
      ->type_name("FILE");
  command->add_flag("--no-tuning", flags->no_tuning, "choose kernels without measuring them");
  command->add_flag("--rebuild", flags->rebuild, "build a stale or damaged plan anew from the model inside it");
  add_disable_pass(*command, flags->disabled);
  optimize::QuantizeModelOptions& quantize = flags->quantize;
  command->add_option("--calibration", quantize.calibration,
                      "samples to calibrate int8 with: .npz or .npy files, folders of pictures or test_data_set_N, .pb")
      ->type_name("DATA")->allow_extra_args(false);
  command->add_option("--calibration-method", flags->method, "minmax, entropy or percentile")
      ->check(CLI::IsMember({"minmax", "entropy", "percentile"}))->capture_default_str();
  command->add_option("--percentile", quantize.percentile, "share of magnitudes inside the range, in percent")
      ->check(CLI::Range(50.0, 100.0))->capture_default_str();
  command->add_flag("--dynamic", quantize.is_dynamic, "scales of activations at run time, for matrix products only");
  command->add_flag("--per-tensor", quantize.is_per_tensor, "one scale for all output channels of a weight");
  command->add_flag("--symmetric", quantize.is_symmetric, "activations without zero points");
  command->add_option("--exclude", quantize.excluded, "node or operator that stays in floats (repeatable)")
      ->allow_extra_args(false);
  command->add_flag("--keep-first", quantize.keeps_first, "the first product stays in floats");
  command->add_flag("--keep-last", quantize.keeps_last, "the last product stays in floats");
  command->add_option("--accuracy-budget", flags->budget,
                      "relative error of the outputs to stay within: the worst layers stay in floats")
      ->check(CLI::PositiveNumber);
  command->add_option("--image-mean", flags->mean, "of pictures for calibration: three numbers")->expected(3);
  command->add_option("--image-deviation", flags->deviation, "of pictures for calibration: three numbers")->expected(3)
      ->check(CLI::PositiveNumber);
  command->footer("Examples:\n"
                  "  sluice optimize resnet50.onnx -o resnet50.plan --precision bf16 --opt-shapes input:8x3x224x224\n"
                  "  sluice optimize resnet50.onnx -o resnet50.plan --precision int8 --calibration pictures/\n"
                  "  sluice optimize --rebuild resnet50.plan");
  command->callback([flags, command] { run(*command, *flags); });
}

}  // namespace sluice::cli
