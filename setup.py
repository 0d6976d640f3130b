# SPDX-License-Identifier: BSD-3-Clause
"""A thin shim: setuptools makes the wheel, CMake builds everything in it (see CMakeLists.txt).

Environment: MAX_JOBS bounds the compilers at once; CMAKE_ARGS goes to CMake, after our own
arguments; FUSED_CE_BUILD_DIR moves the build tree, which is kept between builds. CUDA_HOME names
the toolkit, TORCH_CUDA_ARCH_LIST the GPUs; FORCE_CUDA=0 builds without CUDA, and FORCE_CUDA=1 fails
where there is none. FUSED_CE_RELEASE_WHEEL=1 names torch and CUDA in the wheel's version.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import setuptools
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.append(str(ROOT))

from build_tools.lacks import find_tool, lacks, reason, setuptools_lack  # noqa: E402
from build_tools.metadata import metadata  # noqa: E402


def fail(line: str) -> NoReturn:
    """The last line of the build's output: what is missing, and what to type."""
    raise SystemExit(f"fused_ce {line}")


def cuda_compiler() -> list[str]:
    """CUDA_HOME's nvcc; CMake looks for it elsewhere if there is none (cmake/FusedCECuda.cmake)."""
    import torch.version

    nvcc = Path(os.environ.get("CUDA_HOME", "")) / "bin" / "nvcc"
    off = torch.version.cuda is None or os.environ.get("FORCE_CUDA") == "0"
    if off or "CUDA_HOME" not in os.environ or not nvcc.exists():
        return []
    return [f"-DCMAKE_CUDA_COMPILER={nvcc}"]


class CMakeBuild(build_ext):
    def run(self) -> None:
        if line := next(lacks(), None):
            fail(line)
        import torch.utils

        cmake = str(find_tool("cmake"))
        default_build = f"build/cmake-{sys.implementation.cache_tag}"
        build = ROOT / os.environ.get("FUSED_CE_BUILD_DIR", default_build)
        configure = [cmake, "-S", str(ROOT), "-B", str(build)]
        if not (build / "CMakeCache.txt").exists():  # a build tree keeps its generator
            ninja = find_tool("ninja")
            if ninja is not None and "CMAKE_GENERATOR" not in os.environ:
                configure += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
            configure += ["-DCMAKE_BUILD_TYPE=Release"]
        configure += [
            # Forget another torch that this tree may have been configured with.
            *("-UTorch_DIR", "-UCaffe2_DIR", "-Uc10_LIBRARY", "-UTORCH_LIBRARY"),
            f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}",
            f"-DPython_EXECUTABLE={sys.executable}",
            "-DFUSED_CE_BUILD_PYTHON=ON",
            *cuda_compiler(),
            *shlex.split(os.environ.get("CMAKE_ARGS", "")),
        ]
        jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)

        result = subprocess.run(configure, stderr=subprocess.PIPE, text=True)
        sys.stderr.write(result.stderr)
        if result.returncode:
            fail(reason(result.stderr))
        # Only what goes into the wheel, also in a tree that has the tests configured.
        targets = ["--target", "fused_ce", "_C"]
        if subprocess.run([cmake, "--build", str(build), "--parallel", jobs, *targets]).returncode:
            fail("did not compile: the compiler says why above; of too little memory: MAX_JOBS=1")
        for component in ("cpp", "python"):
            install = [cmake, "--install", str(build), "--component", component, "--strip"]
            subprocess.run([*install, "--prefix", str(self.package_dir())], check=True)

    def package_dir(self) -> Path:
        """Where the package stands: in the sources for an editable install, else in the wheel."""
        return (ROOT / "python" if self.inplace else Path(self.build_lib).resolve()) / "fused_ce"


if line := setuptools_lack(setuptools.__version__):
    fail(line)
setup(
    # It has no sources: it tells setuptools that the wheel is not pure Python.
    ext_modules=[Extension("fused_ce._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
    **metadata(),
)
