#include "serve/repository.h"

#include <algorithm>

#include "base/error.h"

namespace sluice::serve {

void Repository::add(const std::vector<std::string>& names, std::shared_ptr<Model> model) {
  std::lock_guard lock(mutex_);
  for (const std::string& name : names) {
    if (name.empty()) fail(Code::kInvalidArgument, "a served model name is empty");
    for (const Entry& entry : entries_) {
      if (entry.name == name) fail(Code::kAlreadyExists, "two models are to be served under the name '{}'", name);
    }
    entries_.push_back({name, model});
  }
}

std::shared_ptr<Model> Repository::get(const std::string& name) const {
  std::lock_guard lock(mutex_);
  if (name.empty() && !entries_.empty()) return entries_.front().model;
  for (const Entry& entry : entries_) {
    if (entry.name == name) return entry.model;
  }
  throw Error(Code::kNotFound, fmt::format("The model `{}` does not exist.", name), "model");
}

std::vector<Repository::Entry> Repository::entries() const {
  std::lock_guard lock(mutex_);
  return entries_;
}

std::vector<std::shared_ptr<Model>> Repository::models() const {
  std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<Model>> models;
  for (const Entry& entry : entries_) {
    if (std::find(models.begin(), models.end(), entry.model) == models.end()) models.push_back(entry.model);
  }
  return models;
}

std::string Repository::scrape() {
  for (const std::shared_ptr<Model>& model : models()) metrics_.for_model(model->info().name).update(model->stats());
  return metrics_.serialize();
}

}  // namespace sluice::serve
