// sluice perplexity: how well a model predicts a text.
//
// The text is cut into windows of --ctx-size tokens, each begun with the model's beginning token if it has one; the
// second half of every window is scored, so each scored token has at least half a window before it. This is how
// llama.cpp's tool counts too, so that the figures can be compared.
#include <cmath>
#include <cstdio>

#include "base/clock.h"
#include "base/error.h"
#include "base/json.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "kernels/kernels.h"

namespace sluice::cli {
namespace {

struct Flags {
  std::string model, file;
  int64_t context = 512, max_chunks = 0;
  bool json = false;
  std::string kv_type = "f16";
  engine::LoadOptions load;
};

struct Score {
  double sum = 0, sum_of_squares = 0;
  int64_t count = 0;
  double mean() const { return sum / static_cast<double>(count); }
  double perplexity() const { return std::exp(mean()); }
  // Standard error of the perplexity, from that of the mean by the delta method.
  double error() const {
    double variance = sum_of_squares / static_cast<double>(count) - mean() * mean();
    return count > 1 ? perplexity() * std::sqrt(std::max(0.0, variance) / static_cast<double>(count - 1)) : 0.0;
  }
};

void score_window(engine::LoadedModel& loaded, const std::vector<int32_t>& tokens, llm::KvStore& kv,
                  std::vector<float>& logits, Score& score) {
  const int64_t length = static_cast<int64_t>(tokens.size()), vocabulary = loaded.model->vocab_size();
  std::vector<int32_t> pages(static_cast<size_t>((length + kernels::kPageSize - 1) / kernels::kPageSize));
  for (size_t i = 0; i < pages.size(); ++i) pages[i] = static_cast<int32_t>(i);
  // 128 rows at a time bound the logits: a vocabulary of 256k would need 1 GB for a window of 1,024.
  for (int64_t begin = 0; begin < length; begin += 128) {
    int64_t count = std::min<int64_t>(128, length - begin);
    llm::Batch batch;
    batch.tokens.assign(tokens.begin() + begin, tokens.begin() + begin + count);
    batch.sequences.push_back({.first_token = 0, .num_tokens = count, .first_position = begin, .pages = pages.data()});
    for (int64_t i = 0; i < count; ++i) {
      if (begin + i >= length / 2 && begin + i + 1 < length) batch.logit_tokens.push_back(static_cast<int32_t>(i));
    }
    logits.resize(batch.logit_tokens.size() * static_cast<size_t>(vocabulary));
    loaded.model->forward(batch, kv, logits.data());
    for (size_t row = 0; row < batch.logit_tokens.size(); ++row) {
      const float* values = logits.data() + row * static_cast<size_t>(vocabulary);
      int32_t next = tokens[static_cast<size_t>(begin + batch.logit_tokens[row] + 1)];
      double loss = kernels::get_kernels().log_sum_exp(values, vocabulary) - values[next];
      score.sum += loss;
      score.sum_of_squares += loss * loss;
      ++score.count;
    }
  }
}

void run(const Flags& flags) {
  engine::LoadedModel loaded = engine::load(flags.model, flags.load);
  if (!loaded.tokenizer) fail(Code::kFailedPrecondition, "{}: no tokenizer beside the model; name one with --tokenizer", flags.model);
  std::string text = read_stream_or_file(flags.file);
  std::vector<int32_t> tokens = loaded.tokenizer->encode(text, {.add_special = false, .parse_special = false});
  const int64_t context = std::min(flags.context, loaded.model->max_positions());
  const bool adds_bos = loaded.tokenizer->adds_bos();
  const int64_t step = context - (adds_bos ? 1 : 0);
  int64_t chunks = static_cast<int64_t>(tokens.size()) / step;
  if (chunks < 1) {
    fail(Code::kInvalidArgument, "{}: {} tokens are too few for one window of {}; give more text or a smaller --ctx-size",
         flags.file, tokens.size(), context);
  }
  if (flags.max_chunks > 0) chunks = std::min(chunks, flags.max_chunks);
  if (!flags.json) {
    std::printf("%s\n%zu tokens in %lld windows of %lld\n", loaded.model->description().c_str(), tokens.size(),
                static_cast<long long>(chunks), static_cast<long long>(context));
  }
  llm::KvStore kv(loaded.model->kv_layout(*find_dtype(flags.kv_type)), (context + kernels::kPageSize - 1) / kernels::kPageSize);
  std::vector<float> logits;
  Score score;
  int64_t start = monotonic_us();
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    std::vector<int32_t> window;
    if (adds_bos) window.push_back(loaded.tokenizer->special_ids().bos);
    window.insert(window.end(), tokens.begin() + chunk * step, tokens.begin() + (chunk + 1) * step);
    score_window(loaded, window, kv, logits, score);
    if (!flags.json) {
      std::printf("%s[%lld] %.4f", chunk % 8 == 0 && chunk > 0 ? "\n" : chunk == 0 ? "" : "  ",
                  static_cast<long long>(chunk + 1), score.perplexity());
      std::fflush(stdout);
    }
  }
  double seconds = static_cast<double>(monotonic_us() - start) / 1e6;
  double rate = static_cast<double>(chunks * context) / seconds;
  if (flags.json) {
    std::printf("%s\n", json::serialize(json::object{{"model", flags.model},
                                                     {"perplexity", score.perplexity()},
                                                     {"error", score.error()},
                                                     {"tokens_scored", score.count},
                                                     {"windows", chunks},
                                                     {"ctx_size", context},
                                                     {"isa", kernels::get_kernels().isa},
                                                     {"tokens_per_second", rate}}).c_str());
  } else {
    std::printf("\nPPL = %.4f +/- %.4f over %lld tokens, %.1f tokens/s, %s\n", score.perplexity(), score.error(),
                static_cast<long long>(score.count), rate, kernels::get_kernels().isa);
  }
}

}  // namespace

void add_perplexity(CLI::App& parent) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = parent.add_subcommand("perplexity", "Measure how well a model predicts a text");
  command->add_option("model", flags->model, "GGUF file or Hugging Face folder")->required();
  command->add_option("-f,--file", flags->file, "the text; - for standard input")->required();
  command->add_option("-c,--ctx-size", flags->context, "tokens in a window")
      ->check(CLI::Range(int64_t{4}, int64_t{1} << 20))->capture_default_str();
  command->add_option("--chunks", flags->max_chunks, "stop after so many windows; 0: all")
      ->check(CLI::NonNegativeNumber)->capture_default_str();
  command->add_option("--kv-cache-dtype", flags->kv_type, "f16, bf16, q8_0 or f32")
      ->check(CLI::IsMember({"f16", "bf16", "q8_0", "f32"}))->capture_default_str();
  command->add_flag("--json", flags->json, "print one JSON object");
  add_load_flags(*command, flags->load);
  command->callback([flags] { run(*flags); });
}

}  // namespace sluice::cli
