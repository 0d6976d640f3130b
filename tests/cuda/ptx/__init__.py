# SPDX-License-Identifier: BSD-3-Clause
"""Runs a kernel's PTX, one block of it, to count what it executes: no GPU is needed.

A problem is as the launchers cut it (model/launches.py has their arguments); its logits are made up
where they are read. What is counted are instructions of a warp as nvcc hands them to ptxas, which
merges some, and drops moves.
"""
