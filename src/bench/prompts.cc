#include "bench/prompts.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "base/check.h"
#include "base/random.h"

namespace sluice::bench {
namespace {

constexpr uint64_t kPrefixStream = uint64_t{1} << 49;

const char* const kWords[] = {
    "river",  "stone",  "green",  "table",  "light",  "paper",  "window", "garden",  "winter", "music",  "bread",
    "horse",  "letter", "silver", "bridge", "summer", "cloud",  "island", "market",  "forest", "doctor", "engine",
    "simple", "yellow", "corner", "circle", "ground", "north",  "ocean",  "people",  "plant",  "quiet",  "road",
    "school", "ship",   "sister", "small",  "song",   "story",  "street", "strong",  "sugar",  "train",  "tree",
    "voice",  "wall",   "water",  "wheel",  "white",  "wind",   "wood",   "young",   "apple",  "board",  "chair",
    "dance",  "early",  "field",  "glass",  "happy",  "inside", "jump",   "kitchen", "learn"};

}  // namespace

std::string draw_words(int64_t count, uint64_t seed, uint64_t stream) {
  Random random(seed, stream);
  std::string text;
  for (int64_t i = 0; i < count; ++i) {
    if (i > 0) text += ' ';
    text += kWords[random.below(std::size(kWords))];
  }
  return text;
}

std::vector<int32_t> Prompts::ids(const PlannedRequest& request, uint64_t request_index) const {
  CHECK(!id_pool.empty());
  std::vector<int32_t> ids;
  ids.reserve(static_cast<size_t>(request.prompt_tokens));
  auto draw = [&](int64_t until, uint64_t stream) {
    Random random(seed, stream);
    while (static_cast<int64_t>(ids.size()) < until) ids.push_back(id_pool[random.below(id_pool.size())]);
  };
  draw(std::min(request.prefix_tokens, request.prompt_tokens),
       kPrefixStream + static_cast<uint64_t>(request.prefix_index));
  draw(request.prompt_tokens, request_index);
  return ids;
}

std::string Prompts::text(const PlannedRequest& request, uint64_t request_index) const {
  auto num_words = [&](int64_t tokens, double overhead) {
    double words = (static_cast<double>(tokens) - overhead) / tokens_per_word;
    return std::max<int64_t>(1, static_cast<int64_t>(std::llround(words)));
  };
  const int64_t total = num_words(request.prompt_tokens, overhead_tokens);
  if (request.prefix_tokens <= 0) return draw_words(total, seed, request_index);
  const int64_t prefix = std::min(total, num_words(request.prefix_tokens, overhead_tokens));
  std::string text = draw_words(prefix, seed, kPrefixStream + static_cast<uint64_t>(request.prefix_index));
  if (total > prefix) text += ' ' + draw_words(total - prefix, seed, request_index);
  return text;
}

}  // namespace sluice::bench
