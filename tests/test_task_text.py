"""Text classification: padding counts for nothing, models are called by name, and bad tokens are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.errors import TaskError
from autoprune.evaluation import intervals
from autoprune.tasks import (
    LabelledTokens,
    TextClassificationTask,
    check_task,
    evaluate_shift,
    samples_of,
    shifts_of,
)

VOCABULARY, LENGTH = 30, 12


class Reader(nn.Module):
    """Mean of the attended tokens' embeddings, then a linear layer; called by name, it returns a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 8)
        self.classifier = nn.Linear(8, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        weight = attention_mask.unsqueeze(2).float()
        mean = (self.embedding(input_ids) * weight).sum(dim=1) / weight.sum(dim=1)
        return {"logits": self.classifier(mean)}


def documents(
    n: int = 200, length: int = LENGTH, seed: int = 0, high: float = 0.8
) -> tuple[dict[str, Any], np.ndarray]:
    """Return padded rows of 1 to LENGTH tokens, sorted by label; documents of class 1 hold more tokens >= 15."""
    rng = np.random.default_rng(seed)
    y = np.repeat([0, 1], [n // 2, n - n // 2])
    sizes = rng.integers(1, LENGTH + 1, n)
    upper = rng.random((n, LENGTH)) < np.where(y == 1, high, 1 - high)[:, None]
    tokens = rng.integers(1, 15, (n, LENGTH)) + 15 * upper
    mask = np.arange(LENGTH) < sizes[:, None]
    pad = [(0, 0), (0, length - LENGTH)]
    return {"input_ids": np.pad(tokens * mask, pad), "attention_mask": np.pad(mask.astype(int), pad)}, y


def trained() -> Reader:
    torch.manual_seed(0)
    model, data = Reader(), LabelledTokens(*documents())
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(60):
        batch = data.batch(data.splits["train"])
        labels = batch.pop("labels")
        optimizer.zero_grad()
        F.cross_entropy(model(**batch)["logits"], labels).backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def model() -> Reader:
    return trained()


def task_of(model: nn.Module, data: LabelledTokens | None = None) -> TextClassificationTask:
    return TextClassificationTask(model, data or LabelledTokens(*documents()))


def scored(task: TextClassificationTask, model: nn.Module, split: Any = "val", **args: Any) -> Any:
    return task.evaluate(lambda inputs: model(**inputs.kwargs), split, **args)


def test_the_task_keeps_the_contract_without_a_warning(model: Reader) -> None:
    task = task_of(model)
    assert check_task(task, full=True) == []
    found = scored(task, model)
    assert found.metrics["accuracy"] > 0.7
    assert found.unit == "document"
    assert intervals(task, found, seed=0)["accuracy"].method == "wilson"


def test_a_split_whose_batches_hold_one_class_only_is_warned_of(model: Reader) -> None:
    class Careless(TextClassificationTask):
        def batches(self, split: Any, **args: Any) -> Any:
            return ({**batch, "labels": 0 * batch["labels"]} for batch in super().batches(split, **args))

    warnings = check_task(Careless(model, LabelledTokens(*documents())))
    assert any("All labels drawn from 'val' are 0" in warning for warning in warnings)


def test_padding_changes_no_score(model: Reader) -> None:
    short, long = (task_of(model, LabelledTokens(*documents(length=length))) for length in (LENGTH, LENGTH + 9))
    one, other = scored(short, model), scored(long, model)
    assert one.ids == other.ids
    np.testing.assert_allclose(one.per_unit["cross_entropy"], other.per_unit["cross_entropy"], rtol=1e-5)


def test_training_batches_are_cut_to_their_longest_document_at_the_same_loss(model: Reader) -> None:
    task = task_of(model, LabelledTokens(*documents(length=LENGTH + 9)))
    rows = task.data.splits["train"][:40]
    batch = task.data.batch(rows)
    assert batch["input_ids"].shape == (40, LENGTH)
    assert int(batch["attention_mask"].sum()) == int(task.data.take(rows).kwargs["attention_mask"].sum())
    losses = [
        task.loss(task.structure(model(**inputs)), batch)
        for inputs in (task.inputs(batch).kwargs, task.data.take(rows).kwargs)
    ]
    torch.testing.assert_close(losses[0], losses[1])


def test_padding_on_the_left_is_kept() -> None:
    tokens, y = documents()
    flipped = {name: np.ascontiguousarray(value[:, ::-1]) for name, value in tokens.items()}
    data = LabelledTokens(flipped, y)
    rows = data.splits["train"]
    assert data.batch(rows)["input_ids"].shape == (len(rows), LENGTH)


def test_a_hugging_face_model_is_scored_from_its_model_output() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    torch.manual_seed(0)
    bert = transformers.BertForSequenceClassification(config).eval()
    tokens, y = documents()
    data = LabelledTokens({**tokens, "token_type_ids": np.zeros_like(tokens["input_ids"])}, y)
    longer = LabelledTokens(*documents(length=LENGTH + 4))
    one, other = (scored(task_of(bert, d), bert) for d in (data, longer))
    np.testing.assert_allclose(one.outputs, other.outputs, atol=1e-5)
    assert check_task(task_of(bert, data), full=True)[0].startswith("The model is at chance level")


def test_a_limit_draws_documents_of_all_classes_from_all_over(model: Reader) -> None:
    task = task_of(model)
    found = scored(task, model, limit=10)
    rows = np.array([int(i) for i in found.ids])
    assert len(set(rows.tolist())) == 10
    assert np.bincount(task.data.y[rows]).tolist() == [5, 5]
    assert found.ids == scored(task, model, limit=10).ids != scored(task, model, limit=10, seed=1).ids
    assert sorted(rows.tolist()) != rows.tolist()


def test_shifted_domains_are_scored_whole_and_apart(model: Reader) -> None:
    harder = LabelledTokens(*documents(80, seed=1, high=0.55))
    tokens, y = documents()
    data = LabelledTokens(tokens, y, shifts={"harder": harder})
    task = task_of(model, data)
    assert shifts_of(task) == ("harder",)
    found = evaluate_shift(task, lambda i: model(**i.kwargs), "harder")
    assert len(found.ids) == 80
    assert found.metrics["accuracy"] < scored(task, model).metrics["accuracy"]
    assert len(evaluate_shift(task, lambda i: model(**i.kwargs), "harder", limit=20).ids) == 20
    with pytest.raises(TaskError, match="no shifted domain 'easier'"):
        evaluate_shift(task, lambda i: model(**i.kwargs), "easier")
    assert data.fingerprint == LabelledTokens(tokens, y).fingerprint


def test_samples_show_the_text_and_the_class() -> None:
    tokens, y = documents(20)
    texts = [f"text {i}" for i in range(20)]
    task = task_of(Reader(), LabelledTokens(tokens, y, class_names=("bad", "good"), texts=texts))
    for sample in samples_of(task, "val", count=2, seed=0):
        row = int(sample.id)
        assert (sample.text, sample.label) == (texts[row], ("bad", "good")[y[row]])
    assert samples_of(task_of(Reader(), LabelledTokens(tokens, y)), "val", count=2, seed=0) == ()
    with pytest.raises(TaskError, match="3 texts for 20 labels"):
        LabelledTokens(tokens, y, texts=texts[:3])


def test_every_token_counts_for_the_fingerprint() -> None:
    tokens, y = documents()
    first = LabelledTokens(tokens, y).fingerprint
    assert first == LabelledTokens(dict(reversed(tokens.items())), y).fingerprint
    tokens["input_ids"][3, 0] += 1
    assert first != LabelledTokens(tokens, y).fingerprint


def _changed(**arrays: Any) -> tuple[Any, Any]:
    tokens, y = documents()
    return {**tokens, **arrays}, y


BAD = {
    "a mapping with input_ids": lambda: (np.zeros((200, 4)), documents()[1]),
    r"Got \['input_ids'\]": lambda: ({"input_ids": documents()[0]["input_ids"]}, documents()[1]),
    "Labels go into y": lambda: _changed(labels=np.zeros((200, LENGTH), int)),
    r"input_ids must be \[n, length\] integers.*float64": lambda: _changed(input_ids=np.full((200, LENGTH), np.nan)),
    r"input_ids must be \[n, length\] integers. Got shape \(200,\)": lambda: _changed(input_ids=np.zeros(200, int)),
    "The data are empty": lambda: (
        {"input_ids": np.zeros((0, 4), int), "attention_mask": np.zeros((0, 4), int)},
        np.zeros(0, int),
    ),
    "do not go with 200 labels": lambda: _changed(attention_mask=np.ones((200, LENGTH + 1), int)),
    "attention_mask 0 or 1": lambda: _changed(attention_mask=np.full((200, LENGTH), 2)),
    "Token ids must be >= 0": lambda: _changed(input_ids=np.full((200, LENGTH), -100)),
    "200 of 200 documents hold no token": lambda: _changed(attention_mask=np.zeros((200, LENGTH), int)),
    "one class only": lambda: (documents()[0], np.zeros(200, int)),
}


@pytest.mark.parametrize("message", list(BAD))
def test_tokens_that_mean_nothing_are_refused(message: str) -> None:
    with pytest.raises(TaskError, match=message):
        LabelledTokens(*BAD[message]())


def test_a_shifted_domain_of_more_classes_is_refused() -> None:
    tokens, y = documents()
    with pytest.raises(TaskError, match="'more' must be a LabelledTokens of at most 2 classes"):
        LabelledTokens(tokens, y, shifts={"more": LabelledTokens(tokens, y + 1)})
