// What loading refuses, and how it says so; and what a model says of itself.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>

#include "base/error.h"
#include "base/float16.h"
#include "base/test_data.h"
#include "formats/gguf_builder_for_test.h"
#include "formats/safetensors_builder_for_test.h"
#include "llm/model_for_test.h"

namespace sluice::llm {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class LoadTest : public ::testing::Test {
 protected:
  LoadTest() { std::filesystem::create_directories(folder_); }
  ~LoadTest() override { std::filesystem::remove_all(folder_); }

  std::string load_error(const std::string& path) {
    try {
      TestModel m(path, 1);
    } catch (const Error& error) {
      return error.message();
    }
    return "no error";
  }

  const std::filesystem::path folder_ =
      std::filesystem::temp_directory_path() / fmt::format("sluice-llm-load-{}", getpid());
};

// A small llama as GGUF: 2 layers, width 8, 2 heads of 4, FFN 16, vocabulary 10. A change is a
// key's new value, a tensor's new shape, or its absence.
struct Recipe {
  std::map<std::string, uint32_t> keys = {
      {"context_length", 64},      {"embedding_length", 8},     {"block_count", 2},
      {"feed_forward_length", 16}, {"attention.head_count", 2}, {"attention.head_count_kv", 1}};
  std::map<std::string, Shape> tensors = {{"token_embd.weight", {10, 8}},
                                          {"output_norm.weight", {8}}};
  std::map<std::string, DType> types;
  std::string architecture = "llama";
  std::function<void(formats::GgufBuilder&)> more;

  Recipe() {
    for (int i = 0; i < 2; ++i) {
      std::string p = fmt::format("blk.{}.", i);
      tensors.insert({{p + "attn_norm.weight", {8}},
                      {p + "ffn_norm.weight", {8}},
                      {p + "attn_q.weight", {8, 8}},
                      {p + "attn_k.weight", {4, 8}},
                      {p + "attn_v.weight", {4, 8}},
                      {p + "attn_output.weight", {8, 8}},
                      {p + "ffn_gate.weight", {16, 8}},
                      {p + "ffn_up.weight", {16, 8}},
                      {p + "ffn_down.weight", {8, 16}}});
    }
  }
  void write(const std::string& path) const {
    formats::GgufBuilder builder;
    builder.text("general.architecture", architecture);
    for (const auto& [key, value] : keys) builder.u32(architecture + "." + key, value);
    if (more) more(builder);
    for (const auto& [name, shape] : tensors) {
      DType type = types.contains(name) ? types.at(name) : DType::kF32;
      builder.tensor(name, shape, type,
                     std::string(static_cast<size_t>(TensorView{type, shape}.num_bytes()), '\0'));
    }
    builder.write(path);
  }
};

TEST_F(LoadTest, GgufErrorsNameFileTensorAndShapes) {
  struct Case {
    std::function<void(Recipe&)> change;
    std::vector<std::string> says;
  };
  const std::vector<Case> cases = {
      {[](Recipe& r) { r.architecture = "mamba"; },
       {"'mamba' is not supported", "llama", "gemma3", "starcoder2"}},
      {[](Recipe& r) { r.tensors.erase("blk.1.ffn_up.weight"); },
       {"'blk.1.ffn_up.weight' is missing", "download"}},
      {[](Recipe& r) { r.tensors.erase("token_embd.weight"); }, {"'token_embd.weight' is missing"}},
      {[](Recipe& r) { r.tensors.erase("output_norm.weight"); },
       {"'output_norm.weight' is missing"}},
      {[](Recipe& r) {
         r.tensors["blk.0.attn_k.weight"] = {8, 8};
       },
       {"'blk.0.attn_k.weight' has shape [8, 8], expected [4, 8]"}},
      {[](Recipe& r) { r.tensors["blk.0.attn_norm.weight"] = {7}; },
       {"'blk.0.attn_norm.weight' has shape [7], expected [8]"}},
      {[](Recipe& r) { r.tensors["token_embd.weight"] = {80}; },
       {"'token_embd.weight' has shape [80]"}},
      {[](Recipe& r) { r.tensors["blk.0.attn_q.bias"] = {9}; },
       {"'blk.0.attn_q.bias' has shape [9], expected [8]"}},
      {[](Recipe& r) {
         r.tensors["output.weight"] = {11, 8};
       },
       {"'output.weight' has shape [11, 8], expected [10, 8]"}},
      {[](Recipe& r) { r.types["blk.0.attn_q.weight"] = DType::kI32; },
       {"'blk.0.attn_q.weight' has type i32"}},
      {[](Recipe& r) { r.keys.erase("block_count"); }, {"'llama.block_count' is missing"}},
      {[](Recipe& r) { r.keys["block_count"] = 4000000000u; },
       {"'llama.block_count' is 4000000000, outside"}},
      {[](Recipe& r) { r.keys["block_count"] = 3; }, {"'blk.2.attn_norm.weight' is missing"}},
      {[](Recipe& r) { r.keys["attention.head_count"] = 0; },
       {"'llama.attention.head_count' is 0"}},
      {[](Recipe& r) { r.keys["attention.head_count"] = 16; }, {"16 heads in a width of 8"}},
      {[](Recipe& r) { r.keys["attention.head_count_kv"] = 3; },
       {"cannot share 3 key/value heads"}},
      {[](Recipe& r) { r.keys["attention.value_length"] = 6; },
       {"values of 6 per head beside keys of 4"}},
      {[](Recipe& r) { r.keys["rope.dimension_count"] = 3; },
       {"'llama.rope.dimension_count' is 3"}},
      {[](Recipe& r) { r.keys["expert_count"] = 4; }, {"'llama.expert_used_count' is missing"}},
      {[](Recipe& r) { r.keys["expert_count"] = 4, r.keys["expert_used_count"] = 5; },
       {"5 of 4 experts"}},
      {[](Recipe& r) { r.keys["expert_count"] = 4, r.keys["expert_used_count"] = 2; },
       {"'blk.0.ffn_gate_inp.weight' is missing"}},
      {[](Recipe& r) { r.keys["feed_forward_length"] = 0; }, {"feed-forward network is 0"}},
      {[](Recipe& r) {
         r.more = [](formats::GgufBuilder& b) { b.text("llama.rope.scaling.type", "magic"); };
       },
       {"'magic'", "yarn"}},
      {[](Recipe& r) {
         r.more = [](formats::GgufBuilder& b) { b.f32("llama.rope.freq_base", NAN); };
       },
       {"'llama.rope.freq_base'"}},
      {[](Recipe& r) {
         r.keys.erase("feed_forward_length");
         r.more = [](formats::GgufBuilder& b) { b.i32s("llama.feed_forward_length", {16, 24}); };
       },
       {"'llama.feed_forward_length' differs from layer to layer"}},
      {[](Recipe& r) { r.tensors["rope_freqs.weight"] = {3}; },
       {"'rope_freqs.weight' is f32 [3], expected f32 [2]"}},
      {[](Recipe& r) { r.tensors["rope_freqs.weight"] = {2}; }, {"'rope_freqs.weight' holds 0"}},
  };
  const std::string path = folder_ / "model.gguf";
  Recipe().write(path);
  EXPECT_EQ(load_error(path), "no error");
  for (const Case& test : cases) {
    Recipe recipe;
    test.change(recipe);
    recipe.write(path);
    std::string message = load_error(path);
    EXPECT_THAT(message, HasSubstr("model.gguf"));
    for (const std::string& part : test.says) EXPECT_THAT(message, HasSubstr(part));
  }
}

TEST_F(LoadTest, GgufWithoutArchitectureIsRefused) {
  formats::GgufBuilder()
      .text("general.name", "x")
      .f32_tensor("a.weight", {1}, {1})
      .write(folder_ / "model.gguf");
  EXPECT_THAT(load_error(folder_ / "model.gguf"), HasSubstr("'general.architecture' is missing"));
}

TEST_F(LoadTest, UniformPerLayerKeysAreOneNumber) {
  Recipe recipe;
  recipe.keys.erase("feed_forward_length");
  recipe.more = [](formats::GgufBuilder& b) { b.i32s("llama.feed_forward_length", {16, 16}); };
  recipe.write(folder_ / "model.gguf");
  EXPECT_EQ(load_error(folder_ / "model.gguf"), "no error");
}

// The config of a 1-layer llama in Hugging Face's layout, one part replaced.
std::string hf_config(const std::string& from = "", const std::string& to = "") {
  std::string text =
      R"({"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 16, "vocab_size": 10,
    "max_position_embeddings": 64, "hidden_act": "silu", "rope_theta": 10000.0,
    "tie_word_embeddings": true})";
  size_t at = text.find(from);
  return from.empty() || at == std::string::npos ? text : text.replace(at, from.size(), to);
}

formats::SafetensorsBuilder hf_tensors(const std::string& matrix_type) {
  formats::SafetensorsBuilder builder;
  builder.f32_tensor("model.embed_tokens.weight", {10, 8}, [] {
    std::vector<float> values;
    for (int i = 0; i < 80; ++i) values.push_back(static_cast<float>(i * 37 % 17) / 8 - 1);
    return values;
  }());
  const std::vector<float> ones(8, 1.0f);
  const std::string p = "model.layers.0.";
  for (std::string n :
       {p + "input_layernorm", p + "post_attention_layernorm", std::string("model.norm")}) {
    builder.f32_tensor(n + ".weight", {8}, ones);
  }
  const std::vector<std::pair<std::string, Shape>> matrices = {
      {"self_attn.q_proj", {8, 8}}, {"self_attn.k_proj", {4, 8}}, {"self_attn.v_proj", {4, 8}},
      {"self_attn.o_proj", {8, 8}}, {"mlp.gate_proj", {16, 8}},   {"mlp.up_proj", {16, 8}},
      {"mlp.down_proj", {8, 16}}};
  for (const auto& [n, shape] : matrices) {
    // Small numbers that FP8 holds exactly: the exponent in the middle, sign and mantissa from a
    // counter.
    std::string bytes;
    for (int64_t i = 0; i < shape[0] * shape[1]; ++i) {
      uint8_t byte = static_cast<uint8_t>((6 << 3) | (i * 5 % 8) | (i % 3 == 0 ? 0x80 : 0));
      if (matrix_type == "F8_E4M3") {
        bytes.push_back(static_cast<char>(byte));
      } else {
        formats::append_bytes(
            bytes, f8_e4m3_to_float(byte) * 0.5f);  // the scale that the FP8 form gets beside it
      }
    }
    builder.tensor(p + n + ".weight", shape, matrix_type, bytes);
  }
  return builder;
}

TEST_F(LoadTest, HuggingFaceErrors) {
  struct Case {
    std::string from, to;
    std::vector<std::string> says;
  };
  const std::vector<Case> cases = {
      {"\"llama\"", "\"mamba\"", {"'mamba' is not supported", "llama", "mistral", "qwen3_moe"}},
      {"\"model_type\": \"llama\",", "", {"'model_type' is missing"}},
      {"{", "[", {"config.json", "JSON"}},
      {"\"hidden_size\": 8",
       "\"hidden_size\": \"8\"",
       {"'hidden_size' must be an integer, not a string"}},
      {"\"hidden_size\": 8",
       "\"hidden_size\": 16",
       {"'model.embed_tokens.weight' has shape [10, 8], expected [10, 16]", "config.json"}},
      {"\"num_hidden_layers\": 1",
       "\"num_hidden_layers\": 2",
       {"'model.layers.1.input_layernorm.weight' is missing"}},
      {"\"num_hidden_layers\": 1",
       "\"num_hidden_layers\": -1",
       {"'num_hidden_layers' must be in [1, 4096]"}},
      {"\"silu\"", "\"relu6\"", {"activation 'relu6'"}},
      {"\"tie_word_embeddings\": true",
       "\"tie_word_embeddings\": false",
       {"'lm_head.weight' is missing"}},
      {"\"rope_theta\": 10000.0",
       "\"rope_scaling\": {\"type\": \"spiral\"}",
       {"rope type 'spiral'", "llama3"}},
      {"\"rope_theta\": 10000.0",
       "\"rope_scaling\": {\"type\": \"longrope\", \"short_factor\": [1]}",
       {"'short_factor' needs 2"}},
      {"\"rope_theta\": 10000.0",
       "\"attention_bias\": true",
       {"'model.layers.0.self_attn.q_proj.bias' is missing"}},
      {"\"rope_theta\": 10000.0",
       "\"quantization_config\": {\"quant_method\": \"gptq\"}",
       {"'gptq'", "not supported", "GGUF"}},
      {"\"rope_theta\": 10000.0",
       "\"quantization_config\": {\"quant_method\": \"fp8\", \"weight_block_size\": [128, 128]}",
       {"'fp8' in blocks"}},
      {"\"rope_theta\": 10000.0",
       "\"sliding_window\": 8, \"layer_types\": [\"a\", \"b\"]",
       {"'layer_types' must list"}},
  };
  hf_tensors("F32").write(folder_ / "model.safetensors");
  auto with_config = [&](const std::string& text) {
    std::ofstream(folder_ / "config.json") << text;
    return load_error(folder_);
  };
  EXPECT_EQ(with_config(hf_config()), "no error");
  for (const Case& test : cases) {
    std::string message = with_config(hf_config(test.from, test.to));
    EXPECT_THAT(message, HasSubstr(folder_.string()));
    for (const std::string& part : test.says) EXPECT_THAT(message, HasSubstr(part)) << test.to;
  }
  std::filesystem::remove(folder_ / "config.json");
  EXPECT_THAT(load_error(folder_), HasSubstr("config.json"));
}

// Tied matrices are saved once, under either name.
TEST_F(LoadTest, TiedMatrixUnderTheHeadsName) {
  const auto folder = find_test_data("llm/TinyStories-656K-hf");
  if (!folder) GTEST_SKIP() << "needs test data llm/TinyStories-656K-hf; set SLUICE_TEST_DATA";
  TestModel m(*folder);
  EXPECT_EQ(m.model->description(), "llama 656K f32, 2 layers, 128 wide, context 512");
  EXPECT_TRUE(m.transformer().weights().unused_tensors.empty());
}

TEST_F(LoadTest, Fp8WithScalesEqualsTheNumbersItStandsFor) {
  const std::vector<int32_t> tokens = {1, 5, 2, 9, 3, 3, 0, 7};
  std::ofstream(folder_ / "config.json") << hf_config();
  hf_tensors("F32").write(folder_ / "model.safetensors");
  std::vector<float> expected;
  {
    TestModel m(folder_);
    expected = compute_logits(m, tokens, 8);
  }
  formats::SafetensorsBuilder fp8 = hf_tensors("F8_E4M3");
  for (std::string n : {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                        "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj"}) {
    fp8.f32_tensor("model.layers.0." + n + ".weight_scale", {1}, {0.5f});
  }
  formats::SafetensorsBuilder blocks = fp8;
  fp8.f32_tensor("model.layers.0.mlp.down_proj.weight_scale", {8, 1}, std::vector<float>(8, 0.5f));
  fp8.write(folder_ / "model.safetensors");
  std::ofstream(folder_ / "config.json") << hf_config(
      "\"rope_theta\"", "\"quantization_config\": {\"quant_method\": \"fp8\"}, \"rope_theta\"");
  TestModel m(folder_);
  std::vector<float> got = compute_logits(m, tokens, 8);
  ASSERT_EQ(got.size(), expected.size());
  // Where FP8 is multiplied as bf16, activations are rounded to that, which those of F32 weights are not; the same
  // numbers as BF16 weights differ as much in every fill.
  const kernels::MatmulEntry& product = kernels::get_kernels().packed_matmul[static_cast<int>(DType::kF8E4M3)];
  const bool is_exact = product.activation_format == kernels::ActivationFormat::kF32;
  for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], expected[i], is_exact ? 1e-4 : 0.05) << i;
  EXPECT_THAT(m.model->description(), HasSubstr("f8_e4m3"));

  blocks.f32_tensor("model.layers.0.mlp.down_proj.weight_scale", {2, 2},
                    std::vector<float>(4, 0.5f));
  blocks.write(folder_ / "model.safetensors");
  EXPECT_THAT(load_error(folder_), AllOf(HasSubstr("down_proj.weight_scale"), HasSubstr("blocks")));
}

TEST(DescriptionTest, SaysFamilySizeTypeAndShape) {
  auto path = find_test_data("stories260K/stories260K.gguf");
  ASSERT_TRUE(path);
  TestModel m(*path);
  EXPECT_EQ(m.model->description(), "llama 293K f32, 5 layers, 64 wide, context 2048");
  EXPECT_EQ(m.model->vocab_size(), 512);
  auto moe = find_test_data("llm/qwen3moe");
  ASSERT_TRUE(moe);
  EXPECT_THAT(TestModel(*moe).model->description(), HasSubstr("3 of 6 experts"));
}

TEST(DescriptionTest, KvTypesThatDoNotFitAreRefused) {
  auto path = find_test_data("stories260K/stories260K.gguf");
  ASSERT_TRUE(path);
  TestModel m(*path);  // heads of 8
  for (DType type : {DType::kQ8_0, DType::kQ4_0, DType::kI32}) {
    EXPECT_THROW(m.model->kv_layout(type), Error) << name(type);
  }
  EXPECT_EQ(m.model->kv_layout(DType::kF16).page_bytes(), 2 * 5 * 4 * 16 * 8 * 2);
}

TEST(RegistryTest, ListsArchitectures) {
  EXPECT_THAT(supported_architectures(),
              ::testing::IsSupersetOf({"llama", "qwen2", "qwen3", "qwen3moe", "gemma2", "gemma3",
                                       "phi3", "gpt2", "starcoder2", "olmo2"}));
}

}  // namespace
}  // namespace sluice::llm
