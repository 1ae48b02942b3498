// The models that are served, by name. Filled at start, read by every request; any thread may call anything. Owns the
// models (shared with running requests) and the metrics.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "serve/metrics.h"
#include "serve/model.h"

namespace sluice::serve {

class Repository {
 public:
  struct Entry {
    std::string name;
    std::shared_ptr<Model> model;
  };

  // `names`: the served name and its aliases. Throws Error(kAlreadyExists) for a name that is taken.
  void add(const std::vector<std::string>& names, std::shared_ptr<Model> model);
  // Throws Error(kNotFound) naming the model. The empty name is the first model.
  std::shared_ptr<Model> get(const std::string& name) const;
  // Every name, in the order they were added.
  std::vector<Entry> entries() const;
  // Every model once.
  std::vector<std::shared_ptr<Model>> models() const;

  Metrics& metrics() { return metrics_; }
  // Brings the gauges up to date and writes everything in Prometheus' text format.
  std::string scrape();

 private:
  Metrics metrics_;
  mutable std::mutex mutex_;
  std::vector<Entry> entries_;
};

}  // namespace sluice::serve
