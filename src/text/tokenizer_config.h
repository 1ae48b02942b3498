// What tokenizer_config.json adds to a tokenizer: special tokens' names, flags of added tokens, whether to begin with
// the beginning token. Read once at load.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/added_tokens.h"
#include "text/tokenizer.h"
#include "text/vocabulary.h"

namespace sluice::text {

struct TokenizerConfig {
  std::string tokenizer_class;  // without a final "Fast"
  std::string bos_token, eos_token, unk_token, pad_token, sep_token, cls_token, mask_token;  // texts; empty: not said
  std::optional<bool> add_bos_token, add_eos_token, legacy, add_prefix_space;
  std::vector<AddedToken> added_tokens;  // added_tokens_decoder

  // True for the classes whose special tokens follow add_bos_token/add_eos_token and not the tokenizer.json.
  bool rebuilds_template() const;
};

// Empty text gives an empty config. Throws Error.
TokenizerConfig parse_tokenizer_config(std::string_view text);

// Looks the names up; what is not named or not there stays as it is in `ids`.
template <typename Find>
void resolve_special_ids(const TokenizerConfig& config, Find&& find, SpecialIds& ids) {
  auto set = [&](const std::string& name, int32_t& id) {
    if (name.empty()) return;
    if (std::optional<int32_t> found = find(name)) id = *found;
  };
  set(config.bos_token, ids.bos);
  set(config.eos_token, ids.eos);
  set(config.unk_token, ids.unknown);
  set(config.pad_token, ids.pad);
  set(config.sep_token, ids.sep);
  set(config.cls_token, ids.cls);
  set(config.mask_token, ids.mask);
}

}  // namespace sluice::text
