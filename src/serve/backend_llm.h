// A language model as a service: a loaded checkpoint and its engine behind serve::Model.
//
// generate() renders the template and tokenises on the calling thread, submits token ids to the engine and
// returns the Generation that its events feed. The engine thread, the pool and the weights live as long as this
// object; destroying it aborts what still runs. A thread of its own logs throughput every ten seconds while
// there is any.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "engine/engine.h"
#include "engine/load.h"
#include "serve/metrics.h"
#include "serve/model.h"
#include "serve/prepare.h"

namespace sluice::serve {

struct LlmOptions {
  std::string name;                    // the served name; empty: the file's
  engine::EngineOptions engine;        // end_tokens are filled in from the model
  int log_interval_seconds = 10;       // 0: no throughput lines
};

class LlmModel : public Model {
 public:
  // `metrics` may be null; it must outlive the model.
  LlmModel(engine::LoadedModel loaded, LlmOptions options, Metrics* metrics);
  ~LlmModel() override;

  const ModelInfo& info() const override { return info_; }
  std::unique_ptr<Generation> generate(GenerateRequest request, Wake wake) override;
  TokenizeResult tokenize(const Prompt& prompt, bool add_special_tokens, bool with_texts) const override;
  std::string detokenize(const std::vector<int32_t>& tokens) const override;
  ModelStats stats() const override;
  bool healthy() const override;

  engine::Engine& engine() { return *engine_; }
  const engine::LoadedModel& loaded() const { return loaded_; }

 private:
  void log_throughput(int interval_seconds);

  engine::LoadedModel loaded_;
  ModelInfo info_;
  PrepareContext context_;
  ModelMetrics* metrics_ = nullptr;
  std::unique_ptr<engine::Engine> engine_;
  std::mutex mutex_;
  std::condition_variable stop_;
  bool stopping_ = false;
  std::thread log_thread_;
};

}  // namespace sluice::serve
