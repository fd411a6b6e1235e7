"""The start call of every notebook: `notebook.start(name, globals())`."""

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
import pandas as pd
from filelock import FileLock

from ecmf_utils import code
from ecmf_utils.files import EcmfError, data_dir

from . import parameters, profiles, reruns, steps

TINY = "tiny"


def start(name: str, scope: dict[str, Any]) -> SimpleNamespace:
    """Begin a notebook: check its parameters, build or require what it needs, seed, and print one line.

    In a run by hand, a parameter that has its default takes the profile's value, as in a batch run.
    On `tiny`, outputs of earlier notebooks that are missing are built, so that any notebook can run first.

    Parameters
    ----------
    name : str
        The notebook's own name, `22_extract_scene`.
    scope : dict
        The notebook's `globals()`. The parameters in it are replaced by their checked values.

    Returns
    -------
    SimpleNamespace
        The parameters as attributes.

    Raises
    ------
    EcmfError
        A parameter of the wrong type, an unknown profile, or a missing output of an earlier notebook.
    """
    name = parameters.find_notebook(name)
    values = _resolve_values(name, scope)
    scope.update(values)
    profile = values.get("profile", TINY)
    train_profile = steps.find_training_profile(values)
    _build_or_require_upstream(name, profile, train_profile)
    if not train_profile:  # a run that trains on another profile replaces none of the outputs
        reruns.note_start(name, profile, values)
    seed_everything(values.get("seed", 0))
    _limit_threads()
    pd.set_option("display.max_colwidth", 200)  # tables show whole sentences
    seed = f" · seed {values['seed']}" if "seed" in values else ""
    # the builtin, since a notebook may have a name `print` of its own in `scope`
    builtins.print(f"{name} · profile {profile}{seed} · {device(values.get('device', 'auto'))}")
    return SimpleNamespace(**values)


def _resolve_values(name: str, scope: dict[str, Any]) -> dict[str, Any]:
    declared = parameters.read_parameters(name)
    given = {key: parameters.coerce(scope.get(key, p.default), p, name) for key, p in declared.items()}
    if os.environ.get("ECMF_BATCH") == "1":  # the runner has resolved them already
        return given
    resolved = profiles.resolve(name, given.get("profile", TINY))
    return {key: resolved[key] if given[key] == p.default else given[key] for key, p in declared.items()}


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and, where it is loaded, PyTorch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(seed)


def device(wanted: str = "auto") -> str:
    """Choose the device: `cpu`, `cuda` or `mps`. `wanted` is one of these, or `auto` for the best that is there."""
    if wanted != "auto":
        return wanted
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") == ""
    if sys.platform != "darwin" and (hidden or not shutil.which("nvidia-smi")):
        return "cpu"
    import torch  # takes seconds, so only where there can be another device

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _limit_threads() -> None:
    """Use one thread for linear algebra. On a busy machine its threads wait minutes for each other.

    The matrices are small and the processes are many. PyTorch has threads of its own, which stay.
    """
    from threadpoolctl import threadpool_limits

    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # for libraries that are not loaded yet
    os.environ.setdefault("MKL_NUM_THREADS", "1")
    threadpool_limits(1, user_api="blas")


def _build_or_require_upstream(name: str, profile: str, train_profile: str = "") -> None:
    """Build what is missing on `tiny`; on other profiles raise an error that names the command."""
    if not steps.find_missing(name, profile) and not train_profile:
        return
    if profile != TINY or os.environ.get("ECMF_BUILDING") == profile:
        return steps.require(name, profile, train_profile)
    lock = data_dir(profile) / ".lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        missing = steps.find_missing(name, profile)  # asked again: another process may have built them
        for number, needed in enumerate(missing, 1):
            _show_progress(f"first use: building what comes before, {number} of {len(missing)}: {needed} …")
            _build(needed, profile, name)
    _show_progress("")


def _build(needed: str, profile: str, name: str) -> None:
    """Run one notebook that `name` needs, in a process of its own."""
    command = [sys.executable, "-m", "ecmf_workflow.cli", "run", needed, "--profile", profile]
    done = subprocess.run(command, env=make_child_env(ECMF_BUILDING=profile), capture_output=True, text=True)
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
        raise EcmfError(f"{name} needs {needed}, which failed: {lines[-1]}")


def make_child_env(**more: str) -> dict[str, str]:
    """Make the environment for a run that this process starts, and that has to end with this process.

    `more` are further variables.
    """
    left_out = {"ECMF_BATCH", "ECMF_LOG_FD", "ECMF_PARENT", "JPY_PARENT_PID", "MPLBACKEND"}
    kept = {key: value for key, value in os.environ.items() if key not in left_out}
    path = os.pathsep.join(filter(None, [str(code.PARENT), kept.get("PYTHONPATH")]))
    return {**kept, "PYTHONPATH": path, "ECMF_PARENT": f"{os.getpid()}", **more}


def _show_progress(line: str) -> None:
    """Show a line in JupyterLab until the next one; an empty line clears it, so that the saved outputs lack it."""
    if {"PYTEST_VERSION", "ECMF_BATCH"} & os.environ.keys() or os.environ.get("TQDM_DISABLE") == "1":
        return
    if "ipykernel" in sys.modules:
        from IPython.display import clear_output

        clear_output(wait=not line)
        if line:
            builtins.print(line, flush=True)


def _render_one_line(error: EcmfError) -> list[str]:
    return [f"\x1b[31m{error}\x1b[0m"]


# IPython calls this method of an exception. A mistake that the user can correct needs no traceback.
EcmfError._render_traceback_ = _render_one_line


class Note(str):
    """One line that is shown in place of a table or figure that would be empty."""

    __repr__ = str.__str__

    def _repr_markdown_(self) -> str:
        return str(self)
