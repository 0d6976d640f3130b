// The Python module `_C`: build information and kept memory, and nothing else. Calls of the
// operator do not pass here; they go through torch.ops, which needs no binding of ours.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "fused_ce.h"

namespace py = pybind11;

PYBIND11_MODULE(_C, module) {
  module.def("build_info", [] {
    const fused_ce::BuildInfo info = fused_ce::build_info();
    py::dict dict;
    dict["version"] = info.version;
    dict["torch"] = info.torch;
    dict["compiler"] = info.compiler;
    dict["cpu_capability"] = info.cpu_capability;
    dict["cpu_capabilities"] = info.cpu_capabilities;
    dict["openmp"] = info.openmp;
    dict["cuda"] = info.cuda;
    dict["cuda_version"] = info.cuda_version;
    dict["cuda_architectures"] = info.cuda_architectures;
    return dict;
  });
  module.def("empty_cache", &fused_ce::empty_cache);
  module.def("kept_bytes", &fused_ce::kept_bytes);
}
