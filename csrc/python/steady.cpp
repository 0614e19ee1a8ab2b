// engine._native.Steadier: csrc/steady.h for numpy arrays.
#include "csrc/python/steady.h"

#include <pybind11/numpy.h>

#include <cstdint>
#include <tuple>

#include "csrc/check.h"
#include "csrc/steady.h"
#include "csrc/thread_pool.h"

namespace py = pybind11;

namespace streamgan {
namespace {

using Picture = py::array_t<uint8_t, py::array::c_style>;
using Map = py::array_t<int32_t, py::array::c_style>;

class Steadier {
 public:
  explicit Steadier(int64_t threads) : threads_(threads) {}

  std::tuple<Picture, int64_t, int64_t> run(const Picture& fresh, const Picture& history, const Map& flow_x,
                                            const Map& flow_y, const Map& weight, int32_t gain, double squared_limit) {
    constexpr char kName[] = "Steadier.run";
    check(fresh.ndim() == 3 && fresh.shape(2) == 3 && fresh.shape(0) >= 2 && fresh.shape(1) >= 2, kName,
          ": fresh must be [H, W, 3], with 2 rows and columns at least");
    check(fresh.size() < (int64_t{1} << 31), kName, ": a frame of ", fresh.size(), " bytes is too large");
    check(history.ndim() == 3 && history.shape(0) == fresh.shape(0) && history.shape(1) == fresh.shape(1) &&
              history.shape(2) == 3,
          kName, ": history must have the shape of fresh");
    for (const Map* map : {&flow_x, &flow_y, &weight}) {
      check(map->ndim() == 2 && map->shape(0) == flow_x.shape(0) && map->shape(1) == flow_x.shape(1) &&
                map->shape(0) >= 2 && map->shape(1) >= 2,
            kName, ": maps must be [h, w], with 2 rows and columns at least, and all of one size");
    }
    check(gain >= 0 && gain <= kMostGain, kName, ": gain ", gain, " is not within 0 and ", kMostGain);
    Picture out({fresh.shape(0), fresh.shape(1), fresh.shape(2)});
    const SteadyTask task = {fresh.data(),  history.data(), out.mutable_data(), fresh.shape(0),  fresh.shape(1),
                             flow_x.data(), flow_y.data(),  weight.data(),      flow_x.shape(0), flow_x.shape(1),
                             gain,          squared_limit};
    SteadyDetail detail{};
    {
      const py::gil_scoped_release release;
      detail = steady(task, threads_, workspace_);
    }
    return {out, detail.fresh, detail.steady};
  }

 private:
  static constexpr int32_t kMostGain = 4 * 256;

  ThreadPool threads_;
  SteadyWorkspace workspace_;
};

}  // namespace
}  // namespace streamgan

void define_steady(py::module_& module) {
  using streamgan::Steadier;
  py::class_<Steadier>(module, "Steadier",
                       "Blends a frame with the one before it, moved along a flow; one call at a time.")
      .def(py::init<int64_t>(), py::arg("threads"))
      .def("run", &Steadier::run, py::arg("fresh").noconvert(), py::arg("history").noconvert(),
           py::arg("flow_x").noconvert(), py::arg("flow_y").noconvert(), py::arg("weight").noconvert(), py::arg("gain"),
           py::arg("squared_limit"),
           "The steadied frame, uint8 [H, W, 3] as `fresh` and `history`, and what the details of both amount to. "
           "Flow, in 256ths of a pixel of the frame, and weight, 0 to 256, are int32 [h, w]; `gain` is of the "
           "sharpening, in 256ths; `squared_limit` is of the mean squared difference to `fresh`.");
}
