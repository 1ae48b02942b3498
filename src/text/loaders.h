// What the loaders of the several vocabulary formats share. Not for use outside text/.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "text/bpe.h"
#include "text/decoder.h"
#include "text/regex.h"
#include "text/tokenizer_config.h"
#include "text/pipeline.h"

namespace sluice::text {

// "a b" to ("a", "b"). Where there are several spaces, the one counts that leaves two tokens which make a third. Throws
// Error naming `where` and the entry.
Bpe::MergeText split_merge(std::string_view merge, const Vocabulary& vocabulary, const char* where, size_t index);
std::vector<Bpe::MergeText> split_merges(const std::vector<std::string>& merges, const Vocabulary& vocabulary,
                                         const char* where);

// Ranks for Bpe out of SentencePiece scores: the best score has rank 0, equal scores share one.
std::vector<uint32_t> rank_by_score(const std::vector<float>& scores, const std::vector<bool>& takes_part);

// "▁" to spaces, <0x..> to bytes, and the first space off if the encoder puts one in.
void add_sentencepiece_decoder(bool strips_first_space, Decoder& decoder);

// Compiled once for all tokenizers that use it. Throws Error.
std::shared_ptr<const Regex> get_shared_regex(const std::string& pattern);

// Adds tokenizer_config.json's added tokens to `tokens`: theirs win over those with the same id.
void merge_added_tokens(const TokenizerConfig& config, std::vector<AddedToken>& tokens);

// Padding and line breaks are skipped. Throws Error that begins with `where`.
std::string decode_base64(std::string_view text, const char* where);

}  // namespace sluice::text
