// What has a kernel in every layout: pooling, joining, elementwise operators, and the way from one layout to another.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "graph/kernels_for_test.h"
#include "graph/op_kernel.h"

namespace sluice::graph {
namespace {

using for_test::check_kernels;
using for_test::integer;
using for_test::integers;
using for_test::random_tensor;
using for_test::real;
using for_test::texts;
using testing::Contains;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::Not;
using enum ElementType;

constexpr double kBf16 = 1.0 / 100;

struct PoolCase {
  Shape x;
  std::vector<int64_t> kernel, strides, pads;
  bool rounds_up = false;
};

TEST(KernelsPool, Windows) {
  const PoolCase kAll[] = {{{1, 3, 8, 9}, {2, 2}, {2, 2}, {}},
                           {{2, 16, 7, 7}, {3, 3}, {2, 2}, {1, 1, 1, 1}},
                           {{1, 17, 7, 8}, {3, 2}, {2, 3}, {1, 0, 2, 1}},
                           {{1, 32, 8, 8}, {3, 3}, {2, 2}, {}, true},
                           {{1, 5, 9, 9}, {3, 3}, {2, 2}, {0, 1, 0, 0}, true},
                           {{1, 16, 6, 6}, {3, 3}, {3, 3}, {1, 1, 1, 1}, true},
                           {{2, 5, 11}, {3}, {2}, {1, 1}},
                           {{1, 16, 4, 5, 6}, {2, 2, 3}, {2, 1, 2}, {0, 0, 0, 0, 1, 1}},
                           {{1, 4, 6, 6}, {1, 1}, {2, 2}, {}}};
  Random random(1);
  for (const PoolCase& c : kAll) {
    for (const ElementType type : {kF32, kBF16}) {
      const Tensor x = random_tensor(random, c.x, type, -3, 2);
      for_test::Attributes attributes{{"kernel_shape", integers(c.kernel)}, {"strides", integers(c.strides)}};
      if (!c.pads.empty()) attributes["pads"] = integers(c.pads);
      if (c.rounds_up) attributes["ceil_mode"] = integer(1);
      const double tolerance = type == kF32 ? 1e-6 : kBf16;
      const auto names = check_kernels({"MaxPool", "", {x}, {}, attributes, tolerance});
      EXPECT_EQ(names.empty(), false) << to_string(c.x);
      check_kernels({"AveragePool", "", {x}, {}, attributes, tolerance});
      attributes["count_include_pad"] = integer(1);
      check_kernels({"AveragePool", "", {x}, {}, attributes, tolerance});
      check_kernels({"GlobalAveragePool", "", {x}, {}, {}, tolerance});
      if (HasFailure()) return;
    }
    check_kernels({"MaxPool",
                   "",
                   {random_tensor(random, c.x, kU8, 0, 255)},
                   {},
                   {{"kernel_shape", integers(c.kernel)}, {"strides", integers(c.strides)}}});
    check_kernels({"MaxPool",
                   "",
                   {random_tensor(random, c.x, kI8, -128, 127)},
                   {},
                   {{"kernel_shape", integers(c.kernel)}, {"strides", integers(c.strides)}}});
  }
  EXPECT_THAT(
      check_kernels({"MaxPool", "", {random_tensor(random, {1, 16, 8, 8})}, {}, {{"kernel_shape", integers({2, 2})}}}),
      ElementsAre("pool nhwc", "pool blocked16", "pool plain"));
}

TEST(KernelsConcat, EveryAxisLayoutAndWidth) {
  Random random(2);
  for (const ElementType type : {kF32, kBF16, kU8, kI64, kF64, kBool}) {
    for (const Shape& shape :
         {Shape{1, 16, 3, 4}, Shape{2, 32, 3, 4}, Shape{2, 3, 5}, Shape{7}, Shape{2, 3}, Shape{1, 5, 2, 2, 3}}) {
      for (int axis = -1; axis < shape.rank(); ++axis) {
        Shape other = shape, empty = shape;
        const int a = axis < 0 ? shape.rank() - 1 : axis;
        other[a] = a == 1 && shape[1] % 16 == 0 ? 48 : 1;
        empty[a] = 0;
        const Tensor x = random_tensor(random, shape, type, 0, 2), y = random_tensor(random, other, type, 0, 2);
        const for_test::Attributes attributes{{"axis", integer(axis)}};
        const auto names =
            check_kernels({"Concat", "", {x, y, random_tensor(random, empty, type), x}, {}, attributes, 0});
        EXPECT_THAT(names, Contains("concat plain"));
        check_kernels({"Concat", "", {x, y}, {1}, attributes, 0});
        check_kernels({"Concat", "", {y}, {}, attributes, 0});
        if (HasFailure()) return;
      }
    }
  }
  const Tensor x = random_tensor(random, {2, 16, 2, 2});
  EXPECT_THAT(check_kernels({"Concat", "", {x, x}, {}, {{"axis", integer(1)}}}),
              ElementsAre("concat plain", "concat nhwc", "concat blocked16"));
}

// Shapes that broadcast to [n, c, h, w].
std::vector<Shape> broadcasting(const Shape& y) {
  const int64_t n = y[0], c = y[1], h = y[2], w = y[3];
  return {y,      {n, c, 1, 1}, {1, c, 1, 1}, {c, 1, 1},    {1},       {},           {w},          {h, w},
          {h, 1}, {1, 1, h, w}, {n, 1, h, w}, {1, c, h, w}, {c, h, w}, {n, 1, 1, 1}, {1, c, h, 1}, {n, 1, 1, w}};
}

TEST(KernelsElementwise, BroadcastsInEveryLayout) {
  Random random(3);
  for (const Shape& y : {Shape{2, 32, 3, 5}, Shape{2, 16, 1, 1}, Shape{1, 3, 4, 4}, Shape{2, 1, 4, 3},
                         Shape{1, 16, 1, 5}, Shape{3, 17, 2, 1}}) {
    for (const Shape& other : broadcasting(y)) {
      for (const ElementType type : {kF32, kBF16}) {
        const double tolerance = type == kF32 ? 1e-6 : kBf16;
        const Tensor a = random_tensor(random, y, type), b = random_tensor(random, other, type, 0.5, 1);
        for (const char* op : {"Add", "Sub", "Mul", "Div", "Max", "Min"}) {
          check_kernels({op, "", {a, b}, {}, {}, tolerance});
          check_kernels({op, "", {b, a}, {0}, {}, tolerance});
        }
        check_kernels({"Sum", "", {b, a, a}, {}, {}, tolerance});
        check_kernels({"Sum", "", {b, b, a}, {}, {}, tolerance});
        check_kernels({"Mean", "", {a, b, b}, {2}, {}, tolerance});
        check_kernels({"Max", "", {b, b, b, a}, {}, {}, tolerance});
        check_kernels({"Where",
                       "",
                       {random_tensor(random, other, kI32, 0, 2).count() > 0
                            ? for_test::converted(random_tensor(random, other, kI32, 0, 2), kBool)
                            : Tensor(),
                        a, a},
                       {},
                       {},
                       tolerance});
        check_kernels({"Elementwise",
                       "sluice",
                       {a, b},
                       {},
                       {{"program", texts({"Mul x0 x1", "Add t0 =0.5", "Tanh t1", "Sub t2 x0"})}},
                       tolerance,
                       0,
                       1});
        if (HasFailure()) return;
      }
      const Tensor i = random_tensor(random, y, kI32, -9, 9), j = random_tensor(random, other, kI32, 1, 9);
      check_kernels({"Div", "", {i, j}});
      check_kernels({"Add", "", {for_test::converted(i, kI64), for_test::converted(j, kI64)}});
      check_kernels({"Mul", "", {for_test::converted(i, kF64), for_test::converted(j, kF64)}, {}, {}, 0});
      check_kernels({"Pow", "", {for_test::converted(j, kF32), for_test::converted(j, kF32)}, {}, {}, 1e-5});
      if (HasFailure()) return;
    }
  }
  const Tensor a = random_tensor(random, {2, 32, 3, 5});
  for (const Shape& other : {Shape{2, 32, 1, 1}, Shape{2, 1, 3, 5}, Shape{}, Shape{5}}) {
    EXPECT_THAT(check_kernels({"Mul", "", {a, random_tensor(random, other)}}),
                ElementsAre("Mul plain", "Mul nhwc", "Mul blocked16"));
  }
}

TEST(KernelsElementwise, OfOne) {
  Random random(4);
  for (const ElementType type : {kF32, kBF16, kF16}) {
    const double tolerance = type == kF32 ? 1e-5 : kBf16;
    for (const Shape& shape : {Shape{2, 32, 3, 3}, Shape{1, 5, 7}, Shape{2, 16, 1, 2, 3}, Shape{40}, Shape{}}) {
      const Tensor x = random_tensor(random, shape, type, -2, 2), positive = random_tensor(random, shape, type, 0.1, 2);
      for (const char* op :
           {"Abs",         "Ceil",      "Cos",       "Elu",      "Erf",      "Exp",  "Floor",           "Gelu",
            "HardSigmoid", "HardSwish", "LeakyRelu", "Mish",     "Neg",      "Relu", "Round",           "Selu",
            "Sigmoid",     "Sign",      "Sin",       "Softplus", "Softsign", "Tanh", "ThresholdedRelu", "Celu"}) {
        EXPECT_THAT(check_kernels({op, "", {x}, {}, {}, tolerance, 0, 22}), Not(IsEmpty())) << op;
      }
      check_kernels({"Log", "", {positive}, {}, {}, tolerance});
      check_kernels({"Sqrt", "", {positive}, {}, {}, tolerance});
      check_kernels({"Reciprocal", "", {positive}, {}, {}, tolerance});
      check_kernels({"LeakyRelu", "", {x}, {}, {{"alpha", real(0.3f)}}, tolerance});
      check_kernels({"Clip",
                     "",
                     {x, for_test::converted(Tensor::scalar<float>(-0.5f), type),
                      for_test::converted(Tensor::scalar<float>(0.75f), type)},
                     {1, 2},
                     {},
                     tolerance});
      check_kernels(
          {"Clip", "", {x, Value(), for_test::converted(Tensor::scalar<float>(0.75f), type)}, {}, {}, tolerance});
      check_kernels({"Cast", "", {x}, {}, {{"to", integer(static_cast<int64_t>(kF32))}}, tolerance});
      check_kernels({"Cast", "", {x}, {}, {{"to", integer(static_cast<int64_t>(kI64))}}, tolerance});
      if (HasFailure()) return;
    }
  }
}

TEST(KernelsLayerNorm, SizesAndAxes) {
  Random random(6);
  for (const ElementType type : {kF32, kBF16}) {
    for (const Shape& shape :
         {Shape{3, 1}, Shape{2, 5}, Shape{4, 3, 16}, Shape{1, 17}, Shape{2, 7, 384}, Shape{1000}, Shape{2, 3, 4, 5}}) {
      for (int axis = -1; axis < shape.rank(); ++axis) {
        const int a = axis < 0 ? shape.rank() - 1 : axis;
        Shape size;
        for (int d = a; d < shape.rank(); ++d) size.push_back(shape[d]);
        const Tensor x = random_tensor(random, shape, type, -3, 5), scale = random_tensor(random, size, type);
        const for_test::Attributes attributes{{"axis", integer(axis)}, {"epsilon", real(1e-3f)}};
        const double tolerance = type == kF32 ? 1e-5 : kBf16;
        EXPECT_THAT(check_kernels({"LayerNormalization", "", {x, scale}, {1}, attributes, tolerance}),
                    ElementsAre("layer norm"));
        check_kernels(
            {"LayerNormalization", "", {x, scale, random_tensor(random, size, type)}, {1, 2}, attributes, tolerance});
        if (HasFailure()) return;
      }
    }
  }
  const Tensor large = random_tensor(random, {4, 64}, kF32, 1000, 1001);  // little beside the mean
  check_kernels({"LayerNormalization", "", {large, random_tensor(random, {64})}, {1}, {}, 1e-3});
}

TEST(KernelsPool, OfBytes) {
  Random random(7);
  for (const ElementType type : {kU8, kI8}) {
    auto zero = [&](float value) { return for_test::converted(Tensor::scalar<float>(value), type); };
    for (const Shape& shape : {Shape{2, 5, 7, 7}, Shape{1, 32, 3, 4}, Shape{1, 17, 9}}) {
      const Tensor x = random_tensor(random, shape, type, type == kU8 ? 0 : -128, type == kU8 ? 256 : 128);
      check_kernels({"QLinearGlobalAveragePool",
                     "com.microsoft",
                     {x, Tensor::scalar<float>(0.05f), zero(3), Tensor::scalar<float>(0.02f), zero(7)},
                     {1, 2, 3, 4},
                     {},
                     0,
                     1,
                     1});
    }
  }
}

// Where elements lie, and every bit of them: the library only knows numbers.
TEST(KernelsReorder, MovesBits) {
  ThreadPool pool(2);
  const KernelThreads threads(pool);
  Random random(5);
  const Layout kLayouts[] = {Layout::kPlain, Layout::kChannelsLast, Layout::kBlocked16};
  for (const ElementType type : {kF32, kBF16, kU8}) {
    const auto size = static_cast<size_t>(get_info(type).bytes);
    for (const Shape& shape :
         {Shape{2, 3, 4, 5}, Shape{1, 32, 7, 7}, Shape{2, 17, 3}, Shape{1, 16, 2, 3, 4}, Shape{3, 1, 2, 2}}) {
      Tensor x(type, shape);
      for (int64_t i = 0; i < x.bytes(); ++i) static_cast<uint8_t*>(x.raw())[i] = static_cast<uint8_t>(random.next());
      for (int64_t i = 0; i + 1 < x.count(); i += 7) {  // the smallest number but 0
        std::memset(static_cast<std::byte*>(x.raw()) + static_cast<size_t>(i) * size, 0, size);
        static_cast<uint8_t*>(x.raw())[static_cast<size_t>(i) * size] = 1;
      }
      for (const Layout from : kLayouts) {
        for (const Layout to : kLayouts) {
          if (from == to) continue;
          const TensorInfo source{type, shape, from}, target{type, shape, to};
          const std::unique_ptr<Kernel> kernel = make_reorder(source, target);
          const auto input = for_test::in_layout(x, from);
          for_test::Guarded output(bytes_of(target)), scratch(static_cast<int64_t>(kernel->scratch_bytes()));
          const void* in = input->data();
          void* out = output.data();
          kernel->run({&in, 1}, {&out, 1}, scratch.data(), pool);
          const auto wanted = for_test::in_layout(x, to);
          ASSERT_EQ(std::memcmp(output.data(), wanted->data(), static_cast<size_t>(bytes_of(target))), 0)
              << to_string(source) << " to " << to_string(target);
          ASSERT_TRUE(output.is_intact() && scratch.is_intact());
          const auto bytes = static_cast<size_t>(bytes_of(target));
          const bool is_same =
              bytes_of(source) == bytes_of(target) && std::memcmp(input->data(), wanted->data(), bytes) == 0;
          EXPECT_TRUE(is_same || !is_same_order(shape, from, to)) << to_string(source) << " to " << to_string(target);
        }
      }
    }
  }
}

}  // namespace
}  // namespace sluice::graph
