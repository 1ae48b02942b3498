// Real vocabularies against the ids that their own tokenizers gave: every file of the data set.
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <sstream>

#include "base/json.h"
#include "base/mmap.h"
#include "base/test_data.h"
#include "text/detokenizer.h"
#include "text/gguf_vocabulary_for_test.h"
#include "text/tokenizer.h"

namespace sluice::text {
namespace {

constexpr EncodeOptions kPlain{.add_special = false, .parse_special = false};

struct Case {
  std::string text;
  std::vector<int32_t> ids;
};

// Texts separated by a marker line, ids one line a text.
std::vector<Case> read_cases(const std::string& stem) {
  std::string input = read_file(stem + ".inp");
  std::istringstream output(read_file(stem + ".out"));
  const std::string separator = "\n__ggml_vocab_test__\n";
  std::vector<Case> cases;
  for (size_t at = 0; at <= input.size();) {
    size_t end = std::min(input.find(separator, at), input.size());
    std::string line;
    if (!std::getline(output, line)) break;
    Case c{input.substr(at, end - at), {}};
    std::istringstream numbers(line);
    for (int32_t id; numbers >> id;) c.ids.push_back(id);
    cases.push_back(std::move(c));
    at = end + separator.size();
  }
  return cases;
}

void check_cases(const Tokenizer& tokenizer, const std::vector<Case>& cases) {
  EXPECT_GE(cases.size(), 40u);
  for (const Case& c : cases) EXPECT_EQ(tokenizer.encode(c.text, kPlain), c.ids) << "text: [" << c.text << "]";
}

std::string stream(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, bool skip_special) {
  Detokenizer detokenizer(tokenizer, {.skip_special = skip_special}, {});
  std::string out;
  for (int32_t id : ids) out += detokenizer.push(id);
  return out + detokenizer.finish();
}

class GgufVocabulary : public testing::TestWithParam<const char*> {};

TEST_P(GgufVocabulary, GivesTheExpectedIds) {
  auto path = find_test_data(std::string("tokenizers/ggml-vocab-") + GetParam() + ".gguf");
  if (!path) GTEST_SKIP() << "needs test data tokenizers; set SLUICE_TEST_DATA";
  auto tokenizer = make_tokenizer(GgufVocabularyReader(*path).read());
  std::vector<Case> cases = read_cases(*path);
  check_cases(*tokenizer, cases);
  bool lossless = std::string(GetParam()) != "bert-bge";
  for (const Case& c : cases) {
    if (!lossless) continue;
    EXPECT_EQ(tokenizer->decode(c.ids, true), c.text);
    EXPECT_EQ(stream(*tokenizer, c.ids, true), c.text);
  }
}

INSTANTIATE_TEST_SUITE_P(All, GgufVocabulary,
                         testing::Values("bert-bge", "deepseek-llm", "gpt-2", "llama-spm", "phi-3", "starcoder"));

class HuggingFaceFolder : public testing::TestWithParam<const char*> {};

// The expected ids are without special tokens around; `decoded` keeps special tokens such as <unk>.
TEST_P(HuggingFaceFolder, GivesTheExpectedIdsAndTexts) {
  auto path = find_test_data(std::string("tokenizers/hf-") + GetParam());
  if (!path) GTEST_SKIP() << "needs test data tokenizers; set SLUICE_TEST_DATA";
  auto tokenizer = load_tokenizer(*path);
  json::value expected = json::parse(read_file(*path + "/expected.json"));
  const json::array& cases = expected.at("cases").as_array();
  EXPECT_GE(cases.size(), 40u);
  for (const json::value& c : cases) {
    std::string text(c.at("text").as_string());
    std::vector<int32_t> ids;
    for (const json::value& id : c.at("ids").as_array()) ids.push_back(static_cast<int32_t>(id.as_int64()));
    EXPECT_EQ(tokenizer->encode(text, {.add_special = false}), ids) << "text: [" << text << "]";
    EXPECT_EQ(tokenizer->decode(ids, false), c.at("decoded").as_string()) << "text: [" << text << "]";
    EXPECT_EQ(stream(*tokenizer, ids, false), c.at("decoded").as_string()) << "text: [" << text << "]";
  }
}

INSTANTIATE_TEST_SUITE_P(All, HuggingFaceFolder, testing::Values("clip", "llama2", "phi-2", "t5", "tinystories"));

TEST(RawVocabularyData, Llama3EncoderAndMerges) {
  auto path = find_test_data("tokenizers/llama3");
  if (!path) GTEST_SKIP() << "needs test data tokenizers/llama3; set SLUICE_TEST_DATA";
  auto tokenizer = load_tokenizer(*path);  // the pattern is guessed
  EXPECT_NE(tokenizer->description().find("llama-bpe"), std::string::npos) << tokenizer->description();
  check_cases(*tokenizer, read_cases(*path + "/ggml-vocab-llama-bpe.gguf"));
}

TEST(RawVocabularyData, Qwen2TiktokenRanks) {
  auto path = find_test_data("tokenizers/qwen2");
  if (!path) GTEST_SKIP() << "needs test data tokenizers/qwen2; set SLUICE_TEST_DATA";
  auto tokenizer = load_tokenizer(*path);
  EXPECT_NE(tokenizer->description().find("qwen2"), std::string::npos) << tokenizer->description();
  check_cases(*tokenizer, read_cases(*path + "/ggml-vocab-qwen2.gguf"));
}

TEST(SentencePieceData, Llama2ModelAgreesWithItsGguf) {
  auto path = find_test_data("tokenizers/llama2-spm/tokenizer.model");
  auto gguf = find_test_data("tokenizers/ggml-vocab-llama-spm.gguf");
  if (!path || !gguf) GTEST_SKIP() << "needs test data tokenizers; set SLUICE_TEST_DATA";
  auto tokenizer = load_tokenizer(*path);
  std::vector<Case> cases = read_cases(*gguf);
  check_cases(*tokenizer, cases);
  for (const Case& c : cases) EXPECT_EQ(tokenizer->decode(c.ids, true), c.text);
  EXPECT_TRUE(tokenizer->adds_bos());
  EXPECT_EQ(tokenizer->encode("Hello"), (std::vector<int32_t>{1, 15043}));
}

TEST(SentencePieceData, MistralModelRoundTrips) {
  auto path = find_test_data("tokenizers/mistral/tokenizer.model.v1");
  auto gguf = find_test_data("tokenizers/ggml-vocab-llama-spm.gguf");
  if (!path || !gguf) GTEST_SKIP() << "needs test data tokenizers; set SLUICE_TEST_DATA";
  auto tokenizer = load_tokenizer(*path);
  EXPECT_EQ(tokenizer->vocab_size(), 32000);
  for (const Case& c : read_cases(*gguf)) {
    std::vector<int32_t> ids = tokenizer->encode(c.text, kPlain);
    EXPECT_EQ(tokenizer->decode(ids, true), c.text);
    EXPECT_EQ(stream(*tokenizer, ids, true), c.text);
  }
  EXPECT_EQ(tokenizer->encode("Hello, my name is"), (std::vector<int32_t>{1, 22557, 28725, 586, 1141, 349}));
}

}  // namespace
}  // namespace sluice::text
