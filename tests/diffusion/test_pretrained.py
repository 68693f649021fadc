"""The text encoder that a folder holds: it embeds captions as the folder's pipeline does."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file

from nasvid.diffusion.pretrained import Pretrained
from nasvid.errors import UserError
from nasvid.testing import TextEncoderConformance

pytestmark = pytest.mark.slow

Pipeline = Callable[[str], Path]
CAPTIONS = ("", "A cat runs over the green grass,\n 7 &amp; 8 times!", "dogs " * 40)
LENGTHS = {"wan": 512, "ltx": 128, "cogvideox": 226, "text_to_video_sd": 77}


def made(folder: Path, **options: Any) -> Any:
    return Pretrained(Pretrained.Config.model_validate({"path": str(folder), **options}))


class TestPretrained(TextEncoderConformance):
    encoder = Pretrained

    @pytest.fixture(autouse=True)
    def folder(self, pipeline: Pipeline) -> None:
        type(self).options = {"path": str(pipeline("wan"))}


def stock(name: str, pipeline: Any, caption: str, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a caption's embedding and what the denoiser sees of it, as the pipeline has them."""
    everything = torch.ones(length, dtype=torch.bool)
    if name == "ltx":
        embedding, mask, *_ = pipeline.encode_prompt(caption, None, False)
        return embedding[0], mask[0]
    if name == "text_to_video_sd":
        return pipeline.encode_prompt(caption, "cpu", 1, False)[0][0], everything
    limit = {"max_sequence_length": length}
    return pipeline.encode_prompt(caption, None, False, **limit)[0][0], everything


@pytest.mark.parametrize("name", LENGTHS)
@torch.no_grad()
def test_embeddings_are_the_stock_pipelines(name: str, pipeline: Pipeline) -> None:
    """To the bit; Wan's denoiser takes no mask, and its padding is zeros."""
    encoder, length = made(pipeline(name)), LENGTHS[name]
    encoder.check_ready()
    _check_weight_bytes(encoder)
    opened: Any = DiffusionPipeline.from_pretrained(str(pipeline(name)))
    for caption in CAPTIONS:
        embedding, mask = encoder.encode(caption, length)
        expected, seen = stock(name, opened, caption, length)
        assert embedding.shape == (length, encoder.dim)
        if name == "ltx":
            assert torch.equal(mask, seen)
        assert torch.equal(embedding, expected * seen[:, None])
        if name in ("cogvideox", "text_to_video_sd"):
            assert mask.all()


def _check_weight_bytes(encoder: Any) -> None:
    """Check that the bytes of an encoder's weights are known before it is loaded."""
    size = encoder.weight_bytes(torch.device("cpu"))
    assert encoder.weight_bytes(torch.device("cuda")) == size / 2, "in bf16"
    models = [model for _, model in encoder._load()]
    assert size == sum(each.nbytes for model in models for each in model.parameters())


def test_an_encoder_alone_is_found_without_a_pipeline(pipeline: Pipeline, tmp_path: Path) -> None:
    whole = pipeline("ltx")
    for part in ("text_encoder", "tokenizer"):
        shutil.copytree(whole / part, tmp_path, dirs_exist_ok=True)
    alone = made(tmp_path)
    assert alone.dim == 32
    embedding, mask = alone.encode("a cat", 8)
    assert mask.tolist() == [True] * 3 + [False] * 5
    as_ltx = made(tmp_path, padding="masked").encode("a cat", 8)
    assert not torch.equal(embedding, as_ltx[0])
    assert torch.equal(as_ltx[0], made(whole).encode("a cat", 8)[0])


def test_a_type_that_is_not_supported_is_named(
    pipeline: Pipeline, write_recipe: Callable[..., Path], error_of: Callable[..., str]
) -> None:
    text = f"{{name: pretrained, path: {pipeline('hunyuan_video')}/text_encoder}}"
    message = error_of("plan", write_recipe({"{name: hash, dim: 16}": text}))
    assert "text: " in message
    assert "is of type 'llama'; this plug-in loads clip, " in message


def changed(folder: Path, to: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    shutil.copytree(folder, to)
    path = to / "text_encoder" / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})
    return to


BIAS = "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop(BIAS), r"1 tensor missing \(encoder\.block\.1"),
        (lambda t: t.update({"encoder.more": torch.ones(1)}), r"unexpected \(encoder\.more\)"),
    ],
)
def test_a_key_too_few_or_too_many_is_named_before_and_when_it_is_loaded(
    pipeline: Pipeline, tmp_path: Path, change: Callable[..., Any], said: str
) -> None:
    encoder = made(changed(pipeline("wan"), tmp_path / "wan", change))
    with pytest.raises(UserError, match=said):
        encoder.check_ready()
    with pytest.raises(UserError, match=said):
        encoder.encode("a cat", 4)


def test_umt5_that_calls_itself_t5_is_refused(pipeline: Pipeline, tmp_path: Path) -> None:
    """T5 would drop the relative biases of all blocks but the first, and only say so."""
    folder = shutil.copytree(pipeline("wan"), tmp_path / "wan")
    path = folder / "text_encoder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "t5"}))
    with pytest.raises(UserError, match=r"1 tensor unexpected \(encoder\.block\.1.*bias"):
        made(folder).check_ready()


def test_more_tokens_than_clip_has_positions_are_refused(pipeline: Pipeline) -> None:
    with pytest.raises(UserError, match=r"takes 77 tokens; set data\.context_len to 77"):
        made(pipeline("text_to_video_sd")).encode("a cat", 78)


def test_precision_and_padding_are_part_of_the_identity(pipeline: Pipeline) -> None:
    options = [{}, {"precision": "bf16"}, {"padding": "kept"}]
    assert len({made(pipeline("wan"), **each).identity for each in options}) == 3
    half = made(pipeline("wan"), precision="bf16").encode("a cat", 8)[0]
    whole = made(pipeline("wan")).encode("a cat", 8)[0]
    assert not torch.equal(half, whole)
    torch.testing.assert_close(half, whole, rtol=0.1, atol=0.1)


@torch.no_grad()
def test_hunyuan_videos_encoders_make_tokens_and_a_pooled_embedding(pipeline: Pipeline) -> None:
    """To the bit, but for padding, which the denoiser does not see."""
    encoder = made(pipeline("hunyuan_video"))
    opened: Any = DiffusionPipeline.from_pretrained(str(pipeline("hunyuan_video")))
    for caption in CAPTIONS:
        tokens, pooled, seen = opened.encode_prompt(caption, max_sequence_length=16)
        embedding, mask = encoder.encode(caption, 17)
        assert torch.equal(embedding[:16], tokens[0] * seen[0][:, None])
        assert torch.equal(embedding[16, : encoder.pooled_dim], pooled[0])
        assert mask.tolist() == [*seen[0].bool().tolist(), True]
    assert set(encoder.parts) == {"text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"}
    for alone, together in zip(
        [encoder.encode(caption, 17) for caption in CAPTIONS],
        encoder.encode_all(CAPTIONS, 17),
        strict=True,
    ):
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    alone = made(
        pipeline("hunyuan_video"), subfolder="text_encoder_2", tokenizer_subfolder="tokenizer_2"
    )
    assert (alone.pooled_dim, alone.encode("a cat", 8)[0].shape) == (0, (8, 32))
