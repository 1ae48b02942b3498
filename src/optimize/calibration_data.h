// Samples from files: what a user hands to calibration.
//
//   DATA.npz     one array for each input of the model, by the input's name (of a model with one input any name);
//                DATA.npy the same for a model with one input
//   FOLDER       of pictures (jpeg, png, webp, bmp), for a model with one input that takes pictures; of .npz or .npy
//                files; of test_data_set_N folders with input_N.pb files, or one such folder itself
//   FILE.pb      a tensor, for a model with one input
//
// The first axis of an array counts the samples: as many at a time as the model's fixed batch size, or one; or the
// array has one more dimension than the input, which then counts. Files stay mapped, samples are made when asked for.
#pragma once

#include <string>
#include <vector>

#include "graph/ir.h"
#include "optimize/prepare_image.h"
#include "optimize/samples.h"

namespace sluice::optimize {

// Of all paths, one after the other. Throws Error naming the path: not found, nothing in it, arrays or pictures that
// do not fit the model's inputs.
Samples open_samples(const std::vector<std::string>& paths, const graph::Model& model,
                     const ImageOptions& images = {});

}  // namespace sluice::optimize
