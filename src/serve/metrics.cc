#include "serve/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <map>
#include <mutex>
#include <utility>

namespace sluice::serve {
namespace {

using Buckets = prometheus::Histogram::BucketBoundaries;
using Labels = std::map<std::string, std::string>;

const Buckets kFirstTokenBuckets = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,   0.25,  0.5,   0.75,
                                    1,     2.5,   5,    7.5,  10,   20,   40,   80,    160,   640,   2560};
const Buckets kInterTokenBuckets = {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4,
                                    0.5,  0.75,  1,    2.5,   5,   7.5,  10,  20,  40, 80};
const Buckets kLatencyBuckets = {0.3, 0.5, 0.8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                 30,  40,  50,  60, 120, 240, 480, 960, 1920, 7680};
const Buckets kCountBuckets = {1, 2, 5, 10, 20};
const Buckets kStepBuckets = {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384};
const Buckets kHttpSecondsBuckets = {0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60};
const Buckets kBytesBuckets = {100, 1000, 10000, 100000, 1e6, 1e7, 1e8};

// 1, 2, 5, 10, 20, 50, ... up to a million.
Buckets token_buckets() {
  Buckets buckets;
  for (double decade = 1; decade <= 1e6; decade *= 10) {
    for (double step : {1.0, 2.0, 5.0}) {
      if (decade * step <= 1e6) buckets.push_back(decade * step);
    }
  }
  return buckets;
}

}  // namespace

struct ModelMetrics::Impl {
  Impl(prometheus::Registry& registry, const std::string& model_name)
      : registry_(registry), labels_{{"model_name", model_name}, {"engine", "0"}} {}

  prometheus::Gauge& gauge(const char* name, const char* help) {
    return prometheus::BuildGauge().Name(name).Help(help).Register(registry_).Add(labels_);
  }
  prometheus::Counter& counter(const char* name, const char* help, const Labels& more = {}) {
    Labels labels = labels_;
    labels.insert(more.begin(), more.end());
    return prometheus::BuildCounter().Name(name).Help(help).Register(registry_).Add(labels);
  }
  prometheus::Histogram& histogram(const char* name, const char* help, const Buckets& buckets) {
    return prometheus::BuildHistogram().Name(name).Help(help).Register(registry_).Add(labels_, buckets);
  }

  prometheus::Registry& registry_;
  const Labels labels_;

  prometheus::Gauge& running = gauge("vllm:num_requests_running", "Sequences in the current step.");
  prometheus::Gauge& waiting = gauge("vllm:num_requests_waiting", "Requests waiting to be scheduled.");
  prometheus::Gauge& kv_usage = gauge("vllm:kv_cache_usage_perc", "KV pages in use; 1 is all of them.");

  prometheus::Counter& prefix_queries =
      counter("vllm:prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache.");
  prometheus::Counter& prefix_hits =
      counter("vllm:prefix_cache_hits_total", "Prompt tokens found in the prefix cache.");
  prometheus::Counter& preemptions = counter("vllm:num_preemptions_total", "Sequences put back for want of pages.");
  prometheus::Counter& prompt_tokens = counter("vllm:prompt_tokens_total", "Prompt tokens processed.");
  prometheus::Counter& generation_tokens = counter("vllm:generation_tokens_total", "Tokens generated.");
  std::map<std::string, prometheus::Counter*> success = [this] {
    std::map<std::string, prometheus::Counter*> counters;
    for (const char* reason : {"stop", "length", "abort", "error"}) {
      counters[reason] = &counter("vllm:request_success_total", "Requests finished.", {{"finished_reason", reason}});
    }
    return counters;
  }();

  prometheus::Histogram& first_token =
      histogram("vllm:time_to_first_token_seconds", "Arrival to first token.", kFirstTokenBuckets);
  prometheus::Histogram& inter_token =
      histogram("vllm:inter_token_latency_seconds", "Time between the tokens of a sequence.", kInterTokenBuckets);
  prometheus::Histogram& per_output_token =
      histogram("vllm:request_time_per_output_token_seconds", "Mean time a token after the first, by request.",
                kInterTokenBuckets);
  prometheus::Histogram& total =
      histogram("vllm:e2e_request_latency_seconds", "Arrival to end of the request.", kLatencyBuckets);
  prometheus::Histogram& queue =
      histogram("vllm:request_queue_time_seconds", "Queued to first scheduled.", kLatencyBuckets);
  prometheus::Histogram& inference =
      histogram("vllm:request_inference_time_seconds", "First scheduled to last token.", kLatencyBuckets);
  prometheus::Histogram& prefill =
      histogram("vllm:request_prefill_time_seconds", "First scheduled to first token.", kLatencyBuckets);
  prometheus::Histogram& decode =
      histogram("vllm:request_decode_time_seconds", "First token to last token.", kLatencyBuckets);
  prometheus::Histogram& request_prompt_tokens =
      histogram("vllm:request_prompt_tokens", "Prompt tokens, by request.", token_buckets());
  prometheus::Histogram& request_generation_tokens =
      histogram("vllm:request_generation_tokens", "Generated tokens, by request.", token_buckets());
  prometheus::Histogram& request_max_generation_tokens = histogram(
      "vllm:request_max_num_generation_tokens", "Tokens of a request's longest sequence.", token_buckets());
  prometheus::Histogram& params_n = histogram("vllm:request_params_n", "The parameter n.", kCountBuckets);
  prometheus::Histogram& params_max_tokens =
      histogram("vllm:request_params_max_tokens", "The parameter max_tokens.", token_buckets());
  prometheus::Histogram& step_tokens =
      histogram("vllm:iteration_tokens_total", "Tokens computed in a step.", kStepBuckets);
  std::mutex update_mutex;
};

ModelMetrics::ModelMetrics(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ModelMetrics::~ModelMetrics() = default;

void ModelMetrics::observe_request(const RequestRecord& record) {
  auto observe = [](prometheus::Histogram& histogram, double value) {
    if (value >= 0) histogram.Observe(value);
  };
  auto found = impl_->success.find(record.finished_reason);
  if (found != impl_->success.end()) found->second->Increment();
  observe(impl_->first_token, record.first_token_seconds);
  observe(impl_->total, record.total_seconds);
  observe(impl_->queue, record.queue_seconds);
  observe(impl_->inference, record.inference_seconds);
  observe(impl_->prefill, record.prefill_seconds);
  observe(impl_->decode, record.decode_seconds);
  if (record.decode_seconds >= 0 && record.max_generation_tokens > 1) {
    impl_->per_output_token.Observe(record.decode_seconds / static_cast<double>(record.max_generation_tokens - 1));
  }
  impl_->request_prompt_tokens.Observe(static_cast<double>(record.prompt_tokens));
  impl_->request_generation_tokens.Observe(static_cast<double>(record.generation_tokens));
  impl_->request_max_generation_tokens.Observe(static_cast<double>(record.max_generation_tokens));
  impl_->params_n.Observe(static_cast<double>(record.n));
  impl_->params_max_tokens.Observe(static_cast<double>(record.max_tokens));
}

void ModelMetrics::observe_inter_token(double seconds) { impl_->inter_token.Observe(seconds); }

void ModelMetrics::observe_step(int64_t num_tokens) { impl_->step_tokens.Observe(static_cast<double>(num_tokens)); }

void ModelMetrics::update(const ModelStats& stats) {
  std::lock_guard lock(impl_->update_mutex);
  auto raise_to = [](prometheus::Counter& counter, int64_t value) {
    double rise = static_cast<double>(value) - counter.Value();
    if (rise > 0) counter.Increment(rise);
  };
  impl_->running.Set(static_cast<double>(stats.num_running));
  impl_->waiting.Set(static_cast<double>(stats.num_waiting));
  impl_->kv_usage.Set(stats.kv_usage);
  raise_to(impl_->prefix_queries, stats.prefix_cache_queries);
  raise_to(impl_->prefix_hits, stats.prefix_cache_hits);
  raise_to(impl_->preemptions, stats.num_preemptions);
  raise_to(impl_->prompt_tokens, stats.prompt_tokens);
  raise_to(impl_->generation_tokens, stats.generation_tokens);
}

struct Metrics::Impl {
  prometheus::Registry registry{prometheus::Registry::InsertBehavior::Merge};
  std::mutex mutex;
  std::map<std::string, std::unique_ptr<ModelMetrics>> models;
  prometheus::Family<prometheus::Counter>& http_requests = prometheus::BuildCounter()
      .Name("http_requests_total").Help("HTTP requests answered.").Register(registry);
  prometheus::Family<prometheus::Histogram>& http_seconds = prometheus::BuildHistogram()
      .Name("http_request_duration_seconds").Help("From the request's last byte to the reply's.").Register(registry);
  prometheus::Family<prometheus::Histogram>& http_request_bytes = prometheus::BuildHistogram()
      .Name("http_request_size_bytes").Help("Bytes of request bodies.").Register(registry);
  prometheus::Family<prometheus::Histogram>& http_response_bytes = prometheus::BuildHistogram()
      .Name("http_response_size_bytes").Help("Bytes of reply bodies.").Register(registry);
};

Metrics::Metrics() : impl_(std::make_unique<Impl>()) {}
Metrics::~Metrics() = default;

ModelMetrics& Metrics::for_model(const std::string& model_name) {
  std::lock_guard lock(impl_->mutex);
  std::unique_ptr<ModelMetrics>& slot = impl_->models[model_name];
  if (!slot) {
    slot = std::make_unique<ModelMetrics>(std::make_unique<ModelMetrics::Impl>(impl_->registry, model_name));
  }
  return *slot;
}

void Metrics::set_cache_info(const std::string& model_name, int64_t block_size, int64_t num_blocks,
                             bool prefix_caching) {
  prometheus::BuildGauge()
      .Name("vllm:cache_config_info")
      .Help("Constants of the KV memory.")
      .Register(impl_->registry)
      .Add({{"model_name", model_name},
            {"engine", "0"},
            {"block_size", std::to_string(block_size)},
            {"num_gpu_blocks", std::to_string(num_blocks)},
            {"enable_prefix_caching", prefix_caching ? "True" : "False"}})
      .Set(1);
}

void Metrics::observe_http(const std::string& handler, const std::string& method, int status, double seconds,
                           int64_t request_bytes, int64_t response_bytes) {
  // The class of the status, as prometheus-fastapi-instrumentator groups it.
  std::string status_class = std::to_string(status / 100) + "xx";
  Labels labels = {{"handler", handler}, {"method", method}};
  impl_->http_seconds.Add(labels, kHttpSecondsBuckets).Observe(seconds);
  impl_->http_request_bytes.Add({{"handler", handler}}, kBytesBuckets).Observe(static_cast<double>(request_bytes));
  impl_->http_response_bytes.Add({{"handler", handler}}, kBytesBuckets).Observe(static_cast<double>(response_bytes));
  labels["status"] = status_class;
  impl_->http_requests.Add(labels).Increment();
}

std::string Metrics::serialize() const {
  return prometheus::TextSerializer().Serialize(impl_->registry.Collect());
}

}  // namespace sluice::serve
