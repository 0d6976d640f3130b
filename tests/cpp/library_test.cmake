# SPDX-License-Identifier: BSD-3-Clause
# What the linker made of libfused_ce.so. Run by ctest: cmake -DLIBRARY= -DREADELF= -DNM= -P this.
cmake_minimum_required(VERSION 3.22)

execute_process(COMMAND ${READELF} -dW ${LIBRARY} OUTPUT_VARIABLE dynamic
                COMMAND_ERROR_IS_FATAL ANY)
foreach(forbidden libpython libtorch_python libgomp libomp libiomp)
  # An OpenMP runtime named here could be a second one beside torch's (see CMakeLists.txt).
  if(dynamic MATCHES "NEEDED[^\n]*${forbidden}")
    message(FATAL_ERROR "libfused_ce.so must not depend on ${forbidden}:\n${dynamic}")
  endif()
endforeach()

execute_process(COMMAND ${NM} -DC --undefined-only ${LIBRARY} OUTPUT_VARIABLE undefined
                COMMAND_ERROR_IS_FATAL ANY)
if(NOT undefined MATCHES "GOMP_parallel")
  message(FATAL_ERROR "no OpenMP in libfused_ce.so: at::parallel_for would run on one thread")
endif()

# The interface is the header's: kernels and helpers stay inside.
execute_process(COMMAND ${NM} -DC --defined-only ${LIBRARY} OUTPUT_VARIABLE exported
                COMMAND_ERROR_IS_FATAL ANY)
if(NOT exported MATCHES " T fused_ce::cross_entropy\\(")
  message(FATAL_ERROR "fused_ce::cross_entropy is not exported")
endif()
if(exported MATCHES "fused_ce::cpu::[^\n]*")
  message(FATAL_ERROR "a kernel is exported: ${CMAKE_MATCH_0}")
endif()
