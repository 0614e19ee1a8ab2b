// Defines Steadier in engine._native.
#pragma once

#include <pybind11/pybind11.h>

void define_steady(pybind11::module_& module);
