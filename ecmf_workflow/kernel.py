"""Execute a notebook's cells with papermill, in a kernel that never outlives its runner."""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ecmf_utils.code import PARENT
from ecmf_utils.files import ROOT, EcmfError, show, write_text

START_TIMEOUT_S = 300  # a busy machine may take long to start a kernel,
OUTPUT_TIMEOUT_S = 120  # or to hand over a cell's outputs
# The kernel watches the runner from before its first import. It keeps a way to the runner's stderr
# for progress, while its own (libraries, crashes, what ipykernel says as it ends) goes to a file.
BOOT = """
import os
os.environ["ECMF_LOG_FD"] = str(os.dup(2))
os.dup2(os.open(os.environ["ECMF_KERNEL_LOG"], os.O_CREAT | os.O_WRONLY | os.O_TRUNC), 2)
from ecmf_utils import parallel
parallel.die_with_parent(int(os.environ["ECMF_RUNNER"]))
from ipykernel.kernelapp import launch_new_instance
launch_new_instance()
"""


class Failure(Exception):
    """How a run ended when it did not end well: the status to record and one line."""

    def __init__(self, status: str, line: str) -> None:
        super().__init__(line)
        self.status = status


def execute(notebook: Path, copy: Path, values: Mapping[str, Any], progress: bool = False) -> None:
    """Run every cell with the given parameters; `copy` is saved after each one.

    Raises
    ------
    Failure
        A cell raised (`failed`), or the kernel was killed or never answered (`died`).
    EcmfError
        The copy cannot be written.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    for name in ("papermill", "traitlets"):  # what they tell, the one line of the failure tells
        logging.getLogger(name).setLevel(logging.CRITICAL)
    nb, where = notebook.stem, f"see {show(copy)}"
    sockets = tempfile.TemporaryDirectory(prefix="ecmf-", ignore_cleanup_errors=True)
    try:
        papermill.execute_notebook(
            notebook,
            copy,
            parameters=dict(values),
            kernel_name="python3",
            language="python",
            kernel_manager_class=kernel_manager(copy.with_name("kernel.log"), sockets.name),
            start_timeout=START_TIMEOUT_S,
            iopub_timeout=OUTPUT_TIMEOUT_S,
            progress_bar=progress,
            cwd=ROOT,
        )
    except PapermillExecutionError as error:
        name = "" if error.ename == EcmfError.__name__ else f"{error.ename}: "
        first = (error.evalue.strip() or "no message").splitlines()[0]
        line = f"{nb}: {name}{first} (cell In [{error.exec_count}], {where})"
        raise Failure("failed", line) from None
    except DeadKernelError as error:
        cell = put_banner(copy)
        line = f"{nb}: the kernel died in {cell}, most often because memory ran out ({where})"
        raise Failure("died", line) from error
    except RuntimeError as error:
        raise Failure("died", f"{nb}: the kernel does not answer: {error} ({where})") from error
    except OSError as error:
        raise EcmfError(f"{show(copy)}: cannot be written ({error.strerror or error})") from error
    finally:
        sockets.cleanup()


def kernel_manager(log: Path, folder: str) -> type:
    """A kernel manager for this very interpreter, whatever kernelspecs the machine has.

    It talks to the kernel through sockets in `folder`: the usual free TCP port may be taken by the
    kernel of another run before ours gets to it, which then waits for ever.
    """
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from traitlets import default

    path = os.pathsep.join(filter(None, [str(PARENT), os.environ.get("PYTHONPATH")]))

    class OwnKernel(AsyncKernelManager):
        kernel_spec = KernelSpec(
            argv=[
                sys.executable,
                "-c",
                BOOT,
                "-f",
                "{connection_file}",
                "--HistoryManager.enabled=False",
                "--log-level=ERROR",
            ],
            env={
                "ECMF_BATCH": "1",
                "ECMF_RUNNER": str(os.getpid()),
                "PYTHONHASHSEED": "0",
                "PYTHONPATH": path,
                "ECMF_KERNEL_LOG": str(log.absolute()),
                "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            },
            display_name="Python 3",
            language="python",
        )

        @default("transport")
        def _own_transport(self) -> str:
            return "tcp" if os.name == "nt" else "ipc"

        @default("connection_file")
        def _own_connection_file(self) -> str:
            return os.path.join(folder, "kernel.json")

    return OwnKernel


def put_banner(copy: Path) -> str:
    """Say at the top of an executed copy that its kernel died; returns the cell it was in.

    Without it the copy of a killed kernel looks like one that ran to its end.
    """
    try:
        content = json.loads(copy.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # killed before, or while, the copy was first saved
        content = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    codes = [c for c in content["cells"] if c["cell_type"] == "code" and c["source"]]
    # a cell that dies at once has no execution count, but papermill noted when it began
    began = [n for n, c in enumerate(codes, 1) if c["metadata"].get("papermill", {}).get("start_time")]
    cell = f"cell In [{max(began, default=1)}]"
    text = (
        f"> **This run did not finish: the kernel died in {cell}.** What stands below it was never "
        "run. Most often memory ran out: use a smaller batch or fewer workers, then run it again."
    )
    banner = {"cell_type": "markdown", "id": "died", "metadata": {"tags": ["died"]}, "source": text}
    content["cells"].insert(0, banner)
    write_text(copy, json.dumps(content, indent=1, ensure_ascii=False))
    return cell
