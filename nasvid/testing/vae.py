"""The rules of a VAE, as a test class to derive from."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

from nasvid.testing.base import Conformance
from nasvid.testing.randomness import untouched_randomness
from nasvid.testing.same import assert_finite, assert_same
from nasvid.vae import Vae


class VaeConformance(Conformance):
    """Derive from it, set `vae` and the `options` of a folder, and pytest checks every rule.

    class TestMine(VaeConformance):
        vae = MyVae
        options = {"path": "folder"}
    """

    vae: ClassVar[type[Vae]]
    """The class under test."""

    def make(self) -> Vae:
        """Return a new VAE."""
        return self.made(self.vae)

    def clips(self, steps: int, n: int = 2) -> torch.Tensor:
        """Return different clips of the smallest size and `steps` frame steps: `n 3 t h w`."""
        to = self.make().compression
        size = (n, 3, to.frame_step * steps + 1, to.factor, 2 * to.factor)
        return torch.rand(size, generator=torch.Generator().manual_seed(steps)) * 2 - 1

    def test_videos_come_back_in_their_size(self) -> None:
        """Latents have the size that `compression` says, of pictures and longer clips."""
        vae = self.make()
        to = vae.compression
        for steps in (0, 1):
            video = self.clips(steps)
            latents = vae.encode(video)
            frames = to.latent_frames(video.shape[2])
            assert latents.shape == (2, to.channels, frames, 1, 2)
            again = vae.decode(latents)
            assert again.shape == video.shape
            for tensor, what in ((latents, "the latents"), (again, "the decoded videos")):
                assert tensor.dtype == torch.float32
                assert not tensor.requires_grad
                assert_finite(tensor, f"{what} of {video.shape[2]} frames")

    def test_what_cannot_be_encoded_is_refused_with_the_nearest_that_can(self) -> None:
        """Frames that are not `k * frame_step + 1`, and sides that are no multiple of `factor`."""
        to = self.make().compression
        if to.frame_step > 1:
            with pytest.raises(ValueError, match=rf"use \d+ or {2 * to.frame_step + 1}"):
                to.check_frames(2 * to.frame_step)
        if to.factor > 1:
            with pytest.raises(ValueError, match=rf"such as {to.factor} or {2 * to.factor}"):
                to.check_size(to.factor + 1)
        to.check_frames(to.frame_step + 1)
        to.check_size(2 * to.factor)

    def test_a_clips_latents_are_its_own(self) -> None:
        """They depend on no other clip of the batch, but for rounding."""
        vae, video = self.make(), self.clips(1)
        together = vae.encode(video)
        assert not torch.equal(together[0], together[1])
        for clip, expected in zip(video, together, strict=True):
            torch.testing.assert_close(vae.encode(clip[None])[0], expected, rtol=1e-3, atol=1e-4)

    def test_leaves_what_it_is_given_alone(self) -> None:
        """It writes into neither videos nor latents."""
        vae, video = self.make(), self.clips(1)
        before = video.clone()
        latents = vae.encode(video)
        assert_same(video, before, "the videos, afterwards,")
        before = latents.clone()
        vae.decode(latents)
        assert_same(latents, before, "the latents, afterwards,")

    def test_encodes_and_decodes_alike_at_any_time(self) -> None:
        """Neither global random state nor earlier clips change anything."""
        vae, video = self.make(), self.clips(1)
        with untouched_randomness(1):
            latents = vae.encode(video)
            again = vae.decode(latents)
        other = self.make()
        with untouched_randomness(2):
            assert_same(other.encode(video), latents, "another VAE's latents")
            assert_same(other.decode(latents), again, "another VAE's videos")

    def test_its_identity_is_that_of_its_files_and_options(self) -> None:
        """It is the key of cached latents: VAEs with the same options and files share it."""
        vae = self.make()
        assert vae.identity
        assert vae.name
        assert self.make().identity == vae.identity
        vae.check_ready()
