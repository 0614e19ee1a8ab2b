#pragma once

#include <pybind11/pybind11.h>

#include <utility>

#include "csrc/generator/frames.h"

namespace streamgan {

// (low, high), checked to be a range of values; throws in the name of `function`.
ValueRange checked_range(const char* function, const std::pair<double, double>& range);

}  // namespace streamgan

// Adds image_of_frame and frame_of_image to engine._native.
void define_frames(pybind11::module_& module);
