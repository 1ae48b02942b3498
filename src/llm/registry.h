// Which architectures there are, and how one is made from a weight file.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "formats/weight_file.h"
#include "llm/model.h"

namespace sluice::llm {

// Reads the shape from GGUF metadata, or from config.json in `folder` for safetensors, checks every
// tensor's presence and shape, and builds the model over the mapped weights (shared, zero-copy where
// the layout allows), or repacked for the kernels of this machine (pack_weights.h). Throws Error
// naming file, tensor and what to do; for an unsupported architecture, listing the supported ones.
std::unique_ptr<Model> load_model(std::shared_ptr<const formats::WeightFile> weights, const std::string& folder,
                                  ThreadPool& pool, bool repack = true);

std::vector<std::string> supported_architectures();

}  // namespace sluice::llm
