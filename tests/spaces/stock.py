"""Loads extracted subnets with diffusers alone: run with a folder, without nasvid.

FOLDER/CLASS holds `unet` or `transformer` and `inputs.safetensors`; what the model gives is written
beside them.
"""

import sys
from pathlib import Path

import diffusers
import torch
from safetensors.torch import load_file, save_file


def main(folder):
    for path in sorted(folder.glob("*/inputs.safetensors")):
        part = next(entry for entry in path.parent.iterdir() if entry.is_dir())
        cls = getattr(diffusers, path.parent.name)
        model = cls.from_pretrained(path.parent, subfolder=part.name)
        with torch.no_grad():
            output = called(model, **load_file(path))
        save_file({"output": output.contiguous()}, path.with_name("output.safetensors"))
    assert not any(name.partition(".")[0].startswith("nasvid") for name in sys.modules)


def called(model, sample, timestep, context, context_mask, fps):
    """Call a model as its pipeline does."""
    name = type(model).__name__
    call = {"timestep": timestep, "return_dict": False}
    if name == "CogVideoXTransformer3DModel":
        return called_cogvideox(model, sample, context * context_mask[..., None], call)
    if name == "HunyuanVideoTransformer3DModel":
        last = context_mask.sum(dim=1) - 1
        return model(
            sample,
            encoder_hidden_states=context,
            encoder_attention_mask=context_mask,
            pooled_projections=context[torch.arange(len(last)), last, :6],
            guidance=torch.tensor([1.0] * len(sample)) * 1000.0,
            **call,
        )[0]
    if name != "LTXVideoTransformer3DModel":
        context = context * context_mask[..., None]
        return model(sample, encoder_hidden_states=context, **call)[0]
    _, _, frames, height, width = sample.shape
    tokens = model(
        sample.flatten(2).transpose(1, 2),
        encoder_hidden_states=context,
        timestep=timestep,
        encoder_attention_mask=context_mask,
        num_frames=frames,
        height=height,
        width=width,
        rope_interpolation_scale=((8 / fps)[:, None, None, None, None], 32, 32),
        return_dict=False,
    )[0]
    return tokens.transpose(1, 2).unflatten(2, (frames, height, width))


def called_cogvideox(model, sample, context, call):
    pipeline = object.__new__(diffusers.CogVideoXPipeline)
    pipeline.__dict__ |= {"vae_scale_factor_spatial": 1, "transformer": model}
    video = sample.transpose(1, 2)
    _, frames, _, height, width = video.shape
    rotary = pipeline._prepare_rotary_positional_embeddings(height, width, frames, "cpu")
    call |= {"encoder_hidden_states": context, "image_rotary_emb": rotary}
    return model(video, **call)[0].transpose(1, 2)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
