# SPDX-License-Identifier: BSD-3-Clause
"""How fast the CUDA kernels would be: a model, of which no GPU has confirmed a figure.

`make cuda-model` asks the launchers what they launch (`launches`), nvcc what it made of those
kernels (`sass`), and data sheets what a GPU gives (`gpus`); it then lets the warps of one
multiprocessor go through what they load and compute (`programs`), event by event
(`multiprocessor`), as often as the grid makes them (`estimate`). tests/cuda/model.md says what it
assumes, and what it leaves out.
"""
