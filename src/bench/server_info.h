// What a server says about itself, read from its answers: the models of GET /v1/models, the counters of GET /metrics.
// Foreign text: whatever has another shape is as if it were not there, and nothing throws. Pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/json.h"

namespace sluice::bench {

struct ServedModel {
  std::string id;                 // empty: there is none
  std::string root;               // what it is served from or is another name of; metrics may be labelled with either
  int64_t max_model_len = 0;      // these three are 0 where it does not say
  int64_t num_parameters = 0;     // "meta": {"n_params", "size"}, as llama.cpp's server has them
  int64_t weight_bytes = 0;
};
// The model of that name, or of any if it is empty. `body`: of GET /v1/models.
ServedModel find_served_model(const json::value& body, const std::string& name);

// The value of a counter in the text format of Prometheus: the sum over its label sets, but for those of another model.
std::optional<double> find_counter(std::string_view text, std::string_view name, const ServedModel& model);

// How often a model was computed, and for how many tokens: the histogram that sluice and vLLM keep of their steps.
struct StepCounts {
  double num_steps = 0, num_tokens = 0;
};
std::optional<StepCounts> find_step_counts(std::string_view metrics, const ServedModel& model);

// Whether the host is this machine whatever its names are: 127.x.x.x, ::1, localhost.
bool is_loopback(const std::string& host);

}  // namespace sluice::bench
