"""Model classes of diffusers as search spaces."""

from nasvid_spaces.diffusers_model.cogvideox import CogVideoXSpace
from nasvid_spaces.diffusers_model.frequencies import nearest_frequencies
from nasvid_spaces.diffusers_model.hunyuan_video import HunyuanVideoSpace
from nasvid_spaces.diffusers_model.latte import LatteSpace
from nasvid_spaces.diffusers_model.ltx import LTXSpace
from nasvid_spaces.diffusers_model.space import DiffusersModelSpace, Dimension
from nasvid_spaces.diffusers_model.unet3d import UNet3DSpace
from nasvid_spaces.diffusers_model.wan import WanSpace

__all__ = [
    "CogVideoXSpace",
    "DiffusersModelSpace",
    "Dimension",
    "HunyuanVideoSpace",
    "LTXSpace",
    "LatteSpace",
    "UNet3DSpace",
    "WanSpace",
    "nearest_frequencies",
]
