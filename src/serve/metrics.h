// What /metrics shows, under the names that vLLM's dashboards expect. The door to prometheus-cpp.
//
// One Metrics belongs to the repository; each model asks it once for its ModelMetrics, whose functions any
// thread may call at any time. Gauges and engine counters are read from the models when somebody scrapes, the
// rest is recorded as it happens.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "serve/model.h"

namespace sluice::serve {

// One finished request, times in seconds; negative: it never got there.
struct RequestRecord {
  const char* finished_reason = "stop";  // stop, length, abort, error
  double first_token_seconds = -1;       // from arrival, before tokenisation
  double total_seconds = -1;
  double queue_seconds = -1;             // queued to first scheduled
  double prefill_seconds = -1;           // first scheduled to first token
  double decode_seconds = -1;            // first token to last
  double inference_seconds = -1;         // first scheduled to last token
  int64_t prompt_tokens = 0;
  int64_t generation_tokens = 0;
  int64_t max_generation_tokens = 0;     // of its longest sequence
  int64_t n = 1;
  int64_t max_tokens = 0;
};

class ModelMetrics {
 public:
  struct Impl;
  explicit ModelMetrics(std::unique_ptr<Impl> impl);
  ~ModelMetrics();

  void observe_request(const RequestRecord& record);
  void observe_inter_token(double seconds);
  void observe_step(int64_t num_tokens);
  // Gauges and counters of the engine, just before a scrape.
  void update(const ModelStats& stats);

 private:
  std::unique_ptr<Impl> impl_;
};

class Metrics {
 public:
  Metrics();
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  // The same object for the same name; lives as long as the Metrics.
  ModelMetrics& for_model(const std::string& model_name);
  // The constants of a model's cache, as a gauge of value 1 with labels.
  void set_cache_info(const std::string& model_name, int64_t block_size, int64_t num_blocks, bool prefix_caching);
  void observe_http(const std::string& handler, const std::string& method, int status, double seconds,
                    int64_t request_bytes, int64_t response_bytes);
  // Prometheus' text format, version 0.0.4.
  std::string serialize() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice::serve
