// SPDX-License-Identifier: BSD-3-Clause
// The Python module `_C`: calls of the operators that cost less than torch.ops', which takes as
// long as a small loss to match arguments with a schema; build information, and kept memory.
#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/ScalarOps.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/Dtype.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>

#include <array>
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

// Arguments as Python has them; any may be of another type than it should be, and then torch.ops is
// asked, which takes what can be converted and says what cannot.
bool is_optional_tensor(PyObject* object) {
  return object == Py_None || THPVariable_CheckExact(object);
}

const at::Tensor& tensor_or_undefined(PyObject* object) {
  return object == Py_None ? fused_ce::undefined() : THPVariable_Unpack(object);
}

std::optional<double> number_of(PyObject* number) {
  if (PyFloat_CheckExact(number)) return PyFloat_AS_DOUBLE(number);
  if (!PyLong_CheckExact(number)) return std::nullopt;
  const double value = PyLong_AsDouble(number);
  if (value != -1 || !PyErr_Occurred()) return value;
  PyErr_Clear();  // too large
  return std::nullopt;
}

std::optional<int64_t> reduction_of(PyObject* name) {
  if (!PyUnicode_CheckExact(name)) return std::nullopt;
  if (PyUnicode_CompareWithASCIIString(name, "mean") == 0) return at::Reduction::Mean;
  if (PyUnicode_CompareWithASCIIString(name, "sum") == 0) return at::Reduction::Sum;
  if (PyUnicode_CompareWithASCIIString(name, "none") == 0) return at::Reduction::None;
  return std::nullopt;
}

// The arguments of cross_entropy.
struct LossArguments {
  PyObject *input, *target, *weight, *ignore_index, *reduction, *label_smoothing;

  bool read(fused_ce::Options& options) const {
    if (!THPVariable_CheckExact(input) || !THPVariable_CheckExact(target) ||
        !is_optional_tensor(weight) || !PyLong_CheckExact(ignore_index) ||
        at::impl::torch_function_mode_enabled())
      return false;
    int overflow = 0;
    options.ignore_index = PyLong_AsLongLongAndOverflow(ignore_index, &overflow);
    const std::optional<int64_t> kind = reduction_of(reduction);
    const std::optional<double> smoothing = number_of(label_smoothing);
    if (!kind || !smoothing || overflow != 0) return false;
    options.reduction = *kind;
    options.label_smoothing = *smoothing;
    return true;
  }
};

// What cross_entropy_stats has beside them.
struct HeadArguments {
  PyObject *logit_scale, *softcap, *temperature, *z_loss_weight, *row_weight, *normalizer, *dtype,
      *in_place, *return_lse, *return_entropy, *return_prediction;

  bool read(fused_ce::Options& options) const {
    for (PyObject* flag : {in_place, return_lse, return_entropy, return_prediction}) {
      if (!PyBool_Check(flag)) return false;
    }
    const auto scale = number_of(logit_scale), divisor = number_of(temperature),
               z_weight = number_of(z_loss_weight);
    if (softcap != Py_None) options.softcap = number_of(softcap);
    if (!scale || !divisor || !z_weight || (softcap != Py_None && !options.softcap) ||
        !is_optional_tensor(row_weight) || !(dtype == Py_None || THPDtype_Check(dtype)))
      return false;
    options.logit_scale = *scale;
    options.temperature = *divisor;
    options.z_loss_weight = *z_weight;
    options.in_place = in_place == Py_True;
    options.outputs = {*z_weight != 0, return_lse == Py_True, return_entropy == Py_True,
                       return_prediction == Py_True};
    return true;
  }

  // A number becomes a tensor without the dispatcher, which it takes on the CPU alone.
  bool read_normalizer(at::Tensor& divisor, const at::Device& device) const {
    if (is_optional_tensor(normalizer)) {
      divisor = tensor_or_undefined(normalizer);
    } else if (const auto number = number_of(normalizer); number && device.is_cpu()) {
      divisor = c10::scalar_to_tensor(*number);
    }
    return divisor.defined() || normalizer == Py_None;
  }

  std::optional<at::ScalarType> loss_type() const {
    if (dtype == Py_None) return std::nullopt;
    return reinterpret_cast<THPDtype*>(dtype)->scalar_type;
  }
};

// False where torch.ops has to be asked, because anything but autograd watches the call.
bool compute(const LossArguments& args, const fused_ce::Options& options,
             fused_ce::ops::ForwardResult& result,
             const at::Tensor& row_weight = fused_ce::undefined(),
             const at::Tensor& normalizer = fused_ce::undefined(),
             std::optional<at::ScalarType> dtype = std::nullopt) {
  const at::Tensor& input = THPVariable_Unpack(args.input);
  // Owned: a module may lose its own meanwhile.
  const at::Tensor weight = tensor_or_undefined(args.weight);
  std::optional<py::gil_scoped_release> no_gil;
  if (!is_brief(input)) no_gil.emplace();
  return fused_ce::direct(
      {input, THPVariable_Unpack(args.target), weight, options, row_weight, normalizer}, dtype,
      result);
}

// The loss, or None where torch.ops has to be asked.
PyObject* loss_of(const LossArguments& args) {
  HANDLE_TH_ERRORS
  fused_ce::Options options;
  if (!args.read(options)) Py_RETURN_NONE;
  fused_ce::ops::ForwardResult result;
  if (!compute(args, options, result)) Py_RETURN_NONE;
  return THPVariable_Wrap(std::move(result.loss));
  END_HANDLE_TH_ERRORS
}

// A tuple of the results, with None for those that nobody asked for; likewise.
PyObject* stats_of(const LossArguments& args, const HeadArguments& head) {
  HANDLE_TH_ERRORS
  fused_ce::Options options;
  at::Tensor normalizer;
  if (!args.read(options) || !head.read(options)) Py_RETURN_NONE;
  if (!head.read_normalizer(normalizer, THPVariable_Unpack(args.input).device())) Py_RETURN_NONE;
  fused_ce::ops::ForwardResult r;
  if (!compute(args, options, r, tensor_or_undefined(head.row_weight), normalizer,
               head.loss_type()))
    Py_RETURN_NONE;
  py::tuple results(6);
  size_t i = 0;
  for (at::Tensor* result : {&r.loss, &r.z_loss, &r.lse, &r.entropy, &r.prediction, &r.confidence})
    results[i++] = py::reinterpret_steal<py::object>(THPVariable_Wrap(std::move(*result)));
  return results.release().ptr();
  END_HANDLE_TH_ERRORS
}

// cross_entropy(input, target, weight, ignore_index, reduction, label_smoothing)
PyObject* cross_entropy(PyObject*, PyObject* const* args, Py_ssize_t count) {
  if (count != 6) Py_RETURN_NONE;
  return loss_of({args[0], args[1], args[2], args[3], args[4], args[5]});
}

// cross_entropy_stats(..., label_smoothing, logit_scale, ..., return_prediction), in the order
// above
PyObject* cross_entropy_stats(PyObject*, PyObject* const* args, Py_ssize_t count) {
  if (count != 17) Py_RETURN_NONE;
  return stats_of({args[0], args[1], args[2], args[3], args[4], args[5]},
                  {args[6], args[7], args[8], args[9], args[10], args[11], args[12], args[13],
                   args[14], args[15], args[16]});
}

template <class... Names>
std::array<PyObject*, sizeof...(Names)> interned(Names... names) {
  return {PyUnicode_InternFromString(names)...};
}

// What module.__dict__ has by these names, borrowed: torch.nn.Module finds each of its attributes
// in its own, slower way. False where one is not there: a property of a subclass, say.
template <size_t n>
bool find(PyObject* dict, const std::array<PyObject*, n>& names, std::array<PyObject*, n>& found) {
  if (!PyDict_CheckExact(dict)) return false;
  for (size_t i = 0; i < n; ++i) {
    found[i] = PyDict_GetItemWithError(dict, names[i]);
    if (found[i] == nullptr) return false;
  }
  return true;
}

// What a loss module has of the arguments.
bool find(PyObject* module, PyObject* input, PyObject* target, LossArguments& args) {
  static const auto buffers = interned("_buffers"), weight = interned("weight");
  static const auto names = interned("ignore_index", "reduction", "label_smoothing");
  std::array<PyObject*, 1> all, one;
  std::array<PyObject*, 3> found;
  if (!find(module, buffers, all) || !find(all[0], weight, one) || !find(module, names, found) ||
      PyDict_Contains(module, weight[0]) != 0)  // which would hide the buffer
    return false;
  args = {input, target, one[0], found[0], found[1], found[2]};
  return true;
}

// module_cross_entropy(input, target, module.__dict__)
PyObject* module_cross_entropy(PyObject*, PyObject* const* args, Py_ssize_t count) {
  LossArguments loss{};
  if (count != 3 || !find(args[2], args[0], args[1], loss)) Py_RETURN_NONE;
  return loss_of(loss);
}

// module_cross_entropy_stats(input, target, row_weight, normalizer, module.__dict__)
PyObject* module_cross_entropy_stats(PyObject*, PyObject* const* args, Py_ssize_t count) {
  static const auto names =
      interned("logit_scale", "softcap", "temperature", "z_loss_weight", "dtype", "in_place",
               "return_lse", "return_entropy", "return_prediction");
  LossArguments loss{};
  std::array<PyObject*, 9> found;
  if (count != 5 || !find(args[4], args[0], args[1], loss) || !find(args[4], names, found))
    Py_RETURN_NONE;
  return stats_of(loss, {found[0], found[1], found[2], found[3], args[2], args[3], found[4],
                         found[5], found[6], found[7], found[8]});
}

py::dict build_info() {
  const fused_ce::BuildInfo info = fused_ce::build_info();
  py::dict dict;
  dict["version"] = info.version;
  dict["torch"] = info.torch;
  dict["compiler"] = info.compiler;
  dict["cpu_capability"] = info.cpu_capability;
  dict["cpu_capabilities"] = info.cpu_capabilities;
  dict["bfloat16_products"] = info.bfloat16_products;
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
                         method<cross_entropy_stats>("cross_entropy_stats"),
                         method<module_cross_entropy>("module_cross_entropy"),
                         method<module_cross_entropy_stats>("module_cross_entropy_stats"),
                         {nullptr, nullptr, 0, nullptr}};

}  // namespace

PYBIND11_MODULE(_C, module) {
  if (PyModule_AddFunctions(module.ptr(), methods) != 0) throw py::error_already_set();
  module.def("build_info", build_info);
  module.def("empty_cache", &fused_ce::empty_cache);
  module.def("kept_bytes", &fused_ce::kept_bytes);
}
