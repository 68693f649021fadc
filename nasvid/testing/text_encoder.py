"""The rules of a text encoder, as a test class to derive from."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch

from nasvid.diffusion.cached_text import CachedText
from nasvid.testing.base import Conformance
from nasvid.testing.randomness import untouched_randomness
from nasvid.testing.same import assert_finite, assert_same
from nasvid.text_encoder import TextEncoder

LENGTH = 6
"""Number of tokens that captions are truncated or padded to."""
ROUNDING = 1e-3
"""How far embeddings may differ that are computed together and alone, also relatively."""


class TextEncoderConformance(Conformance):
    """Derive from it, set `encoder`, and pytest checks every rule of a text encoder.

    class TestMine(TextEncoderConformance):
        encoder = Mine
    """

    encoder: ClassVar[type[TextEncoder]]
    """The class under test."""
    captions: ClassVar[tuple[str, ...]] = ("a cat runs", "a dog runs", "a cat")
    """Captions that the encoder distinguishes."""

    def make(self) -> TextEncoder:
        """Return a new encoder."""
        return self.made(self.encoder)

    def test_embeddings_have_their_length_and_size(self) -> None:
        """At any length: finite float32 `l d` and bool `l`, on the CPU, without gradients."""
        encoder = self.make()
        for caption in ("", *self.captions):
            for length in (1, LENGTH):
                embedding, mask = encoder.encode(caption, length)
                assert embedding.shape == (length, encoder.dim)
                assert mask.shape == (length,)
                assert (embedding.dtype, mask.dtype) == (torch.float32, torch.bool)
                assert embedding.device.type == mask.device.type == "cpu"
                assert not embedding.requires_grad
                assert_finite(embedding, f"the embedding of {caption!r}")

    def test_what_is_masked_is_zero(self) -> None:
        """Padding carries no information to a denoiser that takes no mask."""
        for caption in ("", *self.captions):
            embedding, mask = self.make().encode(caption, LENGTH)
            assert not embedding[~mask].any()

    def test_every_caption_has_a_real_token(self) -> None:
        """So does the empty one, guidance's unconditional: attention needs at least one key."""
        for caption in ("", *self.captions):
            for length in (1, LENGTH):
                assert self.make().encode(caption, length)[1].any(), f"none of {caption!r}"

    def test_tells_captions_apart(self) -> None:
        """All of `captions` and the empty caption have different embeddings."""
        encoder = self.make()
        found = [encoder.encode(caption, LENGTH)[0] for caption in ("", *self.captions)]
        for i, one in enumerate(found):
            assert not any(torch.equal(one, other) for other in found[:i])

    def test_encodes_alike_at_any_time_in_any_process(self) -> None:
        """Neither global random state nor earlier captions change an embedding."""
        encoder, captions = self.make(), ("", *self.captions)
        with untouched_randomness(1):
            once = [encoder.encode(caption, LENGTH) for caption in captions]
        with untouched_randomness(2):
            again = [self.make().encode(caption, LENGTH) for caption in captions[::-1]][::-1]
        for caption, one, other in zip(captions, once, again, strict=True):
            assert_same(other[0], one[0], f"the second embedding of {caption!r}")
            assert_same(other[1], one[1], f"the second mask of {caption!r}")

    def test_its_identity_is_that_of_its_options(self) -> None:
        """Encoders with the same options share a cache on disk."""
        identity = self.make().identity
        assert isinstance(identity, str)
        assert identity
        assert self.make().identity == identity

    def test_proposes_nothing_for_a_folder_that_is_no_pipeline(self, tmp_path: Path) -> None:
        """`nasvid init` asks every text encoder; one that does not know a pipeline gives None."""
        assert self.encoder.propose(tmp_path) is None
        assert self.encoder.propose(tmp_path, "someone/something") is None

    def test_several_together_are_each_as_alone(self) -> None:
        """Up to rounding, and whatever the others are: the captions of clips come together."""
        encoder, captions = self.make(), ["", *self.captions]
        for together in (captions, captions[::-1], captions[1:2]):
            found = encoder.encode_all(together, LENGTH)
            assert len(found) == len(together)
            for caption, (embedding, mask) in zip(together, found, strict=True):
                alone, real = encoder.encode(caption, LENGTH)
                torch.testing.assert_close(embedding, alone, rtol=ROUNDING, atol=ROUNDING)
                assert_same(mask, real, f"the mask of {caption!r} among others")

    def test_the_cache_gives_its_bits(self, tmp_path: Path) -> None:
        """As computed, and as read by the next run."""
        for _ in ("computed", "read"):
            text = CachedText(self.make(), LENGTH, tmp_path / "prompts.safetensors")
            text.keep(self.captions)
            context, mask = text(self.captions)
            for i, caption in enumerate(self.captions):
                embedding, real = self.make().encode(caption, LENGTH)
                assert_same(context[i], embedding, f"the cached embedding of {caption!r}")
                assert_same(mask[i], real, f"the cached mask of {caption!r}")
