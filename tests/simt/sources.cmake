# SPDX-License-Identifier: BSD-3-Clause
# The machine that runs kernels: what is compiled along with them.
set(SIMT_SOURCES
    ${CMAKE_CURRENT_LIST_DIR}/machine/barrier.cpp
    ${CMAKE_CURRENT_LIST_DIR}/machine/block.cpp
    ${CMAKE_CURRENT_LIST_DIR}/machine/failure.cpp
    ${CMAKE_CURRENT_LIST_DIR}/machine/fiber.cpp
    ${CMAKE_CURRENT_LIST_DIR}/machine/grid.cpp
    ${CMAKE_CURRENT_LIST_DIR}/machine/launch.cpp
    ${CMAKE_CURRENT_LIST_DIR}/machine/scheduler.cpp
    ${CMAKE_CURRENT_LIST_DIR}/machine/shared_memory.cpp
    ${CMAKE_CURRENT_LIST_DIR}/machine/warp.cpp)
