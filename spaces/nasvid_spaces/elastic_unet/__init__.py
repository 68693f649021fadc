"""The elastic video UNet: a plain model and the search space over it."""

from typing import TYPE_CHECKING, Any

from nasvid_spaces.elastic_unet.space import ElasticUNetSpace

if TYPE_CHECKING:
    from nasvid_spaces.elastic_unet.model import VideoUNet

__all__ = ["ElasticUNetSpace", "VideoUNet"]


def __getattr__(name: str) -> Any:
    """Import the model, and with it diffusers, only when it is asked for."""
    if name == "VideoUNet":
        from nasvid_spaces.elastic_unet.model import VideoUNet

        return VideoUNet
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
