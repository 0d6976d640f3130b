# SPDX-License-Identifier: BSD-3-Clause
"""nvcc and nvdisasm: the kernels' source in, ptxas's log and the machine code out."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

CUDA = Path(__file__).resolve().parents[1]
ROOT = CUDA.parents[1]
CACHE = ROOT / "build" / "sass"
# As kernels.cu is compiled for each: its name in types.cuh, and the namespace of its code.
STORAGE = {
    "float": "of_float",
    "double": "of_double",
    "BFloat16": "of_bfloat16",
    "Half": "of_half",
}
ARCHITECTURES = [75, 80, 86, 89, 90, 100, 120]
# A selection, which takes minutes.
QUICK_ARCHITECTURES = [80, 90, 100]
QUICK_STORAGE = ["float", "BFloat16"]


class MissingToolError(RuntimeError):
    """Nothing to compile or to disassemble with."""


def find_nvcc() -> Path:
    """nvcc of PATH, CUDA_HOME or /usr/local/cuda."""
    on_path = shutil.which("nvcc")
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    candidates = [Path(home) / "bin" / "nvcc" for home in homes if home]
    for path in [Path(on_path)] if on_path else candidates:
        if path.exists():
            return path
    raise MissingToolError("no nvcc: put it on PATH, or name its toolkit with CUDA_HOME")


def find_nvdisasm(nvcc: Path) -> Path:
    """nvdisasm of NVDISASM, PATH, the toolkit, or the venv that `make cuda-report` makes."""
    named = os.environ.get("NVDISASM") or shutil.which("nvdisasm")
    candidates = [Path(named)] if named else []
    candidates.append(nvcc.resolve().parent / "nvdisasm")
    venv = ROOT / "build" / "nvdisasm-venv"
    candidates += sorted(venv.glob("lib/python*/site-packages/nvidia/*/bin/nvdisasm"))
    for path in candidates:
        if path.exists():
            return path
    raise MissingToolError("no nvdisasm: `make cuda-report` installs it, or name it with NVDISASM")


def sources_digest(*others: Path) -> str:
    """Of everything that a kernel is compiled from, and of other files."""
    digest = hashlib.sha256()
    folder = ROOT / "kernels"
    for path in sorted([folder / "problem.h", *(folder / "cuda").iterdir(), *others]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def stamp(*tools: str) -> str:
    """A line of a document that these folders of tests/cuda make of the kernels.

    It is another one as soon as their code is, or the kernels', but for comments of the latter.
    """
    digest = hashlib.sha256()
    for path in sorted([ROOT / "kernels" / "problem.h", *(ROOT / "kernels" / "cuda").iterdir()]):
        code = re.sub(r"//.*", "", path.read_text())
        digest.update(" ".join([path.name, *code.split()]).encode())
    for path in sorted(file for tool in tools for file in (CUDA / tool).rglob("*.*")):
        if path.suffix in (".py", ".h", ".cpp"):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return f"<!-- made of sources {digest.hexdigest()[:16]} -->"


def run(command: Sequence[str | Path]) -> tuple[str, str]:
    """Its stdout and stderr."""
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if result.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{result.stdout}{result.stderr}")
    return result.stdout, result.stderr


def compile_unit(nvcc: Path, storage: str, arch: int, file: Path) -> str:
    """kernels.cu for a storage type; what ptxas said.

    The file is a .cubin or, of another suffix, PTX.
    """
    command: list[str | Path] = [nvcc, "-std=c++20", "-O3", "--expt-relaxed-constexpr", "-I."]
    kind = ["-cubin", "-Xptxas", "-v"] if file.suffix == ".cubin" else ["-ptx"]
    command += [f"-arch=sm_{arch}", *kind, "-o", file]
    command += [f"-DFUSED_CE_STORAGE={storage}", f"-DFUSED_CE_STORAGE_NAME={STORAGE[storage]}"]
    return run([*command, "kernels/cuda/kernels.cu"])[1]


def made(file: Path, make: Callable[[Path], object]) -> Path:
    """A file that `make` writes unless it is there.

    In a folder of its own at first: processes that make it at the same time do not meet.
    """
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            make(Path(folder) / file.name)
            (Path(folder) / file.name).replace(file)
    return file


def kept(nvcc: Path, storage: str, arch: int) -> Path:
    """Where what is made of a unit lies, but for its suffix, until a source changes."""
    version = hashlib.sha256(run([nvcc, "--version"])[0].encode()).hexdigest()[:8]
    return CACHE / f"{sources_digest()}-{version}" / f"{storage}.sm_{arch}"


def ptx(nvcc: Path, storage: str, arch: int) -> str:
    stem = kept(nvcc, storage, arch)
    file = stem.with_name(stem.name + ".ptx")
    return made(file, lambda file: compile_unit(nvcc, storage, arch, file)).read_text()


def build(nvcc: Path, nvdisasm: Path, storage: str, arch: int) -> tuple[str, str]:
    """What ptxas said and nvdisasm printed."""
    stem = kept(nvcc, storage, arch)
    log, sass = stem.with_name(stem.name + ".log"), stem.with_name(stem.name + ".sass")

    def make(file: Path) -> None:
        cubin, said = file.with_suffix(".cubin"), file.with_suffix(".log")
        said.write_text(compile_unit(nvcc, storage, arch, cubin))
        file.write_text(run([nvdisasm, "-c", cubin])[0])
        said.replace(log)

    made(sass, make)
    return log.read_text(), sass.read_text()
