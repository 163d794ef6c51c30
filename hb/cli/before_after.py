"""`hb bench before-after`: tests/before_after.py, which measures this working tree against an earlier commit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "tests" / "before_after.py"


def before_after(args) -> int:
    """Returns the script's status: 1 if something is slower."""
    if not SCRIPT.exists():
        raise ValueError("this is for a clone of the repository: there is no tests/before_after.py beside this package")
    words = ["--against", args.against, "--pairs", str(args.pairs), "--threads", str(args.threads)]
    words += ["--only", ",".join(args.only)] if args.only else []
    words += ["--json"] if args.json else []
    return subprocess.run([sys.executable, str(SCRIPT), *words]).returncode
