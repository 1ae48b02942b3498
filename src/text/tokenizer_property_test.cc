// What must hold for every text: round trips, streams that equal decode(), long inputs, damaged model files.
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/mmap.h"
#include "base/random.h"
#include "base/test_data.h"
#include "text/detokenizer.h"
#include "text/gguf_vocabulary_for_test.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

namespace sluice::text {
namespace {

constexpr EncodeOptions kPlain{.add_special = false, .parse_special = false};

std::string random_text(Random& random, uint64_t max_characters) {
  std::string text;
  for (uint64_t i = 0, n = random.below(max_characters); i < n; ++i) {
    switch (random.below(6)) {
      case 0: text += " "; break;
      case 1: append_utf8(text, static_cast<uint32_t>(random.below(0xD800))); break;
      case 2: append_utf8(text, static_cast<uint32_t>(0x10000 + random.below(0xFFFFF))); break;
      default: text.push_back(static_cast<char>(9 + random.below(118)));
    }
  }
  return text;
}

std::string stream(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  Detokenizer detokenizer(tokenizer, {}, {});
  std::string out;
  for (int32_t id : ids) {
    std::string part = detokenizer.push(id);
    EXPECT_TRUE(is_valid_utf8(part));
    out += part;
  }
  return out + detokenizer.finish();
}

// Skips visibly when the vocabularies are not there.
class TokenizerProperty : public testing::Test {
 protected:
  void SetUp() override {
    auto folder = find_test_data("tokenizers");
    if (!folder) GTEST_SKIP() << "needs test data tokenizers; set SLUICE_TEST_DATA";
    folder_ = *folder;
  }
  std::unique_ptr<Tokenizer> load_gguf(const std::string& name) const {
    return make_tokenizer(GgufVocabularyReader(folder_ + "/ggml-vocab-" + name + ".gguf").read());
  }
  std::string folder_;
};

void check_round_trips(const Tokenizer& tokenizer, uint64_t seed) {
  Random random(seed);
  for (int round = 0; round < 300; ++round) {
    std::string text = random_text(random, 60);
    std::vector<int32_t> ids = tokenizer.encode(text, kPlain);
    ASSERT_EQ(tokenizer.decode(ids, false), text) << "seed " << seed << " round " << round;
    ASSERT_EQ(stream(tokenizer, ids), text) << "seed " << seed << " round " << round;
  }
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("a\xFF" "b", kPlain), false), "a\xEF\xBF\xBD" "b");
}

TEST_F(TokenizerProperty, ByteLevelRoundTrips) {
  for (const char* pre : {"", "gpt-4o", "deepseek-v3", "gpt-2", "kimi-k2"}) {
    check_round_trips(*load_tokenizer(folder_ + "/qwen2", pre), 1);
  }
}

TEST_F(TokenizerProperty, SentencePieceRoundTrips) {
  check_round_trips(*load_gguf("llama-spm"), 2);
}

// Random ids, as a model with random weights gives them: the stream says what decode() says.
TEST_F(TokenizerProperty, RandomIdsStreamAsTheyDecode) {
  auto tokenizer = load_gguf("gpt-2");
  Random random(3);
  for (int round = 0; round < 300; ++round) {
    std::vector<int32_t> ids(random.below(30));
    for (int32_t& id : ids) id = static_cast<int32_t>(random.below(static_cast<uint64_t>(tokenizer->vocab_size()) + 5));
    ASSERT_EQ(stream(*tokenizer, ids), tokenizer->decode(ids, true));
  }
}

// A cut word is found again in the cache, merged by scan and merged by heap: all the same.
TEST_F(TokenizerProperty, LongTextsEqualShortOnes) {
  auto tokenizer = load_gguf("gpt-2");
  std::vector<int32_t> one = tokenizer->encode(" internationalisation", kPlain), many;
  std::string text;
  for (int i = 0; i < 100; ++i) {
    many.insert(many.end(), one.begin(), one.end());
    text += " internationalisation";
  }
  EXPECT_EQ(tokenizer->encode(text, kPlain), many);
}

TEST_F(TokenizerProperty, LongInputsOfOneKind) {
  std::string spaces(100'000, ' '), word, digits(100'000, '7'), lines(100'000, '\n');
  Random random(5);
  for (int i = 0; i < 100'000; ++i) word.push_back(static_cast<char>('a' + random.below(26)));
  auto qwen2 = load_tokenizer(folder_ + "/qwen2");
  auto spm = load_gguf("llama-spm");
  for (const std::string* text : {&spaces, &word, &digits, &lines}) {
    EXPECT_EQ(qwen2->decode(qwen2->encode(*text, kPlain), true), *text);
    EXPECT_EQ(spm->decode(spm->encode(*text, kPlain), true), *text);
  }
  EXPECT_EQ(qwen2->encode(digits, kPlain).size(), 100'000u);
  EXPECT_LT(qwen2->encode(spaces, kPlain).size(), 2'000u);
  auto unigram = load_tokenizer(folder_ + "/hf-t5");
  EXPECT_EQ(unigram->decode(unigram->encode(word, kPlain), true), word);
  EXPECT_TRUE(unigram->encode(spaces, kPlain).empty());
  auto word_piece = load_gguf("bert-bge");
  EXPECT_EQ(word_piece->encode(word, kPlain), (std::vector<int32_t>{100}));
}

TEST_F(TokenizerProperty, SpecialTokensOfGgufFiles) {
  auto tokenizer = load_gguf("phi-3");
  std::vector<int32_t> ids = tokenizer->encode("<|user|>Hi<|end|>");
  EXPECT_EQ(ids.front(), 1);
  EXPECT_EQ(ids[1], 32010);
  EXPECT_EQ(ids.back(), 32007);
  EXPECT_EQ(tokenizer->decode(ids, true), "Hi");
  std::vector<int32_t> plain = tokenizer->encode("<|user|>", kPlain);
  EXPECT_GT(plain.size(), 1u);
  EXPECT_EQ(tokenizer->decode(plain, true), "<|user|>");
}

TEST(TokenizerSources, BadVocabulariesAreErrors) {
  VocabularySource good;
  good.model = "gpt2";
  good.pre = "gpt-2";
  good.tokens = {"a", "b", "ab"};
  good.merges = {"a b"};
  EXPECT_EQ(make_tokenizer(good)->encode("abb"), (std::vector<int32_t>{2, 1}));
  auto broken = [&](auto&& change) {
    VocabularySource source = good;
    change(source);
    EXPECT_THROW(make_tokenizer(source), Error);
  };
  broken([](VocabularySource& s) { s.model = "rwkv"; });
  broken([](VocabularySource& s) { s.pre = "unheard-of"; });
  broken([](VocabularySource& s) { s.tokens.clear(); });
  broken([](VocabularySource& s) { s.merges.clear(); });
  broken([](VocabularySource& s) { s.merges = {"ab"}; });
  broken([](VocabularySource& s) { s.types = {1}; });
  broken([](VocabularySource& s) { s.scores = {1.0f}; });
  EXPECT_THROW(load_tiktoken("", "", ""), Error);
  EXPECT_THROW(load_tiktoken("IQ==", "", ""), Error);
  EXPECT_THROW(load_tiktoken("!! 1", "", ""), Error);
  EXPECT_THROW(load_tiktoken("IQ== x", "", ""), Error);
  EXPECT_THROW(load_vocab_merges("[1]", "", "", ""), Error);
  EXPECT_THROW(load_vocab_merges("{\"a\":0}", "a", "", ""), Error);
  EXPECT_THROW(load_tokenizer_json("{}", "{\"bos_token\":7}"), Error);
  EXPECT_THROW(load_tokenizer("/nonexistent/folder"), Error);
}

TEST(TokenizerSources, DamagedSentencePieceModelsAreErrorsOrLoad) {
  // Two pieces, a trainer spec that says BPE, no normaliser.
  auto field = [](int number, const std::string& bytes) {
    return std::string(1, static_cast<char>(number << 3 | 2)) + static_cast<char>(bytes.size()) + bytes;
  };
  std::string good = field(1, field(1, "<unk>") + "\x18\x02") + field(1, field(1, "a")) + field(1, field(1, "\xE2\x96\x81")) +
                     field(2, "\x18\x02");
  auto tokenizer = load_sentencepiece(good, "");
  EXPECT_EQ(tokenizer->encode("a a", kPlain), (std::vector<int32_t>{2, 1, 2, 1}));
  EXPECT_THROW(load_sentencepiece("", ""), Error);
  EXPECT_THROW(load_sentencepiece("\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF", ""), Error);
  Random random(13);
  for (int round = 0; round < 3000; ++round) {
    std::string bad = good;
    for (uint64_t i = 0, n = 1 + random.below(3); i < n; ++i) {
      bad[random.below(bad.size())] = static_cast<char>(random.below(256));
    }
    if (random.below(4) == 0) bad.resize(random.below(bad.size()));
    try {
      auto t = load_sentencepiece(bad, "");
      t->decode(t->encode("a b"), true);
    } catch (const Error&) {
    }
  }
}

}  // namespace
}  // namespace sluice::text
