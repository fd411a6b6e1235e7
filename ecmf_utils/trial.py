"""A loaded model on a made-up input: its width, whether it repeats itself, how exact half precision is."""

from __future__ import annotations

from typing import Any

import numpy as np

from .paths import EcmfError

MOST_DEVIATION = 0.05  # of a vector in half precision, as a share of its length


def tried(made: dict[str, Any], name: str, kind: str, precision: str) -> dict[str, Any]:
    """Encode a made-up input, so that a model of the wrong kind fails here and not on every clip.

    Parameters
    ----------
    made : dict
        Fields of an `Encoder`: `run`, and where there are any `prepare`, `sample_rate`, `dim` and `net`. The
        precision of `net` and of the recipe is changed where half precision is too far off and nobody asked for it.
    kind : str
        frames, sound or text.
    precision : str
        What was asked for.

    Returns
    -------
    dict
        dim, and for half precision the deviation from float32 as a share of the vector's length.

    Raises
    ------
    EcmfError
        The model cannot encode such an input, or not twice the same way, or half precision was asked
        for and changes a vector by more than `MOST_DEVIATION`.
    """
    rate = made.get("sample_rate") or 16000
    noise = np.random.default_rng(0)
    given = {
        "frames": noise.integers(0, 256, (1, 112, 112, 3)).astype(np.uint8),
        "sound": (np.sin(np.arange(rate) / 10) + noise.normal(0, 0.1, rate)).astype(np.float32),
        "text": "What a day!",
    }[kind]
    try:
        ready = made["prepare"](given) if "prepare" in made else given
        rows, once_more = made["run"]([ready])[0], made["run"]([ready])[0]
        if not np.allclose(rows, once_more, rtol=1e-2, atol=1e-2 * np.abs(rows).max()):
            raise EcmfError(f"{name}: the same input gives another vector every time; such a model cannot be used")
        return {"dim": made.get("dim", int(rows.shape[1]))} | _compared(made, ready, rows, name, precision)
    except EcmfError:
        raise
    except Exception as error:  # whatever a foreign model raises, the user needs one line
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise EcmfError(f"encoder {name!r} cannot encode {kind}: {reason}") from error


def _compared(made: dict[str, Any], ready: Any, rows: np.ndarray, name: str, precision: str) -> dict[str, Any]:
    """How far half precision is from float32; too far is refused, or undone where nobody asked for it."""
    net = made.get("net")
    if net is None or net.precision not in ("bf16", "fp16"):
        return {}
    used, net.precision = net.precision, "fp32"
    exact = made["run"]([ready])[0].mean(0)
    found = float(np.linalg.norm(rows.mean(0) - exact) / max(float(np.linalg.norm(exact)), 1e-12))
    if found <= MOST_DEVIATION:
        net.precision = used
    elif precision == "auto":
        made["recipe"]["precision"] = "fp32"
    else:
        raise EcmfError(f"{name}: {used} changes a vector by {found:.0%} of its length; say precision=fp32 or bf16")
    return {"deviation": found}
