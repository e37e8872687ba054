"""Language: a character-level GPT (four layers) on the King James Bible, scored by perplexity.

    autoprune search examples/language.yaml

The text is what Debian's package `bible-kjv` prints; `task_args: {text: FILE}` takes any other. The dense network:
825,856 parameters, test perplexity 5.80 a character (val 5.81; 9.56 with 5% of the letters wrong), trained for 500
steps in 78 s of CPU (one core of an AMD EPYC server), then cached. That is short, and recovery goes on training: models
of which little is cut end up better than the dense one. `python examples/language.py` trains and scores it.
"""

from __future__ import annotations

import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.errors import TaskError
from autoprune.tasks import LanguageModelTask, Passages, trained_once

WHOLE_TEXT = ["bible", "-f", "Gen1:1-Rev22:21"]
SCORED = 4
TYPOS = 0.05


@dataclass(frozen=True)
class Recipe:
    """All that the trained weights depend on beside the data: they are cached under its digest."""

    layers: int = 4
    width: int = 128
    heads: int = 4
    steps: int = 500
    batch_size: int = 16
    learning_rate: float = 3e-3
    seed: int = 0


class Attention(nn.Module):
    """Several heads of causal self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, length, width] to the same shape; a position sees itself and those before it."""
        n, length, _ = x.shape
        q, k, v = (f(x).view(n, length, self.heads, -1).transpose(1, 2) for f in (self.query, self.key, self.value))
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        mixed: Tensor = self.out(seen.transpose(1, 2).reshape(n, length, -1))
        return mixed


class Layer(nn.Module):
    """Attention and a feed-forward network, each beside a residual stream and after a LayerNorm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, length, width] to the same shape."""
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.down(F.gelu(self.up(self.norm2(x))))
        return out


class GPT(nn.Module):
    """The decoder of Radford et al. (2019), GPT-2, with learned positions and an output layer of its own."""

    def __init__(self, vocabulary: int, length: int, *, layers: int = 4, width: int = 128, heads: int = 4) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(length, width)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.apply(self._initialise)

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Map [n, length] token ids to [n, length, vocabulary] logits of the token that follows each."""
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.token(input_ids) + self.position(places)
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.head(self.norm(x))
        return logits


def read_text(file: str | None = None) -> str:
    """Return the Bible without the verses' numbers, a verse a line; or the text of a file.

    Raises:
        TaskError: The program or the file is missing, or prints nothing.
    """
    if file is not None:
        try:
            return Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise TaskError(f"Cannot read the text {file}: {error}", hint="Name a UTF-8 text file.") from error
    hint = "Install Debian's bible-kjv, or name a text file: task_args: {text: FILE}."
    try:
        printed = subprocess.run(WHOLE_TEXT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise TaskError(f"Cannot run {' '.join(WHOLE_TEXT)}: {error}", hint=hint) from error
    return "\n".join(line.partition(" ")[2] for line in printed.splitlines())


def load_data(length: int, characters: int | None, file: str | None) -> Passages:
    """Return the text's passages, split by sections drawn from all over it; every fourth of val and test is scored.

    The shifted domain is val with wrong letters.
    """
    text = read_text(file)[:characters]
    letters = sorted(set(text))
    numbers = {letter: number for number, letter in enumerate(letters)}
    whole = Passages.cut(np.array([numbers[letter] for letter in text]), length)
    splits = {name: whole.splits[name][:: 1 if name == "train" else SCORED] for name in ("train", "val", "test")}
    rng = np.random.default_rng(0)
    clean = whole.tokens[splits["val"]].numpy()
    typos = np.where(rng.random(clean.shape) < TYPOS, rng.integers(len(letters), size=clean.shape), clean)
    return Passages(whole.tokens, splits, shifts={"typos": Passages(typos)})


def train_network(network: nn.Module, data: Passages, recipe: Recipe) -> None:
    """Train with AdamW at a one-cycle learning rate."""
    rows, generator = data.splits["train"], np.random.default_rng(recipe.seed)
    optimizer = torch.optim.AdamW(network.parameters(), recipe.learning_rate, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=recipe.steps)
    network.train()
    for _ in range(recipe.steps):
        batch = data.batch(generator.choice(rows, recipe.batch_size))
        loss = F.cross_entropy(network(batch["input_ids"]).flatten(0, 1), batch["labels"].flatten())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    network.eval()


def make_task(
    layers: int = 4,
    length: int = 128,
    steps: int = 500,
    characters: int | None = None,
    text: str | None = None,
    seed: int = 0,
) -> LanguageModelTask:
    """Return the task; the network is trained once a machine, then read from the cache.

    Args:
        layers: Layers of the network.
        length: Characters that it reads at once.
        steps: Training steps, of 16 passages each.
        characters: Characters of the text that are used; all of them by default.
        text: A text file; the Bible by default.
        seed: Of the training.
    """
    data = load_data(length, characters, text)
    recipe = Recipe(layers=layers, steps=steps, seed=seed)

    def build() -> nn.Module:
        return trained_once(
            lambda: GPT(data.vocabulary, length, layers=layers, width=recipe.width, heads=recipe.heads),
            lambda network: train_network(network, data, recipe),
            name=f"language-gpt{layers}",
            recipe=asdict(recipe) | {"data": data.fingerprint},
        )

    return LanguageModelTask(build, data, name="language")


def main() -> None:
    """Print the dense network's size and its perplexity."""
    start = time.process_time()
    task = make_task()
    network = task.build_model()
    seconds = time.process_time() - start
    parameters = sum(p.numel() for p in network.parameters())
    print(f"{parameters:,} parameters, {seconds:.1f} s of CPU")
    for split in ("val", "test"):
        print(f"{split} perplexity {task.evaluate(lambda i: network(**i.kwargs), split).metrics['perplexity']:.3f}")
    typos = task.evaluate_shift(lambda i: network(**i.kwargs), "typos").metrics["perplexity"]
    print(f"val perplexity with typos {typos:.3f}")


if __name__ == "__main__":
    main()
