// SPDX-License-Identifier: BSD-3-Clause
// The few names of cuda_runtime.h that launching code needs.
#pragma once

#include "machine.h"

using cudaStream_t = CUstream_st*;

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorAssert = 710,
  cudaErrorMisalignedAddress = 716,
  cudaErrorLaunchFailure = 719,
};

inline cudaError_t cudaPeekAtLastError() {
  switch (simt::failure()) {
    case simt::Failure::kNone:
      return cudaSuccess;
    case simt::Failure::kValue:
      return cudaErrorInvalidValue;
    case simt::Failure::kConfiguration:
      return cudaErrorInvalidConfiguration;
    case simt::Failure::kAssert:
      return cudaErrorAssert;
    case simt::Failure::kMisaligned:
      return cudaErrorMisalignedAddress;
    case simt::Failure::kLaunch:
      break;
  }
  return cudaErrorLaunchFailure;
}

// A failed kernel ends a CUDA context for good. Here the next test deserves a fresh machine, so
// every error is forgotten once it was asked for.
inline cudaError_t cudaGetLastError() {
  const cudaError_t error = cudaPeekAtLastError();
  simt::clear_error();
  return error;
}

inline const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorAssert:
      return "device-side assert triggered";
    case cudaErrorMisalignedAddress:
      return "misaligned address";
    case cudaErrorLaunchFailure:
      break;
  }
  return "unspecified launch failure";
}

enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16 };

inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = simt::multiprocessors();
  return cudaSuccess;
}
// One, whatever it needs: a test says how many multiprocessors there are.
inline cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*, int,
                                                                 size_t) {
  *blocks = 1;
  return cudaSuccess;
}

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };

template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute, int value) {
  const bool allowed = simt::allow_shared_bytes(reinterpret_cast<const void*>(kernel), value);
  return allowed ? cudaSuccess : cudaErrorInvalidValue;
}
