"""Embeddings in files: one for each shard, in half precision, checked when they are read."""

import os
import pickle

import pytest
import torch

from nasvid.data.embeddings import EmbeddingFile, StoredText, half, write_embeddings
from nasvid.data.errors import DataError
from nasvid.data.loader import Batch
from nasvid.data.text_ahead import AHEAD, encoded_ahead
from nasvid.errors import Damaged

MASKS = {"a": [1, 1, 0, 0], "b": [1, 0, 0, 1], "a large one": [1, 1, 1, 1]}
"""The last token of a sequence may be real after padding: it may be of the whole caption."""


@pytest.fixture
def rows():
    torch.manual_seed(0)
    found = {caption: torch.randn(sum(mask), 8) for caption, mask in MASKS.items()}
    found["a large one"][0, 0] = 1e6
    return found


@pytest.fixture
def file(tmp_path, rows):
    path = tmp_path / "000001.safetensors"
    given = [
        (caption, half(rows[caption]), torch.tensor(mask, dtype=torch.bool))
        for caption, mask in MASKS.items()
    ]
    write_embeddings(path, given, "test")
    return path


def clips(*captions):
    return [("b.tar", caption) for caption in captions]


def test_what_is_written_is_read_in_half_precision(file, rows):
    found = EmbeddingFile(file)
    assert (len(found), found.made_by) == (3, "test")
    for caption, mask in MASKS.items():
        embedding, real = found.find(caption)
        assert real.tolist() == [bool(each) for each in mask]
        assert not embedding[~real].any()
        is_large = caption == "a large one"
        assert embedding.dtype == (torch.bfloat16 if is_large else torch.float16)
        precise = 2**-8 if is_large else 2**-11
        torch.testing.assert_close(embedding[real].float(), rows[caption], rtol=precise, atol=1e-7)
    assert found.find("c") is None


def test_a_batch_is_read_from_the_files_of_its_shards(file):
    stored = StoredText.of(file.parent, ["a.tar", "b.tar"])
    embeddings, masks = stored(clips("b", "a", "b"))
    assert (embeddings.shape, embeddings.dtype, masks.shape) == ((3, 4, 8), torch.float16, (3, 4))
    assert torch.equal(embeddings[0], embeddings[2])
    assert stored(clips("b", "a large one"))[0].dtype == torch.float32


@pytest.mark.parametrize("where", ["rows", "starts", "wide", "masks"])
def test_any_change_of_what_is_kept_of_a_caption_is_damage(file, where):
    content = bytearray(file.read_bytes())
    masks, rest = 3 * 4, 3 * (4 + 1 + 8)  # bytes of three captions; `starts` comes before `sums`
    at = {"rows": 4096, "masks": -1, "wide": -1 - masks, "starts": -1 - rest}[where]
    content[at] ^= 128 if where == "starts" else 1
    file.write_bytes(content)
    stored = StoredText.of(file.parent, ["a.tar", "b.tar"])
    with pytest.raises(Damaged, match=r"000001.*(checksum|row -)") as raised:
        stored(clips(*MASKS))
    sent = pickle.loads(pickle.dumps(raised.value))  # a loader process has found it
    assert (str(sent), sent.path, sent.reason) == (str(raised.value), file, raised.value.reason)


def test_what_is_missing_or_damaged_is_named(file):
    stored = StoredText.of(file.parent, ["a.tar", "b.tar"])
    with pytest.raises(
        DataError, match=r"000001.* lacks the caption 'unknown' of b\.tar; delete the former"
    ):
        stored(clips("unknown"))
    with pytest.raises(DataError, match=r"000000\.safetensors is missing; nasvid run makes it"):
        stored([("a.tar", "a")])
    opened = EmbeddingFile(file)
    os.truncate(file, 4096)
    with pytest.raises(Damaged, match=r"000001.*it is cut"):
        opened.find("a")
    with pytest.raises(Damaged, match="000001"):
        EmbeddingFile(file)


def test_captions_are_encoded_ahead_in_order_and_an_error_is_raised_where_it_belongs():
    begun, encoded = [], []

    def load(requests):
        for number in requests:
            begun.append(number)
            nothing = torch.zeros(0)
            yield Batch(nothing, [f"{number}"], nothing, [f"{number}"], ())

    def encode(captions):
        encoded.extend(captions)
        if captions == ["5"]:
            raise DataError("the fifth")
        return torch.tensor([float(captions[0])]), torch.ones(1)

    batches = encoded_ahead(load, encode, range(9))
    assert next(batches).context[0].item() == 0
    assert begun == [*range(1 + AHEAD)]
    assert [next(batches).context[0].item() for _ in range(4)] == [1, 2, 3, 4]
    with pytest.raises(DataError, match="the fifth"):
        next(batches)
    assert encoded[:6] == ["0", "1", "2", "3", "4", "5"]
    assert [b.keys for b in encoded_ahead(load, encode, range(2))] == [["0"], ["1"]]
