#include "optimize/calibration_data.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "graph/ops_for_test.h"

namespace sluice::optimize {
namespace {

namespace fs = std::filesystem;
using graph::Dim;
using graph::Dims;
using graph::ElementType;
using graph::Shape;
using graph::Value;
using graph::ValueType;
using graph::for_test::message_of;
using testing::ElementsAre;
using testing::HasSubstr;

class CalibrationData : public testing::Test {
 protected:
  CalibrationData() : folder_(fs::path(testing::TempDir()) / ("calibration_" + std::to_string(::getpid()))) {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  ~CalibrationData() override { fs::remove_all(folder_); }

  std::string write(const std::string& name, const std::string& bytes) {
    fs::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name, std::ios::binary) << bytes;
    return (folder_ / name).string();
  }
  std::string folder(const std::string& name = "") const { return (folder_ / name).string(); }

  fs::path folder_;
};

template <typename T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

std::string npy(const std::string& type, const std::string& shape, const std::string& data) {
  const std::string header = "{'descr': '" + type + "', 'fortran_order': False, 'shape': " + shape + ", }\n";
  std::string bytes("\x93NUMPY\x01\x00", 8);
  bytes += static_cast<char>(header.size());
  bytes += '\0';
  return bytes + header + data;
}

void put(std::string& bytes, uint32_t number, int count) {
  for (int i = 0; i < count; ++i) bytes += static_cast<char>(i < 4 ? number >> (8 * i) : 0);
}

// A zip file of stored files; what readers do not look at is 0.
std::string npz(const std::vector<std::pair<std::string, std::string>>& arrays) {
  std::string file, directory;
  for (const auto& [name, data] : arrays) {
    const auto at = static_cast<uint32_t>(file.size()), size = static_cast<uint32_t>(data.size());
    const std::string full = name + ".npy";
    const auto length = static_cast<uint32_t>(full.size());
    auto add_sizes = [&](std::string& to) { put(to, 0, 14), put(to, size, 4), put(to, size, 4), put(to, length, 2); };
    file += "PK\x03\x04";
    add_sizes(file);
    put(file, 0, 2);
    file += full + data;
    directory += "PK\x01\x02";
    put(directory, 0, 2);
    add_sizes(directory);
    put(directory, 0, 12);
    put(directory, at, 4);
    directory += full;
  }
  const auto at = static_cast<uint32_t>(file.size()), count = static_cast<uint32_t>(arrays.size());
  file += directory + "PK\x05\x06";
  put(file, 0, 4), put(file, count, 2), put(file, count, 2);
  put(file, static_cast<uint32_t>(directory.size()), 4), put(file, at, 4), put(file, 0, 2);
  return file;
}

graph::Model make_model(const std::vector<std::pair<std::string, ValueType>>& inputs) {
  graph::Model model;
  for (const auto& [name, type] : inputs) model.graph.inputs.push_back(model.graph.add_value(name, type));
  return model;
}

ValueType floats(Dims dims) { return ValueType::tensor(ElementType::kF32, std::move(dims)); }

TEST_F(CalibrationData, ArraysByName) {
  const graph::Model model = make_model({{"x", floats({Dim::symbol("n"), 2})},
                                         {"ids", ValueType::tensor(ElementType::kI64, {Dim::symbol("n"), 1})}});
  const std::string path = write("data.npz", npz({{"ids", npy("<i4", "(3, 1)", bytes_of<int32_t>({7, 8, 9}))},
                                                  {"x", npy("<f8", "(3, 2)", bytes_of<double>({1, 2, 3, 4, 5, 6}))}}));
  const Samples samples = open_samples({path, path}, model);
  EXPECT_EQ(samples.count, 6);
  const std::vector<Value> second = samples.load(4);
  EXPECT_EQ(second[0].tensor.shape(), (Shape{1, 2}));
  EXPECT_THAT(second[0].tensor.values<float>(), ElementsAre(3, 4));
  EXPECT_THAT(second[1].tensor.values<int64_t>(), ElementsAre(8));
}

TEST_F(CalibrationData, BatchesAndSampleAxes) {
  const std::string path = write("x.npy", npy("<f4", "(5, 2)", bytes_of<float>({1, 2, 3, 4, 5, 6, 7, 8, 9, 10})));
  const Samples batches = open_samples({path}, make_model({{"x", floats({2, 2})}}));
  EXPECT_EQ(batches.count, 2);
  EXPECT_THAT(batches.load(1)[0].tensor.values<float>(), ElementsAre(5, 6, 7, 8));
  const Samples vectors = open_samples({path}, make_model({{"x", floats({2})}}));  // the array has one more dimension
  EXPECT_EQ(vectors.count, 5);
  EXPECT_EQ(vectors.load(4)[0].tensor.shape(), (Shape{2}));
}

TEST_F(CalibrationData, WhatDoesNotFit) {
  const graph::Model model = make_model({{"x", floats({1, 2})}, {"y", floats({1, 3})}});
  auto error = [&](const std::string& name, const std::string& bytes) {
    const std::string path = write(name, bytes);
    return message_of([&] { open_samples({path}, model); });
  };
  const std::string x = npy("<f4", "(2, 2)", bytes_of<float>({1, 2, 3, 4}));
  const std::string y = npy("<f4", "(2, 3)", bytes_of<float>({1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(error("a.npz", npz({{"x", x}, {"y", y}})), "");
  EXPECT_THAT(error("a.npz", npz({{"x", x}, {"z", y}})), HasSubstr("no array for input 'y', only 'x', 'z'"));
  EXPECT_THAT(error("a.npz", npz({{"x", y}, {"y", y}})), HasSubstr("dimension 1 has to be 2"));
  EXPECT_THAT(error("a.npz", npz({{"x", x}, {"y", npy("<f4", "(1, 3)", bytes_of<float>({1, 2, 3}))}})),
              HasSubstr("1 samples for input 'y' and 2 for 'x'"));
  EXPECT_THAT(error("a.npz", npz({{"x", x}, {"y", npy("<i4", "(2, 3)", bytes_of<float>({1, 2, 3, 4, 5, 6}))}})),
              HasSubstr("an array of int32, but input 'y' takes float32"));
  EXPECT_THAT(error("a.npz", npz({{"x", npy("<f4", "(0, 2)", "")}, {"y", y}})), HasSubstr("a sample takes 1 rows"));
  EXPECT_THAT(error("a.txt", "x"), HasSubstr("is no .npz"));
  EXPECT_THAT(message_of([&] { open_samples({folder("nowhere")}, model); }), HasSubstr("does not exist"));
  fs::create_directories(folder("empty"));
  EXPECT_THAT(message_of([&] { open_samples({folder("empty")}, model); }), HasSubstr("has no pictures"));
  EXPECT_THAT(message_of([&] { open_samples({}, model); }), HasSubstr("no calibration data"));
}

// 4x2 pixels: two red columns, two blue ones.
std::string make_ppm() {
  std::string pixels;
  for (int y = 0; y < 2; ++y) pixels += std::string("\xff\x00\x00\xff\x00\x00\x00\x00\xff\x00\x00\xff", 12);
  return "P6\n4 2\n255\n" + pixels;
}

TEST_F(CalibrationData, Pictures) {
  write("pictures/a.ppm", make_ppm());
  write("pictures/notes.txt", "not a picture");
  const ImageOptions plain{.mean = {0, 0, 0}, .deviation = {1, 1, 1}};
  // Covered without resizing; the middle two columns are red and blue.
  const Samples first = open_samples({folder("pictures")}, make_model({{"x", floats({1, 3, 2, 2})}}), plain);
  ASSERT_EQ(first.count, 1);
  EXPECT_THAT(first.load(0)[0].tensor.values<float>(), ElementsAre(1, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 1));
  const Samples last =
      open_samples({folder("pictures")}, make_model({{"x", floats({Dim::symbol("n"), 2, 2, 3})}}), plain);
  EXPECT_EQ(last.load(0)[0].tensor.shape(), (Shape{1, 2, 2, 3}));
  EXPECT_THAT(last.load(0)[0].tensor.values<float>(), ElementsAre(1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1));
  const Samples bytes = open_samples(
      {folder("pictures/a.ppm")}, make_model({{"x", ValueType::tensor(ElementType::kU8, {2, 1, 1, 3})}}), plain);
  EXPECT_EQ(bytes.load(0)[0].tensor.shape(), (Shape{2, 1, 1, 3}));  // one batch of the same image
  const Samples open = open_samples({folder("pictures")},
                                    make_model({{"x", floats({1, 3, Dim::symbol("h"), Dim::symbol("w")})}}), {});
  EXPECT_EQ(open.load(0)[0].tensor.shape(), (Shape{1, 3, 224, 224}));
  EXPECT_THAT(message_of([&] { open_samples({folder("pictures")}, make_model({{"x", floats({1, 16})}})); }),
              HasSubstr("one input of 4 dimensions"));
  write("pictures/b.png", "broken");
  EXPECT_THAT(message_of([&] {
                open_samples({folder("pictures")}, make_model({{"x", floats({1, 3, 2, 2})}})).load(1);
              }),
              HasSubstr("b.png"));
}

TEST_F(CalibrationData, ShrinkingAverages) {
  std::string pixels;
  for (int i = 0; i < 64; ++i) pixels += std::string(3, i % 2 == 0 ? '\0' : '\xc8');
  write("g.ppm", "P6\n8 8\n255\n" + pixels);
  const Samples samples = open_samples({folder("g.ppm")}, make_model({{"x", floats({1, 1, 2, 2})}}),
                                       {.mean = {0, 0, 0}, .deviation = {1, 1, 1}});
  const std::vector<Value> sample = samples.load(0);
  for (const float value : sample[0].tensor.values<float>()) EXPECT_NEAR(value, 100.0f / 255, 0.05f);
}

// TensorProto {dims: 1, dims: 2, data_type: FLOAT, float_data: [3, 4]}.
TEST_F(CalibrationData, TensorsOfTestData) {
  auto tensor = [](float a, float b) {
    return std::string("\x08\x01\x08\x02\x10\x01\x22\x08") + bytes_of<float>({a, b});
  };
  const graph::Model model = make_model({{"x", floats({1, 2})}});
  for (const int i : {2, 10, 0})
    write("sets/test_data_set_" + std::to_string(i) + "/input_0.pb", tensor(static_cast<float>(i), 4));
  const Samples sets = open_samples({folder("sets")}, model);
  ASSERT_EQ(sets.count, 3);
  EXPECT_THAT(sets.load(1)[0].tensor.values<float>(), ElementsAre(2, 4));
  EXPECT_THAT(sets.load(2)[0].tensor.values<float>(), ElementsAre(10, 4));
  EXPECT_EQ(open_samples({folder("sets/test_data_set_2")}, model).count, 1);
  const Samples one = open_samples({write("a.pb", tensor(5, 6))}, model);
  EXPECT_THAT(one.load(0)[0].tensor.values<float>(), ElementsAre(5, 6));
}

}  // namespace
}  // namespace sluice::optimize
