"""The start call of every notebook."""

from __future__ import annotations

import builtins
import os
import random
import shutil
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
from filelock import FileLock

from ecmf_utils import code
from ecmf_utils.files import EcmfError, data_dir

from . import parameters, profiles, reruns, steps

TINY = "tiny"


def start(name: str, scope: dict[str, Any]) -> SimpleNamespace:
    """Begin a notebook: check its parameters, build or require what it needs, seed, set the theme.

    Run by hand, a parameter left at its default takes the profile's value, as in a batch run.
    On `tiny` the outputs of earlier notebooks are built when they are missing, so that any notebook
    can be run first.

    Parameters
    ----------
    name : str
        The notebook's own name, `22_extract_scene`.
    scope : dict
        The notebook's `globals()`; the parameters in it are replaced by their checked values.

    Returns
    -------
    SimpleNamespace
        The parameters as attributes.

    Raises
    ------
    EcmfError
        A parameter of the wrong type, an unknown profile, or a missing earlier output.
    """
    name = parameters.notebook_name(name)
    values = _values(name, scope)
    scope.update(values)
    profile = values.get("profile", TINY)
    elsewhere = steps.trained_elsewhere(values)
    _need_upstream(name, profile, elsewhere)
    if not elsewhere:  # else it is a detour that replaces none of the outputs
        reruns.note_start(name, profile, values)
    seed_everything(values.get("seed", 0))
    _limit_threads()
    _show_whole_sentences()
    seed = f" · seed {values['seed']}" if "seed" in values else ""
    # the builtin, since a notebook may have a name `print` of its own in `scope`
    builtins.print(f"{name} · profile {profile}{seed} · {device(values.get('device', 'auto'))}")
    return SimpleNamespace(**values)


def _values(name: str, scope: dict[str, Any]) -> dict[str, Any]:
    known = parameters.declared(name)
    given = {key: parameters.coerce(scope.get(key, p.default), p, name) for key, p in known.items()}
    if os.environ.get("ECMF_BATCH") == "1":  # the runner has resolved them already
        return given
    profile = given.get("profile", TINY)
    resolved = profiles.resolve(name, profile)
    return {key: resolved[key] if given[key] == known[key].default else given[key] for key in known}


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and, when it is loaded, PyTorch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(seed)


def device(wanted: str = "auto") -> str:
    """`cpu`, `cuda` or `mps`; PyTorch (seconds to import) is asked only where one could be."""
    if wanted != "auto":
        return wanted
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") == ""
    if sys.platform != "darwin" and (hidden or not shutil.which("nvidia-smi")):
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _limit_threads() -> None:
    """One thread for linear algebra: its threads wait for each other, for minutes on a busy machine.

    The matrices are small, the processes are many; PyTorch keeps threads of its own.
    """
    from threadpoolctl import threadpool_limits

    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # for what is not loaded yet
    os.environ.setdefault("MKL_NUM_THREADS", "1")
    threadpool_limits(1, user_api="blas")


def _show_whole_sentences() -> None:
    import pandas as pd

    pd.set_option("display.max_colwidth", 200)


def _need_upstream(name: str, profile: str, train_profile: str = "") -> None:
    if not steps.missing(name, profile) and not train_profile:
        return
    if profile != TINY or os.environ.get("ECMF_BUILDING") == profile:
        return steps.require(name, profile, train_profile)
    lock = data_dir(profile) / ".lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        todo = steps.missing(name, profile)
        for number, needed in enumerate(todo, 1):
            _tell(f"first use: building what comes before, {number} of {len(todo)}: {needed} …")
            _build(needed, profile, name)
    _tell("")


def _build(needed: str, profile: str, name: str) -> None:
    command = [sys.executable, "-m", "ecmf_workflow.cli", "run", needed, "--profile", profile]
    done = subprocess.run(command, env=child_env(ECMF_BUILDING=profile), capture_output=True, text=True)
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
        raise EcmfError(f"{name} needs {needed}, which failed: {lines[-1]}")


def child_env(**more: str) -> dict[str, str]:
    """The environment for a run that this process starts and that must end with it."""
    own = {"ECMF_BATCH", "ECMF_LOG_FD", "ECMF_PARENT", "JPY_PARENT_PID", "MPLBACKEND"}
    kept = {key: value for key, value in os.environ.items() if key not in own}
    path = os.pathsep.join(filter(None, [str(code.PARENT), kept.get("PYTHONPATH")]))
    return {**kept, "PYTHONPATH": path, "ECMF_PARENT": f"{os.getpid()}", **more}


def _tell(line: str) -> None:
    """Show a passing line that the notebook's saved outputs do not keep; nothing under pytest."""
    if {"PYTEST_VERSION", "ECMF_BATCH"} & os.environ.keys() or os.environ.get("TQDM_DISABLE") == "1":
        return
    if "ipykernel" in sys.modules:
        from IPython.display import clear_output

        clear_output(wait=not line)
        if line:
            builtins.print(line, flush=True)


def _render_one_line(error: EcmfError) -> list[str]:
    return [f"\x1b[31m{error}\x1b[0m"]


# IPython asks an exception for this: a mistake that the user can mend needs no traceback.
EcmfError._render_traceback_ = _render_one_line


# ---- what a corpus holds before any model sees it, as tables; and what can be measured on a sample of clips


class Note(str):
    """One line in place of a table or figure that would be empty."""

    __repr__ = str.__str__

    def _repr_markdown_(self) -> str:
        return str(self)
