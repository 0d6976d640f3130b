# SPDX-License-Identifier: BSD-3-Clause
# Does what docs/cpp.md says, as it is printed there, in a home directory of its own. Then its program is
# replaced by main.cpp, which asks more. Run by ctest: cmake -DTORCH_DIR= -DBUILD= -P this. Without a
# BUILD, the page's build is made as well: `make libtorch`.
cmake_minimum_required(VERSION 3.22)

get_filename_component(root ${CMAKE_CURRENT_LIST_DIR}/../.. ABSOLUTE)
get_filename_component(torch ${TORCH_DIR}/../../.. ABSOLUTE)

set(temporary "$ENV{TMPDIR}")
if(temporary STREQUAL "")
  set(temporary /tmp)
endif()
string(RANDOM LENGTH 12 suffix)
set(home ${temporary}/fused_ce_consumer_${suffix})

function(fail message)
  file(REMOVE_RECURSE ${home})
  message(FATAL_ERROR "${message}")
endfunction()

# Runs a shell's commands at home, and stops where one fails. CC, CXX and other settings of the caller's
# environment hold, as they would for a user.
function(run_shell commands)
  execute_process(COMMAND ${CMAKE_COMMAND} -E env HOME=${home} sh -e -c "${commands}"
                  RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT result EQUAL 0)
    fail("${commands}\n${result}\n${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

# The blocks of the page that are marked with a language, each in a variable: NAME_0, NAME_1 ... and
# NAME_COUNT. (A list would be cut at every semicolon of theirs.)
function(read_blocks name language)
  file(READ ${root}/docs/cpp.md page)
  set(count 0)
  set(fence "\n```${language}\n")
  string(LENGTH "${fence}" skipped)
  string(FIND "${page}" "${fence}" begin)
  while(NOT begin EQUAL -1)
    math(EXPR begin "${begin} + ${skipped}")
    string(SUBSTRING "${page}" ${begin} -1 page)
    string(FIND "${page}" "```" end)
    string(SUBSTRING "${page}" 0 ${end} block)
    set(${name}_${count} "${block}" PARENT_SCOPE)
    math(EXPR count "${count} + 1")
    string(FIND "${page}" "${fence}" begin)
  endwhile()
  set(${name}_COUNT ${count} PARENT_SCOPE)
endfunction()

read_blocks(commands sh)
read_blocks(project cmake)
read_blocks(program cpp)
if(NOT "${commands_COUNT} ${project_COUNT} ${program_COUNT}" STREQUAL "3 1 1")
  fail("docs/cpp.md: expected blocks to build, to install and to use; a project and its program")
endif()

# What the page takes for granted.
file(MAKE_DIRECTORY ${home}/fused_ce)
foreach(name CMakeLists.txt cmake csrc kernels python)
  file(CREATE_LINK ${root}/${name} ${home}/fused_ce/${name} SYMBOLIC)
endforeach()
file(CREATE_LINK ${torch} ${home}/libtorch SYMBOLIC)

if(DEFINED BUILD)
  file(CREATE_LINK ${BUILD} ${home}/fused_ce/build SYMBOLIC)
else()
  run_shell("${commands_0}")
  set(BUILD ${home}/fused_ce/build)
endif()
run_shell("${commands_1}")
file(WRITE ${home}/app/CMakeLists.txt "${project_0}")
file(WRITE ${home}/app/main.cpp "${program_0}")
run_shell("${commands_2}")
message(STATUS "${output}")

file(READ ${CMAKE_CURRENT_LIST_DIR}/main.cpp program_0)
file(WRITE ${home}/app/main.cpp "${program_0}") # and no copy, which would be as old as the original
run_shell("cd ~/app; cmake --build build; build/app")
message(STATUS "${output}")
if(NOT output MATCHES "consumer: loss")
  fail("main.cpp did not run")
endif()

# Nothing asked for Python on the way.
file(STRINGS ${home}/app/build/CMakeCache.txt python REGEX "^_?P(ython|YTHON)")
if(python)
  fail("CMake looked for Python: ${python}")
endif()

# An installed package names no path of the machine that built it.
file(GLOB package ${home}/.local/lib/cmake/FusedCE/*.cmake ${home}/.local/lib/*.so)
foreach(file IN LISTS package)
  file(STRINGS ${file} leaks REGEX "${BUILD}|${torch}/lib")
  if(leaks)
    fail("${file} names a path of this machine: ${leaks}")
  endif()
endforeach()
file(REMOVE_RECURSE ${home})
