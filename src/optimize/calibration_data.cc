#include "optimize/calibration_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/mmap.h"
#include "formats/npz.h"
#include "graph/float_types.h"
#include "graph/onnx_values.h"
#include "graph/test_case.h"

namespace sluice::optimize {
namespace {

namespace fs = std::filesystem;
using graph::ElementType;
using graph::Shape;
using graph::Tensor;
using graph::Value;
using graph::ValueType;

constexpr size_t kMaxFileBytes = size_t{1} << 31;
constexpr int64_t kMaxSide = 1 << 14;  // of an input that takes pictures

struct Input {
  std::string name;
  ValueType type;
  bool has_default = false;
};

std::vector<Input> list_inputs(const graph::Model& model) {
  std::vector<Input> inputs;
  for (const graph::ValueId id : model.graph.inputs) {
    const graph::GraphValue& value = model.graph.value(id);
    inputs.push_back({value.name, value.type, value.constant.has_value()});
  }
  return inputs;
}

// Arrays.

ElementType element_of(const std::string& numpy_type) {
  const struct { const char* type; ElementType element; } kTypes[] = {
      {"f2", ElementType::kF16}, {"f4", ElementType::kF32}, {"f8", ElementType::kF64}, {"i1", ElementType::kI8},
      {"i2", ElementType::kI16}, {"i4", ElementType::kI32}, {"i8", ElementType::kI64}, {"u1", ElementType::kU8},
      {"u2", ElementType::kU16}, {"u4", ElementType::kU32}, {"u8", ElementType::kU64}, {"b1", ElementType::kBool}};
  for (const auto& [type, element] : kTypes) {
    if (numpy_type == type) return element;
  }
  return ElementType::kUndefined;
}

// Between floats, and between integers as long as nothing is lost.
std::optional<Tensor> convert(const Tensor& from, ElementType to) {
  if (from.type() == to) return from;
  Tensor made(to, from.shape());
  const int64_t count = from.count();
  bool fits = true;
  auto read_float = [&](int64_t i) -> double {
    if (from.type() == ElementType::kF16) return f16_to_float(from.data<uint16_t>()[i]);
    return from.type() == ElementType::kF32 ? from.data<float>()[i] : from.data<double>()[i];
  };
  if (graph::is_float(from.type()) && graph::is_float(to)) {
    for (int64_t i = 0; i < count; ++i) {
      if (to == ElementType::kF32) made.data<float>()[i] = static_cast<float>(read_float(i));
      else if (to == ElementType::kF64) made.data<double>()[i] = read_float(i);
      else if (to == ElementType::kF16) made.data<uint16_t>()[i] = graph::double_to_f16(read_float(i));
      else return std::nullopt;
    }
    return made;
  }
  if (!graph::is_integer(from.type()) || !graph::is_integer(to)) return std::nullopt;
  const bool is_known = graph::dispatch_integers(from.type(), [&](auto zero) {
    using From = decltype(zero);
    graph::dispatch_integers(to, [&](auto target) {
      using To = decltype(target);
      for (int64_t i = 0; i < count; ++i) {
        const From value = from.data<From>()[i];
        fits &= std::in_range<To>(value);
        made.data<To>()[i] = static_cast<To>(value);
      }
    });
  });
  return is_known && fits ? std::optional(made) : std::nullopt;
}

// What sample i of an array is: rows [i * rows, (i + 1) * rows) of it, in this shape.
struct ArraySlices {
  int64_t num_samples = 0, bytes = 0;
  Shape shape;
};

ArraySlices slice_array(const formats::NumpyArray& array, const Input& input, const std::string& what) {
  auto refuse = [&](const std::string& problem) {
    std::string shape;
    for (const int64_t dim : array.shape) shape += (shape.empty() ? "" : "x") + std::to_string(dim);
    fail(Code::kInvalidArgument, "{}: an array of shape {} for input '{}', which is {}: {}", what,
         shape.empty() ? "()" : shape, input.name, graph::to_string(input.type), problem);
  };
  if (!input.type.is_tensor()) refuse("only tensors can be given as arrays");
  const auto& dims = input.type.dims;
  const size_t rank = array.shape.size();
  if (rank == 0) refuse("its first axis has to count the samples");
  ArraySlices slices;
  const bool has_own_axis = dims && rank == dims->size() + 1;
  if (dims && !has_own_axis && rank != dims->size()) refuse("the number of dimensions does not fit");
  int64_t rows = 1;
  if (dims && !has_own_axis && (*dims)[0].is_known()) rows = (*dims)[0].value();
  if (rows < 1) refuse("the model takes no elements");
  for (size_t d = has_own_axis ? 0 : 1; dims && d < dims->size(); ++d) {
    const graph::Dim& dim = (*dims)[d];
    const int64_t found = array.shape[d + (has_own_axis ? 1 : 0)];
    if (dim.is_known() && dim.value() != found) refuse(fmt::format("dimension {} has to be {}", d, dim.value()));
  }
  slices.num_samples = array.shape[0] / rows;
  if (slices.num_samples == 0) refuse(fmt::format("a sample takes {} rows of it", rows));
  if (!has_own_axis) slices.shape.push_back(rows);
  slices.bytes = rows * array.element_bytes();
  for (size_t d = 1; d < rank; ++d) {
    slices.shape.push_back(array.shape[d]);
    slices.bytes *= array.shape[d];
  }
  return slices;
}

// An array for each input; of an input that has a default it may be left out.
struct ArrayInput {
  formats::NumpyArray array;
  ArraySlices slices;
  std::string what;
};

Tensor make_tensor(const ArrayInput& from, const Input& input, int64_t index) {
  const ElementType element = element_of(from.array.type);
  if (element == ElementType::kUndefined) {
    fail(Code::kInvalidArgument, "{}: arrays of type {} are not supported", from.what, from.array.type);
  }
  Tensor tensor(element, from.slices.shape);
  if (tensor.bytes() > 0)
    std::memcpy(tensor.raw(), from.array.data.data() + index * from.slices.bytes,
                static_cast<size_t>(from.slices.bytes));
  const ElementType wanted = input.type.element == ElementType::kUndefined ? element : input.type.element;
  std::optional<Tensor> converted = convert(tensor, wanted);
  if (!converted) {
    fail(Code::kInvalidArgument, "{}: an array of {}, but input '{}' takes {}", from.what, graph::name(element),
         input.name, graph::name(wanted));
  }
  return *converted;
}

Samples open_arrays(const std::string& path, const std::vector<Input>& inputs) {
  const formats::NumpyFile file(path);
  const std::vector<std::string>& names = file.names();
  auto arrays = std::make_shared<std::vector<std::optional<ArrayInput>>>();
  int64_t count = -1;
  const std::string* counted = nullptr;
  for (const Input& input : inputs) {
    std::string name = input.name;
    const bool is_there = std::find(names.begin(), names.end(), name) != names.end();
    if (!is_there && inputs.size() == 1 && names.size() == 1) {
      name = names[0];
    } else if (!is_there) {
      if (!input.has_default) {
        fail(Code::kInvalidArgument, "{}: has no array for input '{}', only {}", path, input.name,
             names.empty() ? "none at all" : fmt::format("'{}'", fmt::join(names, "', '")));
      }
      arrays->emplace_back();
      continue;
    }
    ArrayInput from{.array = file.read(name), .slices = {},
                    .what = name.empty() ? path : fmt::format("{}: '{}'", path, name)};
    from.slices = slice_array(from.array, input, from.what);
    make_tensor(from, input, 0);  // a wrong type is told now
    if (count >= 0 && count != from.slices.num_samples) {
      fail(Code::kInvalidArgument, "{}: {} samples for input '{}' and {} for '{}'", path, from.slices.num_samples,
           input.name, count, *counted);
    }
    count = from.slices.num_samples;
    counted = &input.name;
    arrays->push_back(std::move(from));
  }
  if (count < 0) fail(Code::kInvalidArgument, "{}: has an array for none of the model's inputs", path);
  return {count, [arrays, inputs](int64_t index) {
            std::vector<Value> values;
            for (size_t i = 0; i < inputs.size(); ++i) {
              if ((*arrays)[i]) values.emplace_back(make_tensor(*(*arrays)[i], inputs[i], index));
              else values.emplace_back();
            }
            return values;
          }};
}

// Pictures.

ImageLayout find_layout(const std::vector<Input>& inputs, const std::string& path, const ImageOptions& options) {
  const bool is_one = inputs.size() == 1 && inputs[0].type.is_tensor() && inputs[0].type.dims;
  if (!is_one || inputs[0].type.dims->size() != 4) {
    fail(Code::kInvalidArgument, "{}: pictures are for models with one input of 4 dimensions; give arrays (.npz)",
         path);
  }
  const graph::Dims& dims = *inputs[0].type.dims;
  auto is_channels = [](const graph::Dim& dim) { return dim.is_known() && (dim.value() == 3 || dim.value() == 1); };
  ImageLayout layout{.element = inputs[0].type.element, .is_channels_last = !is_channels(dims[1])};
  const graph::Dim& channels = layout.is_channels_last ? dims[3] : dims[1];
  const bool takes_pixels = layout.element == ElementType::kF32 || layout.element == ElementType::kU8;
  if (!is_channels(channels) || !takes_pixels) {
    fail(Code::kInvalidArgument,
         "{}: input '{}' is {}; pictures are for float32 or uint8 of 3 channels or 1; give arrays (.npz)", path,
         inputs[0].name, graph::to_string(inputs[0].type));
  }
  layout.channels = channels.value();
  layout.batch = dims[0].known().value_or(1);
  layout.height = dims[layout.is_channels_last ? 1 : 2].known().value_or(options.size);
  layout.width = dims[layout.is_channels_last ? 2 : 3].known().value_or(options.size);
  if (layout.batch < 1 || std::min(layout.height, layout.width) < 1 ||
      std::max({layout.batch, layout.height, layout.width}) > kMaxSide) {
    fail(Code::kInvalidArgument, "{}: input '{}' is {}, which is no size of pictures", path, inputs[0].name,
         graph::to_string(inputs[0].type));
  }
  return layout;
}

Samples open_images(std::vector<std::string> files, const std::vector<Input>& inputs, const std::string& path,
                    const ImageOptions& options) {
  const ImageLayout layout = find_layout(inputs, path, options);
  const auto count = static_cast<int64_t>(files.size());
  return {count, [files = std::move(files), layout, options](int64_t index) {
            const std::string& file = files[static_cast<size_t>(index)];
            try {
              const MappedFile mapped(file);
              return std::vector<Value>{prepare_image(graph::decode_image(mapped.bytes()), layout, options)};
            } catch (const Error& error) {
              if (error.message().starts_with(file)) throw;
              throw Error(error.code(), file + ": " + error.message());
            }
          }};
}

// Tensors as ONNX's test data has them.

Samples open_data_sets(std::vector<std::string> folders, const graph::Model& model) {
  // What load_test_data() looks at.
  auto known = std::make_shared<graph::Model>();
  for (const graph::ValueId id : model.graph.inputs) {
    const graph::GraphValue& value = model.graph.value(id);
    known->graph.inputs.push_back(known->graph.add_value(value.name, value.type));
  }
  const auto count = static_cast<int64_t>(folders.size());
  return {count, [folders = std::move(folders), known](int64_t index) {
            return graph::load_test_data(folders[static_cast<size_t>(index)], *known).inputs;
          }};
}

Samples open_tensors(std::vector<std::string> files, const std::vector<Input>& inputs) {
  if (inputs.size() != 1) {
    fail(Code::kInvalidArgument,
         "{}: single tensors are for models with one input, not {}; use folders with input_0.pb, "
         "input_1.pb, ...",
         files.front(), inputs.size());
  }
  const auto count = static_cast<int64_t>(files.size());
  return {count, [files = std::move(files), type = inputs[0].type](int64_t index) {
            const std::string& file = files[static_cast<size_t>(index)];
            return std::vector<Value>{graph::read_value(read_file(file, kMaxFileBytes), type, file)};
          }};
}

// Paths.

std::string extension_of(const fs::path& path) {
  std::string extension = path.extension().string();
  for (char& c : extension) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return extension;
}
bool is_image(const fs::path& path) {
  const std::string e = extension_of(path);
  return e == ".jpg" || e == ".jpeg" || e == ".png" || e == ".webp" || e == ".bmp" || e == ".ppm" || e == ".tiff";
}
bool is_arrays(const fs::path& path) { return extension_of(path) == ".npz" || extension_of(path) == ".npy"; }

Samples join(std::vector<Samples> parts) {
  if (parts.size() == 1) return parts.front();
  int64_t count = 0;
  for (const Samples& part : parts) count += part.count;
  return {count, [parts = std::move(parts)](int64_t index) {
            size_t at = 0;
            while (index >= parts[at].count) index -= parts[at++].count;
            return parts[at].load(index);
          }};
}

// Numbers in names in their order: test_data_set_2 before test_data_set_10.
bool comes_before(const std::string& a, const std::string& b) {
  return a.size() != b.size() && fs::path(a).extension().empty() ? a.size() < b.size() : a < b;
}

Samples open_folder(const std::string& path, const graph::Model& model, const std::vector<Input>& inputs,
                    const ImageOptions& options) {
  std::vector<std::string> images, arrays, tensors, data_sets;
  if (fs::exists(fs::path(path) / "input_0.pb")) return open_data_sets({path}, model);
  for (const auto& entry : fs::directory_iterator(path)) {
    const fs::path& file = entry.path();
    if (entry.is_directory()) {
      if (fs::exists(file / "input_0.pb")) data_sets.push_back(file.string());
    } else if (is_image(file)) {
      images.push_back(file.string());
    } else if (is_arrays(file)) {
      arrays.push_back(file.string());
    } else if (extension_of(file) == ".pb") {
      tensors.push_back(file.string());
    }
  }
  std::vector<Samples> parts;
  for (auto* files : {&images, &arrays, &tensors}) std::sort(files->begin(), files->end());
  std::sort(data_sets.begin(), data_sets.end(), comes_before);
  if (!images.empty()) parts.push_back(open_images(std::move(images), inputs, path, options));
  for (const std::string& file : arrays) parts.push_back(open_arrays(file, inputs));
  if (!tensors.empty()) parts.push_back(open_tensors(std::move(tensors), inputs));
  if (!data_sets.empty()) parts.push_back(open_data_sets(std::move(data_sets), model));
  if (parts.empty()) {
    fail(Code::kInvalidArgument, "{}: has no pictures, no .npz or .npy files and no folders with input_0.pb in it",
         path);
  }
  return join(std::move(parts));
}

}  // namespace

Samples open_samples(const std::vector<std::string>& paths, const graph::Model& model, const ImageOptions& images) {
  if (paths.empty()) fail(Code::kInvalidArgument, "no calibration data: give an .npz file or a folder");
  const std::vector<Input> inputs = list_inputs(model);
  std::vector<Samples> parts;
  for (const std::string& path : paths) {
    if (!fs::exists(path)) fail(Code::kNotFound, "{}: does not exist", path);
    if (fs::is_directory(path)) parts.push_back(open_folder(path, model, inputs, images));
    else if (is_arrays(path)) parts.push_back(open_arrays(path, inputs));
    else if (is_image(path)) parts.push_back(open_images({path}, inputs, path, images));
    else if (extension_of(path) == ".pb") parts.push_back(open_tensors({path}, inputs));
    else fail(Code::kInvalidArgument, "{}: is no .npz, .npy, picture or .pb file, and no folder", path);
  }
  return join(std::move(parts));
}

}  // namespace sluice::optimize
