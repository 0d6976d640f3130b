# SPDX-License-Identifier: BSD-3-Clause
"""What the package says of itself, where pyproject.toml alone cannot tell."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def metadata() -> dict[str, Any]:
    """Arguments of setuptools.setup.

    With FUSED_CE_RELEASE_WHEEL=1 the wheel names the torch that it was compiled against, in its
    version (0.2.0+torch2.13cpu or 0.2.0+torch2.13cu130) and in what it requires.
    """
    said: dict[str, Any] = {
        "long_description": long_description(),
        "long_description_content_type": "text/markdown",
        "install_requires": ["torch>=2.11"],
    }
    if os.environ.get("FUSED_CE_RELEASE_WHEEL") == "1":
        import torch

        with_cuda = os.environ.setdefault("FORCE_CUDA", "0") == "1"  # the label must not lie
        minor = ".".join(torch.__version__.split(".")[:2])
        label = local_label(minor, torch.version.cuda if with_cuda else None)
        said["install_requires"] = [f"torch=={minor}.*"]
        said["options"] = {"egg_info": {"tag_build": f"+{label}"}}
    return said


def local_label(torch_minor: str, cuda: str | None) -> str:
    device = "cpu" if cuda is None else "cu" + "".join(cuda.split(".")[:2])
    return f"torch{torch_minor}{device}"


def long_description() -> str:
    """README.md, its relative links made absolute: the package index has no files beside it."""
    version = _line("python/fused_ce/__init__.py", "__version__")
    return absolute(
        (ROOT / "README.md").read_text(encoding="utf-8"), _line("pyproject.toml", "Source"), version
    )


# Code, which stays as it is, or the target of a link or an image.
_CODE_OR_TARGET = re.compile(
    r'```.*?```|`[^`\n]*`|(?P<before>\]\(|\b(?:src|href)=")(?P<target>[^\s)"]+)', re.DOTALL
)


def absolute(markdown: str, repository: str, version: str) -> str:
    def replaced(match: re.Match[str]) -> str:
        target = match["target"]
        if target is None or re.match(r"[a-z]+:|#", target):
            return match[0]
        kind = "raw" if target.endswith((".png", ".svg", ".jpg", ".gif")) else "blob"
        return f"{match['before']}{repository}/{kind}/v{version}/{target}"

    return _CODE_OR_TARGET.sub(replaced, markdown)


def _line(file: str, name: str) -> str:
    """The string that a line of a file gives to a name (Python 3.10 has no reader of TOML)."""
    found = re.search(rf'^{name} = "(.+)"', (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
    assert found, f"{file} has no {name}"
    return found[1]
