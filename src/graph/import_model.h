// A model file to a Model, whatever format it is in: TensorFlow Lite if the file says so, otherwise ONNX.
#pragma once

#include <string>

#include "graph/ir.h"

namespace sluice::graph {

// Throws Error as import_onnx() and import_tflite() do.
Model import_model(const std::string& path);

}  // namespace sluice::graph
