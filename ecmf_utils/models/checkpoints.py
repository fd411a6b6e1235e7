"""Fitted models on disk: arrays as safetensors, everything else as JSON; nothing is pickled."""

from __future__ import annotations

import functools
import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ecmf_utils.files import SCHEMA_VERSION, EcmfError, read_json, show, write_atomic, write_json

ARRAYS, INFO = "model.safetensors", "model.json"


def write_model(folder: Path, arrays: dict[str, np.ndarray], recipe: dict[str, Any], info: dict[str, Any]) -> None:
    """Write a fitted model; `model.json` comes last, so a folder that has it is whole."""
    folder = Path(folder)
    (folder / INFO).unlink(missing_ok=True)
    # safetensors writes the buffer as it lies: a transposed view would come back scrambled
    arrays = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    write_atomic(folder / ARRAYS, lambda tmp: save_file(arrays, tmp))
    write_json(folder / INFO, {"schema_version": SCHEMA_VERSION, "recipe": recipe, **info})


def read_model(folder: Path, recipe: dict[str, Any] | None = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and info of a saved model.

    Raises
    ------
    EcmfError
        Nothing was saved there, a file is broken, or it was made with another configuration.
    """
    info = read_json(Path(folder) / INFO, "50_train_fusion")
    if recipe is not None and info.get("recipe") != recipe:
        raise EcmfError(
            f"{show(folder)}: made with another configuration "
            f"({_moved(info.get('recipe'), recipe)}); train again or restore the setting"
        )
    try:
        return load_file(Path(folder) / ARRAYS), info
    except (OSError, SafetensorError) as error:
        raise EcmfError(f"{show(folder)}: {ARRAYS} is broken ({error}); train again") from error


def _moved(saved: Any, wanted: dict[str, Any]) -> str:
    saved = saved if isinstance(saved, dict) else {}
    keys = [key for key in {**saved, **wanted} if saved.get(key) != wanted.get(key)]
    return "; ".join(f"{key}: {saved.get(key)} there, {wanted.get(key)} here" for key in keys)


@functools.cache
def libraries() -> tuple[str, ...]:
    """Versions of the libraries whose numbers decide a fit."""
    return tuple(importlib.metadata.version(name) for name in ("numpy", "optuna", "scikit-learn", "scipy", "torch"))
