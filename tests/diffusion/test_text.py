"""Text encoders and their cache."""

import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from nasvid.diffusion.cached_text import CachedText
from nasvid.diffusion.carried.tokens import hidden_states
from nasvid.diffusion.text import ClipEncoder, HashEncoder, T5Encoder
from nasvid.errors import UserError
from nasvid.host.reading import fingerprint
from nasvid.testing import TextEncoderConformance
from nasvid.text_encoder import TextSection

WORDS = ["<pad>", "<unk>", "a", "cat", "dog", "runs", "<end>"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Tiny CLIP and T5 text models with tokenizers, as folders that transformers reads."""
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <end>", special_tokens=[("<end>", WORDS.index("<end>"))]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
    size = {"vocab_size": len(WORDS), "hidden_size": 16, "intermediate_size": 16}
    clip = CLIPTextConfig(
        **size, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=8
    )
    t5 = T5Config(vocab_size=len(WORDS), d_model=24, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    made = {}
    for name, model in (("clip", CLIPTextModel(clip)), ("t5", T5EncoderModel(t5))):
        made[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(made[name])
        fast.save_pretrained(made[name])
    return made


class TestHash(TextEncoderConformance):
    encoder = HashEncoder


class TestClip(TextEncoderConformance):
    encoder = ClipEncoder

    @pytest.fixture(autouse=True)
    def model(self, folders):
        self.options = {"path": str(folders["clip"]), "dim": 16}


class TestClipWithPadding(TextEncoderConformance):
    encoder = ClipEncoder

    @pytest.fixture(autouse=True)
    def model(self, folders):
        self.options = {"path": str(folders["clip"]), "dim": 16, "keep_padding": True}


class TestT5(TextEncoderConformance):
    encoder = T5Encoder

    @pytest.fixture(autouse=True)
    def model(self, folders):
        self.options = {"path": str(folders["t5"]), "dim": 24}


@pytest.mark.parametrize(("name", "dim"), [("clip", 16), ("t5", 24)])
def test_transformers_encoders_give_the_models_own_hidden_states(folders, name, dim):
    path = folders[name]
    encoder = TextSection(name=name, path=str(path), dim=dim).make()
    embedding, mask = encoder.encode("a cat runs", 6)
    model = {"clip": CLIPTextModel, "t5": T5EncoderModel}[name].from_pretrained(path).eval()
    tokens = torch.tensor([[2, 3, 5, 6, 0, 0]])
    with torch.no_grad():
        output = model(input_ids=tokens, attention_mask=(tokens > 0).long())
    wanted = output.last_hidden_state[0]
    assert mask.tolist() == [True] * 4 + [False] * 2
    assert torch.equal(embedding[:4], wanted[:4])
    assert not embedding[4:].any()
    assert encoder.dim == dim


@pytest.fixture
def umt5(folders, tmp_path):
    """UMT5, each of whose blocks has a relative bias of its own."""
    config = UMT5Config(
        vocab_size=len(WORDS), d_model=24, d_kv=4, d_ff=8, num_layers=2, num_heads=2
    )
    torch.manual_seed(0)
    shutil.copytree(folders["t5"], tmp_path / "umt5")
    UMT5EncoderModel(config).save_pretrained(tmp_path / "umt5")
    return tmp_path / "umt5"


def test_umt5_through_t5_has_all_its_biases(umt5):
    encoder = TextSection(name="t5", path=str(umt5), dim=24).make()
    encoder.check_ready()
    embedding, _ = encoder.encode("a cat runs", 4)
    model = UMT5EncoderModel.from_pretrained(umt5).eval()
    tokens = torch.tensor([[2, 3, 5, 6]])
    with torch.no_grad():
        wanted = model(input_ids=tokens, attention_mask=torch.ones_like(tokens))
    assert torch.equal(embedding, wanted.last_hidden_state[0])


def _spoiled(path, make):
    tensors = load_file(path / "model.safetensors")
    make(tensors)
    save_file(tensors, path / "model.safetensors", {"format": "pt"})


BIAS = "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda p: _spoiled(p, lambda t: t.pop(BIAS)), r"1 tensor missing \(encoder\.block\.1"),
        (
            lambda p: _spoiled(p, lambda t: t.update({BIAS: torch.ones(3, 2)})),
            r"of another shape \(.*\[3, 2\], not \[32, 2\]",
        ),
        (lambda p: (p / "model.safetensors").write_bytes(b"x"), "is damaged"),
        (lambda p: (p / "model.safetensors").rename(p / "pytorch_model.bin"), "a pickle"),
        (lambda p: (p / "config.json").unlink(), "has no config.json"),
        (lambda p: (p / "config.json").write_text('{"model_type": "bert"}'), "of type 'bert'"),
        (lambda p: [f.unlink() for f in p.glob("*token*")], "has no tokenizer"),
    ],
)
def test_an_encoder_that_is_amiss_is_refused_before_it_is_loaded(umt5, spoil, said):
    spoil(umt5)
    with pytest.raises(UserError, match=said):
        TextSection(name="t5", path=str(umt5), dim=24).make().check_ready()


def test_a_tensor_that_a_model_does_not_have_is_refused(umt5):
    _spoiled(umt5, lambda t: t.update({"encoder.more": torch.ones(1)}))
    with pytest.raises(UserError, match=r"1 tensor unexpected \(encoder\.more\)"):
        TextSection(name="t5", path=str(umt5), dim=24).make().encode("a", 4)


def test_padding_may_be_kept_as_pipelines_without_masks_do(folders):
    encoder = TextSection(name="clip", path=str(folders["clip"]), dim=16, keep_padding=True).make()
    embedding, mask = encoder.encode("a cat runs", 6)
    model = CLIPTextModel.from_pretrained(folders["clip"]).eval()
    with torch.no_grad():
        wanted = model(input_ids=torch.tensor([[2, 3, 5, 6, 0, 0]])).last_hidden_state[0]
    assert mask.all()
    assert torch.equal(embedding, wanted)


def test_another_model_in_the_same_folder_is_another_encoder(folders, tmp_path):
    here = tmp_path / "a copy"
    shutil.copytree(folders["clip"], here)
    section = TextSection(name="clip", path=str(here), dim=16)
    before = section.make().identity
    elsewhere = TextSection(name="clip", path=str(folders["clip"]), dim=16).make().identity
    assert before == elsewhere, "wherever it lies, and whatever its folder is called"
    model = CLIPTextModel.from_pretrained(here)
    with torch.no_grad():
        next(model.parameters()).view(-1)[-1] += 1
    model.save_pretrained(here)
    assert section.make().identity != before
    kept = TextSection(name="clip", path=str(here), dim=16, keep_padding=True)
    assert kept.make().identity != section.make().identity


def test_large_files_are_told_apart_by_blocks_of_them(tmp_path):
    contents = bytearray(20_000_000)
    prints = set()
    for place in (None, 0, 10_000_000 // 317460 * 317460, 19_999_999):
        if place is not None:
            contents[place] ^= 1
        (tmp_path / "weights").write_bytes(contents)
        os.utime(tmp_path / "weights", ns=(len(prints), len(prints)))
        prints.add(fingerprint(tmp_path))
    assert len(prints) == 4


def test_a_wrong_width_and_a_missing_model_are_named(folders):
    wrong = TextSection(name="clip", path=str(folders["clip"]), dim=99).make()
    with pytest.raises(UserError, match="has dim 16, not 99"):
        wrong.encode("a", 4)
    missing = TextSection(name="t5", path=str(folders["t5"] / "no"), dim=8).make()
    with pytest.raises(UserError, match="does not exist"):
        missing.encode("a", 4)


def test_hash_words_differ_and_do_not_depend_on_where_they_are_computed():
    encoder = HashEncoder(HashEncoder.Config(dim=64))
    captions = ["the digit 3 moves left", "the digit 7 moves left", "the digit 3 moves right"]
    a, b, c = (encoder.encode(caption, 8) for caption in captions)
    different = [(a[0] != other[0]).any(dim=1).nonzero().flatten().tolist() for other in (b, c)]
    assert different == [[3], [5]]
    assert a[1].tolist() == [True] * 6 + [False] * 2
    assert torch.equal(encoder.encode("The digit 3 moves left", 8)[0], a[0])
    assert a[0][3, :3].tolist() == pytest.approx([1.4346, 0.3742, 1.4582], abs=1e-4)


def test_the_empty_caption_has_a_token_and_long_ones_are_cut():
    encoder = HashEncoder(HashEncoder.Config())
    assert encoder.encode("", 4)[1].tolist() == [True, False, False, False]
    assert encoder.encode("one two three four five", 4)[1].all()


def test_prompts_are_kept_in_one_file_with_the_encoders_bits(tmp_path, folders, capsys):
    encoder, file = t5(folders), tmp_path / "prompts.safetensors"
    first = CachedText(encoder, 6, file)
    first.keep(["a cat", "", "a dog runs"])
    context, mask = first(["a cat", "", "a cat"])
    assert context.shape == (3, 6, 24)
    assert torch.equal(context[0], context[2])
    assert torch.equal(context[1], encoder.encode("", 6)[0])
    assert [*tmp_path.iterdir()] == [file]
    encoder.encode = None  # a second run reads the file
    again, again_mask = CachedText(encoder, 6, file)(["a cat", ""])
    assert torch.equal(again, context[:2])
    assert torch.equal(again_mask, mask[:2])
    with pytest.raises(TypeError):
        CachedText(encoder, 5, file)([""])  # of another length, it is asked again
    file.write_bytes(file.read_bytes()[:-1])
    text = CachedText(t5(folders), 6, file)
    text.keep(["", "a cat"])
    assert f"{file} is damaged" in capsys.readouterr().out
    encoder.encode = None
    assert torch.equal(CachedText(encoder, 6, file)([""])[0][0], context[1])


def t5(folders, **options):
    return TextSection(name="t5", path=str(folders["t5"]), dim=24, **options).make()


def test_captions_of_clips_are_encoded_together_at_the_length_that_they_need(folders, monkeypatch):
    """In batches of one size, so that an embedding does not depend on how many others there are."""
    encoder, shapes = t5(folders), []

    def seen(model, tokens, real, padding):
        shapes.append(tuple(tokens.shape))
        return hidden_states(model, tokens, real, padding)

    monkeypatch.setattr("nasvid.diffusion.batched.hidden_states", seen)
    captions = [f"{'a cat ' * (number % 12)}runs" for number in range(40)]
    together = encoder.encode_all(captions, 77)
    assert sorted(shapes) == [(16, 32), (32, 16)]
    for caption, (embedding, mask) in zip(captions, together, strict=True):
        alone, real = encoder.encode(caption, 77)
        torch.testing.assert_close(embedding, alone, rtol=1e-4, atol=1e-5)
        assert torch.equal(mask, real)
    encoder = t5(folders, keep_padding=True)  # which the model sees
    shapes.clear()
    encoder.encode_all(captions[:4], 77)
    assert shapes == [(6, 77)]


def test_weights_are_in_the_precision_used_and_freed(folders):
    encoder = t5(folders, precision="bf16")
    encoder.encode_all(["a cat"], 6)
    ((_, model),) = encoder._loaded
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert encoder.weight_bytes(torch.device("cpu")) == sum(p.nbytes for p in model.parameters())
    assert encoder.identity != t5(folders).identity
    encoder.release()
    assert encoder._loaded == []


def test_few_captions_stay_in_memory(monkeypatch):
    encoder = HashEncoder(HashEncoder.Config(dim=8))
    one = sum(tensor.nbytes for tensor in encoder.encode("", 4))
    monkeypatch.setattr("nasvid.diffusion.cached_text.KEPT", 2 * one)
    text = CachedText(encoder, 4)
    text.of_clips(["a", "b", "a", "c"])
    assert list(text._captions._known) == ["b", "c"]
    assert torch.equal(text.of_clips(["d", "b"])[0][1], encoder.encode("b", 4)[0])
    assert list(text._captions._known) == ["d", "b"]
