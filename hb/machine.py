"""Where a number came from: the kind of machine, and the commit. Results and checkpoints carry both."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import torch


def machine() -> str:
    """The kind of machine, in words, without a name: processor, cores, accelerator."""
    cpu = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    words = f"{os.cpu_count()} cores of {cpu}, {torch.get_num_threads()} threads"
    return words + (f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "")


def commit() -> str:
    """The commit this code stands at, with "+changes" if it has been changed since; 'unknown' outside a repository."""
    here = Path(__file__).resolve().parent
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, timeout=10
        )
        same = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "."], cwd=here, capture_output=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    if not head.stdout.strip():
        return "unknown"
    return head.stdout.strip() + ("" if same.returncode == 0 else "+changes")
