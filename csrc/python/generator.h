#pragma once

#include <pybind11/pybind11.h>

// Adds the class Generator to engine._native.
void define_generator(pybind11::module_& module);
