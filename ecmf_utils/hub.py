"""Where the weights of a named model are: a folder, the hub's cache on this machine, or the hub."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

from .paths import EcmfError, digest, file_hash, given_path, write_text

DECIDING = (".safetensors", ".bin", ".pth", ".pt", ".json", ".txt", ".model", ".py", ".tiktoken")
TIMEOUT_S = 10.0  # of the one question that is asked before anything is downloaded
LOCAL = "or give the folder of a local copy: `hf download {id} --local-dir DIR`, then {scheme}:DIR"


class Place(NamedTuple):
    """A model that was found.

    Attributes
    ----------
    source : str
        A folder or a hub id.
    commit : str or None
        To load, of a hub model.
    revision : str
        For the recipe: the commit, or a hash of a folder's configuration and weights.
    """

    source: str
    commit: str | None
    revision: str


def find(scheme: str, source: str, revision: str | None = None) -> Place:
    """Find out what a name means, and pin the commit; nothing is downloaded yet.

    A hub model that is in this machine's cache is taken from there, without a connection.

    Parameters
    ----------
    scheme : str
        `hf` or `timm`, for what a person is told.
    source : str
        Folder or hub id.
    revision : str, optional
        Commit, tag or branch of a hub model; `main` when left out.

    Raises
    ------
    EcmfError
        No such folder or model, no access, no such revision, no connection: and what to do.
    """
    folder = given_path(source)
    if folder.is_dir():
        return Place(str(folder), None, _hash_of(folder))
    name = f"{scheme}:{source}"
    if source.startswith(("/", ".", "~")) or source.count("/") > 1 or not source.strip("/"):
        raise EcmfError(f"{name}: no such folder; expected a folder with the model's files, or a hub id")
    known = cached(source, "config.json", revision)
    commit = known.parent.name if known else None
    if commit is None:
        commit = _ask(name, scheme, source, revision)
        _remember(source, revision, commit)
        print(f"{name}: not on this machine, taken from the hub (commit {commit[:12]})", file=sys.stderr)
    return Place(source, commit, commit)


def _hash_of(folder: Path) -> str:
    """Of everything that may decide a vector: weights, configuration, preprocessing, vocabulary, code."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in DECIDING)
    return "local-" + digest([(path.name, file_hash(path)) for path in files])


def cached(source: str, file: str, revision: str | None = None, cache_dir: Path | str | None = None) -> Path | None:
    """A file of a model in the hub's cache on this machine; None where it is not."""
    from huggingface_hub import constants, try_to_load_from_cache

    found = try_to_load_from_cache(source, file, cache_dir=cache_dir or constants.HF_HUB_CACHE, revision=revision)
    return Path(found) if isinstance(found, str) else None


def _remember(source: str, revision: str | None, commit: str) -> None:
    """Note what a branch or tag stands for: files that are fetched by their commit leave no such note."""
    from huggingface_hub import constants

    name = revision or "main"
    if name != commit:
        write_text(Path(constants.HF_HUB_CACHE) / f"models--{source.replace('/', '--')}" / "refs" / name, commit)


def _ask(name: str, scheme: str, source: str, revision: str | None) -> str:
    """The commit that the hub has now."""
    import huggingface_hub
    from huggingface_hub import errors

    local = LOCAL.format(id=source, scheme=scheme)
    try:
        return huggingface_hub.HfApi().model_info(source, revision=revision, timeout=TIMEOUT_S).sha
    except errors.HFValidationError:
        line = "neither a folder nor the id of a hub model (OWNER/NAME)"
    except errors.GatedRepoError:
        line = f"the model is gated: accept its terms on its page, then `hf auth login`, {local}"
    except errors.RevisionNotFoundError:
        line = f"there is no revision {revision!r}; look at the model's commits and tags on its page"
    except errors.RepositoryNotFoundError:
        line = f"the hub has no such model, or it is private: `hf auth login`, {local}"
    except errors.OfflineModeIsEnabled:
        line = f"not in this machine's cache, and HF_HUB_OFFLINE is set: unset it, {local}"
    except Exception as error:  # httpx, the system, a proxy: whatever keeps a connection from being made
        reason = (str(error).splitlines() or [""])[0][:120] or type(error).__name__
        line = f"not in this machine's cache, and the hub cannot be reached ({reason}): connect, {local}"
    raise EcmfError(f"{name}: {line}") from None
