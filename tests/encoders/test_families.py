"""Every family of pre-trained encoders equals a direct forward pass of its model on that clip alone.

Models are tiny with random weights, saved and loaded through the same path as large ones. Three mistakes
that such code makes (a wrong layer, padding that is not masked, frames by index instead of time) are
made on purpose at the end, and each has to be noticed.
"""

import av
import numpy as np
import pandas as pd
import pytest

from ecmf_bench import untrained
from ecmf_utils import encoders, features, files, media
from ecmf_utils.encoders import inference, loading, pretrained, towers
from tests.media import test_reading

RNG = np.random.default_rng(0)
FRAMES = [RNG.integers(0, 256, (n, 40, 60, 3)).astype(np.uint8) for n in (4, 1, 6, 4)]
SOUNDS = [RNG.normal(0, 0.1, n).astype(np.float32) for n in (9000, 16000, 5000, 9000)]
TEXTS = ["The train was late again!", "no", "what a day, what a lovely long day", "oh \U0001f642"]
INPUTS = {"scene": FRAMES, "audio": SOUNDS, "text": TEXTS}
BRANCH = {
    **dict.fromkeys(("vit", "clip", "siglip", "dinov2", "dinov3", "videomae", "timm"), "scene"),
    **dict.fromkeys(("hubert", "hubert-large", "wavlm", "wavlm-large", "wav2vec2", "wav2vec2-large"), "audio"),
    "whisper": "audio",
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "qwen"), "text"),
}
LAYERS = ("last", "sum-last-2", "mean-last-3", "layer-1")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folder of each family's model."""
    made = {family: tmp_path_factory.mktemp(family) for family in untrained.FAMILIES}
    for family, folder in made.items():
        untrained.save(family, folder)
    return made


def load(folders, family, **how):
    scheme = "timm" if family == "timm" else "hf"
    return encoders.load(f"{scheme}:{folders[family]}", BRANCH[family], device="cpu", **how)


# ---- the same by the library alone, written without a line of ours


def states(output, layers, tied=False):
    """`tied`: the norm behind the last layer is part of it, as the field's published features have it."""
    h = [*output.hidden_states[:-1], output.last_hidden_state] if tied else output.hidden_states
    return {
        "last": output.last_hidden_state,
        "sum-last-2": h[-1] + h[-2],
        "mean-last-3": (h[-1] + h[-2] + h[-3]) / 3,
        "layer-1": h[1],
    }[layers]


def by_library(family, folder, given, layers):
    """Rows (T, D) of one input, encoded alone."""
    import torch

    with torch.inference_mode():
        return {"scene": of_frames, "audio": of_sound, "text": of_text}[BRANCH[family]](family, folder, given, layers)


def of_frames(family, folder, frames, layers):
    import transformers

    if family == "timm":
        return of_timm(folder, frames, layers)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    model = model.vision_model if family in ("clip", "siglip") else model
    prepare = transformers.AutoImageProcessor.from_pretrained(folder)
    if family == "videomae":
        frames = frames[np.linspace(0, len(frames) - 1, 4).round().astype(int)]
        pixels = prepare(images=[list(frames)], return_tensors="pt")["pixel_values"]
        rows = states(model(pixel_values=pixels, output_hidden_states=True), layers)
        return rows.reshape(2, 16, -1).mean(1).numpy()  # 4 frames in tubes of 2; 4 x 4 patches
    pixels = prepare(images=list(frames), return_tensors="pt")["pixel_values"]
    rows = states(model(pixel_values=pixels, output_hidden_states=True), layers)
    return (rows.mean(1) if family == "siglip" else rows[:, 0]).numpy()


def of_timm(folder, frames, layers):
    import timm
    import torch
    from PIL import Image
    from safetensors.torch import load_file

    weights = {k: v for k, v in load_file(folder / "model.safetensors").items() if not k.startswith("head.")}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=3, img_size=32).eval()
    model.load_state_dict(weights)
    transform = timm.data.create_transform(
        (3, 32, 32), mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=1.0, interpolation="bicubic"
    )
    x = torch.stack([transform(Image.fromarray(frame)) for frame in frames])
    if layers == "last":
        return model(x).numpy()
    tokens = []
    for block in model.blocks:
        block.register_forward_hook(lambda *call: tokens.append(call[2][:, 0]))
    model(x)
    one, two, three = tokens
    return {"sum-last-2": two + three, "mean-last-3": (one + two + three) / 3, "layer-1": one}[layers].numpy()


def of_sound(family, folder, sound, layers):
    import transformers

    model = transformers.AutoModel.from_pretrained(folder).eval()
    prepare = transformers.AutoFeatureExtractor.from_pretrained(folder)
    inputs = prepare(sound, sampling_rate=16000, return_tensors="pt")
    if family == "whisper":
        output = model.encoder(inputs["input_features"], output_hidden_states=True)
        return states(output, layers)[0, : int(np.ceil(len(sound) / 320))].numpy()
    return states(model(inputs["input_values"], output_hidden_states=True), layers, tied=True)[0].numpy()


def of_text(family, folder, text, layers):
    import transformers

    model = transformers.AutoModel.from_pretrained(folder).eval()
    inputs = transformers.AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    return states(model(**inputs, output_hidden_states=True), layers)[0].numpy()


def assert_same(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape and one.dtype == np.float32
        assert np.abs(one - other).max() <= 1e-5 * np.abs(other).max()


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("family", list(BRANCH))
def test_rows_equal_a_forward_pass_of_each_clip_alone(folders, family, layers):
    given = INPUTS[BRANCH[family]]
    found = load(folders, family, layers=layers).encode(given)
    assert_same(found, [by_library(family, folders[family], one, layers) for one in given])


@pytest.mark.parametrize("family", list(BRANCH))
def test_what_else_is_in_the_batch_changes_no_vector(folders, family):
    encoder, given = load(folders, family), INPUTS[BRANCH[family]]
    alone = [encoder.encode([one])[0] for one in given]
    for batch_size in (1, 2, 4096):
        assert_same(load(folders, family, batch_size=batch_size).encode(given), alone)
    assert_same(encoder.encode(given[::-1])[::-1], alone)


def taken(row, given):
    return given[int(row["clip_id"][1:]) % len(given)]


@pytest.mark.parametrize("family", list(BRANCH))
def test_shards_and_parts_change_no_vector(folders, family, home):
    from functools import partial

    clips = pd.DataFrame({"clip_id": [f"c{i}" for i in range(11)], "content_hash": [f"h{i}" for i in range(11)]})
    encoder, branch = load(folders, family), BRANCH[family]
    read = partial(taken, given=INPUTS[branch])
    features.extract("whole", branch, clips, encoder, read)
    for shard in range(3):
        features.extract("cut", branch, clips, encoder, read, shard=shard, n_shards=3, part=2)
    whole, cut = (features.load(name, [branch], list(clips["clip_id"])).x[branch] for name in ("whole", "cut"))
    assert_same(cut, whole)
    assert_same(
        whole[:4],
        [
            loading.pool(rows)
            for rows in encoder.encode([taken(r, INPUTS[branch]) for r in clips.head(4).to_dict("records")])
        ],
    )


def test_padding_changes_a_model_with_group_normalisation_so_it_is_never_padded(folders):
    """Why `hubert` is batched by equal length: padded on purpose, its vectors are others."""
    import torch

    encoder = load(folders, "hubert")
    ready = [encoder.prepare_input(sound) for sound in SOUNDS]
    seen = []
    forward = encoder.batches.forward
    encoder.batches.forward = lambda items: seen.append({len(item) for item in items}) or forward(items)
    encoder.run(ready)
    assert all(len(lengths) == 1 for lengths in seen) and len(seen) == 3  # 9000 twice, 16000, 5000
    padded = torch.zeros(1, 16000)
    padded[0, :9000] = torch.from_numpy(ready[0].items[0])
    net = load(folders, "hubert").batches.forward
    long, alone = net([padded[0].numpy()])[0], net([ready[0].items[0]])[0]
    assert np.abs(long[: len(alone)] - alone).max() > 0.05 * np.abs(alone).max()


def test_models_that_can_be_padded_share_a_batch(folders):
    encoder = load(folders, "hubert-large")
    seen = []
    forward = encoder.batches.forward
    encoder.batches.forward = lambda items: seen.append(len(items)) or forward(items)
    encoder.encode(SOUNDS)
    assert seen == [4]


def test_clip_gives_its_joint_space_on_request(folders):
    import torch
    import transformers

    for family in ("clip", "siglip"):
        model = transformers.AutoModel.from_pretrained(folders[family]).eval()
        prepare = transformers.AutoImageProcessor.from_pretrained(folders[family])
        with torch.inference_mode():
            wanted = model.get_image_features(**prepare(images=list(FRAMES[0]), return_tensors="pt")).pooler_output
        assert_same(load(folders, family, layers="projected").encode(FRAMES[:1]), [wanted.numpy()])


def test_the_last_layer_of_a_speech_model_is_what_last_gives(folders):
    for family in ("hubert", "hubert-large", "wavlm-large", "wav2vec2-large"):
        one, other = (load(folders, family, layers=layers).encode(SOUNDS[:1]) for layers in ("last", "layer-3"))
        assert_same(one, other)


def test_frame_level_rows_of_sound_and_video_know_when_they_are(folders, home):
    from ecmf_utils.features.extraction import encode_row
    from ecmf_utils.features.inputs import Timed

    how = {"level": "frame", "pooling": "mean"}
    row = encode_row({"clip_id": "a"}, load(folders, "hubert-large"), lambda _: SOUNDS[1], how)
    assert len(row["times"]) == len(row["vectors"]) == 49
    assert row["times"][0] == pytest.approx(1 / 98) and row["times"][-1] == pytest.approx(1 - 1 / 98)
    clip = Timed(FRAMES[0], np.array([0.0, 0.2, 1.0, 1.4]))
    row = encode_row({"clip_id": "a"}, load(folders, "videomae"), lambda _: clip, how)
    assert row["times"] == pytest.approx([0.1, 1.2])


# ---- long sound


def test_long_sound_is_encoded_in_windows_that_overlap(folders):
    sound = RNG.normal(0, 0.1, 16000 * 5).astype(np.float32)
    whole = load(folders, "hubert-large").encode([sound])[0]
    cut = load(folders, "hubert-large", window_s=2.0, overlap_s=0.5)
    rows, ready = cut.encode([sound])[0], cut.prepare_input(sound)
    assert ready.problem == "sound_windows" and len(ready.items) == 3 and max(ready.sizes) == 32000
    assert abs(len(rows) - len(whole)) <= 2 * len(ready.items)
    cosine = (
        (loading.pool(rows) @ loading.pool(whole))
        / np.linalg.norm(loading.pool(rows))
        / np.linalg.norm(loading.pool(whole))
    )
    assert cosine > 0.99


@pytest.mark.parametrize("family", ["hubert", "hubert-large", "whisper"])
def test_a_sound_a_little_longer_than_its_window_gains_no_rows(folders, family):
    """A rest too short for the convolutions must not become a window of its own."""
    sound = RNG.normal(0, 0.1, 32000 + 16).astype(np.float32)
    rows = load(folders, family, window_s=2.0, overlap_s=0.0).encode([sound])[0]
    assert 98 <= len(rows) <= 101 and np.isfinite(rows).all()


def test_whisper_hears_no_more_than_its_window(folders):
    with pytest.raises(files.EcmfError, match="window_s=30, overlap_s=40: expected 0 <= overlap_s < window_s"):
        load(folders, "whisper", window_s=60.0, overlap_s=40.0)
    assert load(folders, "whisper", window_s=60.0).recipe["window_s"] == 30.0


@pytest.mark.parametrize(("n", "size", "overlap"), [(100, 30, 10), (31, 30, 10), (50, 30, 10), (51, 30, 10), (7, 3, 0)])
def test_windows_cover_every_sample_once(n, size, overlap):
    spans, keep = towers.cut_windows(n, size, overlap)
    kept = [(a + lo * (b - a), a + hi * (b - a)) for (a, b), (lo, hi) in zip(spans, keep, strict=True)]
    assert kept[0][0] == 0 and kept[-1][1] == n
    assert all(one[1] == pytest.approx(two[0]) for one, two in zip(kept, kept[1:], strict=False))
    assert {b - a for a, b in spans} == {size} and all(
        one[1] - two[0] >= overlap for one, two in zip(spans, spans[1:], strict=False)
    )


def test_whisper_hears_a_long_sound_to_its_end(folders):
    sound = np.zeros(16000 * 40, np.float32)
    sound[16000 * 35 :] = RNG.normal(0, 0.3, 16000 * 5)
    encoder = load(folders, "whisper")
    quiet = encoder.encode([np.zeros_like(sound)])[0]
    rows = encoder.encode([sound])[0]
    assert len(rows) == len(quiet) == 2000
    assert np.abs(rows[1800:] - quiet[1800:]).max() > 0.05


# ---- memory and precision


def test_out_of_memory_halves_the_batch_and_goes_on(folders):
    encoder = load(folders, "vit", batch_size=8)
    forward, sizes = encoder.batches.forward, []

    def small(items):
        sizes.append(len(items))
        if len(items) > 3:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(items)

    encoder.batches.forward = small
    assert_same(encoder.encode(FRAMES), load(folders, "vit").encode(FRAMES))
    assert encoder.batches.halved == 2 and encoder.batches.budget == 2
    assert sizes == [8, 4, *[2] * 7, 1]


def test_another_error_than_memory_is_no_reason_to_try_again(folders):
    batches = inference.Batches(lambda items: (_ for _ in ()).throw(RuntimeError("shape mismatch")), 4)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        batches([1, 2], [1, 1])
    full = inference.Batches(lambda items: (_ for _ in ()).throw(RuntimeError("out of memory")), 4)
    with pytest.raises(RuntimeError, match="out of memory"):  # one item alone that does not fit
        full([1, 2], [1, 1])


@pytest.mark.parametrize("family", ["clip", "hubert-large", "bert", "timm"])
def test_half_precision_is_near_float32_and_says_how_near(folders, family):
    half = load(folders, family, precision="bf16")
    exact = load(folders, family)
    assert half.recipe["precision"] == "bf16" and exact.recipe["precision"] == "fp32"
    assert 0 < half.deviation < loading.MOST_DEVIATION and exact.deviation is None
    for one, other in zip(*(encoder.encode(INPUTS[BRANCH[family]]) for encoder in (half, exact)), strict=True):
        assert 0 < np.linalg.norm(one - other) < 0.05 * np.linalg.norm(other)


def test_what_overflows_in_half_precision_is_computed_in_float32(folders):
    import torch

    def states(model, layers, x):
        return model(x) * 1e30  # beyond float16, not beyond float32

    layer = torch.nn.Linear(3, 2)
    exact = inference.Network(layer, states, "last", "cpu")(x=torch.ones(1, 3))
    found = inference.Network(
        layer,
        lambda *a, **k: states(*a, **k).to(torch.float16) if torch.is_autocast_enabled("cpu") else states(*a, **k),
        "last",
        "cpu",
        "fp16",
    )(x=torch.ones(1, 3))
    assert torch.isfinite(found).all() and torch.equal(found, exact)


def test_half_precision_that_is_too_far_off_is_refused(folders, monkeypatch):
    monkeypatch.setattr(loading, "MOST_DEVIATION", 1e-9)
    with pytest.raises(files.EcmfError, match="bf16 changes a vector by .* say precision=fp32"):
        load(folders, "vit", precision="bf16")


# ---- mistakes made on purpose


def test_a_wrong_layer_is_noticed(folders, monkeypatch):
    right = inference.combine_layers
    monkeypatch.setattr(inference, "combine_layers", lambda states, layers: right(states[:-1], layers))
    for family in ("bert", "hubert", "clip", "timm"):
        with pytest.raises((AssertionError, files.EcmfError)):
            test_rows_equal_a_forward_pass_of_each_clip_alone(folders, family, "sum-last-2")


def test_padding_that_is_not_masked_is_noticed(folders, monkeypatch):
    right = inference.read_hidden_states

    def unmasked(model, layers, **inputs):
        if "attention_mask" in inputs:
            inputs["attention_mask"] = inputs["attention_mask"] * 0 + 1
        return right(model, layers, **inputs)

    monkeypatch.setattr(pretrained, "read_hidden_states", unmasked)
    for family in ("bert", "roberta", "xlm-roberta", "hubert-large", "wavlm-large"):
        with pytest.raises(AssertionError):
            test_rows_equal_a_forward_pass_of_each_clip_alone(folders, family, "last")


def test_frames_by_index_instead_of_time_are_noticed(tmp_path, monkeypatch):
    def by_index(path, times, max_side=None):
        with av.open(str(path)) as container:
            rate = float(container.streams.video[0].average_rate)
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        chosen = [min(int(t * rate), len(frames) - 1) for t in times]
        return np.stack([frames[i] for i in chosen]), np.array(chosen) / rate

    monkeypatch.setattr(media, "read_frames", by_index)
    with pytest.raises(AssertionError):
        test_reading.test_frames_are_chosen_by_time_stamp_not_by_index(tmp_path)
