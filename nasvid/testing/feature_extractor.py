"""The rules of a feature extractor, as a test class to derive from."""

from __future__ import annotations

from typing import ClassVar

import torch

from nasvid.feature_extractor import FeatureExtractor
from nasvid.testing.base import Conformance
from nasvid.testing.randomness import untouched_randomness
from nasvid.testing.same import assert_finite, assert_same


class FeatureExtractorConformance(Conformance):
    """Derive from it, set `extractor`, and pytest checks every rule of a feature extractor.

    class TestMine(FeatureExtractorConformance):
        extractor = Mine
    """

    extractor: ClassVar[type[FeatureExtractor]]
    """The class under test."""
    sides: ClassVar[tuple[int, ...]] = (16, 24)
    """Heights and widths of clips, in pixels."""

    def make(self) -> FeatureExtractor:
        """Return a new extractor."""
        return self.made(self.extractor)

    def clips(self, side: int, n: int = 3) -> torch.Tensor:
        """Return different clips of as few frames as the extractor takes: `n 3 t h w`."""
        generator = torch.Generator().manual_seed(side)
        frames = self.make().min_frames
        return torch.rand(n, 3, frames, side, side, generator=generator) * 2 - 1

    def test_features_have_their_size(self) -> None:
        """Of clips of any height: finite float32 `b dim`, without gradients, on the same device."""
        extractor = self.make()
        assert extractor.dim > 0
        assert extractor.min_frames > 0
        for side in self.sides:
            video = self.clips(side)
            features = extractor.features(video)
            assert features.shape == (len(video), extractor.dim)
            assert features.dtype == torch.float32
            assert features.device == video.device
            assert not features.requires_grad
            assert_finite(features, f"the features at {side} pixels")

    def test_longer_clips_have_features_too(self) -> None:
        """`min_frames` is a least number."""
        extractor, video = self.make(), self.clips(self.sides[0])
        longer = torch.cat([video, video[:, :, :1]], dim=2)
        assert extractor.features(longer).shape == (len(video), extractor.dim)

    def test_a_clips_features_are_its_own(self) -> None:
        """They depend on no other clip of the batch, but for rounding."""
        extractor, video = self.make(), self.clips(self.sides[0])
        together = extractor.features(video)
        for clip, expected in zip(video, together, strict=True):
            torch.testing.assert_close(
                extractor.features(clip[None])[0], expected, rtol=1e-3, atol=1e-4
            )

    def test_tells_clips_apart(self) -> None:
        """Different clips have different features."""
        first, *others = self.make().features(self.clips(self.sides[0]))
        assert not any(torch.equal(first, other) for other in others)

    def test_leaves_clips_alone(self) -> None:
        """It does not write into what it is given."""
        video = self.clips(self.sides[0])
        before = video.clone()
        self.make().features(video)
        assert_same(video, before, "the clips, afterwards,")

    def test_extracts_alike_at_any_time_in_any_process(self) -> None:
        """Neither global random state nor earlier clips change features."""
        extractor, video = self.make(), self.clips(self.sides[0])
        with untouched_randomness(1):
            once = extractor.features(video)
        extractor.features(self.clips(self.sides[-1]))
        assert_same(extractor.features(video), once, "the second features")
        with untouched_randomness(2):
            assert_same(self.make().features(video), once, "another extractor's features")

    def test_its_identity_is_that_of_its_options(self) -> None:
        """It is recorded with results: extractors with the same options and files share it."""
        identity = self.make().identity
        assert isinstance(identity, str)
        assert identity
        assert self.make().identity == identity
        self.make().check_ready()
