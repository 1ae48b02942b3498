#include "base/error.h"
#include "base/random.h"
#include "formats/inspect.h"
#include "formats/mapped_weights.h"
#include "formats/safetensors_builder_for_test.h"
#include "fuzz/fuzz.h"

namespace sluice::fuzz {

std::vector<std::string> make_seeds() {
  formats::SafetensorsBuilder model, unaligned;
  model.metadata("format", "pt")
      .tensor("model.embed.weight", {4, 8}, "F32")
      .tensor("norm.weight", {8}, "BF16")
      .tensor("empty", {0, 3}, "F16");
  unaligned.pad_header = false;
  unaligned.tensor("a", {3}, "U8")
      .tensor("b", {2, 2}, "F64")
      .tensor("c", {}, "I64")
      .tensor("d", {5}, "F8_E4M3");
  return {formats::SafetensorsBuilder().build(), model.build(), unaligned.build()};
}

std::vector<std::string> make_dictionary() {
  return {"\"dtype\":",
          "\"shape\":",
          "\"data_offsets\":",
          "\"__metadata__\":{",
          "\"F32\"",
          "\"BOOL\"",
          "[0,0]",
          "[]",
          "{}",
          "null",
          "1e300",
          "-1",
          "18446744073709551615",
          "\\u0000",
          "\"\":{"};
}

// Changes the header's text and makes its length right again, which blind mutations cannot.
std::string mutate_structure(const std::string& input, uint64_t seed) {
  if (input.size() < 10) return input;
  uint64_t length;
  std::memcpy(&length, input.data(), 8);
  if (length > input.size() - 8) return input;
  std::string header = input.substr(8, length), data = input.substr(8 + length);
  Random random(seed);
  size_t at = header.empty() ? 0 : random.below(header.size());
  switch (random.below(4)) {
    case 0: header.erase(at, random.below(12) + 1); break;
    case 1: {
      std::vector<std::string> words = make_dictionary();
      header.insert(at, words[random.below(words.size())]);
      break;
    }
    case 2: {
      size_t digit = header.find_first_of("0123456789", at);
      if (digit != std::string::npos) header[digit] = static_cast<char>('0' + random.below(10));
      break;
    }
    case 3: data.resize(data.size() + random.below(9) - std::min<size_t>(data.size(), 4), 'x'); break;
  }
  return formats::assemble_safetensors(header, data);
}

}  // namespace sluice::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sluice;
  try {
    auto file = formats::parse_safetensors("fuzz.safetensors", {data, size});
    uint32_t sum = 0;
    for (const formats::TensorEntry& entry : file->tensors()) {
      for (int64_t i = 0; i < entry.view.num_bytes(); ++i) sum += entry.view.data[i];
    }
    formats::describe(*file);
    json::serialize(formats::describe_as_json(*file));
    return sum == 0x12345678u ? -1 : 0;  // the sum keeps the reads alive
  } catch (const Error&) {
    return -1;
  }
}
