"""The elastic video UNet: a plain model and the search space over it."""

from nasvid_spaces.elastic_unet.model import VideoUNet
from nasvid_spaces.elastic_unet.space import ElasticUNetSpace

__all__ = ["ElasticUNetSpace", "VideoUNet"]
