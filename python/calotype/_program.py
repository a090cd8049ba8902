"""The `calotype` on PATH: the C++ program that the package carries."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn


def path() -> Path:
    """Where the program is."""
    return Path(__file__).with_name("bin") / "calotype"


def main() -> NoReturn:
    """Becomes the program, with this process's arguments."""
    program = os.fspath(path())
    os.execv(program, [program, *sys.argv[1:]])
