// Folders in the layout of ONNX's backend tests: model.onnx (or another single .onnx or .tflite file), and beside it
// test_data_set_0, test_data_set_1, ... with input_0.pb, ... and output_0.pb, ... as recorded by some other runtime.
// Or, as in its folder of light models, NAME.onnx with NAME_output_0.pb beside it and no inputs: these are then the
// ramp 0, 1/n, ..., (n-1)/n.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "graph/ir.h"

namespace sluice::graph {

struct TestFolder {
  std::string path;                    // of the folder
  std::string model;                   // of the .onnx or .tflite file
  std::vector<std::string> data_sets;  // of the test_data_set_N folders, in order of N; or one, path/NAME
};

// The test folders at or below `path`, by name. Throws Error if there is none.
std::vector<TestFolder> find_test_folders(const std::string& path);

struct TestData {
  std::vector<Value> inputs, outputs;  // by the graph's inputs and outputs; inputs without a file are none
};

// Throws Error naming the file at fault.
TestData load_test_data(const std::string& data_set, const Model& model);

struct Tolerance {
  double relative = 1e-3, absolute = 1e-5;
  int64_t steps = 0;  // of integers of 8 and 16 bits, which are mostly quantised numbers
};

struct Difference {
  double worst_error = 0;  // largest |found - expected|
  std::string message;     // empty: within the tolerance
};

// Floats x of y with |x - y| <= absolute + relative * |y|, where a type of few bits may also be off by one of its last;
// NaN is equal to NaN; integers x of y with |x - y| <= steps if they are narrow. Everything else has to be the same:
// other integers, strings, types and shapes.
Difference compare(const Value& found, const Value& expected, const Tolerance& tolerance);

}  // namespace sluice::graph
