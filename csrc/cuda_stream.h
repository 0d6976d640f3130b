// SPDX-License-Identifier: BSD-3-Clause
// Where kernels are launched: the tensor's device, torch's current stream there, and what came of
// it. The one switch between CUDA and the SIMT shim that runs the launchers on the CPU
// (tests/simt).
#pragma once

#include <ATen/core/Tensor.h>

#include "../kernels/cuda/cuda.h"

#ifdef FUSED_CE_SIMT

#include <machine.h>

#include <string>

namespace fused_ce {

inline constexpr c10::DeviceType kLaunchDevice = c10::kCPU;

class LaunchScope {
 public:
  explicit LaunchScope(const at::Tensor&) {}
  cuda::Stream stream() const { return nullptr; }
  void check() const {
    const std::string error = simt::error();
    simt::clear_error();
    TORCH_CHECK(error.empty(), "CUDA error: ", error);
  }
};

}  // namespace fused_ce

#else

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

namespace fused_ce {

inline constexpr c10::DeviceType kLaunchDevice = c10::kCUDA;

class LaunchScope {
 public:
  explicit LaunchScope(const at::Tensor& tensor) : guard_(tensor.device()) {}
  cuda::Stream stream() const { return c10::cuda::getCurrentCUDAStream().stream(); }
  void check() const { C10_CUDA_KERNEL_LAUNCH_CHECK(); }

 private:
  c10::cuda::CUDAGuard guard_;
};

}  // namespace fused_ce

#endif
