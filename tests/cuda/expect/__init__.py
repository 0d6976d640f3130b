# SPDX-License-Identifier: BSD-3-Clause
"""What the CUDA kernels shall cost: expected.json, held against nvcc's code and the launchers.

Of each kernel on each architecture: instructions an element, bytes in flight. Of each kind of call:
its launches. Of rows of few classes: all instructions that they take (../ptx).

`make cuda-report` says what is missed, for every type and architecture; tests/python/test_sass.py
does for a selection. After a change of the kernels, `python -m expect --write` writes expected.json
anew: the difference is what there is to review.
"""
