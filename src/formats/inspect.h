// What `sluice inspect FILE` shows of a weight file: metadata, tensors, totals; as text for a person and as
// JSON for a program. Reads the headers only, never the weights. Any thread.
#pragma once

#include <cstddef>
#include <string>

#include "base/json.h"
#include "formats/weight_file.h"

namespace sluice::formats {

struct InspectOptions {
  size_t max_array_items = 4;     // shown of a longer array; text only, JSON has all
  size_t max_string_bytes = 100;  // shown of a longer string; text only
  bool with_tensors = true;       // the table of tensors; totals are always there
};

// Several lines, ending with a newline.
std::string describe(const WeightFile& file, const InspectOptions& options = {});

// {"path", "format", "description", "parts": [{"path", "bytes"}], "metadata": {key: value},
//  "tensors": [{"name", "type", "shape", "bytes"}],
//  "totals": {"tensors", "parameters", "bytes", "bits_per_weight", "types": {type: {"tensors", "parameters",
//  "bytes"}}}}
// Strings that are not UTF-8 have U+FFFD in place of the bad bytes.
json::value describe_as_json(const WeightFile& file, const InspectOptions& options = {});

}  // namespace sluice::formats
