# SPDX-License-Identifier: BSD-3-Clause
"""What nvcc made of the CUDA kernels: registers, spills, and the machine code of their hot loops.

No GPU is needed: nvcc compiles kernels/cuda for each architecture, ptxas tells what it used, and
nvdisasm prints the instructions. `make cuda-report` calls this. What should come out: ../expect.

A kernel's hot loop is the shortest way round the loop of exponentials that has most of its vector
loads, and exponentials of all that these bring: the way of a row's full rounds where no optional
input is there. What it costs is
counted, and compared with what a GPU can issue and read: an estimate, from data sheets, of what
bounds it.
"""
