"""Model classes of diffusers as search spaces."""

from nasvid_spaces.diffusers_model.latte import LatteSpace
from nasvid_spaces.diffusers_model.ltx import LTXSpace
from nasvid_spaces.diffusers_model.space import DiffusersModelSpace, Dimension
from nasvid_spaces.diffusers_model.unet3d import UNet3DSpace, nearest_frequencies
from nasvid_spaces.diffusers_model.wan import WanSpace

__all__ = [
    "DiffusersModelSpace",
    "Dimension",
    "LTXSpace",
    "LatteSpace",
    "UNet3DSpace",
    "WanSpace",
    "nearest_frequencies",
]
