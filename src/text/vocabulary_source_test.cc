// What only whole vocabularies show: user-defined pieces, unknown characters, tokens that swallow white space, Tekken.
#include <gtest/gtest.h>

#include "base/error.h"
#include "text/tokenizer.h"

namespace sluice::text {
namespace {

using Ids = std::vector<int32_t>;
constexpr EncodeOptions kPlain{.add_special = false, .parse_special = false};
constexpr const char* kSpace = "\xE2\x96\x81";

void append_field(std::string& out, char tag, std::string_view bytes) {
  out.push_back(tag);
  out.push_back(static_cast<char>(bytes.size()));
  out += bytes;
}

struct Piece {
  std::string text;
  char type;  // 1 normal, 2 unknown, 3 control, 4 user-defined
};

// A SentencePiece BPE model; the scores fall with the id. Texts are shorter than 128 bytes.
std::string make_bpe_model(const std::vector<Piece>& pieces, bool remove_extra_whitespaces, bool suffix) {
  std::string model;
  float score = 0;
  for (const Piece& piece : pieces) {
    std::string one;
    append_field(one, 0x0A, piece.text);
    one.push_back(0x15);
    one.append(reinterpret_cast<const char*>(&score), 4);
    one.append({0x18, piece.type});
    append_field(model, 0x0A, one);
    score -= 1;
  }
  append_field(model, 0x12, std::string{0x18, 2, static_cast<char>(0xC0), 1, static_cast<char>(suffix)});
  append_field(model, 0x1A, std::string{0x20, static_cast<char>(remove_extra_whitespaces)});
  return model;
}

TEST(SentencePieceModel, UserDefinedPiecesAreFoundInTheNormalisedText) {
  std::vector<Piece> pieces = {{"<unk>", 2}, {"<s>", 3}, {"</s>", 3}, {"<sep>", 4}, {kSpace, 1}, {"a", 1}, {"b", 1},
                               {std::string(kSpace) + "b", 1}, {std::string("a") + kSpace, 1}};
  auto prefix = load_sentencepiece(make_bpe_model(pieces, true, false), "");
  EXPECT_EQ(prefix->encode("a<sep>b", kPlain), (Ids{4, 5, 3, 6}));  // no second dummy prefix
  EXPECT_EQ(prefix->encode("a <sep>  b ", kPlain), (Ids{4, 8, 3, 7}));
  EXPECT_EQ(prefix->encode("<sep>", kPlain), (Ids{4, 3}));
  // "<" and "p" are parts of a piece, "/" is not; one unknown token all the same.
  EXPECT_EQ(prefix->encode("a<p/b", kPlain), (Ids{4, 5, 0, 6}));
  auto suffix = load_sentencepiece(make_bpe_model(pieces, true, true), "");
  EXPECT_EQ(suffix->encode("a<sep>a", kPlain), (Ids{5, 3, 8}));
  EXPECT_EQ(prefix->decode({4, 5, 3, 7}, false), "a<sep> b");
}

TEST(GgufVocabularySource, Phi3TokensSwallowWhiteSpace) {
  VocabularySource source;
  source.model = "llama";
  source.tokens = {"<unk>", "<s>", "</s>", kSpace, "a", "<|assistant|>", "<|end|>", "<|placeholder1|>"};
  source.types = {2, 3, 3, 1, 1, 3, 3, 3};
  EXPECT_EQ(make_tokenizer(source)->encode("<|end|> \n<|assistant|>a<s> a", {.add_special = false}),
            (Ids{6, 5, 3, 4, 1, 3, 3, 4}));
}

TEST(GgufVocabularySource, UnigramPenaltyIgnoresPaddingScores) {
  VocabularySource source;
  source.model = "t5";
  source.add_space_prefix = false;
  source.tokens = {"<pad>", "</s>", "<unk>", "b", "ab", "[PAD]"};
  source.scores = {0, 0, 0, -1, -40, -10000};
  source.types = {3, 3, 2, 1, 1, 5};
  // An unknown "a" and then "b" score -40 - 10 - 1.
  EXPECT_EQ(make_tokenizer(source)->encode("ab", kPlain), (Ids{4}));
  // Now -2 - 10 - 1 against -20: only normal tokens set the penalty.
  source.tokens = {"<pad>", "</s>", "<unk>", "b", "ab", "[PAD]", "c"};
  source.scores = {0, 0, 0, -1, -20, -10000, -2};
  source.types = {3, 3, 2, 1, 5, 5, 1};
  EXPECT_EQ(make_tokenizer(source)->encode("ab", kPlain), (Ids{2, 3}));
}

TEST(Tekken, RanksFollowTheSpecialTokens) {
  const char* file = R"({"config":{"pattern":" ?\\p{L}+|\\s+","default_num_special_tokens":4,"default_vocab_size":8},
    "special_tokens":[{"rank":1,"token_str":"<s>","is_control":true},{"rank":3,"token_str":"[INST]"}],
    "vocab":[{"rank":0,"token_bytes":"YQ=="},{"rank":1,"token_bytes":"Yg=="},{"rank":2,"token_bytes":"IA=="},
             {"rank":3,"token_bytes":"YWI="},{"rank":4,"token_bytes":"IGFi"}]})";
  auto tokenizer = load_tekken(file);
  EXPECT_EQ(tokenizer->encode("[INST]ab ab"), (Ids{1, 3, 7, 6, 7}));  // rank 4 is beyond the vocabulary in use
  EXPECT_EQ(tokenizer->decode({1, 3, 7, 6, 7}, true), "ab ab");
  EXPECT_EQ(tokenizer->vocab_size(), 8);
  for (const char* bad : {"", "[]", "{}", R"({"config":{}})", R"({"config":{"pattern":"a"},"vocab":[]})",
                          R"({"config":{"pattern":"a"},"vocab":[{"rank":0}]})",
                          R"({"config":{"pattern":"a"},"vocab":[{"rank":0,"token_bytes":"*"}]})",
                          R"({"config":{"pattern":"a","default_num_special_tokens":0},"special_tokens":[{"rank":0}],"vocab":[]})"}) {
    EXPECT_THROW(load_tekken(bad), Error) << bad;
  }
}

}  // namespace
}  // namespace sluice::text
