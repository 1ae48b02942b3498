// config.json's many spellings of the same thing, and rotary scaling against numbers worked out by hand.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <numbers>

#include "llm/config.h"

namespace sluice::llm {
namespace {

Config read(const std::string& type, const std::string& fields) {
  const auto path =
      std::filesystem::temp_directory_path() / fmt::format("sluice-config-{}.json", getpid());
  std::ofstream(path) << R"({"model_type": ")" << type << R"(", "hidden_size": 64, "vocab_size": 9,
    "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 32, "head_dim": 16,
    "max_position_embeddings": 256, )" << fields << "}";
  Config config = read_hf_config(path);
  std::filesystem::remove(path);
  return config;
}

std::vector<int64_t> windows(const Config& config) {
  std::vector<int64_t> list;
  for (const LayerConfig& layer : config.layers) list.push_back(layer.window);
  return list;
}

TEST(ConfigTest, OldAndNewSpellingsOfRopeAreTheSame) {
  struct Case {
    const char *type, *old_way, *new_way;
  };
  const Case cases[] = {
      {"llama", R"("rope_theta": 500.0)",
       R"("rope_parameters": {"rope_type": "default", "rope_theta": 500.0})"},
      {"llama", R"("rope_theta": 500, "rope_scaling": {"type": "linear", "factor": 4})",
       R"("rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0})"},
      {"llama", R"("rope_scaling": null)", R"("rope_scaling": {"rope_type": "dynamic", "factor": 2})"},
      {"phi3",
       R"("original_max_position_embeddings": 64, "partial_rotary_factor": 0.5,
          "rope_scaling": {"type": "su", "short_factor": [1, 1, 1, 1], "long_factor": [1, 2, 3, 4]})",
       R"("original_max_position_embeddings": 64, "rope_parameters": {"partial_rotary_factor": 0.5,
          "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1, 1, 1, 1],
          "long_factor": [1, 2, 3, 4]})"},
      {"gemma3_text",
       R"("rope_theta": 1e6, "rope_local_base_freq": 300, "sliding_window": 8,
          "sliding_window_pattern": 2, "rope_scaling": {"rope_type": "linear", "factor": 8})",
       R"("sliding_window": 8, "layer_types": ["sliding_attention", "full_attention",
          "sliding_attention", "full_attention"], "rope_parameters": {
          "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
          "sliding_attention": {"rope_type": "default", "rope_theta": 300.0}})"},
  };
  for (const Case& test : cases) {
    Config a = read(test.type, test.old_way), b = read(test.type, test.new_way);
    EXPECT_EQ(a.ropes, b.ropes) << test.new_way;
    EXPECT_EQ(windows(a), windows(b)) << test.new_way;
  }
}

TEST(ConfigTest, WhichLayersSlide) {
  using List = std::vector<int64_t>;
  EXPECT_EQ(windows(read("mistral", R"("sliding_window": 8)")), (List{8, 8, 8, 8}));
  EXPECT_EQ(windows(read("mistral", R"("sliding_window": null)")), (List{0, 0, 0, 0}));
  EXPECT_EQ(windows(read("gemma2", R"("sliding_window": 8)")), (List{8, 0, 8, 0}));
  EXPECT_EQ(windows(read("gemma3_text", R"("sliding_window": 8)")), (List{8, 8, 8, 8}));
  EXPECT_EQ(windows(read("gemma3_text", R"("sliding_window": 8, "sliding_window_pattern": 3)")),
            (List{8, 8, 0, 8}));
  EXPECT_EQ(windows(read("qwen2", R"("sliding_window": 8, "max_window_layers": 2)")),
            (List{0, 0, 0, 0}));
  EXPECT_EQ(windows(read("qwen2", R"("sliding_window": 8, "max_window_layers": 2,
                                      "use_sliding_window": true)")),
            (List{0, 0, 8, 8}));
}

TEST(ConfigTest, NormEpsilonLeftOut) {
  EXPECT_FLOAT_EQ(read("mistral", R"("num_key_value_heads": 2)").norm_epsilon, 1e-6f);
  EXPECT_FLOAT_EQ(read("mixtral", R"("num_key_value_heads": 2)").norm_epsilon, 1e-5f);
  EXPECT_FLOAT_EQ(read("qwen2", R"("rms_norm_eps": 1e-4)").norm_epsilon, 1e-4f);
}

TEST(ConfigTest, NestedTextModel) {
  Config c = read("gemma3", R"("text_config": {"model_type": "gemma3_text", "hidden_size": 32,
                               "num_hidden_layers": 7, "intermediate_size": 48})");
  EXPECT_EQ(c.width, 32);
  EXPECT_EQ(c.num_layers(), 7);
  EXPECT_EQ(c.head_dim, 256);  // what the published configs leave out
  EXPECT_EQ(c.num_kv_heads, 4);
  EXPECT_EQ(c.layers[4].rope, 1);
  EXPECT_EQ(c.layers[5].rope, 0);
}

TEST(RopeTest, Llama3BlendsBetweenItsBounds) {
  RopeScaling s{.kind = RopeScalingKind::kLlama3,
                .factor = 8,
                .original_positions = 8192,
                .low_frequency_factor = 1,
                .high_frequency_factor = 4};
  Rope rope = make_rope(RopeKind::kNeox, 128, 500000, s);
  Rope plain = make_rope(RopeKind::kNeox, 128, 500000, {});
  ASSERT_EQ(rope.frequencies.size(), 64u);
  for (size_t i = 0; i < 64; ++i) {
    double turns = 8192 * plain.frequencies[i] / (2 * std::numbers::pi);
    double ratio = rope.frequencies[i] / plain.frequencies[i];
    if (turns > 4) {
      EXPECT_DOUBLE_EQ(ratio, 1) << i;
    } else if (turns < 1) {
      EXPECT_DOUBLE_EQ(ratio, 0.125) << i;
    } else {
      EXPECT_GT(ratio, 0.125) << i;
      EXPECT_LT(ratio, 1) << i;
    }
  }
  EXPECT_EQ(rope.magnitude, 1);
}

TEST(RopeTest, YarnKeepsFastPairsAndStretchesSlowOnes) {
  RopeScaling s{.kind = RopeScalingKind::kYarn, .factor = 4, .original_positions = 4096};
  Rope rope = make_rope(RopeKind::kNeox, 64, 10000, s);
  Rope plain = make_rope(RopeKind::kNeox, 64, 10000, {});
  EXPECT_DOUBLE_EQ(rope.frequencies[0], plain.frequencies[0]);
  EXPECT_DOUBLE_EQ(rope.frequencies[31], plain.frequencies[31] / 4);
  EXPECT_NEAR(rope.magnitude, 0.1 * std::log(4.0) + 1, 1e-12);
}

}  // namespace
}  // namespace sluice::llm
