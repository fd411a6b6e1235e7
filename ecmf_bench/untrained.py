"""Models with random weights, saved as published ones are: for tests and for measuring speed, offline.

Sizes are `tiny` and those that the architecture was published in (`base`, `large`, `7b`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ecmf_utils.encoders.pretrained import mend_torchvision
from ecmf_utils.files import EcmfError

TINY = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
TRANSFORMERS = {"tiny": TINY, "base": BASE, "large": LARGE}
TINY_CONVOLUTIONS = {
    "conv_dim": (16, 16), "conv_kernel": (10, 3), "conv_stride": (160, 2),
    "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
TINY_TIMM = {"depth": 3, "img_size": 32}
QWEN_7B = {
    "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
    "intermediate_size": 18944,
}  # fmt: skip


def save(family: str, folder: Path | str, size: str = "tiny", seed: int = 0) -> str:
    """Make a model with random weights and save it with what prepares its input.

    Parameters
    ----------
    family : str
        One of `FAMILIES`.
    folder : path
        Gets the files; made where it is not there.
    size : str
        tiny, base, large; 7b for qwen.
    seed : int
        Of the weights.

    Returns
    -------
    str
        The name that `encoders.load` takes.

    Raises
    ------
    EcmfError
        The family is not one of `FAMILIES`.
    """
    import torch
    import transformers

    mend_torchvision()
    if family not in FAMILIES:
        raise EcmfError(f"unknown family {family!r}; expected one of {', '.join(FAMILIES)}")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(seed)
    made = FAMILIES[family](size)
    if family == "timm":
        from timm.models import save_for_hf

        save_for_hf(made, folder, model_args=TINY_TIMM if size == "tiny" else {}, safe_serialization=True)
        return f"timm:{folder}"
    for part in made:
        part.save_pretrained(folder)
    return f"hf:{folder}"


def _vision(model: str, config: str, processor: str, cropped: bool = False, **more: Any) -> Callable:
    def make(size: str) -> tuple[Any, Any]:
        import transformers

        side, patch = (32, 8) if size == "tiny" else (224, 14 if size == "large" else 16)
        how = TRANSFORMERS[size] | {"image_size": side, "patch_size": patch} | more
        crop = {"crop_size": {"height": side, "width": side}, "size": {"shortest_edge": side}}
        prepare = crop if cropped else {"size": {"height": side, "width": side}}
        own = getattr(transformers, model)(getattr(transformers, config)(**how))
        return own, getattr(transformers, processor)(**prepare)

    return make


def _joint(kind: str, processor: str, cropped: bool) -> Callable:
    """A model of images and text; its other tower is tiny."""

    def make(size: str) -> tuple[Any, Any]:
        import transformers

        side, patch = (32, 8) if size == "tiny" else (224, 14 if size == "large" else 16)
        vision = TRANSFORMERS[size] | {"image_size": side, "patch_size": patch, "projection_dim": 16}
        text = TINY | {"vocab_size": 50, "max_position_embeddings": 16, "projection_dim": 16}
        text |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
        config = getattr(transformers, f"{kind}Config")(vision_config=vision, text_config=text, projection_dim=16)
        crop = {"crop_size": {"height": side, "width": side}, "size": {"shortest_edge": side}}
        prepare = crop if cropped else {"size": {"height": side, "width": side}}
        return getattr(transformers, f"{kind}Model")(config), getattr(transformers, processor)(**prepare)

    return make


def _speech(kind: str, norm: str) -> Callable:
    def make(size: str) -> tuple[Any, Any]:
        import transformers

        how = TRANSFORMERS[size] | (TINY_CONVOLUTIONS if size == "tiny" else {})
        how |= {"feat_extract_norm": norm, "do_stable_layer_norm": norm == "layer", "conv_bias": norm == "layer"}
        own = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**how))
        processor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=norm == "layer")
        return own, processor

    return make


def _whisper(size: str) -> tuple[Any, Any]:
    import transformers

    width, layers, heads = {"tiny": (32, 3, 2), "base": (512, 6, 8), "large": (1280, 32, 20)}[size]
    mels = {"tiny": 16, "base": 80, "large": 128}[size]
    config = transformers.WhisperConfig(
        d_model=width,
        encoder_layers=layers,
        decoder_layers=1,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=width,
        num_mel_bins=mels,
        vocab_size=60,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    return transformers.WhisperModel(config), transformers.WhisperFeatureExtractor(feature_size=mels)


def _text(kind: str, tokenizer: str, offset: int = 0) -> Callable:
    def make(size: str) -> tuple[Any, Any]:
        import transformers

        words = getattr(transformers, tokenizer)(**_vocabulary(tokenizer))
        words.model_max_length = 64 if size == "tiny" else 512
        how = TRANSFORMERS[size] | {"max_position_embeddings": words.model_max_length + offset}
        ids = {"pad_token_id": words.pad_token_id, "bos_token_id": words.bos_token_id}
        ids |= {"eos_token_id": words.eos_token_id, "vocab_size": len(words)}
        config = getattr(transformers, f"{kind}Config")(**how | ids)
        return getattr(transformers, f"{kind}Model")(config), words

    return make


def _qwen(size: str) -> tuple[Any, Any]:
    import transformers

    words = transformers.Qwen2Tokenizer(**_vocabulary("Qwen2Tokenizer"))
    how = QWEN_7B if size == "7b" else TRANSFORMERS[size] | {"num_key_value_heads": 2}
    how |= {"head_dim": how["hidden_size"] // how["num_attention_heads"]}
    ids = {"vocab_size": len(words), "bos_token_id": None, "eos_token_id": words.eos_token_id}
    return transformers.Qwen3Model(transformers.Qwen3Config(**how | ids)), words


def _vocabulary(tokenizer: str) -> dict[str, Any]:
    """Every byte (or letter) as a token, so that any text can be read."""
    from tokenizers.pre_tokenizers import ByteLevel

    if tokenizer == "BertTokenizer":
        letters = [chr(i) for i in range(33, 127)]
        pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
        return {"vocab": {piece: i for i, piece in enumerate(pieces)}}
    if tokenizer == "XLMRobertaTokenizer":
        letters = ["\u2581", *(chr(i) for i in range(33, 127))]
        return {"vocab": [(one, 0.0) for one in ("<s>", "<pad>", "</s>", "<unk>")] + [(one, -2.0) for one in letters]}
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"] if tokenizer == "RobertaTokenizer" else ["<|endoftext|>"]
    return {"vocab": {one: i for i, one in enumerate([*special, *sorted(ByteLevel.alphabet())])}, "merges": []}


def _timm(size: str) -> Any:
    import timm

    if size != "tiny":
        name = {"base": "vit_base_patch16_224", "large": "vit_large_patch14_224"}[size]
        return timm.create_model(name, num_classes=4)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=4, **TINY_TIMM)
    model.pretrained_cfg |= {"input_size": (3, 32, 32), "crop_pct": 1.0}
    return model


FAMILIES: dict[str, Callable[[str], Any]] = {
    "vit": _vision("ViTModel", "ViTConfig", "ViTImageProcessor"),
    "clip": _joint("CLIP", "CLIPImageProcessor", cropped=True),
    "siglip": _joint("Siglip", "SiglipImageProcessor", cropped=False),
    "dinov2": _vision("Dinov2Model", "Dinov2Config", "BitImageProcessor", cropped=True),
    "dinov3": _vision("DINOv3ViTModel", "DINOv3ViTConfig", "DINOv3ViTImageProcessor", num_register_tokens=4),
    "videomae": _vision("VideoMAEModel", "VideoMAEConfig", "VideoMAEImageProcessor", cropped=True, num_frames=4),
    "hubert": _speech("Hubert", "group"),
    "hubert-large": _speech("Hubert", "layer"),
    "wavlm": _speech("WavLM", "group"),
    "wavlm-large": _speech("WavLM", "layer"),
    "wav2vec2": _speech("Wav2Vec2", "group"),
    "wav2vec2-large": _speech("Wav2Vec2", "layer"),
    "whisper": _whisper,
    "bert": _text("Bert", "BertTokenizer"),
    "roberta": _text("Roberta", "RobertaTokenizer", offset=2),
    "xlm-roberta": _text("XLMRoberta", "XLMRobertaTokenizer", offset=2),
    "qwen": _qwen,
    "timm": _timm,
}
