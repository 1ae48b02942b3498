#include "cli/bench_report.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "base/build_info.h"
#include "base/error.h"
#include "cli/commands.h"
#include "kernels/cpu.h"
#include "kernels/kernels.h"
#include "llm/transformer.h"

namespace sluice::cli {
namespace {

using File = std::unique_ptr<std::FILE, int (*)(std::FILE*)>;

File open_for_report(const std::string& path, const char* mode) {
  File file(std::fopen(path.c_str(), mode), &std::fclose);
  if (!file) {
    fail(errno == ENOENT ? Code::kNotFound : Code::kPermissionDenied, "cannot write the report to {}: {}{}", path,
         std::strerror(errno), errno == ENOENT ? "; make its folder first" : "");
  }
  return file;
}

// Matrices that products go through: all but a separate embedding, of which single rows are copied.
struct Matrices {
  double bytes = 0, weights = 0;
  void add(const llm::Linear& linear, double times = 1) {
    if (!linear) return;
    bytes += times * static_cast<double>(linear.weight.num_bytes());
    weights += times * static_cast<double>(linear.weight.num_rows() * linear.weight.row_size());
  }
};

// `num_tokens` of a step decide how many experts of a layer are read, at most; 1: what one token is multiplied with.
Matrices count_matrices(const llm::Model& model, int64_t num_tokens, bool with_head) {
  Matrices matrices;
  const auto* transformer = dynamic_cast<const llm::Transformer*>(&model);
  if (transformer == nullptr) {
    return {static_cast<double>(model.weight_bytes()), static_cast<double>(model.num_parameters())};
  }
  if (with_head) matrices.add(transformer->weights().head);
  for (const llm::LayerWeights& layer : transformer->weights().layers) {
    for (const llm::Linear* linear :
         {&layer.q, &layer.k, &layer.v, &layer.output, &layer.gate, &layer.up, &layer.down, &layer.router}) {
      matrices.add(*linear);
    }
    if (layer.experts.empty()) continue;
    const auto num_experts =
        std::min(static_cast<int64_t>(layer.experts.size()), num_tokens * transformer->config().num_experts_used);
    const llm::ExpertWeights& expert = layer.experts.front();
    for (const llm::Linear* linear : {&expert.gate, &expert.up, &expert.down}) {
      matrices.add(*linear, static_cast<double>(num_experts));
    }
  }
  return matrices;
}

bool is_repacked(const llm::Model& model) {
  const auto* transformer = dynamic_cast<const llm::Transformer*>(&model);
  return transformer != nullptr && transformer->weights().packed != nullptr;
}

}  // namespace

void BenchOutput::check() const {
  if (!save.empty()) open_for_report(save, "ab");
}

void BenchOutput::finish(const json::object& report) const {
  const std::string text = json::serialize(report) + "\n";
  if (json) std::printf("%s", text.c_str());
  if (save.empty()) return;
  File file = open_for_report(save, "wb");
  bool written = std::fwrite(text.data(), 1, text.size(), file.get()) == text.size();
  if (std::fclose(file.release()) != 0 || !written) {
    fail(Code::kUnavailable, "cannot write the report to {}: {}", save, std::strerror(errno));
  }
  if (!json) std::printf("report saved to %s\n", save.c_str());
}

void add_bench_output_flags(CLI::App& command, BenchOutput& output) {
  command.add_flag("--json", output.json, "print one JSON object instead of text")->group("Report");
  command.add_option("--save", output.save, "also write the JSON report to this file")
      ->type_name("FILE")
      ->check(is_not_empty)
      ->group("Report");
}

void add_bench_model_option(CLI::App& command, std::string& model) {
  command.add_option("model,-m,--model", model, "GGUF file or Hugging Face folder; default: the built-in model");
}

int64_t find_max_positions(const engine::LoadedModel& loaded, const EngineFlags& flags) {
  const int64_t stated = loaded.model->max_positions(), wanted = flags.options.max_model_len;
  return wanted > 0 ? std::min(stated, wanted) : stated;
}

void require_positions(const engine::LoadedModel& loaded, const EngineFlags& flags, int64_t needed,
                       const std::string& what, const std::string& advice) {
  const int64_t positions = find_max_positions(loaded, flags);
  if (needed <= positions) return;
  if (positions < loaded.model->max_positions()) {
    fail(Code::kInvalidArgument, "{} needs {} positions, --max-model-len allows {}; raise it or lower {}", what, needed,
         positions, advice);
  }
  fail(Code::kInvalidArgument, "{} needs {} positions, {} has {}; lower {}", what, needed, loaded.path, positions,
       advice);
}

json::object bench_head_json(int num_threads) {
  return {{"commit", build_commit()},
          {"build", build_type()},
          {"cpu", kernels::get_cpu().model_name},
          {"isa", kernels::get_kernels().isa},
          {"threads", num_threads}};
}

json::object bench_head_json(const std::string& model, const engine::LoadedModel& loaded, const bench::Limits& limits) {
  json::object head = bench_head_json(loaded.pool->num_threads());
  head["model"] = model;
  head["description"] = loaded.model->description();
  head["parameters"] = loaded.model->num_parameters();
  head["weight_bytes"] = loaded.model->weight_bytes();
  head["repack"] = is_repacked(*loaded.model);
  head["load_seconds"] = loaded.load_seconds;
  head["limits"] = bench::limits_json(limits);
  return head;
}

void print_bench_head(const std::string& model, const engine::LoadedModel& loaded, const bench::Limits& limits) {
  std::printf("sluice  %s, %s\n", build_commit().c_str(), build_type().c_str());
  std::printf("cpu     %s, %s kernels, %d threads\n", kernels::get_cpu().model_name.c_str(), kernels::get_kernels().isa,
              loaded.pool->num_threads());
  std::string bandwidth = limits.read_bytes_per_second > 0
                              ? fmt::format("reads {:.1f} GB/s", limits.read_bytes_per_second / 1e9)
                              : std::string("too little free memory to measure its bandwidth");
  std::printf("limits  %s; int8 %.2f TOP/s (%s), bf16 %.0f GFLOP/s (%s), f32 %.0f GFLOP/s (%s)\n", bandwidth.c_str(),
              limits.int8_per_second / 1e12, limits.int8_name, limits.bf16_per_second / 1e9, limits.bf16_name,
              limits.f32_per_second / 1e9, limits.f32_name);
  std::printf("model   %s (%s; %s, %s), loaded in %.2f s\n\n", model.c_str(), loaded.model->description().c_str(),
              format_bytes(loaded.model->weight_bytes()).c_str(),
              is_repacked(*loaded.model) ? "repacked" : "not repacked", loaded.load_seconds);
  std::fflush(stdout);
}

ModelRates compute_rates(const engine::LoadedModel& loaded, const bench::Limits& limits, double prompt_rate,
                         double decode_rate, int64_t batch) {
  const auto weight_bytes = static_cast<double>(loaded.model->weight_bytes());
  const auto parameters = static_cast<double>(loaded.model->num_parameters());
  ModelRates rates;
  if (batch > 0) {
    rates.weights_per_second =
        decode_rate / static_cast<double>(batch) * count_matrices(*loaded.model, batch, true).bytes;
  }
  rates.operations_per_second = 2 * prompt_rate * count_matrices(*loaded.model, 1, false).weights +
                                2 * decode_rate * count_matrices(*loaded.model, 1, true).weights;
  if (limits.read_bytes_per_second > 0) {
    rates.bandwidth_percent = 100 * rates.weights_per_second / limits.read_bytes_per_second;
  }
  double peak = limits.peak_for(parameters > 0 ? weight_bytes / parameters : 4);
  if (peak > 0) rates.peak_percent = 100 * rates.operations_per_second / peak;
  return rates;
}

std::string format_percent(double percent) {
  return percent <= 0 ? "-" : fmt::format("{:.{}f} %", percent, percent < 1 ? 2 : percent < 10 ? 1 : 0);
}

std::string format_operations(double per_second) {
  if (per_second >= 1e13) return fmt::format("{:.1f} TFLOP/s", per_second / 1e12);
  return fmt::format("{:.{}f} GFLOP/s", per_second / 1e9, per_second < 1e11 ? 1 : 0);
}

void reject_grid_options(const CLI::App& mode) {
  const CLI::App& bench = *mode.get_parent();
  for (const CLI::Option* option : bench.get_options()) {
    if (option->count() == 0 || option == bench.get_help_ptr()) continue;
    throw UsageError{fmt::format("{} belongs to `sluice bench` without '{}' (see sluice bench {} --help)",
                                 option->get_name(), mode.get_name(), mode.get_name())};
  }
}

}  // namespace sluice::cli
