// The server that `sluice bench serve` loads, as far as the benchmark has to know it: which model it serves, how
// prompts are best given to it, and what part of its machine a load takes. Everything is asked over HTTP, before or
// after the load and never during it. The mode owns one BenchServer and, around the load, one ServerShares; main thread
// only.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/json.h"
#include "bench/http_load.h"
#include "bench/limits.h"
#include "bench/prompts.h"
#include "bench/server_info.h"
#include "cli/bench_report.h"

namespace sluice::cli {

struct BenchServer {
  bench::HttpTarget target;
  std::string path;             // of the endpoint: "/v1/completions"
  bool is_chat = false;
  double timeout_seconds = 600;  // of one request
  bench::ServedModel model;
  std::string version;          // empty: it does not say
  bench::Prompts prompts;
};

// Fills target, path, model and version. `model`: the one to ask for; empty: the first there is. Throws Error.
BenchServer find_server(const bench::HttpTarget& target, const std::string& endpoint, const std::string& model,
                        double timeout_seconds);

enum class PromptForm { kAuto, kIds, kText };
// Decides between ids and words and fills `prompts`. Throws Error if the server refuses what it is asked for.
void choose_prompts(BenchServer& server, PromptForm form, uint64_t seed);

// What the server does under the load beside what its machine can do at most. That can be told if it runs on this
// machine, says how large its weights are (as llama.cpp's does in /v1/models), and counts its steps (as sluice's and
// vLLM's do in /metrics).
class ServerShares {
 public:
  // Before the load, while the server is idle: measures this machine, if that is of use. `server` must live on.
  explicit ServerShares(const BenchServer& server);
  // After it.
  void finish();
  std::string describe() const;  // one line
  void add_to(json::object& report) const;

 private:
  const BenchServer& server_;
  std::string unknown_because_;  // empty: it is known
  bench::Limits limits_;
  bench::StepCounts before_;
  int64_t start_us_ = 0;
  ModelRates rates_;
};

}  // namespace sluice::cli
