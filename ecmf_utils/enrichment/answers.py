"""Enrich transcripts by a language model: each is asked about once, and the answers are checked and cached."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, Field, ValidationError

from ecmf_utils.files import append_line, data_dir, digest, read_lines, read_parquet, write_parquet
from ecmf_utils.progress import track

from . import language_models

PROMPT_VERSION = 1  # raise it when PROMPT changes: every transcript is then asked again
PROMPT = (
    """You read one spoken sentence without sound or picture. Judge how the speaker feels.
Answer with one JSON object and nothing else:
{{"distribution": {{{keys}}}, "cues": [...], "reading": "..."}}
distribution: probabilities that sum to 1; spread them when the words leave it open.
cues: up to three quotations from the sentence that carry feeling, or an empty list.
reading: one sentence of at most 25 words on what the speaker feels and why.
"""
    + language_models.QUESTION
    + "{text}"
)
REPAIR = "That was not the JSON object asked for ({fault}). Answer again with the JSON object only."
SUM_TOLERANCE = 0.05


class Answer(BaseModel):
    """What a language model must return for one transcript."""

    distribution: dict[str, float]
    cues: list[str] = Field(max_length=8)
    reading: str = Field(min_length=1, max_length=600)


# ---- asking


def enrich(profile: str, texts: Iterable[str], labels: list[str], **model_settings: Any) -> pd.DataFrame:
    """Ask a model about the transcripts of a corpus and write `enriched/answers.parquet`.

    Parameters
    ----------
    profile : str
        Whose answers they become.
    texts : iterable of str
        Transcripts; empty ones are left out.
    labels : list of str
        The label set that the model chooses from.
    **model_settings
        `model`, `base_url`, `allow_remote`, as for `ask`.

    Returns
    -------
    DataFrame
        See `ask`.
    """
    answers = ask(profile, texts, labels, **model_settings)
    path = data_dir(profile) / "enriched" / "answers.parquet"
    write_parquet(answers, path, {"labels": labels, **model_settings})
    return answers


def ask(
    profile: str,
    texts: Iterable[str],
    labels: list[str],
    model: str = "replay",
    base_url: str = "",
    allow_remote: bool = False,
) -> pd.DataFrame:
    """Ask a model about each distinct transcript; an answer that is in the cache is used again.

    Parameters
    ----------
    profile : str
    texts : iterable of str
        Transcripts; empty ones are left out.
    labels : list of str
        The labels of the distribution in the answer.
    model, base_url, allow_remote
        As for `language_models.make_client`.

    Returns
    -------
    DataFrame
        One row for each distinct transcript: `text`, `status` (ok / refused), `problem`, `p_<label>`, `cues`,
        `reading`, `raw`, `model`, `prompt_version`, `key`.
    """
    cache_path = data_dir(profile) / "enriched" / "cache.jsonl"
    distinct = sorted({text for text in texts if isinstance(text, str) and text.strip()})
    cache = _read_cache(cache_path)
    client = language_models.make_client(model, base_url, allow_remote)
    rows = []
    for text in track(distinct, len(distinct), "enrich"):
        key = digest(model, base_url, PROMPT_VERSION, build_messages(text, labels), language_models.SAMPLING)
        if key not in cache:
            cache[key] = _ask_about(client, text, labels)
            append_line(cache_path, {"key": key} | cache[key], "answers so far are kept")
        rows.append(_make_row(text, key, cache[key], labels, model))
    columns = ["text", "key", "status", "problem", *(f"p_{label}" for label in labels)]
    columns += ["cues", "reading", "raw", "model", "prompt_version"]
    return pd.DataFrame(rows, columns=columns).astype({"problem": "str", "reading": "str", "cues": "str"})


def _read_cache(path: Path) -> dict[str, dict[str, str]]:
    entries = (entry for entry in read_lines(path) if {"key", "raw", "problem"} <= set(entry))
    return {entry["key"]: {"raw": entry["raw"], "problem": entry["problem"]} for entry in entries}


def _ask_about(client: language_models.Client, text: str, labels: list[str]) -> dict[str, str]:
    """The raw answer of a model about one transcript, and its problem; after a wrong answer it is asked once more."""
    chat, raw, fault = build_messages(text, labels), "", ""
    for _ in range(2):
        try:
            raw = client(chat)
            parse_answer(raw, labels)
            return {"raw": raw, "problem": ""}
        except LookupError as error:  # `replay` has no answer to this transcript
            return {"raw": "", "problem": str(error)}
        except ValueError as error:
            fault = str(error)
            chat = [
                *chat,
                {"role": "assistant", "content": raw},
                {"role": "user", "content": REPAIR.format(fault=fault)},
            ]
    return {"raw": raw, "problem": f"invalid_answer: {fault}"}


def build_messages(text: str, labels: list[str]) -> list[dict[str, str]]:
    """The chat that is sent for a transcript; nothing but the transcript enters it.

    Parameters
    ----------
    text : str
        The transcript.
    labels : list of str
        What the answer's distribution is to be over.

    Returns
    -------
    list of dict
        Messages with `role` and `content`.
    """
    keys = ", ".join(f'"{label}": 0.0' for label in labels)
    return [{"role": "user", "content": PROMPT.format(keys=keys, text=text)}]


def parse_answer(raw: str, labels: list[str]) -> Answer:
    """Read and check the answer of a model.

    Raises
    ------
    ValueError
        There is no JSON object, or it has wrong keys, wrong labels or wrong probabilities.
    """
    start, end = raw.find("{"), raw.rfind("}")
    if start < 0 or end < start:
        raise ValueError("no JSON object")
    try:
        answer = Answer.model_validate_json(raw[start : end + 1])
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'answer'}: {first['msg']}") from error
    if set(answer.distribution) != set(labels):
        raise ValueError(f"distribution must have exactly the keys {', '.join(labels)}")
    values = np.array([answer.distribution[label] for label in labels])
    if not np.isfinite(values).all() or (values < 0).any() or abs(values.sum() - 1) > SUM_TOLERANCE:
        raise ValueError("distribution must be non-negative and sum to 1")
    answer.distribution = dict(zip(labels, (values / values.sum()).tolist(), strict=True))
    return answer


def _make_row(text: str, key: str, entry: dict[str, str], labels: list[str], model: str) -> dict[str, Any]:
    row: dict[str, Any] = {
        "text": text,
        "key": key,
        "raw": entry["raw"],
        "model": model,
        "prompt_version": PROMPT_VERSION,
        "problem": entry["problem"] or None,
    }
    if entry["problem"]:
        return row | {"status": "refused", "cues": None, "reading": None} | {f"p_{name}": None for name in labels}
    answer = parse_answer(entry["raw"], labels)
    shares = {f"p_{name}": answer.distribution[name] for name in labels}
    return row | {"status": "ok", "cues": "; ".join(answer.cues), "reading": answer.reading} | shares


# ---- the answers of a corpus


def read_answers(profile: str) -> pd.DataFrame:
    """The answers of `30_enrich_text`, one row for each distinct transcript."""
    path = data_dir(profile) / "enriched" / "answers.parquet"
    return read_parquet(path, made_by=f"`ecmf run 30 --profile {profile}`")


def read_distributions(profile: str, clips: pd.DataFrame, labels: list[str]) -> np.ndarray:
    """The model's distribution for each clip.

    Parameters
    ----------
    profile : str
        Whose answers to read.
    clips : DataFrame (N rows)
        Clips with their `text`.
    labels : list of str
        Names of the C classes.

    Returns
    -------
    float array, shape (N, C)
        NaN where the model gave none.

    Raises
    ------
    EcmfError
        Notebook 30 has not run.
    """
    answers = read_answers(profile).set_index("text")
    columns = [f"p_{label}" for label in labels]
    return answers.reindex(clips["text"].to_numpy(object))[columns].to_numpy(float)


def render_answer(answer: dict[str, Any], labels: list[str]) -> str | None:
    """The enriched text that the `context` branch encodes; None where the model gave no answer.

    Parameters
    ----------
    answer : dict
        A row of the answers.
    labels : list of str
        The label set, in order.
    """
    if answer.get("status") != "ok":
        return None
    shares = sorted(((answer[f"p_{label}"], label) for label in labels), reverse=True)
    likely = ", ".join(f"{label} {share:.0%}" for share, label in shares if share >= 0.15)
    cues = f" Cues: {answer['cues']}." if answer["cues"] else ""
    return f"{answer['reading']} Likely feeling: {likely}.{cues}"
