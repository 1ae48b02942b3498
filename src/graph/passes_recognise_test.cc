// Patterns that exporters spell out: each way in which they do it becomes the operator, with the same results.
#include "graph/passes_for_test.h"

namespace sluice::graph {
namespace {

using for_test::after;
using for_test::Builder;
using for_test::expect_agrees;
using for_test::floats;
using for_test::integer;
using for_test::integers;
using for_test::random_tensor;
using testing::HasSubstr;
using testing::Not;

Dim n() { return Dim::symbol("n"); }
Dim s() { return Dim::symbol("s"); }

// Arithmetic in the words of a formula.
struct Formula : Builder {
  ValueId number(float value) { return constant(Tensor::scalar<float>(value)); }
  ValueId add(ValueId a, ValueId b) { return node("Add", {a, b}); }
  ValueId sub(ValueId a, ValueId b) { return node("Sub", {a, b}); }
  ValueId mul(ValueId a, ValueId b) { return node("Mul", {a, b}); }
  ValueId div(ValueId a, ValueId b) { return node("Div", {a, b}); }
  ValueId of(const std::string& op, ValueId a) { return node(op, {a}); }
  ValueId mean(ValueId a) {
    return node("ReduceMean", {a, constant(Tensor::vector<int64_t>({-1}))}, {{"keepdims", integer(1)}});
  }
};

// A function of x, as one of its spellings.
using Spelling = ValueId (*)(Formula& f, ValueId x);
void expect_becomes(const char* op, std::initializer_list<Spelling> spellings) {
  int i = 0;
  for (const Spelling spell : spellings) {
    SCOPED_TRACE(i++);
    Formula f;
    const ValueId x = f.input(floats({n(), 40}));
    Tensor numbers = random_tensor({5, 40}, 3);
    for (int64_t k = 0; k < 200; ++k) numbers.data<float>()[k] *= 6;
    const std::string text = expect_agrees(f.finish({spell(f, x)}), {numbers});
    EXPECT_THAT(text, HasSubstr(std::string("= ") + op + "(in0"));
    EXPECT_THAT(text, Not(HasSubstr("Elementwise")));
  }
}

TEST(RecogniseActivation, Gelu) {
  expect_becomes(
      "Gelu",
      {[](Formula& f, ValueId x) {
         return f.mul(f.mul(x, f.add(f.of("Erf", f.div(x, f.number(1.41421354f))), f.number(1))), f.number(0.5f));
       },
       [](Formula& f, ValueId x) {
         return f.mul(x, f.mul(f.number(0.5f), f.add(f.number(1), f.of("Erf", f.mul(x, f.number(0.70710678f))))));
       },
       [](Formula& f, ValueId x) {
         return f.mul(f.add(f.of("Erf", f.mul(f.number(0.70710678f), x)), f.number(1)), f.div(x, f.number(2)));
       },
       [](Formula& f, ValueId x) {
         const ValueId cube = f.node("Pow", {x, f.number(3)});
         const ValueId inner = f.mul(f.number(0.7978846f), f.add(x, f.mul(f.number(0.044715f), cube)));
         return f.mul(f.mul(f.number(0.5f), x), f.add(f.number(1), f.of("Tanh", inner)));
       },
       [](Formula& f, ValueId x) {
         const ValueId square = f.mul(f.mul(f.number(0.044715f), x), x);
         const ValueId inner = f.mul(f.mul(x, f.number(0.7978846f)), f.add(f.number(1), square));
         return f.mul(f.mul(x, f.number(0.5f)), f.add(f.of("Tanh", inner), f.number(1)));
       }});
}

TEST(RecogniseActivation, Swish) {
  expect_becomes("Swish", {[](Formula& f, ValueId x) { return f.mul(x, f.of("Sigmoid", x)); },
                           [](Formula& f, ValueId x) { return f.mul(f.of("Sigmoid", f.mul(x, f.number(1.702f))), x); },
                           [](Formula& f, ValueId x) {
                             return f.mul(x, f.div(f.number(1), f.add(f.number(1), f.of("Exp", f.of("Neg", x)))));
                           }});
}

TEST(RecogniseActivation, HardSwishAndHardSigmoid) {
  constexpr auto clip = [](Formula& f, ValueId x) {
    return f.node("Clip", {f.add(x, f.number(3)), f.number(0), f.number(6)});
  };
  static const auto clipped = clip;
  expect_becomes("HardSwish", {[](Formula& f, ValueId x) { return f.div(f.mul(x, clipped(f, x)), f.number(6)); },
                               [](Formula& f, ValueId x) { return f.mul(x, f.div(clipped(f, x), f.number(6))); },
                               [](Formula& f, ValueId x) { return f.mul(f.mul(clipped(f, x), f.number(1.0f / 6)), x); },
                               [](Formula& f, ValueId x) {
                                 return f.mul(x, f.node("HardSigmoid", {x}, {{"alpha", for_test::real(1.0f / 6)}}));
                               },
                               [](Formula& f, ValueId x) {
                                 const ValueId cut = f.node("Min", {f.of("Relu", f.add(x, f.number(3))), f.number(6)});
                                 return f.div(f.mul(x, cut), f.number(6));
                               }});
  expect_becomes("HardSigmoid", {[](Formula& f, ValueId x) { return f.div(clipped(f, x), f.number(6)); }});
}

TEST(RecogniseActivation, OthersOfOneNode) {
  expect_becomes("Mish", {[](Formula& f, ValueId x) { return f.mul(x, f.of("Tanh", f.of("Softplus", x))); }});
  expect_becomes("Softplus", {[](Formula& f, ValueId x) { return f.of("Log", f.add(f.of("Exp", x), f.number(1))); }});
  expect_becomes("Sigmoid", {[](Formula& f, ValueId x) {
                               return f.of("Reciprocal", f.add(f.number(1), f.of("Exp", f.of("Neg", x))));
                             },
                             [](Formula& f, ValueId x) {
                               return f.div(f.number(1), f.add(f.of("Exp", f.mul(x, f.number(-1))), f.number(1)));
                             }});
  expect_becomes("Clip", {[](Formula& f, ValueId x) {
                            return f.node("Min", {f.node("Max", {x, f.number(-1)}), f.number(2)});
                          },
                          [](Formula& f, ValueId x) {
                            return f.node("Clip", {f.of("Relu", x), f.number(0), f.number(6)});
                          },
                          [](Formula& f, ValueId x) {
                            return f.node("Clip", {f.node("Clip", {x, f.number(-1)}), kNoValue, f.number(2)});
                          }});
  expect_becomes("LeakyRelu", {[](Formula& f, ValueId x) { return f.node("PRelu", {x, f.number(0.25f)}); }});
}

TEST(RecogniseActivation, LeavesWhatIsSomethingElse) {
  Formula f;
  const ValueId x = f.input(floats({n(), 4})), z = f.input(floats({n(), 4}));
  const ValueId other = f.mul(x, f.of("Sigmoid", z));
  const ValueId half = f.mul(f.mul(x, f.add(f.of("Erf", f.mul(x, f.number(0.7f))), f.number(1))), f.number(0.6f));
  const std::string text = expect_agrees(f.finish({other, half}), {random_tensor({2, 4}, 1), random_tensor({2, 4}, 2)});
  EXPECT_THAT(text, Not(HasSubstr("Swish(")));
  EXPECT_THAT(text, Not(HasSubstr("Gelu")));
}

ValueId spell_norm(Formula& f, ValueId x, bool is_power) {
  const ValueId d = f.sub(x, f.mean(x));
  const ValueId square = is_power ? f.node("Pow", {d, f.number(2)}) : f.mul(d, d);
  const ValueId root = f.of("Sqrt", f.add(f.mean(square), f.number(1e-6f)));
  return is_power ? f.div(d, root) : f.mul(f.of("Reciprocal", root), d);
}

TEST(RecogniseNorm, LayerNormalisation) {
  for (const bool is_power : {true, false}) {
    Formula f;
    const ValueId x = f.input(floats({n(), s(), 16}));
    const ValueId scale = f.constant(random_tensor({16}, 2)), bias = f.constant(random_tensor({1, 1, 16}, 3));
    const ValueId y = f.add(bias, f.mul(spell_norm(f, x, is_power), scale));
    const std::string text = expect_agrees(f.finish({y}), {random_tensor({2, 3, 16}, 1)});
    EXPECT_THAT(text, HasSubstr("= LayerNormalization(in0, constant1, constant2/fitted) {axis=-1, epsilon=1e-06}"));
    EXPECT_THAT(text, Not(HasSubstr("ReduceMean")));
  }
}

TEST(RecogniseNorm, AsTensorFlowWritesIt) {
  Formula f;
  const ValueId x = f.input(floats({n(), s(), 16}));
  const ValueId mean = f.mean(x), d = f.sub(x, mean);
  const ValueId inverse = f.of("Reciprocal", f.of("Sqrt", f.add(f.mean(f.mul(d, d)), f.number(1e-3f))));
  const ValueId factor = f.mul(inverse, f.constant(random_tensor({16}, 2)));
  const ValueId y = f.add(f.mul(x, factor), f.sub(f.constant(random_tensor({16}, 3)), f.mul(mean, factor)));
  const std::string text = expect_agrees(f.finish({y}), {random_tensor({2, 3, 16}, 1)});
  EXPECT_THAT(text, HasSubstr("= LayerNormalization("));
  EXPECT_THAT(text, Not(HasSubstr("Reciprocal")));
}

TEST(RecogniseNorm, RmsNormalisation) {
  Formula f;
  const ValueId x = f.input(floats({n(), s(), 16}));
  const ValueId root = f.of("Sqrt", f.add(f.mean(f.node("Pow", {x, f.number(2)})), f.number(1e-5f)));
  const ValueId y = f.mul(f.constant(random_tensor({16}, 2)), f.mul(x, f.div(f.number(1), root)));
  EXPECT_THAT(expect_agrees(f.finish({y}), {random_tensor({2, 3, 16}, 1)}),
              HasSubstr("= RMSNormalization(in0, constant11) {axis=-1, epsilon=1e-05}"));
}

TEST(RecogniseNorm, LeavesMeansOverOtherAxes) {
  Formula f;
  const ValueId x = f.input(floats({n(), 8, 16}));
  auto mean = [&](ValueId v) {
    return f.node("ReduceMean", {v, f.constant(Tensor::vector<int64_t>({1}))}, {{"keepdims", integer(1)}});
  };
  const ValueId d = f.sub(x, mean(x));
  const ValueId y = f.div(d, f.of("Sqrt", f.add(mean(f.mul(d, d)), f.number(1e-5f))));
  EXPECT_THAT(expect_agrees(f.finish({y}), {random_tensor({2, 8, 16}, 1)}), Not(HasSubstr("Normalization")));
}

// The pieces of attention, two heads of size 4.
struct Attention : Formula {
  ValueId move(ValueId x, std::vector<int64_t> order) {
    return node("Transpose", {x}, {{"perm", integers(std::move(order))}});
  }
  ValueId reshape(ValueId x, std::vector<int64_t> target) {
    return node("Reshape", {x, constant(Tensor::vector<int64_t>(target))});
  }
  ValueId project(ValueId x, uint64_t seed) { return node("MatMul", {x, constant(random_tensor({8, 8}, seed))}); }
  ValueId heads(ValueId x) { return move(reshape(x, {0, 0, 2, 4}), {0, 2, 1, 3}); }
  ValueId merge(ValueId x) { return reshape(move(x, {0, 2, 1, 3}), {0, 0, 8}); }
  ValueId soften(ValueId x) { return node("Softmax", {x}, {{"axis", integer(-1)}}); }
  ValueId scores(ValueId q, ValueId k) { return node("MatMul", {q, k}); }
};

// All of it in one node of packed heads, without what parted them.
void expect_packed(const std::string& text) {
  EXPECT_THAT(text, HasSubstr("q_num_heads=2"));
  EXPECT_THAT(text, HasSubstr("= Attention("));
  EXPECT_THAT(text, Not(HasSubstr("Transpose(")));
  EXPECT_THAT(text, Not(HasSubstr("Reshape(")));
  EXPECT_THAT(text, Not(HasSubstr("Softmax(")));
}

TEST(RecogniseAttention, ScaledAndMasked) {
  Attention f;
  const ValueId x = f.input(floats({n(), s(), 8})), mask = f.input(floats({n(), 1, 1, s()}));
  const ValueId q = f.heads(f.project(x, 1)), v = f.heads(f.project(x, 3));
  const ValueId k = f.move(f.reshape(f.project(x, 2), {0, 0, 2, 4}), {0, 2, 3, 1});
  const ValueId logits = f.add(mask, f.div(f.scores(q, k), f.number(2)));
  const ValueId y = f.merge(f.node("MatMul", {f.soften(logits), v}));
  const std::string text = expect_agrees(f.finish({y}), {random_tensor({2, 3, 8}, 5), random_tensor({2, 1, 1, 3}, 6)});
  expect_packed(text);
  EXPECT_THAT(text, HasSubstr(", in1) {kv_num_heads=2, q_num_heads=2, scale=0.5}"));
}

TEST(RecogniseAttention, FactorsOnBothOperandsAndACondition) {
  Attention f;
  const ValueId x = f.input(floats({n(), s(), 8})), kept = f.input(ValueType::tensor(ElementType::kBool, {s(), s()}));
  const ValueId q = f.mul(f.heads(f.project(x, 1)), f.number(0.5f));
  const ValueId k = f.mul(f.move(f.heads(f.project(x, 2)), {0, 1, 3, 2}), f.number(0.5f));
  const ValueId logits = f.node("Where", {kept, f.scores(q, k), f.number(-INFINITY)});
  const ValueId y = f.merge(f.node("MatMul", {f.soften(logits), f.heads(f.project(x, 3))}));
  const Tensor causal = Tensor::vector<bool>({true, false, false, true, true, false, true, true, true}, Shape{3, 3});
  const std::string text = expect_agrees(f.finish({y}), {random_tensor({2, 3, 8}, 5), causal});
  expect_packed(text);
  EXPECT_THAT(text, HasSubstr("scale=0.25"));
}

// torch.nn.MultiheadAttention: one projection, lengths first, heads as part of the batch.
TEST(RecogniseAttention, LengthFirstBatchesOfHeads) {
  Attention f;
  const ValueId x = f.input(floats({n(), 3, 8}));
  const ValueId all = f.node("MatMul", {f.move(x, {1, 0, 2}), f.constant(random_tensor({8, 24}, 1))});
  auto part = [&](int64_t i) {
    const ValueId sliced =
        f.node("Slice", {all, f.constant(Tensor::vector<int64_t>({8 * i})),
                         f.constant(Tensor::vector<int64_t>({8 * i + 8})), f.constant(Tensor::vector<int64_t>({2}))});
    return f.reshape(sliced, {3, -1, 4});
  };
  const ValueId q = f.div(f.move(part(0), {1, 0, 2}), f.number(2)), k = f.move(part(1), {1, 2, 0});
  const ValueId weights = f.soften(f.scores(q, k));
  const ValueId y = f.reshape(f.move(f.node("MatMul", {weights, f.move(part(2), {1, 0, 2})}), {1, 0, 2}), {-1, 8});
  const ValueId out = f.node("Gemm", {y, f.constant(random_tensor({8, 8}, 4)), f.constant(random_tensor({8}, 5))});
  const ValueId back = f.move(f.reshape(out, {3, -1, 8}), {1, 0, 2});
  expect_packed(expect_agrees(f.finish({back}), {random_tensor({2, 3, 8}, 5)}));
}

// BART: batch * heads for the products, four dimensions for the mask.
TEST(RecogniseAttention, MasksInFourDimensionsOverThree) {
  Attention f;
  const ValueId x = f.input(floats({2, 3, 8})), mask = f.input(floats({2, 1, 3, 3}));
  auto heads = [&](uint64_t seed) { return f.reshape(f.heads(f.project(x, seed)), {4, 3, 4}); };
  const ValueId scores = f.scores(heads(1), f.move(heads(2), {0, 2, 1}));
  const ValueId logits = f.reshape(f.add(f.reshape(scores, {2, 2, 3, 3}), mask), {4, 3, 3});
  const ValueId product = f.node("MatMul", {f.soften(logits), heads(3)});
  const ValueId y = f.merge(f.reshape(product, {2, 2, 3, 4}));
  expect_packed(expect_agrees(f.finish({y}), {random_tensor({2, 3, 8}, 5), random_tensor({2, 1, 3, 3}, 6)}));
}

// timm: queries, keys and values are one axis of five.
TEST(RecogniseAttention, PartsOfOneProjection) {
  Attention f;
  const ValueId x = f.input(floats({n(), s(), 8}));
  const ValueId all = f.node("MatMul", {x, f.constant(random_tensor({8, 24}, 1))});
  const ValueId parts = f.move(f.reshape(all, {0, 0, 3, 2, 4}), {2, 0, 3, 1, 4});
  auto part = [&](int64_t i) {
    return f.node("Gather", {parts, f.constant(Tensor::scalar<int64_t>(i))}, {{"axis", integer(0)}});
  };
  const ValueId logits = f.mul(f.scores(part(0), f.move(part(1), {0, 1, 3, 2})), f.number(0.5f));
  const ValueId y = f.merge(f.node("MatMul", {f.soften(logits), part(2)}));
  expect_packed(expect_agrees(f.finish({y}), {random_tensor({2, 3, 8}, 5)}));
}

TEST(RecogniseAttention, AsItIsWithoutPackedHeads) {
  Attention f;
  const ValueId q = f.input(floats({n(), 2, s(), 4})), k = f.input(floats({n(), 2, s(), 4})),
                v = f.input(floats({n(), 2, s(), 4}));
  const ValueId y = f.node("MatMul", {f.soften(f.scores(q, f.move(k, {0, 1, 3, 2}))), v});
  const std::string text = expect_agrees(
      f.finish({y}), {random_tensor({2, 2, 3, 4}, 5), random_tensor({2, 2, 3, 4}, 6), random_tensor({2, 2, 3, 4}, 7)});
  EXPECT_THAT(text, HasSubstr("= Attention(in0, in1, in2) {scale=1}: float32 [n x 2 x s x 4]"));
}

TEST(RecogniseAttention, GroupsOfQueriesShareKeys) {
  Attention f;
  const ValueId q = f.input(floats({2, 4, 3, 4})), k = f.input(floats({2, 2, 3, 4})), v = f.input(floats({2, 2, 3, 4}));
  auto repeat = [&](ValueId x) {
    const ValueId one = f.node("Unsqueeze", {x, f.constant(Tensor::vector<int64_t>({2}))});
    const ValueId shape = f.constant(Tensor::vector<int64_t>({2, 2, 2, 3, 4}));
    return f.reshape(f.node("Expand", {one, shape}), {2, 4, 3, 4});
  };
  const ValueId logits = f.scores(q, f.move(repeat(k), {0, 1, 3, 2}));
  const ValueId y = f.node("MatMul", {f.soften(logits), repeat(v)});
  const std::string text = expect_agrees(
      f.finish({y}), {random_tensor({2, 4, 3, 4}, 5), random_tensor({2, 2, 3, 4}, 6), random_tensor({2, 2, 3, 4}, 7)});
  EXPECT_THAT(text, HasSubstr("= Attention(in0, in1, in2) {scale=1}: float32 [2 x 4 x 3 x 4]"));
}

TEST(RecogniseAttention, LeavesBroadcastBatchesAndReadScores) {
  Attention f;
  const ValueId q = f.input(floats({n(), 2, s(), 4})), k = f.input(floats({1, 2, 4, s()})),
                v = f.input(floats({1, 2, s(), 4}));
  EXPECT_THAT(after({"recognise-attention"}, f.finish({f.node("MatMul", {f.soften(f.scores(q, k)), v})})),
              HasSubstr("Softmax"));
  Attention g;
  const ValueId x = g.input(floats({n(), 2, s(), 4}));
  const ValueId weights = g.soften(g.scores(x, g.move(x, {0, 1, 3, 2})));
  EXPECT_THAT(after({"recognise-attention"}, g.finish({weights, g.node("MatMul", {weights, x})})),
              HasSubstr("Softmax"));
}

}  // namespace
}  // namespace sluice::graph
