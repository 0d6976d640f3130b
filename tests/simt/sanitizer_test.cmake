# SPDX-License-Identifier: BSD-3-Clause
# Do the sanitizers see what kernels do wrong? Builds sanitizer_toys.cpp with one and runs it:
#   cmake -DCXX=g++ -DSANITIZER=thread|address -DSOURCE=<this folder> -DBUILD=<folder> -P sanitizer_test.cmake
file(MAKE_DIRECTORY ${BUILD})
if(SANITIZER STREQUAL "thread")
  set(flags -fsanitize=thread)
else()
  set(flags -fsanitize=address,undefined -fno-sanitize-recover=undefined)
endif()

file(WRITE ${BUILD}/empty.cpp "int main() {}\n")
execute_process(COMMAND ${CXX} ${flags} ${BUILD}/empty.cpp -o ${BUILD}/empty
                RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
if(NOT status EQUAL 0)
  message("SKIPPED: ${CXX} cannot link with ${flags}\n${output}")
  return()
endif()

# A randomized address space may lie where ThreadSanitizer wants its own memory.
find_program(SETARCH setarch)
set(run ${BUILD}/toys)
if(SETARCH)
  execute_process(COMMAND ${SETARCH} -R true RESULT_VARIABLE status OUTPUT_QUIET ERROR_QUIET)
  if(status EQUAL 0)
    set(run ${SETARCH} -R ${BUILD}/toys)
  endif()
endif()

include(${SOURCE}/sources.cmake)
set(sources ${SOURCE}/sanitizer_toys.cpp ${SIMT_SOURCES})
execute_process(COMMAND ${CXX} -std=c++20 -O1 -g -DFUSED_CE_SIMT -I${SOURCE} ${flags} ${sources} -pthread
                        -o ${BUILD}/toys COMMAND_ERROR_IS_FATAL ANY)

# expect(toy report): an empty report for a toy that has nothing wrong with it.
function(expect toy report)
  execute_process(COMMAND ${run} ${toy} RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(report STREQUAL "")
    if(NOT status EQUAL 0)
      message(SEND_ERROR "${toy}: nothing is wrong, but it ended with ${status}:\n${output}")
    endif()
  elseif(status EQUAL 0 OR NOT output MATCHES "${report}")
    message(SEND_ERROR "${toy}: no '${report}', it ended with ${status}:\n${output}")
  endif()
endfunction()

if(SANITIZER STREQUAL "thread")
  foreach(order fifo lifo rand:1)
    set(ENV{SIMT_ORDER} ${order})
    expect(race_free "")
    foreach(toy race_between_warps race_within_warp race_of_rewrite race_despite_shuffle)
      expect(${toy} "data race")
    endforeach()
  endforeach()
else()
  expect(in_bounds "")
  expect(global "heap-buffer-overflow")
  expect(static_shared "global-buffer-overflow|out of bounds") # whichever sanitizer is first
  expect(dynamic_shared "heap-buffer-overflow")
  expect(misaligned "misaligned address")
endif()
