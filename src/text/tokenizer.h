// Strings to token ids and back. A Tokenizer is made by one of the loaders below, immutable, and safe to use from any
// thread. Encoding never fails: what the vocabulary cannot express becomes byte tokens or the unknown token. Input is
// bytes; invalid UTF-8 is read as U+FFFD where a step needs characters.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::text {

struct EncodeOptions {
  bool add_special = true;    // beginning/end tokens as the tokenizer's own configuration says (post-processor, add_bos)
  bool parse_special = true;  // recognise special tokens written out in the text, such as <|im_end|>
};

struct SpecialIds {  // -1: the vocabulary has none
  int32_t bos = -1, eos = -1, unknown = -1, pad = -1, sep = -1, cls = -1, mask = -1;
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  virtual std::vector<int32_t> encode(std::string_view text, const EncodeOptions& options = {}) const = 0;
  // The whole decoder pipeline over a finished list (clean-up, word joining). Ids outside the vocabulary are skipped.
  virtual std::string decode(const std::vector<int32_t>& ids, bool skip_special) const = 0;
  // The bytes that `id` adds when it follows other tokens ("▁the" is " the", "<0x0A>" is "\n"); what streams.
  virtual std::string token_bytes(int32_t id) const = 0;
  // The token as the vocabulary writes it ("▁the", "Ġthe", "<s>"); empty outside the vocabulary.
  virtual std::string token_text(int32_t id) const = 0;
  virtual std::optional<int32_t> find_token(std::string_view text) const = 0;

  virtual int64_t vocab_size() const = 0;  // one past the largest id
  virtual bool is_special(int32_t id) const = 0;  // control tokens: dropped by skip_special
  virtual const SpecialIds& special_ids() const = 0;
  virtual bool adds_bos() const = 0;
  // True if a text's first token loses its leading space when decoded (SentencePiece's dummy prefix).
  virtual bool strips_leading_space() const = 0;
  virtual std::string description() const = 0;  // "byte-level BPE, 128256 tokens, llama3 pattern"
};

// What a GGUF file says under tokenizer.ggml.*, copied out so that text/ needs no file format.
struct VocabularySource {
  std::string model;  // "gpt2" (byte-level BPE), "llama" (SentencePiece BPE), "t5" (Unigram), "bert" (WordPiece)
  std::string pre;    // pre-tokeniser name: "llama-bpe", "qwen2", ...; empty: default
  std::vector<std::string> tokens;
  std::vector<float> scores;      // may be empty
  std::vector<int32_t> types;     // 1 normal 2 unknown 3 control 4 user-defined 5 unused 6 byte; may be empty
  std::vector<std::string> merges;  // "a b"
  SpecialIds special;
  std::optional<bool> add_bos, add_eos, add_space_prefix, remove_extra_whitespaces;
  std::string precompiled_charsmap;
};

// All throw Error naming what is wrong and where.
std::unique_ptr<Tokenizer> make_tokenizer(const VocabularySource& source);
// Hugging Face tokenizer.json text, with tokenizer_config.json text beside it or empty.
std::unique_ptr<Tokenizer> load_tokenizer_json(std::string_view tokenizer_json, std::string_view tokenizer_config);
// SentencePiece tokenizer.model bytes (BPE or Unigram), with tokenizer_config.json text or empty.
std::unique_ptr<Tokenizer> load_sentencepiece(std::string_view bytes, std::string_view tokenizer_config);
// "base64 rank" lines; `pre` as VocabularySource::pre, empty: guessed from the vocabulary.
std::unique_ptr<Tokenizer> load_tiktoken(std::string_view ranks, std::string_view pre, std::string_view tokenizer_config);
// vocab.json / encoder.json and merges.txt / vocab.bpe texts.
std::unique_ptr<Tokenizer> load_vocab_merges(std::string_view vocab_json, std::string_view merges, std::string_view pre,
                                             std::string_view tokenizer_config);
// Mistral's tekken.json text.
std::unique_ptr<Tokenizer> load_tekken(std::string_view tekken_json);
// The best of the above that a folder offers: tokenizer.json, tekken.json, tokenizer.model, *.tiktoken, vocab + merges; or one such
// file by its own path. `pre` overrides the guess for the last two.
std::unique_ptr<Tokenizer> load_tokenizer(const std::string& path, std::string_view pre = "");

}  // namespace sluice::text
