#include <cstring>

#include "base/error.h"
#include "base/random.h"
#include "formats/gguf_builder_for_test.h"
#include "formats/inspect.h"
#include "formats/mapped_weights.h"
#include "fuzz/fuzz.h"

namespace sluice::fuzz {
namespace {

using formats::GgufBuilder;
using formats::GgufValue;

// A forgiving walk over a GGUF header that notes where its numbers lie: what a mutation should hit.
class FieldFinder {
 public:
  struct Field {
    size_t at, width;
  };
  std::vector<Field> fields;

  explicit FieldFinder(const std::string& bytes) : bytes_(bytes) {
    position_ = 4;
    note(4);
    uint64_t num_tensors = note(8), num_keys = note(8);
    for (uint64_t i = 0; i < num_keys && position_ < bytes_.size(); ++i) {
      skip(note(8));
      walk_value(static_cast<uint32_t>(note(4)));
    }
    for (uint64_t i = 0; i < num_tensors && position_ < bytes_.size(); ++i) {
      skip(note(8));
      uint64_t num_dims = note(4);
      for (uint64_t d = 0; d < num_dims && position_ < bytes_.size(); ++d) note(8);
      note(4);
      note(8);
    }
  }

 private:
  uint64_t note(size_t width) {
    uint64_t value = 0;
    if (bytes_.size() - position_ < width) {
      position_ = bytes_.size();
      return 0;
    }
    std::memcpy(&value, bytes_.data() + position_, width);
    fields.push_back({position_, width});
    position_ += width;
    return value;
  }
  void skip(uint64_t count) {
    position_ += static_cast<size_t>(std::min<uint64_t>(count, bytes_.size() - position_));
  }
  void walk_value(uint32_t type) {
    if (type >= formats::kNumGgufValues) return;
    if (type == static_cast<uint32_t>(GgufValue::kString)) return skip(note(8));
    if (type != static_cast<uint32_t>(GgufValue::kArray)) {
      note(static_cast<size_t>(formats::kGgufValueBytes[type]));
      return;
    }
    uint32_t item = static_cast<uint32_t>(note(4));
    uint64_t count = note(8);
    if (item >= formats::kNumGgufValues || item == static_cast<uint32_t>(GgufValue::kArray)) return;
    for (uint64_t i = 0; i < count && position_ < bytes_.size(); ++i) {
      if (item == static_cast<uint32_t>(GgufValue::kString)) {
        skip(note(8));
      } else {
        skip(static_cast<uint64_t>(formats::kGgufValueBytes[item]));
      }
    }
  }

  const std::string& bytes_;
  size_t position_ = 0;
};

}  // namespace

std::vector<std::string> make_seeds() {
  GgufBuilder empty;
  GgufBuilder model;
  model.text("general.architecture", "llama")
      .u32("general.alignment", 32)
      .u32("llama.block_count", 2)
      .flag("flag", true);
  model.texts("tokenizer.ggml.tokens", {"<unk>", "<s>", "hello"})
      .f32s("tokenizer.ggml.scores", {0.0f, -1.0f, 2.0f});
  model.i32s("tokenizer.ggml.token_type", {2, 3, 1})
      .u32("tokenizer.ggml.bos_token_id", 1)
      .u32("general.file_type", 7);
  model.tensor("token_embd.weight", {3, 32}, DType::kQ8_0).tensor("norm.weight", {32}, DType::kF32);
  GgufBuilder kinds;
  kinds.version = 2;
  kinds.u8("a", 1)
      .i8("b", -1)
      .u16("c", 2)
      .i16("d", -2)
      .i32("e", -3)
      .u64("f", 4)
      .i64("g", -4)
      .f32("h", 0.5f)
      .f64("i", 0.25);
  kinds.numbers<uint8_t>("j", GgufValue::kU8, {1, 2}).numbers<uint64_t>("k", GgufValue::kU64, {3});
  kinds.numbers<uint8_t>("l", GgufValue::kBool, {0, 1}).numbers<double>("m", GgufValue::kF64, {0.5});
  kinds.u16("split.no", 0).u16("split.count", 2).i32("split.tensors.count", 3);
  for (DType type : {DType::kQ2_K, DType::kIQ4_NL, DType::kBF16, DType::kI8}) {
    kinds.tensor(name(type), {1, 256}, type);
  }
  GgufBuilder packed;
  packed.alignment = 1;
  packed.u32("general.alignment", 1)
      .tensor("x", {3}, DType::kI8)
      .tensor("y", {2, 2, 2}, DType::kF16)
      .tensor("z", {}, DType::kF64);
  return {empty.build(), model.build(), kinds.build(), packed.build()};
}

std::vector<std::string> make_dictionary() {
  return {"GGUF",
          "general.alignment",
          "split.count",
          "split.no",
          "tokenizer.ggml.tokens",
          std::string(8, '\0'),
          std::string(8, '\xff')};
}

std::string mutate_structure(const std::string& input, uint64_t seed) {
  if (input.size() < 24) return input;
  std::vector<FieldFinder::Field> fields = FieldFinder(input).fields;
  if (fields.empty()) return input;
  Random random(seed);
  FieldFinder::Field field = fields[random.below(fields.size())];
  uint64_t value = 0;
  std::memcpy(&value, input.data() + field.at, field.width);
  switch (random.below(6)) {
    case 0: value += 1; break;
    case 1: value -= 1; break;
    case 2: value = uint64_t{1} << random.below(64); break;
    case 3: value = (uint64_t{1} << random.below(64)) - 1; break;
    case 4: value = random.below(48); break;  // types, small counts
    case 5: value = input.size() - std::min<uint64_t>(input.size(), random.below(128)); break;
  }
  std::string output = input;
  std::memcpy(output.data() + field.at, &value, field.width);
  return output;
}

}  // namespace sluice::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sluice;
  try {
    auto file = formats::parse_gguf("fuzz.gguf", {data, size});
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
