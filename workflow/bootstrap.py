"""Create .venv and install the locked packages with pip, showing progress; standard library only."""

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOCK = ROOT / "requirements.lock"
READY = VENV / ".ready"
NEEDED_GB = 6


def check() -> None:
    """Stop with one line for each thing this machine lacks."""
    lacks = []
    if sys.version_info < (3, 11):
        lacks.append(
            f"Python 3.11 or newer is needed, {sys.executable} is {sys.version.split()[0]}: "
            "install one and call `make PYTHON=python3.11 …`"
        )
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        lacks.append("Python's venv support is missing: on Debian or Ubuntu `apt-get install python3-venv`")
    free = shutil.disk_usage(ROOT).free / 1e9
    if not READY.exists() and free < NEEDED_GB:
        lacks.append(f"{NEEDED_GB} GB of free disk are needed for .venv, {free:.1f} GB are free")
    if lacks:
        sys.exit("\n".join(f"setup: {line}" for line in lacks))


def state() -> str:
    """Changes when the lock or the package's own metadata change."""
    files = (LOCK, ROOT / "pyproject.toml")
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()


def pip(*args: str, total: int = 0) -> None:
    """Run pip; with `total`, one short line for every tenth package instead of pip's pages."""
    command = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", *args]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    seen, tail = 0, []
    for line in process.stdout:
        tail = [*tail[-30:], line]
        if total and line.startswith(("Collecting ", "Processing ")):
            seen += 1
            if seen % 10 == 0 or seen == total:
                print(
                    f"setup: [{min(seen, total):3}/{total}] {Path(line.split()[1]).name}",
                    flush=True,
                )
        elif line.startswith("Installing collected"):
            print("setup: unpacking …", flush=True)
    if process.wait():
        sys.exit("".join(tail) + "setup: pip failed (see above); mend it and run the same command again")


def main() -> None:
    """Check, create, install; a second call with the same lock does nothing."""
    check()
    if READY.exists() and READY.read_text() == state() and PYTHON.exists():
        os.utime(READY)
        return
    if not PYTHON.exists():
        print(f"setup: creating {VENV.name} with Python {sys.version.split()[0]}", flush=True)
        venv.create(VENV, with_pip=True, clear=True)
    total = sum(1 for line in LOCK.read_text().splitlines() if "==" in line)
    print(f"setup: installing {total} pinned packages (about 1.5 GB to download, once)", flush=True)
    pip("-r", str(LOCK), total=total)
    pip("--no-deps", "--no-build-isolation", "-e", str(ROOT))
    READY.write_text(state())
    print("setup: done", flush=True)


if __name__ == "__main__":
    main()
