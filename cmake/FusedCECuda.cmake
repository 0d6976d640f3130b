# SPDX-License-Identifier: BSD-3-Clause
# Whether CUDA kernels are built, with which nvcc, for which GPUs. Two steps: before find_package(Torch),
# and after.
#
#   FUSED_CE_CUDA=AUTO|ON|OFF  AUTO: where torch has CUDA and nvcc is found. ON: their absence is an error.
#                              Until it is set, FORCE_CUDA=1 or 0 in the environment means ON or OFF.
#   CUDA_HOME, CUDACXX, CMAKE_CUDA_COMPILER   where nvcc is (else on PATH, else in /usr/local/cuda)
#   TORCH_CUDA_ARCH_LIST       as for torch's own extensions: '8.0;9.0+PTX'

# fused_ce_before_torch(): Torch's package would set up CUDA itself, with CMake's removed FindCUDA, for
# architectures that it guesses, and fail where there is no toolkit, even if only its CPU part is wanted.
# It does nothing of it where this target exists: fused_ce_find_cuda makes it what it has to be.
macro(fused_ce_before_torch)
  if(NOT TARGET torch::cudart)
    add_library(torch::cudart INTERFACE IMPORTED)
  endif()
endmacro()

# fused_ce_cuda_decide(compiler reason): nvcc's path, or an empty string, and why.
function(fused_ce_cuda_decide compiler reason)
  set(${compiler} "" PARENT_SCOPE)
  set(wanted ${FUSED_CE_CUDA})
  set(${reason} "FUSED_CE_CUDA=${wanted}" PARENT_SCOPE)
  if(wanted STREQUAL "AUTO" AND NOT "$ENV{FORCE_CUDA}" STREQUAL "")
    set(wanted $ENV{FORCE_CUDA})
    set(${reason} "FORCE_CUDA=${wanted}" PARENT_SCOPE)
  endif()
  if(NOT wanted STREQUAL "AUTO" AND NOT wanted)
    return()
  endif()

  set(cuda_home $ENV{CUDA_HOME})
  if(NOT cuda_home)
    set(cuda_home $ENV{CUDA_PATH})
  endif()
  # A cached answer is forgotten: CUDA_HOME may name another toolkit today.
  if(CMAKE_CUDA_COMPILER)
    set(nvcc ${CMAKE_CUDA_COMPILER})
  elseif(NOT "$ENV{CUDACXX}" STREQUAL "")
    set(nvcc $ENV{CUDACXX})
  elseif(cuda_home)
    find_program(nvcc nvcc PATHS ${cuda_home}/bin NO_DEFAULT_PATH NO_CACHE)
  else()
    find_program(nvcc nvcc PATHS /usr/local/cuda/bin NO_CACHE)
  endif()

  if(NOT TARGET c10_cuda)
    set(missing "this torch is built without CUDA")
  elseif(NOT nvcc)
    set(missing "nvcc is not found: CUDA_HOME=/usr/local/cuda says where, for example")
  else()
    # What torch was built with, where the package tells: as with torch's own extensions, the major
    # version has to be the same, for both use one runtime library.
    execute_process(COMMAND ${nvcc} --version OUTPUT_VARIABLE output RESULT_VARIABLE failed ERROR_QUIET)
    string(REGEX MATCH "release ([0-9]+)\\.[0-9]+" release "${output}")
    set(nvcc_major ${CMAKE_MATCH_1})
    set(torch_cuda "")
    if(EXISTS ${Torch_DIR}/../../../version.py)
      file(STRINGS ${Torch_DIR}/../../../version.py torch_cuda REGEX "^cuda.*'[0-9]+")
    endif()
    if(failed OR NOT release)
      set(missing "${nvcc} does not run")
    elseif(torch_cuda MATCHES "'([0-9]+)\\.[0-9]+" AND NOT CMAKE_MATCH_1 EQUAL nvcc_major)
      set(missing "torch was built with CUDA ${CMAKE_MATCH_1}, but ${nvcc} is of CUDA ${nvcc_major}")
    else()
      set(${compiler} ${nvcc} PARENT_SCOPE)
      set(${reason} "torch has CUDA, and ${nvcc} is of ${release}" PARENT_SCOPE)
      return()
    endif()
  endif()
  if(NOT wanted STREQUAL "AUTO")
    message(FATAL_ERROR "fused_ce: CUDA was asked for, but ${missing} (without CUDA: FORCE_CUDA=0)")
  endif()
  set(${reason} "${missing}" PARENT_SCOPE)
endfunction()

# fused_ce_cuda_architectures(version output): CMake's CUDA_ARCHITECTURES for TORCH_CUDA_ARCH_LIST; without
# one, every architecture that is common and that nvcc of this version knows. The newest as PTX too, for
# GPUs to come.
function(fused_ce_cuda_architectures version output)
  set(asked "${TORCH_CUDA_ARCH_LIST}")
  if(asked STREQUAL "")
    set(asked "$ENV{TORCH_CUDA_ARCH_LIST}")
  endif()
  if(asked STREQUAL "")
    if(version VERSION_LESS 12.8)
      set(asked "7.5;8.0;8.6;8.9;9.0+PTX")
    else()
      set(asked "7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX")
    endif()
  endif()
  string(REGEX REPLACE "[ ,]+" ";" asked "${asked}")
  set(architectures "")
  foreach(entry IN LISTS asked)
    if(NOT entry MATCHES "^([0-9]+)\\.([0-9]+[af]?)(\\+PTX)?$")
      message(FATAL_ERROR "fused_ce: TORCH_CUDA_ARCH_LIST: '${entry}' is no architecture such as 9.0 or "
                          "12.0+PTX")
    endif()
    set(kinds "-real")
    if(CMAKE_MATCH_3)
      set(kinds "")
    endif()
    list(APPEND architectures ${CMAKE_MATCH_1}${CMAKE_MATCH_2}${kinds})
  endforeach()
  set(${output} ${architectures} PARENT_SCOPE)
endfunction()

# fused_ce_find_cuda(): FUSED_CE_HAS_CUDA, and then FUSED_CE_CUDA_ARCHITECTURES with the language CUDA
# enabled. A macro: languages are enabled for the file that asks.
macro(fused_ce_find_cuda)
  set(FUSED_CE_CUDA AUTO CACHE STRING "CUDA kernels: AUTO, ON or OFF")
  set_property(CACHE FUSED_CE_CUDA PROPERTY STRINGS AUTO ON OFF)
  fused_ce_cuda_decide(fused_ce_nvcc fused_ce_cuda_reason)
  set(FUSED_CE_HAS_CUDA OFF)
  if(fused_ce_nvcc)
    set(FUSED_CE_HAS_CUDA ON)
    set(CMAKE_CUDA_COMPILER ${fused_ce_nvcc})
    # Each target has its own; this one is for CMake's trial compilation, and must be known to any nvcc.
    set(CMAKE_CUDA_ARCHITECTURES 80-real)
    # torch's runtime library, and not a second one inside ours.
    set(CMAKE_CUDA_RUNTIME_LIBRARY Shared)
    enable_language(CUDA)
    if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION) # CMake before 3.26 does not know that nvcc has C++20
      set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
    endif()
    find_package(CUDAToolkit REQUIRED)
    set_property(TARGET torch::cudart PROPERTY INTERFACE_LINK_LIBRARIES CUDA::cudart)
    fused_ce_cuda_architectures(${CMAKE_CUDA_COMPILER_VERSION} FUSED_CE_CUDA_ARCHITECTURES)
    message(STATUS "fused_ce: CUDA on: ${fused_ce_cuda_reason}; for ${FUSED_CE_CUDA_ARCHITECTURES}")
  else()
    message(STATUS "fused_ce: CUDA off: ${fused_ce_cuda_reason}")
  endif()
endmacro()

# fused_ce_cuda_names(output): the architectures as torch.cuda.get_arch_list() spells them.
function(fused_ce_cuda_names output)
  set(names "")
  foreach(architecture IN LISTS FUSED_CE_CUDA_ARCHITECTURES)
    string(REGEX MATCH "^[0-9]+[af]?" number ${architecture})
    list(APPEND names sm_${number})
    if(NOT architecture MATCHES "-real$")
      list(APPEND names compute_${number})
    endif()
  endforeach()
  list(JOIN names " " names)
  set(${output} "${names}" PARENT_SCOPE)
endfunction()
