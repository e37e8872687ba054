"""Folder of four idx files, as MNIST and its successors come in -> labelled images."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from autoprune.errors import TaskError
from autoprune.tasks.arrays import LabelledArrays

FASHION_MNIST = "/usr/share/datasets/fashion-mnist"
FASHION_CLASSES = (
    *("T-shirt/top", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
_HINT = "Install Debian's dataset-fashion-mnist, or name the folder of the idx files: task_args: {data_dir: ...}."

_MAGIC = b"\x00\x00\x08"
_MOST_DIMENSIONS = 4
_MOST_BYTES = 2**31

Bytes = npt.NDArray[np.uint8]


def read_idx(path: Path) -> Bytes:
    """Return the array of a gzipped idx file of bytes.

    Raises:
        TaskError: The file is missing, damaged, of another format or larger than 2 GiB; no more is read than its header
            says.
    """
    try:
        with gzip.open(path) as file:
            head = file.read(4)
            dims = head[3] if head[:3] == _MAGIC and len(head) == 4 else 0
            sizes = file.read(4 * dims) if dims <= _MOST_DIMENSIONS else b""
            shape = struct.unpack(f">{len(sizes) // 4}I", sizes[: len(sizes) // 4 * 4])
            wanted = math.prod(shape)
            if not shape or len(shape) != dims or wanted > _MOST_BYTES:
                raise TaskError(f"{path.name} is no idx file of bytes.", hint=_HINT)
            content = file.read(wanted + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise TaskError(f"Cannot read {path.name} in {path.parent}: {error}", hint=_HINT) from error
    if len(content) != wanted:
        raise TaskError(f"{path.name} does not hold what its header says.", hint=_HINT)
    return np.frombuffer(content, np.uint8).reshape(shape)


def read_idx_pair(folder: str | Path, part: str) -> tuple[Bytes, Bytes]:
    """Return the [n, h, w] images and [n] labels of a part, `train` or `t10k`, of a folder.

    Raises:
        TaskError: A file is missing or is not what its name says.
    """
    images = read_idx(Path(folder) / f"{part}-images-idx3-ubyte.gz")
    labels = read_idx(Path(folder) / f"{part}-labels-idx1-ubyte.gz")
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise TaskError(f"{part}: images of shape {images.shape} do not go with labels of {labels.shape}.", hint=_HINT)
    return images, labels


def load_idx(
    folder: str | Path, images: tuple[int, int, int], *, mean: float, spread: float, class_names: Sequence[str] = ()
) -> LabelledArrays:
    """Return images as [n, 1, h, w], (pixel / 255 - mean) / spread, in splits drawn with one fixed seed.

    Args:
        folder: Folder of the four files.
        images: How many of the training file to train on, how many others of it to search on, and how many of the test
            file to test on.
        mean: Mean of the pixels, from 0 to 1.
        spread: Their standard deviation.
        class_names: Names of the classes in the order of their numbers.

    Raises:
        TaskError: A file is missing or is not what its name says, or there are fewer images than asked for.
    """
    train, val, test = images
    pixels, labels = read_idx_pair(folder, "train")
    tests, answers = read_idx_pair(folder, "t10k")
    for words, wanted, there in (("train + val", train + val, len(pixels)), ("test", test, len(tests))):
        if wanted > there:
            raise TaskError(f"{words} must be at most {there}. Got {wanted}.", hint=_HINT)
    if test < len(tests):
        drawn = np.random.default_rng(0).permutation(len(tests))[:test]
        tests, answers = tests[drawn], answers[drawn]
    order = np.random.default_rng(0).permutation(len(pixels))[: train + val]
    x = np.concatenate([pixels[order], tests]).astype(np.float32)[:, None] / 255.0
    splits = np.split(np.arange(len(x)), [train, train + val])
    named = dict(zip(("train", "val", "test"), splits, strict=True))
    y = np.concatenate([labels[order], answers])
    return LabelledArrays((x - mean) / spread, y, named, unit="image", class_names=class_names)
