// The Python module `_C`: a call of the operator that costs less than torch.ops', which takes as
// long as a small loss to match arguments with a schema; build information, and kept memory.
#include <ATen/PythonTorchFunctionTLS.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>

#include <optional>
#include <utility>

#include "direct.h"
#include "fused_ce.h"

namespace py = pybind11;

namespace {

// Whether a call takes no longer than another Python thread would need to get going.
bool is_brief(const at::Tensor& input) {
  constexpr int64_t kLogits = 32768,
                    kUnknown = kLogits + 1;  // wrappers of a trace are tensors, too
  return input.is_cpu() && input.sym_numel().maybe_as_int().value_or(kUnknown) <= kLogits;
}

std::optional<double> number_of(PyObject* number) {
  if (PyFloat_CheckExact(number)) return PyFloat_AS_DOUBLE(number);
  if (PyLong_CheckExact(number)) return PyLong_AsDouble(number);  // 0 or 1, or refused as any other
  return std::nullopt;
}

std::optional<int64_t> reduction_of(PyObject* name) {
  if (!PyUnicode_CheckExact(name)) return std::nullopt;
  if (PyUnicode_CompareWithASCIIString(name, "mean") == 0) return at::Reduction::Mean;
  if (PyUnicode_CompareWithASCIIString(name, "sum") == 0) return at::Reduction::Sum;
  if (PyUnicode_CompareWithASCIIString(name, "none") == 0) return at::Reduction::None;
  return std::nullopt;
}

// The arguments as Python has them; any may be of another type than it should be.
struct Arguments {
  PyObject *input, *target, *weight, *ignore_index, *reduction, *label_smoothing;
};

// The loss, or None where torch.ops has to be asked: for arguments of other types, and where
// anything but autograd watches the call.
PyObject* loss_of(const Arguments& args) {
  HANDLE_TH_ERRORS
  if (!THPVariable_CheckExact(args.input) || !THPVariable_CheckExact(args.target) ||
      !(args.weight == Py_None || THPVariable_CheckExact(args.weight)) ||
      !PyLong_CheckExact(args.ignore_index) || at::impl::torch_function_mode_enabled())
    Py_RETURN_NONE;
  int overflow = 0;
  const int64_t ignore_index = PyLong_AsLongLongAndOverflow(args.ignore_index, &overflow);
  const std::optional<int64_t> reduction = reduction_of(args.reduction);
  const std::optional<double> label_smoothing = number_of(args.label_smoothing);
  if (!reduction || !label_smoothing || overflow != 0) Py_RETURN_NONE;
  const at::Tensor& input = THPVariable_Unpack(args.input);
  const fused_ce::Options options{*reduction, ignore_index, *label_smoothing};

  std::optional<fused_ce::ops::ForwardResult> result;
  {
    std::optional<py::gil_scoped_release> no_gil;
    if (!is_brief(input)) no_gil.emplace();
    const at::Tensor none;
    result =
        fused_ce::direct({input, THPVariable_Unpack(args.target),
                          args.weight == Py_None ? none : THPVariable_Unpack(args.weight), options},
                         std::nullopt);
  }
  if (!result) Py_RETURN_NONE;
  return THPVariable_Wrap(std::move(result->loss));
  END_HANDLE_TH_ERRORS
}

// cross_entropy(input, target, weight, ignore_index, reduction, label_smoothing)
PyObject* cross_entropy(PyObject*, PyObject* const* args, Py_ssize_t count) {
  if (count != 6) Py_RETURN_NONE;
  return loss_of({args[0], args[1], args[2], args[3], args[4], args[5]});
}

// What dict[name] is, borrowed, or Py_None where there is none.
PyObject* item(PyObject* dict, PyObject* name) {
  PyObject* const found = PyDict_CheckExact(dict) ? PyDict_GetItemWithError(dict, name) : nullptr;
  return found != nullptr ? found : Py_None;
}

// module_cross_entropy(input, target, module.__dict__): torch.nn.Module finds each of its
// attributes in its own, slower way. One that is not there, a property of a subclass, say, makes
// the answer None.
PyObject* module_cross_entropy(PyObject*, PyObject* const* args, Py_ssize_t count) {
  static PyObject* const buffers = PyUnicode_InternFromString("_buffers");
  static PyObject* const weight = PyUnicode_InternFromString("weight");
  static PyObject* const ignore_index = PyUnicode_InternFromString("ignore_index");
  static PyObject* const reduction = PyUnicode_InternFromString("reduction");
  static PyObject* const label_smoothing = PyUnicode_InternFromString("label_smoothing");
  if (count != 3) Py_RETURN_NONE;
  PyObject* const all = item(args[2], buffers);
  if (!PyDict_CheckExact(all) || PyDict_Contains(all, weight) != 1) Py_RETURN_NONE;
  return loss_of({args[0], args[1], item(all, weight), item(args[2], ignore_index),
                  item(args[2], reduction), item(args[2], label_smoothing)});
}

py::dict build_info() {
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
}

// Without pybind11, whose calls cost as much as all of this one.
template <PyObject* (*function)(PyObject*, PyObject* const*, Py_ssize_t)>
PyMethodDef method(const char* name) {
  return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function)),
          METH_FASTCALL, nullptr};
}
PyMethodDef methods[] = {method<cross_entropy>("cross_entropy"),
                         method<module_cross_entropy>("module_cross_entropy"),
                         {nullptr, nullptr, 0, nullptr}};

}  // namespace

PYBIND11_MODULE(_C, module) {
  if (PyModule_AddFunctions(module.ptr(), methods) != 0) throw py::error_already_set();
  module.def("build_info", build_info);
  module.def("empty_cache", &fused_ce::empty_cache);
  module.def("kept_bytes", &fused_ce::kept_bytes);
}
