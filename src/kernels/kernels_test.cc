#include "kernels/kernels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "base/env.h"
#include "base/error.h"
#include "kernels/cpu.h"
#include "kernels/random_weights.h"

namespace sluice::kernels {
namespace {

// First, so that the rest tests what it says it tests: the table of an ISA is that ISA's, and SLUICE_ISA is respected.
TEST(Select, TheForcedTableIsTheOneInUse) {
  IsaList isas = available_isas();
  ASSERT_GE(isas.count, 1);
  EXPECT_STREQ(isas.names[0], "scalar");
  for (int i = 0; i < isas.count; ++i) EXPECT_STREQ(make_kernels(isas.names[i]).isa, isas.names[i]);
  std::string expected = env::find("SLUICE_ISA").value_or(isas.names[isas.count - 1]);
  EXPECT_EQ(get_kernels().isa, expected);
}

TEST(SelectDeathTest, AnUnknownIsaIsAnErrorThatListsWhatThereIs) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  auto attempt = [] {
    setenv("SLUICE_ISA", "mmx", 1);
    try {
      get_kernels();
    } catch (const Error& error) {
      fprintf(stderr, "%s\n", error.what());
      exit(3);
    }
  };
  EXPECT_EXIT(attempt(), testing::ExitedWithCode(3), "SLUICE_ISA=mmx.*scalar");
}

TEST(Select, Avx2OverwritesWhatIsHot) {
  if (!get_cpu().avx2) GTEST_SKIP() << "no AVX2 here";
  Kernels scalar = make_kernels("scalar"), avx2 = make_kernels("avx2");
  for (DType type : kWeightTypes) {
    int i = static_cast<int>(type);
    EXPECT_NE(scalar.matmul[i].multiply, avx2.matmul[i].multiply) << name(type);
  }
  for (DType type : {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8_0}) {
    int i = static_cast<int>(type);
    EXPECT_NE(scalar.attention[i], avx2.attention[i]) << name(type);
  }
}

TEST(Select, Avx512PacksEveryWeightType) {
  if (!get_cpu().avx512_vnni) GTEST_SKIP() << "no AVX-512 here";
  Kernels avx2 = make_kernels("avx2"), avx512 = make_kernels("avx512");
  for (DType type : kWeightTypes) {
    EXPECT_NE(avx512.packed_matmul[static_cast<int>(type)].multiply, nullptr) << name(type);
    EXPECT_EQ(avx2.packed_matmul[static_cast<int>(type)].multiply, nullptr) << name(type);
  }
  for (DType type : {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8_0}) {
    int i = static_cast<int>(type);
    EXPECT_NE(avx2.attention[i], avx512.attention[i]) << name(type);
  }
  EXPECT_NE(avx2.rms_norm, avx512.rms_norm);
}

TEST(Table, HasEveryEntry) {
  IsaList isas = available_isas();
  for (int i = 0; i < isas.count; ++i) {
    Kernels table = make_kernels(isas.names[i]);
    SCOPED_TRACE(table.isa);
    for (int t = 0; t < kNumDTypes; ++t) {
      DType type = static_cast<DType>(t);
      bool is_weight = std::find(std::begin(kWeightTypes), std::end(kWeightTypes), type) != std::end(kWeightTypes);
      bool is_kv = type == DType::kF32 || type == DType::kF16 || type == DType::kBF16 || type == DType::kQ8_0;
      EXPECT_EQ(table.matmul[t].multiply != nullptr, is_weight) << name(type);
      EXPECT_EQ(table.dequantize[t] != nullptr, is_weight) << name(type);
      EXPECT_EQ(table.store_row[t] != nullptr, is_kv) << name(type);
      EXPECT_EQ(table.attention[t] != nullptr, is_kv) << name(type);
    }
    for (auto* entry : table.quantize_activations) EXPECT_NE(entry, nullptr);
    EXPECT_TRUE(table.rms_norm && table.layer_norm && table.rope_neox && table.rope_interleaved);
    EXPECT_TRUE(table.silu_multiply && table.gelu_multiply && table.gelu_tanh && table.gelu_erf);
    EXPECT_TRUE(table.add && table.scale && table.multiply_add && table.softcap);
    EXPECT_TRUE(table.log_sum_exp && table.argmax && table.exp_weights && table.sum_at_least);
  }
}

TEST(Cpu, SaysWhatItIs) {
  const Cpu& cpu = get_cpu();
  EXPECT_FALSE(cpu.model_name.empty());
  EXPECT_GE(cpu.num_threads, 1);
  std::vector<std::string> flags = cpu.flags();
  EXPECT_EQ(std::count(flags.begin(), flags.end(), "avx2"), cpu.avx2 ? 1 : 0);
  EXPECT_TRUE(cpu.avx512 || !cpu.avx512_vnni);
  EXPECT_TRUE(cpu.avx2 || !cpu.avx512);
}

}  // namespace
}  // namespace sluice::kernels
