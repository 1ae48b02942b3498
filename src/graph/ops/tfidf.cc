// TfIdfVectorizer (ONNX operator specification, opset 9): counts n-grams, with gaps, and weights the counts. The pool
// of n-grams becomes a tree of hash tables over small numbers, once for a node: a row walks it from each position and
// for each gap. N-grams of one element have no gap and are counted once. Weights go by column of the output, as the
// implementations in use do it; where columns are in the pool's order that is also what the specification says.
#include <algorithm>
#include <unordered_map>

#include "base/check.h"
#include "graph/ops/ops.h"

namespace sluice::graph::ops {
namespace {

enum class Mode : uint8_t { kTf, kIdf, kTfIdf };

// Shorter n-grams are on the way to longer ones.
struct Pool {
  Mode mode = Mode::kTf;
  int64_t min_length = 1, max_length = 1, max_skips = 0;
  int64_t num_columns = 0;
  std::vector<float> weights;                          // [num_columns], or none
  std::unordered_map<std::string, int32_t> words;      // what tokens are in the pool, by number
  std::unordered_map<int64_t, int32_t> integers;
  std::unordered_map<uint64_t, int32_t> steps;         // (node << 32 | token) -> node; 0 is the root
  std::vector<int64_t> columns{-1};                    // of each node's n-gram; -1: none ends here

  int32_t find_step(int32_t node, int32_t token) const {
    const auto found = steps.find(static_cast<uint64_t>(node) << 32 | static_cast<uint32_t>(token));
    return found == steps.end() ? -1 : found->second;
  }
};

int64_t get_length(const Node& node, const char* name, int64_t least) {
  const int64_t value = node.get_int(name, least - 1);
  if (value < least) {
    fail(Code::kInvalidArgument, "{}: {} is {} and has to be at least {}", node.describe(), name, value, least);
  }
  return value;
}

std::shared_ptr<const Pool> make_pool(const Node& node) {
  auto pool = std::make_shared<Pool>();
  const std::string mode = node.get_string("mode", "");
  if (mode != "TF" && mode != "IDF" && mode != "TFIDF") {
    fail(Code::kInvalidArgument, "{}: mode '{}' is none of TF, IDF and TFIDF", node.describe(), mode);
  }
  pool->mode = mode == "TF" ? Mode::kTf : mode == "IDF" ? Mode::kIdf : Mode::kTfIdf;
  pool->min_length = get_length(node, "min_gram_length", 1);
  pool->max_length = get_length(node, "max_gram_length", pool->min_length);
  pool->max_skips = get_length(node, "max_skip_count", 0);
  const std::vector<std::string> strings = node.get_strings("pool_strings");
  const std::vector<int64_t> integers = node.get_ints("pool_int64s");
  if (strings.empty() == integers.empty()) {
    fail(Code::kInvalidArgument, "{}: needs one of pool_strings and pool_int64s", node.describe());
  }
  std::vector<int32_t> tokens;
  for (const std::string& word : strings) {
    tokens.push_back(pool->words.try_emplace(word, static_cast<int32_t>(pool->words.size())).first->second);
  }
  for (const int64_t integer : integers) {
    tokens.push_back(pool->integers.try_emplace(integer, static_cast<int32_t>(pool->integers.size())).first->second);
  }
  const std::vector<int64_t> begins = node.get_ints("ngram_counts"), columns = node.get_ints("ngram_indexes");
  for (const int64_t column : columns) {
    if (column < 0 || column > (int64_t{1} << 40)) {
      fail(Code::kInvalidArgument, "{}: ngram_indexes has {}", node.describe(), column);
    }
    pool->num_columns = std::max(pool->num_columns, column + 1);
  }
  size_t num_grams = 0;
  for (size_t n = 0; n < begins.size(); ++n) {
    const int64_t begin = begins[n], end = n + 1 < begins.size() ? begins[n + 1] : static_cast<int64_t>(tokens.size());
    const int64_t length = static_cast<int64_t>(n) + 1;
    if (begin < 0 || end < begin || end > static_cast<int64_t>(tokens.size()) || (end - begin) % length != 0) {
      fail(Code::kInvalidArgument, "{}: ngram_counts says that n-grams of {} elements are pool elements {} to {} of {}",
           node.describe(), length, begin, end, tokens.size());
    }
    for (int64_t at = begin; at < end; at += length, ++num_grams) {
      if (num_grams >= columns.size()) {
        fail(Code::kInvalidArgument, "{}: ngram_indexes has {} elements, the pool has more n-grams", node.describe(),
             columns.size());
      }
      if (length < pool->min_length || length > pool->max_length) continue;
      int32_t from = 0;
      for (int64_t k = 0; k < length; ++k) {
        const uint64_t key =
            static_cast<uint64_t>(from) << 32 | static_cast<uint32_t>(tokens[static_cast<size_t>(at + k)]);
        const auto [found, is_new] = pool->steps.try_emplace(key, static_cast<int32_t>(pool->columns.size()));
        if (is_new) pool->columns.push_back(-1);
        from = found->second;
      }
      pool->columns[static_cast<size_t>(from)] = columns[num_grams];
    }
  }
  pool->weights = node.get_floats("weights");
  if (!pool->weights.empty() && static_cast<int64_t>(pool->weights.size()) != pool->num_columns) {
    fail(Code::kInvalidArgument, "{}: there are {} weights for {} columns", node.describe(), pool->weights.size(),
         pool->num_columns);
  }
  return pool;
}

std::shared_ptr<const Pool> prepare(const Node& node) {
  return node.prepared.get<Pool>([&] { return make_pool(node); });
}

void infer_tfidf(InferContext& context) {
  const std::shared_ptr<const Pool> pool = prepare(context.node());
  if (!context.has_rank(0)) return context.set_output(0, ElementType::kF32);
  const int rank = context.rank(0);
  if (rank != 1 && rank != 2) context.fail("input 1 is {}; it has to be [C] or [N x C]", to_string(context.type(0)));
  context.set_output(0, ElementType::kF32,
                     rank == 1 ? Dims{pool->num_columns} : Dims{context.dims(0)[0], pool->num_columns});
}

// Adds the counts of one row of tokens; -1 is one that the pool does not have.
void count_row(const Pool& pool, std::span<const int32_t> row, float* counts) {
  const int64_t size = static_cast<int64_t>(row.size());
  // Gaps as long as the row leave single elements only.
  const int64_t max_step = pool.max_length == 1 ? 1 : std::min(pool.max_skips, std::max<int64_t>(size - 1, 0)) + 1;
  for (int64_t step = 1; step <= max_step; ++step) {
    for (int64_t begin = 0; begin < size; ++begin) {
      int32_t node = 0;
      int64_t length = 1;
      for (int64_t at = begin; at < size && length <= pool.max_length; at += step, ++length) {
        const int32_t token = row[static_cast<size_t>(at)];
        node = token < 0 ? -1 : pool.find_step(node, token);
        if (node < 0) break;
        const int64_t column = pool.columns[static_cast<size_t>(node)];
        if (column >= 0 && (length > 1 || step == 1)) counts[column] += 1;
      }
    }
  }
}

void run_tfidf(RunContext& context) {
  const Tensor& input = context.input(0);
  const std::shared_ptr<const Pool> pool = prepare(context.node());
  const int64_t num_rows = input.rank() == 2 ? input.dim(0) : 1, size = input.shape().back();
  const bool takes_strings = !pool->words.empty();
  if (takes_strings != (input.type() == ElementType::kString)) context.fail_type(0);
  std::vector<int32_t> tokens;
  tokens.reserve(static_cast<size_t>(input.count()));
  if (takes_strings) {
    for (const std::string& word : input.values<std::string>()) {
      const auto found = pool->words.find(word);
      tokens.push_back(found == pool->words.end() ? -1 : found->second);
    }
  } else if (!dispatch<int32_t, int64_t>(input.type(), [&](auto zero) {
               for (const auto integer : input.values<decltype(zero)>()) {
                 const auto found = pool->integers.find(integer);
                 tokens.push_back(found == pool->integers.end() ? -1 : found->second);
               }
             })) {
    context.fail_type(0);
  }
  float* output = context.output_data<float>(0);
  std::fill_n(output, context.output(0).count(), 0.0f);
  context.pool().parallel_for(num_rows, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      float* row = output + r * pool->num_columns;
      count_row(*pool, std::span(tokens).subspan(static_cast<size_t>(r * size), static_cast<size_t>(size)), row);
      if (pool->mode == Mode::kTf) continue;
      for (int64_t i = 0; i < pool->num_columns; ++i) {
        if (pool->mode == Mode::kIdf && row[i] > 0) row[i] = 1;
        if (!pool->weights.empty()) row[i] *= pool->weights[static_cast<size_t>(i)];
      }
    }
  });
}

constexpr OpInfo kOps[] = {{"", "TfIdfVectorizer", 9, 0, infer_tfidf, run_tfidf}};

}  // namespace

std::span<const OpInfo> tfidf_ops() { return kOps; }

}  // namespace sluice::graph::ops
