#include "graph/import_model.h"

#include "base/mmap.h"
#include "graph/import_onnx.h"
#include "graph/import_tflite.h"

namespace sluice::graph {

Model import_model(const std::string& path) {
  return is_tflite(MappedFile(path).bytes()) ? import_tflite(path) : import_onnx(path);
}

}  // namespace sluice::graph
