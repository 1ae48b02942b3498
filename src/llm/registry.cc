#include "llm/registry.h"

#include <string_view>

#include "llm/config.h"
#include "llm/pack_weights.h"
#include "llm/transformer.h"
#include "llm/weights.h"

namespace sluice::llm {

std::unique_ptr<Model> load_model(std::shared_ptr<const formats::WeightFile> weights,
                                  const std::string& folder, ThreadPool& pool, bool repack) {
  bool is_gguf = weights->format() == std::string_view("gguf");
  Config config = is_gguf ? read_gguf_config(*weights) : read_hf_config(folder + "/config.json");
  Weights loaded = load_weights(std::move(weights), config);
  if (repack) pack_weights(loaded, pool);
  return std::make_unique<Transformer>(std::move(config), std::move(loaded), pool);
}

std::vector<std::string> supported_architectures() {
  std::vector<std::string> names;
  for (const Family& family : families()) names.emplace_back(family.name);
  return names;
}

}  // namespace sluice::llm
