// A token's logits depend on its sequence alone: bit for bit the same however its prompt is cut,
// whoever sits beside it, and however many threads compute.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <numeric>

#include "base/test_data.h"
#include "llm/model_for_test.h"

namespace sluice::llm {
namespace {

std::vector<int32_t> make_tokens(int64_t count, int64_t vocab, int64_t seed) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i)
    tokens.push_back(static_cast<int32_t>((i * i * 31 + i * 7 + seed) % vocab));
  return tokens;
}

// The first position whose logits differ in any bit, or -1.
int64_t find_first_difference(const std::vector<float>& a, const std::vector<float>& b,
                              int64_t vocab) {
  EXPECT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size() && i < b.size(); ++i) {
    if (std::memcmp(&a[i], &b[i], sizeof(float)) != 0) return static_cast<int64_t>(i) / vocab;
  }
  return -1;
}

struct Case {
  const char* path;
  DType kv_type;
};

class InvarianceTest : public ::testing::TestWithParam<Case> {};

TEST_P(InvarianceTest, ChunksAndNeighboursAndThreads) {
  auto path = find_test_data(GetParam().path);
  if (!path) GTEST_SKIP() << "needs test data " << GetParam().path << "; set SLUICE_TEST_DATA";
  const DType kv_type = GetParam().kv_type;
  TestModel m(*path);
  const int64_t vocab = m.model->vocab_size();
  const std::vector<int32_t> tokens = make_tokens(100, vocab, 1);
  const std::vector<float> whole = compute_logits(m, tokens, 100, kv_type);
  for (float x : whole) ASSERT_TRUE(std::isfinite(x));
  for (int64_t chunk : {1, 7, 16, 33}) {
    EXPECT_EQ(find_first_difference(whole, compute_logits(m, tokens, chunk, kv_type), vocab), -1)
        << "chunk " << chunk;
  }
  for (int num_threads : {1, 3, 8}) {
    TestModel other(*path, num_threads);
    EXPECT_EQ(find_first_difference(whole, compute_logits(other, tokens, 100, kv_type), vocab), -1)
        << num_threads << " threads";
  }

  // Two sequences in the same batches, their pages mixed, out of step with each other.
  const std::vector<int32_t> others = make_tokens(90, vocab, 5);
  KvStore kv(m.model->kv_layout(kv_type), 16);
  TestSequence a(0, 7), b(1, 7);
  std::vector<float> logits_a;
  std::vector<float> logits;
  int64_t step = 0;
  while (a.num_computed < 100) {
    Batch batch;
    int64_t count_b = std::min<int64_t>(1 + step % 5 * 9, 90 - b.num_computed),
            count_a = std::min<int64_t>(1 + step * 4 % 13, 100 - a.num_computed);
    if (count_b > 0) add_to_batch(batch, b, others, count_b);
    add_to_batch(batch, a, tokens, count_a);
    logits.resize(batch.tokens.size() * static_cast<size_t>(vocab));
    m.model->forward(batch, kv, logits.data());
    logits_a.insert(logits_a.end(), logits.end() - count_a * vocab, logits.end());
    ++step;
  }
  EXPECT_EQ(find_first_difference(whole, logits_a, vocab), -1) << "beside another sequence";
}

INSTANTIATE_TEST_SUITE_P(Models, InvarianceTest,
                         ::testing::Values(Case{"stories260K/stories260K.gguf", DType::kF16},
                                           Case{"stories260K/stories260K.gguf", DType::kBF16},
                                           Case{"quant/quant-Q4_K.gguf", DType::kQ8_0},
                                           Case{"quant/quant-Q4_0.gguf", DType::kF16},
                                           Case{"quant/quant-BF16.gguf", DType::kF32},
                                           Case{"llm/gemma3.gguf", DType::kF16},
                                           Case{"llm/qwen3moe", DType::kF16},
                                           Case{"llm/gemma2", DType::kF16}),
                         [](const auto& info) {
                           std::string name = std::string(info.param.path) + "_" +
                                              sluice::name(info.param.kv_type);
                           for (char& c : name)
                             c = std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
                           return name;
                         });

// Pages copied in a batch stand for the originals from then on.
TEST(ForwardTest, PageCopiesComeFirst) {
  auto path = find_test_data("stories260K/stories260K.gguf");
  ASSERT_TRUE(path);
  TestModel m(*path);
  const int64_t vocab = m.model->vocab_size();
  const std::vector<int32_t> tokens = make_tokens(20, vocab, 3);
  const std::vector<float> whole = compute_logits(m, tokens, 20, DType::kF16);
  KvStore kv(m.model->kv_layout(DType::kF16), 6);
  std::vector<float> logits(static_cast<size_t>(19 * vocab));
  Batch batch;
  TestSequence original(0, 2);  // pages 0 and 2
  add_to_batch(batch, original, tokens, 19);
  m.model->forward(batch, kv, logits.data());
  batch.clear();
  TestSequence copy(0, 2);
  copy.pages = {5, 4};
  copy.num_computed = 19;
  batch.page_copies = {{.from = 0, .to = 5}, {.from = 2, .to = 4}};
  add_to_batch(batch, copy, tokens, 1);
  m.model->forward(batch, kv, logits.data());
  logits.resize(static_cast<size_t>(vocab));
  EXPECT_EQ(
      find_first_difference(std::vector<float>(whole.end() - vocab, whole.end()), logits, vocab),
      -1);
}

TEST(ForwardTest, OnlyTheRowsAskedFor) {
  auto path = find_test_data("stories260K/stories260K.gguf");
  ASSERT_TRUE(path);
  TestModel m(*path);
  const int64_t vocab = m.model->vocab_size();
  const std::vector<int32_t> tokens = make_tokens(30, vocab, 3);
  const std::vector<float> whole = compute_logits(m, tokens, 30, DType::kF16);
  KvStore kv(m.model->kv_layout(DType::kF16), 4);
  TestSequence sequence(0, 2);
  Batch batch;
  add_to_batch(batch, sequence, tokens, 30);
  batch.logit_tokens = {4, 29};
  std::vector<float> logits(static_cast<size_t>(2 * vocab));
  m.model->forward(batch, kv, logits.data());
  std::vector<float> expected(whole.begin() + 4 * vocab, whole.begin() + 5 * vocab);
  expected.insert(expected.end(), whole.begin() + 29 * vocab, whole.end());
  EXPECT_EQ(find_first_difference(expected, logits, vocab), -1);
  batch.logit_tokens.clear();
  m.model->forward(batch, kv, nullptr);  // a chunk of a prompt wants none
}

// The rows of a batch whose logits are wanted are alone in the last layer, wherever they stand in their sequences.
TEST(ForwardTest, RowsAskedForOfTwoSequences) {
  for (const char* name : {"stories260K/stories260K.gguf", "llm/gemma3.gguf", "llm/command-r", "llm/qwen3moe"}) {
    auto path = find_test_data(name);
    ASSERT_TRUE(path) << name;
    TestModel m(*path, 3);
    const int64_t vocab = m.model->vocab_size();
    const std::vector<int32_t> tokens = make_tokens(60, vocab, 3);
    const std::vector<float> whole = compute_logits(m, tokens, 60, DType::kF16);
    KvStore kv(m.model->kv_layout(DType::kF16), 10);
    TestSequence a(0, 4), b(1, 4);
    Batch batch;
    std::vector<float> logits(static_cast<size_t>(60 * vocab));
    add_to_batch(batch, b, tokens, 25);  // no logits of its first part at all
    batch.logit_tokens.clear();
    m.model->forward(batch, kv, nullptr);
    batch.clear();
    add_to_batch(batch, a, tokens, 60);
    add_to_batch(batch, b, tokens, 30);
    batch.logit_tokens = {0, 17, 18, 19, 59, 60, 88, 89};
    const int64_t positions[] = {0, 17, 18, 19, 59, 25, 53, 54};
    m.model->forward(batch, kv, logits.data());
    logits.resize(8 * static_cast<size_t>(vocab));
    std::vector<float> expected;
    for (int64_t position : positions)
      expected.insert(expected.end(), whole.begin() + position * vocab, whole.begin() + (position + 1) * vocab);
    EXPECT_EQ(find_first_difference(expected, logits, vocab), -1) << name;
    // What the others left in the pages is all there.
    batch.clear();
    a.num_computed = 59;
    add_to_batch(batch, a, tokens, 1);
    m.model->forward(batch, kv, logits.data());
    expected.assign(whole.end() - vocab, whole.end());
    logits.resize(static_cast<size_t>(vocab));
    EXPECT_EQ(find_first_difference(expected, logits, vocab), -1) << name;
  }
}

// A context of several spans, attended to by one worker or cut along its length.
TEST(ForwardTest, LongContextsAreCutWithoutATrace) {
  for (const char* name : {"stories260K/stories260K.gguf", "llm/gemma3.gguf"}) {
    auto path = find_test_data(name);
    ASSERT_TRUE(path) << name;
    const int64_t length = 3 * kernels::kAttentionSpan + 40;
    TestModel alone(*path, 1);
    const int64_t vocab = alone.model->vocab_size();
    const std::vector<int32_t> tokens = make_tokens(length, vocab, 11);
    const int32_t num_pages = static_cast<int32_t>(length / kernels::kPageSize + 1);
    std::vector<float> expected;
    for (int num_threads : {1, 2, 16}) {
      TestModel m(*path, num_threads);
      KvStore kv(m.model->kv_layout(DType::kF16), 2 * num_pages);
      TestSequence sequence(0, num_pages);
      std::vector<float> logits(static_cast<size_t>(10 * vocab));
      // One worker computes all at once; the others in chunks, the last tokens one by one.
      Batch batch;
      if (num_threads == 1) {
        add_to_batch(batch, sequence, tokens, length);
        batch.logit_tokens.erase(batch.logit_tokens.begin(), batch.logit_tokens.end() - 10);
        m.model->forward(batch, kv, logits.data());
        expected = logits;
        continue;
      }
      for (int64_t chunk : {700, 800}) {
        batch.clear();
        add_to_batch(batch, sequence, tokens, chunk);
        m.model->forward(batch, kv, std::vector<float>(static_cast<size_t>(chunk * vocab)).data());
      }
      batch.clear();
      add_to_batch(batch, sequence, tokens, length - 10 - sequence.num_computed);
      batch.logit_tokens.clear();
      m.model->forward(batch, kv, nullptr);
      for (int64_t i = 0; i < 10; ++i) {
        batch.clear();
        add_to_batch(batch, sequence, tokens, 1);
        m.model->forward(batch, kv, logits.data() + i * vocab);
      }
      EXPECT_EQ(find_first_difference(expected, logits, vocab), -1) << name << ", " << num_threads << " threads";
    }
  }
}

// The text that the authors of stories260K give, as token ids through its own vocabulary.
TEST(ForwardTest, Stories260KTellsItsKnownStory) {
  auto path = find_test_data("stories260K/stories260K.gguf");
  ASSERT_TRUE(path);
  TestModel m(*path);
  const int64_t vocab = m.model->vocab_size();
  auto file = formats::open_weights(*path);
  const std::vector<std::string>* pieces = file->metadata().find_strings("tokenizer.ggml.tokens");
  ASSERT_NE(pieces, nullptr);
  KvStore kv(m.model->kv_layout(DType::kF16), 32);
  TestSequence sequence(0, 14);
  std::vector<int32_t> tokens = {1};
  std::vector<float> logits(static_cast<size_t>(vocab));
  std::string text;
  while (text.size() < 400 && tokens.size() < 200) {
    Batch batch;
    add_to_batch(batch, sequence, tokens, 1);
    m.model->forward(batch, kv, logits.data());
    tokens.push_back(static_cast<int32_t>(kernels::get_kernels().argmax(logits.data(), vocab)));
    text += (*pieces)[static_cast<size_t>(tokens.back())];
  }
  for (size_t at; (at = text.find("▁")) != std::string::npos;)
    text.replace(at, std::strlen("▁"), " ");
  EXPECT_TRUE(text.starts_with(
      " Once upon a time, there was a little girl named Lily. She loved to play outside in the "
      "park. "
      "One day, she saw a big, red ball. She wanted to play with it, but it was too high."))
      << text;

  // The same ids when each is checked against a whole prefill.
  const std::vector<float> whole =
      compute_logits(m, tokens, static_cast<int64_t>(tokens.size()), DType::kF16);
  for (size_t i = 0; i + 1 < tokens.size(); ++i) {
    EXPECT_EQ(kernels::get_kernels().argmax(whole.data() + static_cast<int64_t>(i) * vocab, vocab),
              tokens[i + 1])
        << i;
  }
}

}  // namespace
}  // namespace sluice::llm
