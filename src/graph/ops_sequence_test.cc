// Recurrent, attention and signal operators beyond what ONNX's conformance tests cover: com.microsoft's operators, old
// versions, every direction and layout, and models that are wrong. Expected values are in ops_sequence_expected.h,
// which tools/make_sequence_cases.py computes with NumPy; the rest is compared with itself in f64, or worked out by
// hand.
#include <cmath>
#include <memory>
#include <optional>

#include <gtest/gtest.h>

#include "graph/executor.h"
#include "graph/ops_sequence_expected.h"
#include "sluice/error.h"

namespace sluice::graph {
namespace {

// The same as wave() in the tool.
template <typename T = float>
Tensor wave(double seed, const Shape& shape) {
  std::vector<T> values;
  for (int64_t i = 0; i < shape.count(); ++i) {
    values.push_back(static_cast<T>(static_cast<float>(std::sin(0.7 * static_cast<double>(i) + seed))));
  }
  return Tensor::vector(values, shape);
}

// round(100 * wave) + offset.
template <typename T>
Tensor codes(double seed, const Shape& shape, int offset = 0) {
  const Tensor x = wave(seed, shape);
  std::vector<T> values;
  for (const float v : x.values<float>()) {
    values.push_back(static_cast<T>(static_cast<int>(std::nearbyint(static_cast<double>(v) * 100)) + offset));
  }
  return Tensor::vector(values, shape);
}

template <typename T>
Tensor list(const std::vector<T>& values) { return Tensor::vector(values); }
Tensor ints32(const std::vector<int32_t>& values) { return Tensor::vector(values); }

Attribute number(int64_t value) {
  Attribute a;
  a.kind = Attribute::Kind::kInt;
  a.i = value;
  return a;
}
Attribute real(float value) {
  Attribute a;
  a.kind = Attribute::Kind::kFloat;
  a.f = value;
  return a;
}
Attribute reals(std::vector<float> values) {
  Attribute a;
  a.kind = Attribute::Kind::kFloats;
  a.floats = std::move(values);
  return a;
}
Attribute integers(std::vector<int64_t> values) {
  Attribute a;
  a.kind = Attribute::Kind::kInts;
  a.ints = std::move(values);
  return a;
}
Attribute text(std::string value) {
  Attribute a;
  a.kind = Attribute::Kind::kString;
  a.s = std::move(value);
  return a;
}
Attribute texts(std::vector<std::string> values) {
  Attribute a;
  a.kind = Attribute::Kind::kStrings;
  a.strings = std::move(values);
  return a;
}

struct Case {
  std::string op;
  int opset = 24;
  std::map<std::string, Attribute, std::less<>> attributes = {};
  std::vector<std::optional<Tensor>> inputs = {};
  int num_outputs = 1;
  std::string domain = "";
  bool leaves_out_first = false;  // output 0
};

// A model of one node, run on its inputs.
std::vector<Tensor> run(const Case& c) {
  auto model = std::make_shared<Model>();
  Graph& graph = model->graph;
  Node node;
  node.op_type = c.op;
  node.domain = c.domain;
  node.name = "node";
  node.opset = c.opset;
  node.attributes = c.attributes;
  std::vector<Value> values;
  for (const auto& input : c.inputs) {
    if (!input) {
      node.inputs.push_back(kNoValue);
      continue;
    }
    const ValueId id = graph.add_value("in" + std::to_string(values.size()),
                                       ValueType::tensor(input->type(), to_dims(input->shape())));
    node.inputs.push_back(id);
    graph.inputs.push_back(id);
    values.push_back(Value(*input));
  }
  for (int i = 0; i < c.num_outputs; ++i) {
    if (i == 0 && c.leaves_out_first) {
      node.outputs.push_back(kNoValue);
      continue;
    }
    node.outputs.push_back(graph.add_value("out" + std::to_string(i)));
    graph.outputs.push_back(node.outputs.back());
  }
  node.op = find_op(c.domain, c.op, c.opset);
  if (node.op == nullptr) fail(Code::kInvalidArgument, "{}", explain_missing_op(c.domain, c.op, c.opset));
  graph.nodes.push_back(node);
  Executor executor(model, {.num_threads = 2});
  std::vector<Tensor> outputs;
  for (const Value& value : executor.run(values)) outputs.push_back(value.tensor);
  return outputs;
}

std::vector<double> numbers(const Tensor& x) {
  std::vector<double> values;
  EXPECT_TRUE(dispatch_numbers(x.type(), [&](auto zero) {
    for (const auto v : x.values<decltype(zero)>()) values.push_back(static_cast<double>(v));
  })) << name(x.type());
  return values;
}

void expect_near(const std::vector<double>& found, const std::vector<double>& expected, double tolerance,
                 const std::string& what) {
  ASSERT_EQ(found.size(), expected.size()) << what;
  for (size_t i = 0; i < found.size(); ++i) {
    if (std::isinf(expected[i])) EXPECT_EQ(found[i], expected[i]) << what << " at " << i;
    else EXPECT_NEAR(found[i], expected[i], tolerance) << what << " at " << i;
  }
}

std::vector<double> expected_of(const std::string& name) {
  const auto found = kExpected.find(name);
  EXPECT_TRUE(found != kExpected.end()) << name;
  if (found == kExpected.end()) return {};
  return {found->second.begin(), found->second.end()};
}

void check(const std::string& name, const Case& c, double tolerance = 2e-6) {
  SCOPED_TRACE(name);
  const std::vector<Tensor> outputs = run(c);
  const size_t first = c.leaves_out_first ? 1 : 0;
  for (size_t i = 0; i < outputs.size(); ++i) {
    const std::string output = name + "." + std::to_string(i + first);
    expect_near(numbers(outputs[i]), expected_of(output), tolerance, output);
  }
}

void refuses(const std::string& message, const Case& c) {
  try {
    run(c);
    ADD_FAILURE() << "accepted: " << message;
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.message()).find(message), std::string::npos) << error.message();
  }
}

const std::string kMs = kMicrosoft;

TEST(Recurrent, EveryAttribute) {
  Case lstm = {.op = "LSTM", .opset = 7,
               .attributes = {{"direction", text("bidirectional")}, {"hidden_size", number(2)}, {"clip", real(0.5f)}},
               .inputs = {wave(1, {3, 2, 3}), wave(2, {2, 8, 3}), wave(3, {2, 8, 2}), wave(4, {2, 16}), ints32({3, 1}),
                          wave(5, {2, 2, 2}), wave(6, {2, 2, 2}), wave(7, {2, 6})},
               .num_outputs = 3};
  check("lstm_everything", lstm);
  lstm.leaves_out_first = true;
  check("lstm_everything", lstm);
  check("lstm_batch_first", {.op = "LSTM",
                             .opset = 14,
                             .attributes = {{"layout", number(1)},
                                            {"input_forget", number(1)},
                                            {"activations", texts({"HardSigmoid", "Affine", "Softsign"})},
                                            {"activation_alpha", reals({0.3f, 0.5f})},
                                            {"activation_beta", reals({0.4f, 0.1f})}},
                             .inputs = {wave(1, {2, 3, 3}), wave(2, {1, 8, 3}), wave(3, {1, 8, 2}), std::nullopt,
                                        std::nullopt, wave(5, {2, 1, 2})},
                             .num_outputs = 3});
  check("gru_after",
        {.op = "GRU",
         .opset = 22,
         .attributes = {{"direction", text("bidirectional")}, {"linear_before_reset", number(1)}},
         .inputs = {wave(1, {3, 2, 3}), wave(2, {2, 6, 3}), wave(3, {2, 6, 2}), wave(4, {2, 12}), ints32({2, 3})},
         .num_outputs = 2});
  check("gru_reverse", {.op = "GRU",
                        .opset = 7,
                        .attributes = {{"direction", text("reverse")},
                                       {"activations", texts({"ScaledTanh", "Elu"})},
                                       {"activation_alpha", reals({0.9f, 2})},
                                       {"activation_beta", reals({0.8f})}},
                        .inputs = {wave(1, {3, 2, 3}), wave(2, {1, 6, 3}), wave(3, {1, 6, 2}), wave(4, {1, 12}),
                                   ints32({2, 0}), wave(5, {1, 2, 2})},
                        .num_outputs = 2});
  check("rnn_reverse", {.op = "RNN", .opset = 7,
                        .attributes = {{"direction", text("reverse")}, {"activations", texts({"LeakyRelu"})},
                                       {"activation_alpha", reals({0.1f})}},
                        .inputs = {wave(1, {3, 2, 3}), wave(2, {1, 2, 3}), wave(3, {1, 2, 2})}, .num_outputs = 2});
  check("rnn_softplus", {.op = "RNN", .opset = 14, .attributes = {{"activations", texts({"softplus"})}},
                         .inputs = {wave(1, {3, 2, 3}), wave(2, {1, 2, 3}), wave(3, {1, 2, 2})}, .num_outputs = 2});
}

TEST(Recurrent, InDoubleAndLarge) {
  // Long enough for several stretches, wide enough for several strips.
  const Shape x = {70, 9, 33}, w = {1, 4 * 150, 33}, r = {1, 4 * 150, 150};
  auto layer = [&](Tensor a, Tensor b, Tensor c) {
    return run({.op = "LSTM", .opset = 14, .inputs = {a, b, c}, .num_outputs = 3});
  };
  const auto narrow = layer(wave(1, x), wave(2, w), wave(3, r));
  const auto wide = layer(wave<double>(1, x), wave<double>(2, w), wave<double>(3, r));
  // One step of it is contractive enough for errors not to grow.
  for (size_t i = 0; i < 3; ++i) expect_near(numbers(narrow[i]), numbers(wide[i]), 2e-3, "LSTM");
}

TEST(Recurrent, Nothing) {
  const auto outputs = run({.op = "GRU",
                            .opset = 14,
                            .inputs = {wave(1, {0, 2, 3}), wave(2, {1, 6, 3}), wave(3, {1, 6, 2}), std::nullopt,
                                       std::nullopt, wave(5, {1, 2, 2})},
                            .num_outputs = 2});
  EXPECT_EQ(to_string(outputs[0].shape()), "0x1x2x2");
  expect_near(numbers(outputs[1]), numbers(wave(5, {1, 2, 2})), 0, "the last state is the first");
}

TEST(Recurrent, RefusesWhatIsWrong) {
  Case c = {.op = "LSTM", .opset = 14, .inputs = {wave(1, {3, 2, 3}), wave(2, {1, 8, 3}), wave(3, {1, 8, 2})}};
  c.attributes = {{"direction", text("sideways")}};
  refuses("direction is 'sideways'", c);
  c.attributes = {{"activations", texts({"Sigmoid", "Tanh", "Wobble"})}};
  refuses("activation 'Wobble'", c);
  c.attributes = {{"activations", texts({"Sigmoid"})}};
  refuses("3 are needed", c);
  c.attributes = {{"hidden_size", number(7)}};
  refuses("hidden_size is 7", c);
  c.attributes = {{"layout", number(2)}};
  refuses("layout is 2", c);
  c.attributes = {{"clip", real(-1)}};
  refuses("clip is -1", c);
  c.attributes = {};
  c.inputs = {wave(1, {3, 2, 3}), wave(2, {1, 9, 3}), wave(3, {1, 8, 2})};
  refuses("W is 1x9x3", c);
  c.inputs = {wave(1, {3, 2, 3}), wave(2, {1, 8, 3}), wave(3, {1, 8, 2}), std::nullopt, ints32({4, 1})};
  refuses("sequence_lens has 4", c);
  c.inputs = {wave(1, {3, 2, 3}), wave(2, {1, 8, 3}), wave(3, {1, 8, 2}), wave(4, {1, 15})};
  refuses("B is 1x15", c);
  c.inputs = {wave(1, {3, 2, 3}), wave(2, {1, 8, 3}), wave<double>(3, {1, 8, 2})};
  refuses("float64", c);
}

TEST(Recurrent, Quantised) {
  std::vector<float> scales;
  for (int i = 0; i < 8; ++i) scales.push_back(0.01f + 0.001f * static_cast<float>(i));
  check("quantized_lstm",
        {.op = "DynamicQuantizeLSTM", .opset = 1,
         .inputs = {wave(1, {3, 2, 3}), codes<int8_t>(2, {1, 3, 8}), codes<int8_t>(3, {1, 2, 8}), wave(4, {1, 16}),
                    std::nullopt, std::nullopt, std::nullopt, std::nullopt, Tensor::vector(scales, {1, 8}),
                    Tensor::vector(std::vector<int8_t>(8, 3), {1, 8}), Tensor::vector<float>({0.02f}),
                    Tensor::vector<int8_t>({-2})},
         .num_outputs = 3, .domain = kMs},
        1e-4);
}

TEST(Signal, AnyLength) {
  for (const int64_t n : {1, 2, 12, 17, 34, 49, 60, 97}) {
    const auto outputs = run({.op = "DFT", .opset = 17, .inputs = {wave<double>(1, {2, n, 1})}});
    ASSERT_EQ(to_string(outputs[0].shape()), to_string(Shape{2, n, 2}));
    const std::vector<double> all = numbers(outputs[0]);
    std::vector<double> some;
    for (int64_t k = 0; k < n; k += std::max<int64_t>(1, n / 6)) {
      for (int64_t part = 0; part < 2; ++part) some.push_back(all[static_cast<size_t>((n + k) * 2 + part)]);
    }
    expect_near(some, expected_of("dft_" + std::to_string(n) + ".0"), 1e-5, "length " + std::to_string(n));
  }
  // There and back again, a large prime and a large composite.
  for (const int64_t n : {10007, 12000}) {
    const Tensor x = wave<double>(3, {1, n, 2});
    const auto there = run({.op = "DFT", .opset = 17, .inputs = {x}});
    const auto back = run({.op = "DFT", .opset = 17, .attributes = {{"inverse", number(1)}}, .inputs = {there[0]}});
    expect_near(numbers(back[0]), numbers(x), 1e-11, "there and back");
  }
}

TEST(Signal, Forms) {
  const Tensor axis1 = Tensor::scalar<int64_t>(-3), axis2 = Tensor::scalar<int64_t>(2);
  check("dft_padded", {.op = "DFT", .opset = 20, .inputs = {wave(2, {1, 5, 4, 2}), Tensor::scalar<int64_t>(7), axis1}});
  check("dft_cropped_inverse", {.op = "DFT", .opset = 20, .attributes = {{"inverse", number(1)}},
                                .inputs = {wave(2, {1, 5, 4, 2}), Tensor::scalar<int32_t>(3), axis2}});
  check("rfft", {.op = "DFT", .opset = 20, .attributes = {{"onesided", number(1)}}, .inputs = {wave(3, {2, 9, 1})}});
  const std::map<std::string, Attribute, std::less<>> inverse = {{"inverse", number(1)}, {"onesided", number(1)}};
  check("irfft_even", {.op = "DFT", .opset = 20, .attributes = inverse, .inputs = {wave(4, {1, 4, 2})}});
  check("irfft_odd",
        {.op = "DFT", .opset = 17, .attributes = inverse, .inputs = {wave(4, {1, 4, 2}), Tensor::scalar<int64_t>(7)}});
  check("stft_twosided", {.op = "STFT", .opset = 17, .attributes = {{"onesided", number(0)}},
                          .inputs = {wave(5, {2, 20, 1}), Tensor::scalar<int64_t>(4), wave(6, {6})}});
  check("stft_complex",
        {.op = "STFT",
         .opset = 17,
         .attributes = {{"onesided", number(0)}},
         .inputs = {wave(7, {1, 12, 2}), Tensor::scalar<int64_t>(3), std::nullopt, Tensor::scalar<int32_t>(5)}});
}

TEST(Signal, Windows) {
  auto window = [](const std::string& op, int64_t size, int periodic, int type) {
    return run({.op = op,
                .opset = 17,
                .attributes = {{"periodic", number(periodic)}, {"output_datatype", number(type)}},
                .inputs = {Tensor::scalar<int64_t>(size)}})[0];
  };
  expect_near(numbers(window("HannWindow", 7, 0, 1)), expected_of("hann.0"), 1e-6, "symmetric");
  expect_near(numbers(window("HannWindow", 7, 1, 11)), expected_of("hann.1"), 1e-6, "periodic");
  expect_near(numbers(window("BlackmanWindow", 6, 0, 1)), expected_of("blackman.0"), 1e-6, "symmetric");
  expect_near(numbers(window("HammingWindow", 1, 0, 1)), {1}, 0, "one element");
  EXPECT_EQ(window("HannWindow", 4, 1, 3).type(), ElementType::kI8);
  EXPECT_EQ(window("HannWindow", 4, 1, 10).type(), ElementType::kF16);
  EXPECT_EQ(window("HannWindow", 0, 1, 1).count(), 0);
}

TEST(Signal, RefusesWhatIsWrong) {
  refuses("axis 2 is that of the real",
          {.op = "DFT", .opset = 17, .attributes = {{"axis", number(2)}}, .inputs = {wave(1, {1, 4, 2})}});
  refuses("outside a tensor of 3",
          {.op = "DFT", .opset = 17, .attributes = {{"axis", number(9)}}, .inputs = {wave(1, {1, 4, 2})}});
  refuses("the last dimension is 3", {.op = "DFT", .opset = 17, .inputs = {wave(1, {1, 4, 3})}});
  refuses("no one-sided",
          {.op = "DFT", .opset = 17, .attributes = {{"onesided", number(1)}}, .inputs = {wave(1, {1, 4, 2})}});
  refuses("0 elements is not possible",
          {.op = "DFT", .opset = 17, .inputs = {wave(1, {1, 4, 1}), Tensor::scalar<int64_t>(0)}});
  refuses("is not possible",
          {.op = "DFT", .opset = 17, .inputs = {wave(1, {1, 4, 1}), Tensor::scalar<int64_t>(INT64_MAX)}});
  refuses("frame_step is 0",
          {.op = "STFT", .opset = 17, .inputs = {wave(1, {1, 9, 1}), Tensor::scalar<int64_t>(0), wave(2, {4})}});
  refuses("does not fit into a signal",
          {.op = "STFT", .opset = 17, .inputs = {wave(1, {1, 9, 1}), Tensor::scalar<int64_t>(1), wave(2, {10})}});
  refuses("does not fit frames",
          {.op = "STFT",
           .opset = 17,
           .inputs = {wave(1, {1, 9, 1}), Tensor::scalar<int64_t>(1), wave(2, {4}), Tensor::scalar<int64_t>(5)}});
  refuses("has to be at least 0", {.op = "HannWindow", .opset = 17, .inputs = {Tensor::scalar<int64_t>(-1)}});
  refuses("output_datatype 8", {.op = "HannWindow",
                                .opset = 17,
                                .attributes = {{"output_datatype", number(8)}},
                                .inputs = {Tensor::scalar<int64_t>(3)}});
  refuses("sample_rate is 0", {.op = "MelWeightMatrix",
                               .opset = 17,
                               .inputs = {Tensor::scalar<int64_t>(3), Tensor::scalar<int64_t>(8),
                                          Tensor::scalar<int64_t>(0), Tensor::scalar(0.0f), Tensor::scalar(100.0f)}});
}

TEST(Attention, OfOnnx) {
  check("attention_24", {.op = "Attention",
                         .opset = 24,
                         .attributes = {{"q_num_heads", number(4)},
                                        {"kv_num_heads", number(2)},
                                        {"is_causal", number(1)},
                                        {"softcap", real(1.5f)},
                                        {"qk_matmul_output_mode", number(3)}},
                         .inputs = {wave(1, {2, 3, 16}), wave(2, {2, 3, 8}), wave(3, {2, 3, 6}), wave(6, {4, 3, 4}),
                                    wave(4, {2, 2, 2, 4}), wave(5, {2, 2, 2, 3})},
                         .num_outputs = 4});
  Case window = {.op = "Attention",
                 .opset = 25,
                 .attributes = {{"is_causal", number(1)}, {"local_window_size", number(2)}},
                 .inputs = {wave(1, {1, 1, 6, 4}), wave(2, {1, 1, 6, 4}), wave(3, {1, 1, 6, 4})}};
  check("attention_window", window);
  window.attributes.erase("is_causal");
  refuses("needs is_causal", window);
}

TEST(Attention, LargeInFloatAndDouble) {
  const Shape q = {1, 4, 150, 24}, k = {1, 2, 333, 24}, v = {1, 2, 333, 17}, mask = {1, 1, 150, 333};
  for (const bool is_causal : {false, true}) {
    auto run_with = [&](Tensor a, Tensor b, Tensor c, Tensor m) {
      return run({.op = "Attention", .opset = 24, .attributes = {{"is_causal", number(is_causal)}},
                  .inputs = {a, b, c, m, std::nullopt, std::nullopt, list<int64_t>({300})}});
    };
    const auto narrow = run_with(wave(1, q), wave(2, k), wave(3, v), wave(4, mask));
    const auto wide = run_with(wave<double>(1, q), wave<double>(2, k), wave<double>(3, v), wave<double>(4, mask));
    expect_near(numbers(narrow[0]), numbers(wide[0]), 1e-5, "attention");
  }
}

TEST(Attention, PaddingMayHoldAnything) {
  Tensor k = wave(2, {1, 1, 12, 4}), v = wave(3, {1, 1, 12, 4});
  for (int64_t i = 20; i < 48; ++i) k.data<float>()[i] = v.data<float>()[i] = NAN;
  const auto outputs =
      run({.op = "Attention",
           .opset = 24,
           .inputs = {wave(1, {1, 1, 9, 4}), k, v, std::nullopt, std::nullopt, std::nullopt, list<int64_t>({5})}});
  for (const double y : numbers(outputs[0])) EXPECT_TRUE(std::isfinite(y));
}

TEST(Attention, OfNothing) {
  const auto no_keys = run({.op = "Attention",
                            .opset = 24,
                            .inputs = {wave(1, {1, 2, 3, 4}), wave(2, {1, 2, 0, 4}), wave(3, {1, 2, 0, 5})}});
  expect_near(numbers(no_keys[0]), std::vector<double>(30, 0), 0, "no keys give zeros");
  const auto no_batch = run({.op = "Attention",
                             .opset = 24,
                             .inputs = {wave(1, {0, 2, 3, 4}), wave(2, {0, 2, 7, 4}), wave(3, {0, 2, 7, 5})}});
  EXPECT_EQ(to_string(no_batch[0].shape()), "0x2x3x5");
}

TEST(Attention, RefusesWhatIsWrong) {
  Case c = {.op = "Attention", .opset = 24, .inputs = {wave(1, {1, 3, 4}), wave(2, {1, 3, 4}), wave(3, {1, 3, 4})}};
  refuses("q_num_heads", c);
  c.attributes = {{"q_num_heads", number(3)}, {"kv_num_heads", number(2)}};
  refuses("no multiple of q_num_heads", c);
  c = {.op = "Attention", .opset = 24, .inputs = {wave(1, {1, 3, 2, 4}), wave(2, {1, 2, 2, 4}), wave(3, {1, 2, 2, 4})}};
  refuses("3 query heads are no multiple", c);
  c.inputs = {wave(1, {1, 2, 2, 4}), wave(2, {1, 2, 2, 4}), wave(3, {1, 2, 2, 4}), wave(4, {3, 2})};
  refuses("does not broadcast", c);
  c.inputs = {wave(1, {1, 2, 2, 4}), wave(2, {1, 2, 2, 4}), wave(3, {1, 2, 2, 4}), std::nullopt, wave(4, {1, 2, 2, 4})};
  refuses("go together", c);
  c.inputs = {wave(1, {1, 2, 2, 4}), wave(2, {1, 2, 2, 4}), wave(3, {1, 2, 2, 4}), std::nullopt,
              std::nullopt,          std::nullopt,          list<int64_t>({3})};
  refuses("nonpad_kv_seqlen has 3", c);
  c.inputs.resize(3);
  c.attributes = {{"qk_matmul_output_mode", number(4)}};
  refuses("qk_matmul_output_mode is 4", c);
  c.inputs = {Tensor(ElementType::kF32, {int64_t{1} << 40, int64_t{1} << 40, 0, 1}), wave(2, {0, 1, 0, 1}),
              wave(2, {0, 1, 0, 1})};
  refuses("", c);
  Case linear = {.op = "LinearAttention",
                 .opset = 27,
                 .attributes = {{"q_num_heads", number(2)}, {"kv_num_heads", number(2)}},
                 .inputs = {wave(1, {1, 3, 4}), wave(2, {1, 3, 4}), wave(3, {1, 3, 4})}};
  refuses("needs the input decay", linear);
  linear.attributes["update_rule"] = text("random");
  refuses("update_rule is 'random'", linear);
}

TEST(ContribAttention, MergedWeights) {
  check("ms_attention", {.op = "Attention",
                         .opset = 1,
                         .attributes = {{"num_heads", number(2)}, {"unidirectional", number(1)}},
                         .inputs = {wave(1, {2, 3, 4}), wave(2, {4, 12}), wave(3, {12}),
                                    Tensor::vector<int32_t>({1, 1, 1, 1, 0, 0, 1, 1, 1, 1}, {2, 5}),
                                    wave(4, {2, 2, 2, 2, 2}), wave(5, {1, 2, 3, 5})},
                         .num_outputs = 2,
                         .domain = kMs});
  Case ends = {.op = "Attention",
               .opset = 1,
               .attributes = {{"num_heads", number(2)},
                              {"qkv_hidden_sizes", integers({4, 4, 6})},
                              {"scale", real(0.3f)},
                              {"mask_filter_value", real(-50)}},
               .inputs = {wave(1, {2, 3, 4}), wave(2, {4, 14}), wave(3, {14}), ints32({2, 3, 0, 1})},
               .domain = kMs};
  check("ms_attention_ends", ends);
  ends.attributes["do_rotary"] = number(1);
  refuses("do_rotary is not supported", ends);
  ends.attributes.erase("do_rotary");
  ends.inputs[3] = ints32({1, 2, 3, 4, 5, 6, 7, 8});
  refuses("a mask of 8 is not supported", ends);
  ends.inputs[3] = std::nullopt;
  ends.attributes["qkv_hidden_sizes"] = integers({4, 4, 7});
  refuses("do not fit weights", ends);
  check("ms_qattention",
        {.op = "QAttention", .opset = 1, .attributes = {{"num_heads", number(2)}},
         .inputs = {codes<uint8_t>(1, {2, 3, 4}, 128), codes<int8_t>(2, {4, 12}), wave(3, {12}), Tensor::scalar(0.01f),
                    Tensor::scalar(0.02f), ints32({3, 2}), Tensor::scalar<uint8_t>(128)},
         .domain = kMs});
}

TEST(ContribAttention, SeparateHeads) {
  const std::map<std::string, Attribute, std::less<>> two = {{"num_heads", number(2)}};
  Case full = {.op = "MultiHeadAttention",
               .opset = 1,
               .attributes = {{"num_heads", number(2)}, {"mask_filter_value", real(-20)}},
               .inputs = {wave(1, {2, 3, 4}), wave(2, {2, 2, 4}), wave(3, {2, 2, 6}), wave(4, {14}),
                          Tensor::vector<int32_t>({1, 1, 0, 1, 0, 1}, {2, 3}), wave(7, {2, 1, 3, 3}),
                          wave(5, {2, 2, 1, 2}), wave(6, {2, 2, 1, 3})},
               .num_outputs = 4,
               .domain = kMs};
  check("ms_multihead", full, 1e-5);  // scores are about 20
  full.inputs.resize(9);
  full.inputs.push_back(ints32({0}));
  refuses("cache_indirection is not supported", full);
  Case packed = {
      .op = "MultiHeadAttention", .opset = 1, .attributes = two, .inputs = {wave(1, {2, 3, 2, 3, 2})}, .domain = kMs};
  packed.attributes["unidirectional"] = number(1);
  check("ms_multihead_packed", packed);
  check("ms_multihead_packed_kv", {.op = "MultiHeadAttention", .opset = 1, .attributes = two,
                                   .inputs = {wave(1, {2, 3, 4}), wave(2, {2, 4, 2, 2, 2})}, .domain = kMs});
  check("ms_multihead_cross",
        {.op = "MultiHeadAttention",
         .opset = 1,
         .attributes = two,
         .inputs = {wave(1, {1, 2, 4}), wave(2, {1, 2, 3, 2}), wave(3, {1, 2, 3, 2}), wave(4, {12})},
         .domain = kMs});
  Case decoder = {.op = "DecoderMaskedMultiHeadAttention", .opset = 1,
                  .attributes = {{"num_heads", number(2)}, {"past_present_share_buffer", number(1)}},
                  .inputs = {wave(1, {1, 1, 4}), wave(2, {1, 1, 4}), wave(3, {1, 1, 4}), std::nullopt, std::nullopt,
                             wave(5, {1, 2, 4, 2}), wave(6, {1, 2, 4, 2}), ints32({2})},
                  .num_outputs = 2, .domain = kMs};
  check("ms_decoder", decoder);
  decoder.inputs[7] = ints32({4});
  refuses("past_sequence_length has to be", decoder);
}

TEST(ContribAttention, Grouped) {
  Case c = {.op = "GroupQueryAttention",
            .opset = 1,
            .attributes = {{"num_heads", number(4)},
                           {"kv_num_heads", number(2)},
                           {"do_rotary", number(1)},
                           {"softcap", real(2)}},
            .inputs = {wave(1, {2, 2, 32}), std::nullopt, std::nullopt, wave(2, {2, 2, 4, 4}), wave(3, {2, 2, 4, 4}),
                       ints32({2, 4}), Tensor::scalar<int32_t>(5), wave(8, {8, 2}), wave(9, {8, 2}), std::nullopt,
                       wave(5, {1, 4, 2, 5}), wave(4, {4})},
            .num_outputs = 3,
            .domain = kMs};
  check("ms_group_query", c);
  Case window = c;
  window.inputs.resize(9);
  window.attributes = {{"num_heads", number(4)},      {"kv_num_heads", number(2)},      {"do_rotary", number(1)},
                       {"smooth_softmax", number(1)}, {"local_window_size", number(2)}, {"qk_output", number(2)}};
  window.num_outputs = 4;
  const auto outputs = run(window);
  expect_near(numbers(outputs[0]), expected_of("ms_group_query_window.0"), 2e-6, "window");
  expect_near(numbers(outputs[3]), expected_of("ms_group_query_window.1"), 2e-6, "weights");
  check("ms_group_query_prompt",
        {.op = "GroupQueryAttention",
         .opset = 1,
         .attributes = {{"num_heads", number(2)},
                        {"kv_num_heads", number(1)},
                        {"do_rotary", number(1)},
                        {"rotary_interleaved", number(1)}},
         .inputs = {wave(1, {2, 3, 8}), wave(2, {2, 3, 4}), wave(3, {2, 3, 4}), std::nullopt, std::nullopt,
                    ints32({1, 2}), Tensor::scalar<int32_t>(3), wave(8, {8, 1}), wave(9, {8, 1}),
                    Tensor::vector<int64_t>({1, 2, 3, 1, 2, 3}, {2, 3}), std::nullopt, std::nullopt, std::nullopt,
                    std::nullopt, wave(6, {4}), wave(7, {4})},
         .num_outputs = 2,
         .domain = kMs});
  c.inputs[5] = ints32({2, 5});
  refuses("seqlens_k has 5", c);
  c.inputs[5] = ints32({0, 4});
  refuses("seqlens_k has 0", c);
  c.attributes["k_quant_type"] = text("PER_TENSOR");
  refuses("k_quant_type 'PER_TENSOR' is not supported", c);
  c.attributes.erase("k_quant_type");
  c.attributes["sliding_window_cache"] = number(1);
  refuses("sliding_window_cache is not supported", c);
}

TEST(ContribAttention, Rotary) {
  Case c = {.op = "RotaryEmbedding",
            .opset = 1,
            .attributes = {{"num_heads", number(2)}, {"rotary_embedding_dim", number(4)}},
            .inputs = {wave(1, {2, 3, 12}), list<int64_t>({2}), wave(8, {8, 2}), wave(9, {8, 2})},
            .domain = kMs};
  check("ms_rotary", c);
  c.inputs[1] = list<int64_t>({6});
  refuses("position 6 is outside caches of 8", c);
  c.inputs[1] = list<int64_t>({INT64_MAX});
  refuses("is outside caches", c);
  c.attributes["rotary_embedding_dim"] = number(8);
  refuses("cannot be rotated", c);
}

TEST(Attention, BodiesSeeTheirSurroundings) {
  // score_mod adds a value of the graph around it.
  auto model = std::make_shared<Model>();
  Graph& graph = model->graph;
  const Tensor q = wave(1, {1, 2, 3, 4}), k = wave(2, {1, 2, 5, 4}), v = wave(3, {1, 2, 5, 4}), bias = wave(4, {3, 5});
  for (const auto& [name, tensor] :
       {std::pair<const char*, const Tensor&>{"q", q}, {"k", k}, {"v", v}, {"bias", bias}}) {
    graph.inputs.push_back(graph.add_value(name, ValueType::tensor(ElementType::kF32, to_dims(tensor.shape()))));
  }
  auto body = std::make_shared<Graph>();
  const ValueId scores = body->add_value("scores", ValueType::tensor(ElementType::kF32)),
                inner = body->add_value("bias");
  const ValueId sum = body->add_value("sum");
  body->inputs = {scores};
  body->outputs = {sum};
  body->captures = {{.outer = graph.inputs[3], .inner = inner}};
  Node add;
  add.op_type = "Add";
  add.name = "add";
  add.opset = 26;
  add.inputs = {scores, inner};
  add.outputs = {sum};
  add.op = find_op("", "Add", 26);
  body->nodes.push_back(add);
  Node node;
  node.op_type = "FlexAttention";
  node.domain = "ai.onnx.preview";
  node.name = "flex";
  node.opset = 1;
  node.inputs = {graph.inputs[0], graph.inputs[1], graph.inputs[2]};
  node.outputs = {graph.add_value("y")};
  Attribute attribute;
  attribute.kind = Attribute::Kind::kGraph;
  attribute.graphs = {body};
  node.attributes["score_mod"] = attribute;
  node.op = find_op("ai.onnx.preview", "FlexAttention", 1);
  ASSERT_NE(node.op, nullptr);
  graph.outputs = node.outputs;
  graph.nodes.push_back(node);
  Executor executor(model, {.num_threads = 2});
  const std::vector<Value> inputs = {Value(q), Value(k), Value(v), Value(bias)};
  const auto plain = run({.op = "Attention", .opset = 24, .inputs = {q, k, v, bias}});
  expect_near(numbers(executor.run(inputs)[0].tensor), numbers(plain[0]), 1e-6, "the same as a mask");
}

}  // namespace
}  // namespace sluice::graph
