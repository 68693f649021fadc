"""Makes small stand-ins for the text-to-video pipelines of diffusers, with random weights.

    python examples/tiny_pipelines/make.py wan tiny/wan

writes what `WanPipeline.save_pretrained` writes for the real one: denoiser, VAE, text encoder,
tokenizer and scheduler, of the stock classes, in the layout and with the factors and settings of
the published folders, only narrow and shallow. Nothing is downloaded: the tokenizers know
the words of a few sentences below, and all letters. The same name and seed give the same files.

The latents of each VAE are standardised as those of a trained one are: by its own means and
deviations, or its scaling factor, measured on smooth random videos.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

diffusers: Any = import_module("diffusers")
transformers: Any = import_module("transformers")  # neither tells a type checker its classes

CORPUS = (
    "A cat runs over the green grass and jumps.",
    "A dog sits on a red chair, then it walks away to the left.",
    "The handwritten digits 0 1 2 3 4 5 6 7 8 9 move to the right and bounce.",
    "Waves roll onto a sunny beach while people walk slowly along the shore.",
    "A large blue circle turns around a small yellow square in the dark.",
    "Close shot of hands that bake bread; the camera moves up, down and back.",
    "The city at night: cars drive, lights blink, rain falls on the street.",
    "The quick brown fox jumps over the lazy dog; sphinx of black quartz, judge my vow!",
)
LETTERS = tuple(f"{letter} {letter * 2}" for letter in string.printable.strip())
"""So that every letter, inside and at the end of a word, is a piece of each tokenizer."""
LLAMA_PIECES = 556
"""As many as make HunyuanVideo's template 95 tokens long, as many as the pipeline cuts off."""
WIDTH = 32
"""Size of a text token's embedding."""
HEAD = 16
"""Channels of an attention head of the transformers."""


def wan() -> Any:
    """WanPipeline: UMT5, a VAE of 4x8x8 with means and deviations, flow matching with a shift."""
    tokenizer = _t5_tokenizer()
    vae = diffusers.AutoencoderKLWan(base_dim=8, num_res_blocks=1)
    mean, deviation = _moments(vae, per_channel=True)
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=deviation.tolist())
    return diffusers.WanPipeline(
        tokenizer=tokenizer,
        text_encoder=_t5(transformers.UMT5EncoderModel, transformers.UMT5Config, tokenizer),
        vae=vae,
        scheduler=diffusers.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        transformer=diffusers.WanTransformer3DModel(
            num_attention_heads=4,
            attention_head_dim=HEAD,
            text_dim=WIDTH,
            freq_dim=WIDTH,
            ffn_dim=256,
            num_layers=6,
            rope_max_seq_len=256,
        ),
    )


def ltx() -> Any:
    """LTXPipeline: T5 with a mask, a VAE of 8x32x32 with 128 channels, a shift by resolution."""
    tokenizer = _t5_tokenizer()
    vae = diffusers.AutoencoderKLLTXVideo(
        block_out_channels=(8, 16, 16, 16),
        decoder_block_out_channels=(8, 16, 16, 16),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
    )
    vae.latents_mean, vae.latents_std = _moments(vae, per_channel=True)
    return diffusers.LTXPipeline(
        tokenizer=tokenizer,
        text_encoder=_t5(transformers.T5EncoderModel, transformers.T5Config, tokenizer),
        vae=vae,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True,
            base_shift=0.95,
            max_shift=2.05,
            base_image_seq_len=1024,
            max_image_seq_len=4096,
            shift_terminal=0.1,
        ),
        transformer=diffusers.LTXVideoTransformer3DModel(
            num_attention_heads=4,
            attention_head_dim=HEAD,
            cross_attention_dim=4 * HEAD,
            caption_channels=WIDTH,
            num_layers=6,
        ),
    )


def cogvideox() -> Any:
    """CogVideoXPipeline: T5 without a mask, a VAE of 4x8x8, diffusion with v-prediction."""
    tokenizer = _t5_tokenizer()
    vae = diffusers.AutoencoderKLCogVideoX(block_out_channels=(32, 32, 32, 32), layers_per_block=1)
    vae.register_to_config(scaling_factor=round(1 / _moments(vae)[1].item(), 6))
    return diffusers.CogVideoXPipeline(
        tokenizer=tokenizer,
        text_encoder=_t5(transformers.T5EncoderModel, transformers.T5Config, tokenizer),
        vae=vae,
        scheduler=diffusers.CogVideoXDDIMScheduler(
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            snr_shift_scale=3.0,
            timestep_spacing="trailing",
            clip_sample=False,
        ),
        transformer=diffusers.CogVideoXTransformer3DModel(
            num_attention_heads=4,
            attention_head_dim=HEAD,
            time_embed_dim=WIDTH,
            text_embed_dim=WIDTH,
            num_layers=6,
            sample_width=8,
            sample_height=8,
            sample_frames=9,
        ),
    )


def hunyuan_video() -> Any:
    """HunyuanVideoPipeline: Llama and CLIP, a VAE of 4x8x8, flow matching with guidance inside."""
    tokenizer, second = _llama_tokenizer(), _clip_tokenizer()
    vae = diffusers.AutoencoderKLHunyuanVideo(
        block_out_channels=(8, 8, 16, 16), layers_per_block=1, norm_num_groups=4
    )
    vae.register_to_config(scaling_factor=round(1 / _moments(vae)[1].item(), 6))
    llama = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return diffusers.HunyuanVideoPipeline(
        text_encoder=transformers.LlamaModel(llama),
        tokenizer=tokenizer,
        text_encoder_2=_clip(second),
        tokenizer_2=second,
        vae=vae,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=7.0),
        transformer=diffusers.HunyuanVideoTransformer3DModel(
            num_attention_heads=4,
            attention_head_dim=HEAD,
            num_layers=2,
            num_single_layers=4,
            num_refiner_layers=1,
            text_embed_dim=WIDTH,
            pooled_projection_dim=WIDTH,
            rope_axes_dim=(4, 6, 6),
        ),
    )


def text_to_video_sd() -> Any:
    """TextToVideoSDPipeline: CLIP, a frame-wise VAE, a UNet whose two widest levels are equal."""
    tokenizer = _clip_tokenizer()
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
    )
    vae.register_to_config(scaling_factor=round(1 / _moments(vae)[1].item(), 6))
    return diffusers.TextToVideoSDPipeline(
        vae=vae,
        text_encoder=_clip(tokenizer),
        tokenizer=tokenizer,
        unet=diffusers.UNet3DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32, 64, 64),
            layers_per_block=1,
            norm_num_groups=8,
            cross_attention_dim=WIDTH,
            attention_head_dim=8,
        ),
        scheduler=diffusers.DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
    )


PIPELINES: dict[str, Callable[[], Any]] = {
    "wan": wan,
    "ltx": ltx,
    "cogvideox": cogvideox,
    "hunyuan_video": hunyuan_video,
    "text_to_video_sd": text_to_video_sd,
}


def make(name: str, folder: Path, seed: int = 0) -> Path:
    """Write the stand-in of a name to a folder, which is returned."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        PIPELINES[name]().save_pretrained(str(folder))
    return folder


@torch.no_grad()
def _moments(vae: Any, *, per_channel: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean and deviation of a VAE's latents, of each channel or of all together."""
    vae.eval()
    video = torch.nn.functional.interpolate(
        torch.rand(4, 3, 3, 8, 8) * 2 - 1, size=(9, 64, 64), mode="trilinear"
    )
    if isinstance(vae, diffusers.AutoencoderKL):
        video = video[:, :, 0]
    latents = vae.encode(video).latent_dist.mode()
    kept = [axis for axis in range(latents.ndim) if axis != 1 or not per_channel]
    return latents.mean(kept), latents.std(kept)


def _t5(model: Any, settings: Any, tokenizer: Any) -> Any:
    small = settings(
        vocab_size=len(tokenizer),
        d_model=WIDTH,
        d_kv=8,
        d_ff=2 * WIDTH,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )
    return model(small).eval()


def _clip(tokenizer: Any) -> Any:
    return transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            projection_dim=WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).eval()


def _t5_tokenizer() -> Any:
    """Return a tokenizer of pieces, each with a probability, as T5's and UMT5's."""
    words = Counter(f"▁{word}" for text in CORPUS for word in re.findall(r"\w+", text))
    letters = ["▁", *string.printable.strip()]
    scores = {piece: math.log(count / words.total()) for piece, count in sorted(words.items())}
    scores = dict.fromkeys(letters, -2 * math.log(words.total())) | scores
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    return transformers.T5TokenizerFast(
        vocab=[*special, *scores.items()], extra_ids=0, model_max_length=512
    )


def _clip_tokenizer() -> Any:
    """Return a tokenizer of lower-case words put together from letters, as CLIP's."""
    special = ["<|startoftext|>", "<|endoftext|>"]
    blank = transformers.CLIPTokenizerFast()
    lower = [text.lower() for text in (*CORPUS, *LETTERS)]
    learned = _learned(lower, special, 500, blank.backend_tokenizer.pre_tokenizer, "</w>")
    return transformers.CLIPTokenizerFast(**learned, model_max_length=77)


def _llama_tokenizer() -> Any:
    """Return a tokenizer of words put together from letters, as Llama's."""
    before, _ = DEFAULT_PROMPT_TEMPLATE["template"].split("{}")
    marks = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    special = ["<unk>", "<s>", "</s>", "<pad>", *marks, "\n"]
    words = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    learned = _learned([before, *CORPUS, *LETTERS], special, LLAMA_PIECES, words)
    tokenizer = transformers.LlamaTokenizerFast(
        **learned, pad_token="<pad>", padding_side="right", model_max_length=512
    )
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    return tokenizer


def _learned(
    texts: Sequence[str], special: list[str], pieces: int, words: Any, suffix: str = ""
) -> dict[str, Any]:
    """Return the vocabulary and the merges that byte-pair encoding learns from texts."""
    trained = Tokenizer(models.BPE(end_of_word_suffix=suffix))
    trained.pre_tokenizer = words
    trainer: Any = trainers.BpeTrainer(
        vocab_size=pieces,
        special_tokens=special,
        end_of_word_suffix=suffix,
        show_progress=False,
    )
    trained.train_from_iterator(texts, trainer)
    model = json.loads(trained.to_str())["model"]
    return {"vocab": model["vocab"], "merges": [tuple(pair) for pair in model["merges"]]}


def main() -> None:
    """Read the command line and write a stand-in."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("name", choices=PIPELINES)
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="of the weights [default: 0]")
    options = parser.parse_args()
    print(make(options.name, options.out, options.seed))


if __name__ == "__main__":
    main()
