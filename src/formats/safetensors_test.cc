#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>

#include "base/error.h"
#include "base/test_data.h"
#include "formats/mapped_weights.h"
#include "formats/safetensors_builder_for_test.h"
#include "formats/weight_file.h"

namespace sluice::formats {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::span<const uint8_t> as_bytes(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

std::string make_folder() {
  const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
  std::filesystem::path folder = std::filesystem::path(::testing::TempDir()) /
                                 (std::string("sluice-") + info->test_suite_name() + "-" + info->name());
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  return folder.string();
}

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.message().find('\n'), std::string::npos) << error.message();
    return error.message();
  }
  ADD_FAILURE() << "no Error was thrown";
  return "";
}

std::string bytes_of(const TensorView& view) {
  return std::string(reinterpret_cast<const char*>(view.data), static_cast<size_t>(view.num_bytes()));
}

TEST(Safetensors, ReadsEveryType) {
  struct Named {
    const char* name;
    DType type;
  } types[] = {{"F64", DType::kF64},   {"F32", DType::kF32},        {"F16", DType::kF16},
               {"BF16", DType::kBF16}, {"F8_E4M3", DType::kF8E4M3}, {"I64", DType::kI64},
               {"I32", DType::kI32},   {"I16", DType::kI16},        {"I8", DType::kI8},
               {"U8", DType::kU8},     {"BOOL", DType::kBool}};
  SafetensorsBuilder builder;
  builder.metadata("format", "pt").tensor("scalar", {}, "F32").tensor("empty", {0, 7}, "F16");
  for (const Named& entry : types) builder.tensor(entry.name, {3, 5}, entry.name);
  std::string bytes = builder.build();
  auto file = parse_safetensors("all.safetensors", as_bytes(bytes));
  EXPECT_STREQ(file->format(), "safetensors");
  EXPECT_EQ(*file->metadata().find_string("format"), "pt");
  EXPECT_EQ(file->tensors().size(), 13u);
  EXPECT_EQ(file->find("scalar")->num_bytes(), 4);
  EXPECT_EQ(file->find("empty")->num_bytes(), 0);
  EXPECT_EQ(file->find("absent"), nullptr);
  for (const Named& entry : types) {
    const TensorView* view = file->find(entry.name);
    ASSERT_NE(view, nullptr) << entry.name;
    EXPECT_EQ(view->type, entry.type);
    EXPECT_THAT(view->shape, ElementsAre(3, 5));
    EXPECT_EQ(bytes_of(*view), make_pattern(entry.name, static_cast<size_t>(view->num_bytes())));
  }
}

TEST(Safetensors, UnalignedTensorsAreCopiedAlignedOnesAreNot) {
  SafetensorsBuilder builder;
  builder.tensor("a", {16}, "F32").tensor("b", {3}, "U8").tensor("c", {4}, "F32").tensor("d", {2}, "I64");
  std::string bytes = builder.build();
  auto file = parse_safetensors("odd.safetensors", as_bytes(bytes));
  for (const TensorEntry& entry : file->tensors()) {
    EXPECT_EQ(bytes_of(entry.view), make_pattern(entry.name, static_cast<size_t>(entry.view.num_bytes())));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(entry.view.data) %
                  static_cast<uintptr_t>(required_alignment(entry.view.type)),
              0u);
    const uint8_t* start = as_bytes(bytes).data();
    bool is_mapped = entry.view.data >= start && entry.view.data < start + bytes.size();
    EXPECT_EQ(is_mapped, entry.name == "a" || entry.name == "b") << entry.name;
  }
}

TEST(Safetensors, BadFilesGetOneClearLine) {
  auto one = [](const char* entry, size_t data_bytes = 8) {
    return assemble_safetensors(std::string("{\"t\":") + entry + "}", std::string(data_bytes, 'x'));
  };
  std::string huge_header = assemble_safetensors("{}", "");
  huge_header[7] = '\x10';
  std::string long_header = assemble_safetensors("{}", "");
  long_header[0] = 100;
  std::string many_values = "{\"t\":[";
  for (int i = 0; i < 8'000'001; ++i) many_values += "0,";
  struct Case {
    const char* label;
    std::string bytes;
    std::vector<const char*> message;
  } cases[] = {
      {"nothing", "", {"0 bytes are too few"}},
      {"header limit", huge_header, {"above the format's limit of 100000000"}},
      {"header beyond the end", long_header, {"header claims 100 bytes and the file has 10", "truncated"}},
      {"no brace", assemble_safetensors("[]", ""), {"does not start with '{'"}},
      {"no JSON", assemble_safetensors("{\"a\":", ""), {"no valid JSON", "at byte"}},
      {"unterminated name", assemble_safetensors("{\"a", ""), {"no valid JSON"}},
      {"bad UTF-8", assemble_safetensors("{\"a\xff\":1}", ""), {"no valid JSON"}},
      {"deep", assemble_safetensors("{\"a\":" + std::string(100000, '['), ""), {"no valid JSON"}},
      {"many values", assemble_safetensors(many_values, ""), {"more than 8000000 values"}},
      {"rubbish after", assemble_safetensors("{} x", ""), {"no valid JSON"}},
      {"entry", one("3"), {"tensor 't'", "must be an object, not an integer"}},
      {"no dtype", one(R"({"shape":[2],"data_offsets":[0,8]})"), {"tensor 't'", "no 'dtype'"}},
      {"no shape", one(R"({"dtype":"F32","data_offsets":[0,8]})"), {"tensor 't'", "no 'shape'"}},
      {"no offsets", one(R"({"dtype":"F32","shape":[2]})"), {"tensor 't'", "no 'data_offsets'"}},
      {"dtype kind", one(R"({"dtype":7,"shape":[2],"data_offsets":[0,8]})"), {"'dtype' must be a string"}},
      {"dtype",
       one(R"({"dtype":"F8_E5M2","shape":[8],"data_offsets":[0,8]})"),
       {"tensor 't'", "dtype 'F8_E5M2' is not supported", "F8_E4M3"}},
      {"shape kind", one(R"({"dtype":"F32","shape":2,"data_offsets":[0,8]})"), {"'shape' must be a list"}},
      {"negative",
       one(R"({"dtype":"F32","shape":[-2],"data_offsets":[0,8]})"),
       {"'shape' must hold integers", "-2"}},
      {"fraction",
       one(R"({"dtype":"F32","shape":[2.5],"data_offsets":[0,8]})"),
       {"'shape' must hold integers", "2.5"}},
      {"above int64",
       one(R"({"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,8]})"),
       {"2^63 or more"}},
      {"overflow",
       one(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]})"),
       {"tensor 't'", "overflows"}},
      {"hidden overflow",
       one(R"({"dtype":"F32","shape":[4294967296,4294967296,0],"data_offsets":[0,0]})"),
       {"tensor 't'", "overflows"}},
      {"offsets kind",
       one(R"({"dtype":"F32","shape":[2],"data_offsets":[0]})"),
       {"'data_offsets' must be a list of two integers"}},
      {"range",
       one(R"({"dtype":"F32","shape":[2],"data_offsets":[8,16]})"),
       {"tensor 't'", "[8, 16)", "not inside the 8 bytes of data"}},
      {"backwards", one(R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})"), {"[8, 0)", "not inside"}},
      {"length",
       one(R"({"dtype":"F32","shape":[3],"data_offsets":[0,8]})"),
       {"its 8 bytes do not fit its shape", "takes 12"}},
      {"hole before",
       one(R"({"dtype":"F32","shape":[1],"data_offsets":[4,8]})"),
       {"starts at byte 4", "end at 0"}},
      {"bytes after",
       one(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})"),
       {"ends at byte 4", "has 8 bytes"}},
      {"overlap",
       one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]},"u":{"dtype":"I8","shape":[4],"data_offsets":[4,8]})"),
       {"tensor 'u'", "overlaps tensor 't'"}},
      {"duplicate",
       one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]},"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})"),
       {"two tensors are named 't'"}},
      {"metadata kind",
       assemble_safetensors(R"({"__metadata__":[]})", ""),
       {"'__metadata__' must be an object"}},
      {"metadata value",
       assemble_safetensors(R"({"__metadata__":{"a":1}})", ""),
       {"'__metadata__' entry 'a' must be a string"}},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.label);
    std::string message = message_of([&] { parse_safetensors("bad.safetensors", as_bytes(c.bytes)); });
    EXPECT_THAT(message, HasSubstr("bad.safetensors: "));
    for (const char* part : c.message) EXPECT_THAT(message, HasSubstr(part));
    EXPECT_LT(message.size(), 400u) << message;
  }
}

TEST(Safetensors, TruncationAnywhereIsAnError) {
  std::string whole = SafetensorsBuilder().tensor("a", {4, 4}, "F32").tensor("b", {3}, "BF16").build();
  for (size_t size = 0; size < whole.size(); ++size) {
    std::string bytes(whole, 0, size);
    EXPECT_THAT(message_of([&] { parse_safetensors("cut.safetensors", as_bytes(bytes)); }),
                HasSubstr("cut.safetensors: "));
  }
}

void write_shards(const std::string& folder, const std::string& weight_map) {
  SafetensorsBuilder()
      .metadata("format", "pt")
      .tensor("a", {4}, "F32")
      .tensor("extra", {2}, "F32")
      .write(folder + "/one.safetensors");
  SafetensorsBuilder()
      .metadata("format", "pt")
      .tensor("b", {2, 3}, "BF16")
      .write(folder + "/two.safetensors");
  write_file_for_test(folder + "/model.safetensors.index.json",
                      R"({"metadata":{"total_size":28},"weight_map":)" + weight_map + "}");
}

TEST(Safetensors, ShardedFolder) {
  std::string folder = make_folder();
  write_shards(folder, R"({"a":"one.safetensors","b":"two.safetensors"})");
  for (const std::string& path : {folder, folder + "/model.safetensors.index.json"}) {
    auto file = open_weights(path);
    EXPECT_EQ(file->path(), path);
    EXPECT_EQ(file->description(), "safetensors, 2 shards");
    EXPECT_EQ(file->parts().size(), 2u);
    EXPECT_EQ(file->tensors().size(), 3u);
    EXPECT_EQ(bytes_of(*file->find("a")), make_pattern("a", 16));
    EXPECT_EQ(bytes_of(*file->find("b")), make_pattern("b", 12));
    EXPECT_EQ(*file->metadata().find_string("format"), "pt");
  }
  EXPECT_EQ(open_weights(folder + "/one.safetensors")->tensors().size(), 2u);
}

TEST(Safetensors, BadIndexesAreErrors) {
  struct Case {
    const char* weight_map;
    const char* message;
  } cases[] = {
      {R"({"a":"one.safetensors","b":"three.safetensors","c":"four.safetensors"})",
       "2 of the 3 files that it names are missing beside it: four.safetensors, three.safetensors"},
      {R"({"a":"two.safetensors"})", "tensor 'a' is in two.safetensors, but it is not"},
      {R"({"a":"../one.safetensors"})",
       "'weight_map' entry 'a' must be the name of a file in the same folder"},
      {R"({"a":"/etc/passwd"})", "must be the name of a file in the same folder"},
      {R"({"a":".."})", "must be the name of a file in the same folder"},
      {R"({"a":7})", "must be the name of a file in the same folder"},
      {R"({})", "no object 'weight_map'"},
      {R"([])", "no object 'weight_map'"},
      {R"({)", "invalid JSON"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.weight_map);
    std::string folder = make_folder();
    write_shards(folder, c.weight_map);
    std::string message = message_of([&] { open_weights(folder); });
    EXPECT_THAT(message, HasSubstr(c.message));
    EXPECT_THAT(message, HasSubstr("model.safetensors.index.json: "));
  }
}

TEST(OpenWeights, DecidesByContent) {
  std::string folder = make_folder();
  GgufBuilder().tensor("x", {4}, DType::kF32).write(folder + "/misnamed.safetensors");
  SafetensorsBuilder().tensor("y", {4}, "F32").write(folder + "/misnamed.gguf");
  EXPECT_STREQ(open_weights(folder + "/misnamed.safetensors")->format(), "gguf");
  EXPECT_STREQ(open_weights(folder + "/misnamed.gguf")->format(), "safetensors");
  EXPECT_TRUE(is_gguf(folder + "/misnamed.safetensors"));
  EXPECT_FALSE(is_gguf(folder));
  EXPECT_FALSE(is_gguf(folder + "/absent"));
}

TEST(OpenWeights, SaysWhatAFileIsInstead) {
  struct Case {
    const char* name;
    std::string content;
    const char* message;
  } cases[] = {
      {"pointer.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
       "Git LFS pointer"},
      {"page.gguf", "<!DOCTYPE html><html></html>", "a web page"},
      {"model.bin", std::string("PK\x03\x04") + std::string(60, 'x'), "PyTorch"},
      {"old.bin", "tjgg" + std::string(60, 'x'), "before GGUF"},
      {"text.txt", "hello, this is a text file", "neither a GGUF nor a safetensors file"},
      {"empty.gguf", "", "does not start with \"GGUF\""},
      {"empty.safetensors", "", "0 bytes are too few"},
  };
  std::string folder = make_folder();
  for (const Case& c : cases) {
    std::string path = folder + "/" + c.name;
    write_file_for_test(path, c.content);
    std::string message = message_of([&] { open_weights(path); });
    EXPECT_THAT(message, HasSubstr(c.message));
    EXPECT_THAT(message, HasSubstr(path));
  }
  EXPECT_THAT(message_of([&] { open_weights(folder + "/absent"); }), HasSubstr("no such file or folder"));
}

TEST(OpenWeights, Folders) {
  std::string folder = make_folder();
  EXPECT_THAT(message_of([&] { open_weights(folder); }), HasSubstr("the folder has no weights"));
  write_file_for_test(folder + "/pytorch_model.bin", "PK");
  EXPECT_THAT(message_of([&] { open_weights(folder); }), HasSubstr("only PyTorch pickle weights"));
  GgufBuilder().write(folder + "/one.gguf");
  EXPECT_STREQ(open_weights(folder)->format(), "gguf");
  GgufBuilder().write(folder + "/two.gguf");
  EXPECT_THAT(message_of([&] { open_weights(folder); }),
              HasSubstr("2 models; name one of one.gguf, two.gguf"));
  SafetensorsBuilder().tensor("x", {1}, "F32").write(folder + "/adapter_model.safetensors");
  EXPECT_STREQ(open_weights(folder)->format(), "safetensors");
  SafetensorsBuilder().tensor("y", {1}, "F32").write(folder + "/other.safetensors");
  EXPECT_THAT(message_of([&] { open_weights(folder); }), HasSubstr("2 other .safetensors files; name one"));
  SafetensorsBuilder().tensor("z", {1}, "F32").write(folder + "/model.safetensors");
  EXPECT_NE(open_weights(folder)->find("z"), nullptr);
}

TEST(Safetensors, RealModel) {
  auto path = find_test_data("llm/TinyStories-656K-hf");
  if (!path) GTEST_SKIP() << "needs test data llm/TinyStories-656K-hf; set SLUICE_TEST_DATA";
  auto file = open_weights(*path);
  EXPECT_EQ(*file->metadata().find_string("format"), "pt");
  EXPECT_THAT(file->find("lm_head.weight")->shape, ElementsAre(2048, 128));
  EXPECT_THAT(file->find("model.layers.0.mlp.down_proj.weight")->shape, ElementsAre(128, 384));
  EXPECT_EQ(file->find("model.layers.0.mlp.down_proj.weight")->type, DType::kF32);
  auto adapter = find_test_data("lora/gpt2-lora-anirudh");
  if (adapter) {
    EXPECT_GT(open_weights(*adapter)->tensors().size(), 0u);
  }
}

}  // namespace
}  // namespace sluice::formats
