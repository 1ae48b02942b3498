#include "engine/kv_memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

#include "base/error.h"
#include "base/log.h"
#include "engine/block_manager.h"

namespace sluice::engine {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;
constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();
// Of what the weights leave; the rest is for activations, logits and the neighbours.
constexpr double kShareOfFree = 0.7;
constexpr int64_t kMaxPages = int64_t{1} << 30;

// The number in a file of one number; kUnlimited without the file or for "max".
int64_t read_number(const std::string& path) {
  std::ifstream file(path);
  int64_t value = 0;
  return file >> value ? value : kUnlimited;
}

// The value of "name 123" or "name: 123 kB" in a file of such lines.
int64_t read_field(const std::string& path, const std::string& name) {
  std::ifstream file(path);
  std::string key;
  while (file >> key) {
    int64_t value = 0;
    if ((key == name || key == name + ":") && file >> value) return value;
    file.clear();
    file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return kUnlimited;
}

int64_t cgroup_free_bytes() {
  std::ifstream file("/proc/self/cgroup");
  std::string line, path;
  while (std::getline(file, line)) {
    if (line.starts_with("0::")) path = line.substr(3);
  }
  int64_t least = kUnlimited;
  for (;;) {
    if (path == "/") path.clear();
    std::string folder = "/sys/fs/cgroup" + path;
    int64_t limit = read_number(folder + "/memory.max"),
            current = read_number(folder + "/memory.current");
    if (limit != kUnlimited && current != kUnlimited) {
      int64_t reclaimable = read_field(folder + "/memory.stat", "inactive_file");
      if (reclaimable == kUnlimited) reclaimable = 0;
      least = std::min(least, std::max<int64_t>(0, limit - current + reclaimable));
    }
    if (path.empty()) return least;
    path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
  }
}

}  // namespace

int64_t available_memory_bytes() {
  int64_t kib = read_field("/proc/meminfo", "MemAvailable");
  int64_t system = kib == kUnlimited ? 1024 * kMiB : kib * 1024;
  return std::min(system, cgroup_free_bytes());
}

KvMemoryPlan plan_kv_memory(const EngineOptions& options, const llm::Model& model,
                            int64_t available_bytes) {
  int64_t page_bytes = model.kv_layout(options.kv_cache_type).page_bytes();
  int64_t longest = std::max<int64_t>(1, model.max_positions());
  KvMemoryPlan plan;
  plan.max_model_len = options.max_model_len > 0 ? options.max_model_len : longest;
  if (plan.max_model_len > longest) {
    fail_param(
        "max_model_len",
        "max-model-len {} is beyond the {} tokens that the model was made for; choose at most that",
        plan.max_model_len, longest);
  }
  if (options.kv_cache_memory_bytes > 0) {
    plan.num_pages = options.kv_cache_memory_bytes / page_bytes;
    if (options.kv_cache_memory_bytes > available_bytes) {
      fail(Code::kResourceExhausted,
           "a KV cache of {} MiB was asked for and {} MiB of memory are available; set "
           "--kv-cache-memory to less",
           options.kv_cache_memory_bytes / kMiB, available_bytes / kMiB);
    }
  } else {
    // Mapped weights count as available until they are read, others do not any more; which it is
    // cannot be known here.
    int64_t left = std::max(available_bytes - model.weight_bytes(), available_bytes / 4);
    int64_t affordable =
        static_cast<int64_t>(static_cast<double>(left) * kShareOfFree) / page_bytes;
    int64_t useful =
        count_pages(plan.max_model_len) *
        std::min(options.max_num_seqs, kMaxPages / count_pages(plan.max_model_len) + 1);
    plan.num_pages = std::min(affordable, useful);
  }
  plan.num_pages = std::min(plan.num_pages, kMaxPages);
  if (plan.num_pages < 1) {
    fail(Code::kResourceExhausted,
         "the KV cache does not hold one page of {} tokens, which takes {} bytes: {} bytes were "
         "{}; free some memory, choose "
         "a smaller KV type or set --kv-cache-memory",
         kTokensPerPage, page_bytes,
         options.kv_cache_memory_bytes > 0 ? options.kv_cache_memory_bytes : available_bytes,
         options.kv_cache_memory_bytes > 0 ? "given" : "available");
  }
  if (plan.num_pages * kTokensPerPage < plan.max_model_len) {
    LOG(warning,
        "max-model-len lowered from {} to {} tokens: the KV cache has memory for {} pages of {} "
        "KiB",
        plan.max_model_len, plan.num_pages * kTokensPerPage, plan.num_pages, page_bytes / 1024);
    plan.max_model_len = plan.num_pages * kTokensPerPage;
  }
  return plan;
}

}  // namespace sluice::engine
