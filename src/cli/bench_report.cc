#include "cli/bench_report.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
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

[[noreturn]] void fail_to_save(const std::string& path, int error) {
  fail(error == ENOENT ? Code::kNotFound : Code::kPermissionDenied, "cannot write the report to {}: {}{}", path,
       std::strerror(error), error == ENOENT ? "; make its folder first" : "");
}

File open_for_report(const std::string& path, const std::string& shown) {
  File file(std::fopen(path.c_str(), "wb"), &std::fclose);
  if (!file) fail_to_save(shown, errno);
  return file;
}

// A report goes to another name first and takes its own when it is whole: who stops the program in between, or fills
// the disk, keeps what was there. Not so a terminal, a pipe and the like, which are written as they are.
struct Destination {
  std::string path;     // the file that links lead to
  std::string written;  // what is written first; the same for what is no plain file
};

Destination find_destination(const std::string& save) {
  namespace fs = std::filesystem;
  std::error_code error;
  fs::path path = save;
  if (fs::path target = fs::canonical(path, error); !error) path = target;
  const fs::file_status status = fs::status(path, error);
  if (fs::is_directory(status)) fail(Code::kInvalidArgument, "cannot write the report to {}: it is a folder", save);
  if (fs::exists(status) && access(path.c_str(), W_OK) != 0) fail_to_save(save, errno);
  if (fs::exists(status) && !fs::is_regular_file(status)) return {path, path};
  return {path, fmt::format("{}.{}.part", path.string(), getpid())};
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

ModelRates make_rates(double bytes, double products, double bytes_per_weight, const bench::Limits& limits,
                      double seconds) {
  ModelRates rates;
  if (seconds <= 0) return rates;
  rates.weights_per_second = bytes / seconds;
  rates.operations_per_second = 2 * products / seconds;
  if (limits.read_bytes_per_second > 0) {
    rates.bandwidth_percent = 100 * rates.weights_per_second / limits.read_bytes_per_second;
  }
  const double peak = limits.peak_for(bytes_per_weight);
  if (peak > 0) rates.peak_percent = 100 * rates.operations_per_second / peak;
  return rates;
}

}  // namespace

void BenchOutput::check() const {
  if (save.empty()) return;
  const Destination destination = find_destination(save);
  if (destination.written == destination.path) return;
  open_for_report(destination.written, save);
  std::remove(destination.written.c_str());
}

void BenchOutput::finish(const json::object& report) const {
  const std::string text = json::serialize(report) + "\n";
  if (json) {
    std::printf("%s", text.c_str());
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) fail(Code::kUnavailable, "cannot write the report: {}", std::strerror(errno));
  }
  if (save.empty()) return;
  const Destination destination = find_destination(save);
  File file = open_for_report(destination.written, save);
  bool is_whole = std::fwrite(text.data(), 1, text.size(), file.get()) == text.size();
  is_whole = std::fclose(file.release()) == 0 && is_whole;
  if (destination.written != destination.path) {
    if (is_whole && std::rename(destination.written.c_str(), destination.path.c_str()) != 0) {
      fail(Code::kUnavailable, "cannot write the report to {}: {}; it is in {}", save, std::strerror(errno), destination.written);
    }
    const int error = errno;
    if (!is_whole) std::remove(destination.written.c_str());
    errno = error;
  }
  if (!is_whole) fail(Code::kUnavailable, "cannot write the report to {}: {}", save, std::strerror(errno));
  if (!json) std::printf("report saved to %s\n", save.c_str());
}

void add_bench_output_flags(CLI::App& command, BenchOutput& output) {
  command.add_flag("--json", output.json, "print one JSON object instead of text")->group("Report");
  command.add_option("--save", output.save, "also write the JSON report to this file")
      ->type_name("FILE")
      ->check(is_not_empty)
      ->group("Report");
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

ModelRates compute_rates(const engine::LoadedModel& loaded, const bench::Limits& limits, const ModelWork& work) {
  const llm::Model& model = *loaded.model;
  const auto weight_bytes = static_cast<double>(model.weight_bytes());
  const auto parameters = static_cast<double>(model.num_parameters());
  double bytes = 0;
  if (work.num_steps > 0) {
    const double tokens_a_step = (work.prompt_tokens + work.generated_tokens) / work.num_steps;
    const auto num_tokens = std::max<int64_t>(1, static_cast<int64_t>(std::ceil(tokens_a_step - 0.01)));
    bytes = work.num_steps * count_matrices(model, num_tokens, true).bytes;
  }
  const double products = work.prompt_tokens * count_matrices(model, 1, false).weights +
                          work.generated_tokens * count_matrices(model, 1, true).weights;
  return make_rates(bytes, products, parameters > 0 ? weight_bytes / parameters : 4, limits, work.seconds);
}

ModelRates compute_rates(double weight_bytes, double num_parameters, const bench::Limits& limits,
                         const ModelWork& work) {
  return make_rates(work.num_steps * weight_bytes, (work.prompt_tokens + work.generated_tokens) * num_parameters,
                    weight_bytes / num_parameters, limits, work.seconds);
}

void add_rates(json::object& report, const std::string& prefix, const ModelRates& rates) {
  auto known = [](double value) { return value > 0 ? json::value(value) : json::value(nullptr); };
  report[prefix + "weights_gb_per_second"] = known(rates.weights_per_second / 1e9);
  report[prefix + "bandwidth_percent"] = known(rates.bandwidth_percent);
  report[prefix + "gflops"] = known(rates.operations_per_second / 1e9);
  report[prefix + "peak_percent"] = known(rates.peak_percent);
}

std::string describe_rates(const ModelRates& rates) {
  const std::string operations = fmt::format("{} ({} of peak)", format_operations(rates.operations_per_second),
                                             format_percent(rates.peak_percent));
  if (rates.weights_per_second <= 0) return operations;
  return fmt::format("weights {:.1f} GB/s ({} of memory), {}", rates.weights_per_second / 1e9,
                     format_percent(rates.bandwidth_percent), operations);
}

std::string format_percent(double percent) {
  return percent <= 0 ? "-" : fmt::format("{:.{}f} %", percent, percent < 1 ? 2 : percent < 10 ? 1 : 0);
}

std::string format_operations(double per_second) {
  if (per_second >= 1e13) return fmt::format("{:.1f} TFLOP/s", per_second / 1e12);
  return fmt::format("{:.{}f} GFLOP/s", per_second / 1e9, per_second < 1e11 ? 1 : 0);
}

}  // namespace sluice::cli
