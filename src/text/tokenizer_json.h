// The parts of a Hugging Face tokenizer.json, each read from its JSON object. Not for use outside text/. All throw Error
// that names the part: an unknown type is an error, since skipping it would give other tokens without a word.
#pragma once

#include "base/json.h"
#include "text/pipeline.h"

namespace sluice::text {

// `value` may be null everywhere: the part is empty then.
void read_normalizer(const json::value& value, Normalizer& normalizer);
void read_pre_tokenizer(const json::value& value, PreTokenizer& pre_tokenizer);
void read_decoder(const json::value& value, Decoder& decoder);
// Ids put before and after a single text.
void read_post_processor(const json::value& value, std::vector<int32_t>& prefix_ids, std::vector<int32_t>& suffix_ids);
// Vocabulary, model and what depends on it: unknown id, suffix, description.
void read_model(const json::value& value, PipelineParts& parts);

// Helpers that name what is wrong: `part` is "normalizer", ...
const json::object& get_object(const json::value& value, const char* part);
std::string get_type(const json::object& object, const char* part);
const json::value& get_field(const json::object& object, std::string_view key, const char* part);

}  // namespace sluice::text
