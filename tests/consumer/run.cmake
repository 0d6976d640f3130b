# SPDX-License-Identifier: BSD-3-Clause
# Installs fused_ce into a temporary prefix, copies this project out of the tree, builds it against that
# prefix and runs it. Run by ctest: cmake -DBUILD= -DTORCH_DIR= -DCXX= -P this.
cmake_minimum_required(VERSION 3.22)

set(temporary "$ENV{TMPDIR}")
if(temporary STREQUAL "")
  set(temporary /tmp)
endif()
string(RANDOM LENGTH 12 suffix)
set(work ${temporary}/fused_ce_consumer_${suffix})

# Runs a command; on failure cleans up, then fails with its output.
function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result OUTPUT_VARIABLE output
                  ERROR_VARIABLE output)
  if(NOT result EQUAL 0)
    file(REMOVE_RECURSE ${work})
    list(JOIN ARGN " " command)
    message(FATAL_ERROR "${command}: ${result}\n${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

file(COPY ${CMAKE_CURRENT_LIST_DIR}/CMakeLists.txt ${CMAKE_CURRENT_LIST_DIR}/main.cpp
     DESTINATION ${work}/source)
run(${CMAKE_COMMAND} --install ${BUILD} --component cpp --prefix ${work}/prefix)
run(${CMAKE_COMMAND} -S ${work}/source -B ${work}/build -DCMAKE_CXX_COMPILER=${CXX}
    -DCMAKE_BUILD_TYPE=Release -DCMAKE_PREFIX_PATH=${work}/prefix -DTorch_DIR=${TORCH_DIR})
run(${CMAKE_COMMAND} --build ${work}/build)
run(${work}/build/consumer)
message(STATUS "${output}")

# An installed package names no path of the machine that built it.
get_filename_component(torch_package ${TORCH_DIR}/../../.. ABSOLUTE)
file(GLOB package ${work}/prefix/lib/cmake/FusedCE/*.cmake ${work}/prefix/lib/*.so)
foreach(file IN LISTS package)
  file(STRINGS ${file} leaks REGEX "${BUILD}|${torch_package}/lib")
  if(leaks)
    file(REMOVE_RECURSE ${work})
    message(FATAL_ERROR "${file} names a path of this machine: ${leaks}")
  endif()
endforeach()
file(REMOVE_RECURSE ${work})
