"""Captions encoded many together, over one at a time; and what a step waits for their embeddings.

    python benchmarks/text.py

10,000 captions of 3 to 24 words through a small T5 with random weights, at `context_len` 77: the
same 500 in turn in both ways, written to files as before training. Then steps of 50 ms, whose clips
a process loads: how long they wait with embeddings from such a file, over clips without any.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from paired import machine, paired
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from nasvid.data.embeddings import StoredText, embeddings_path, half, write_embeddings
from nasvid.data.loader import BatchRequest, Cutting, load_batches
from nasvid.data.shards import ShardIndex, index_shards
from nasvid.diffusion.cached_text import CachedText
from nasvid.shapes import Resolution
from nasvid.text_encoder import TextEncoder, TextSection

CAPTIONS, PART, LENGTH = 10_000, 500, 77
BATCH, STEPS, STEP = 16, 40, 0.05


def make_t5(folder: Path) -> TextEncoder:
    """Write a T5 of 64 channels and 2 layers with a vocabulary of words; return its encoder."""
    words = {f"w{number}": number for number in range(2, 1000)} | {"<pad>": 0, "<unk>": 1}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
    fast.save_pretrained(folder)
    config = T5Config(vocab_size=1000, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4)
    torch.manual_seed(0)
    T5EncoderModel(config).save_pretrained(folder)
    return TextSection.model_validate({"name": "t5", "path": str(folder)}).make()


def captions() -> list[str]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 25, CAPTIONS)
    return [" ".join(f"w{word}" for word in rng.integers(2, 1000, n)) for n in lengths]


def throughput(encoder: TextEncoder, folder: Path) -> None:
    text, found = CachedText(encoder, LENGTH), captions()
    parts = [found[first : first + PART] for first in range(0, CAPTIONS, PART)]
    alone, together = iter([parts[0], *parts]), iter([parts[0], *parts])

    def one_at_a_time() -> None:
        rows = []
        for caption in next(alone):
            embedding, mask = encoder.encode(caption, LENGTH)
            rows.append((caption, half(embedding[mask]), mask))
        write_embeddings(folder / "alone.safetensors", rows, "")

    def in_batches() -> None:
        write_embeddings(folder / "together.safetensors", text.halves(next(together)), "")

    result = paired(one_at_a_time, in_batches, rounds=len(parts), warm_up=1)
    rate = PART / result.second
    print(f"{CAPTIONS} captions: {rate:.0f}/s together, over one at a time: {result}")


def waiting(encoder: TextEncoder, folder: Path) -> None:
    index = index_shards("embedded:footage", Path(), "train")
    shard = index.clips[0].shard
    clips = [each for each in index.clips if each.shard == shard]
    clips = [replace(each, caption=text) for each, text in zip(clips, captions(), strict=False)]
    index = replace(index, shards=(shard,), clips=tuple(clips))
    text = CachedText(encoder, LENGTH).halves([each.caption for each in clips])
    write_embeddings(embeddings_path(folder, 0), text, "")
    stored = StoredText.of(folder, index.shards)
    result = paired(lambda: waited(index, stored), lambda: waited(index, None), rounds=7, warm_up=1)
    print(f"steps that wait for clips with embeddings, over clips without: {result}")
    start = time.perf_counter()
    for first in range(0, 10 * BATCH, BATCH):
        stored([(shard, each.caption) for each in clips[first % len(clips) :][:BATCH]])
    took = (time.perf_counter() - start) / 10
    print(f"reading {BATCH} embeddings, in the process that loads clips: {1e3 * took:.2f} ms")


def waited(index: ShardIndex, text: StoredText | None) -> None:
    """Make steps of clips that a process loads; they end when the last one does."""
    requests = [BatchRequest(n, Resolution.square(32), n * BATCH, BATCH) for n in range(STEPS)]
    for _ in load_batches(
        index,
        requests,
        seed=0,
        workers=1,
        text=text,
        cutting=Cutting(frames=4, fps=8.0, flip=False, train=True),
    ):
        time.sleep(STEP)


def main() -> None:
    torch.set_num_threads(1)
    print(machine())
    with TemporaryDirectory() as folder:
        encoder = make_t5(Path(folder))
        throughput(encoder, Path(folder))
        waiting(encoder, Path(folder))


if __name__ == "__main__":
    main()
