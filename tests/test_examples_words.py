"""What the examples on words read, what their networks learn, and what is said where their data are missing."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_data import EXAMPLES, needs, reduced

from autoprune.errors import TaskError
from autoprune.tasks import LanguageModelTask, TextClassificationTask, check_task, load_task


def text_task(**args: Any) -> TextClassificationTask:
    task = reduced("text", **args)
    assert isinstance(task, TextClassificationTask)
    return task


def language_task(**args: Any) -> LanguageModelTask:
    task = reduced("language", **args)
    assert isinstance(task, LanguageModelTask)
    return task


def test_the_sentences_are_drawn_by_class_and_never_nearly_twice() -> None:
    task = text_task()
    data = task.data
    warnings = check_task(task, full=True)
    assert all("chance level" in warning for warning in warnings)  # one layer on 640 sentences learns little
    assert [len(data.splits[s]) for s in ("train", "val", "test")] == [640, 80, 80]
    assert data.class_names == ("negative", "positive")
    words = [tuple(text.lower().split()) for text in data.texts]
    runs = [{w[i : i + 8] for i in range(len(w) - 7)} for w in words]
    assert len(set(words)) == len(words)
    assert sum(map(len, runs)) == len(set.union(*runs))
    shares = [float(data.y[data.splits[split]].mean()) for split in ("train", "val", "test")]
    assert np.ptp(shares) < 0.01
    assert task.shifts() == ("tweets", "products", "newspaper")
    model = task.build_model()
    for name in task.shifts():
        assert len(task.evaluate_shift(lambda i: model(**i.kwargs), name, limit=40).ids) == 40


def test_the_language_model_reads_the_bible_without_the_numbers_of_its_verses() -> None:
    needs("language")
    text = runpy.run_path(str(EXAMPLES / "language.py"))["read_text"]()
    assert text.startswith("In the beginning God created the heaven and the earth.\nAnd the earth was without form")
    assert text.endswith("Amen.")
    assert text.count("\n") == 31_101
    task = language_task()
    letters = sorted(set(text[:300_000]))
    assert "".join(letters[i] for i in task.data.tokens[:4].flatten().tolist()) == text[: 4 * 33]


def test_the_language_model_learns_and_typos_cost_it_perplexity() -> None:
    needs("language")
    task = language_task()
    assert check_task(task, full=True) == []
    model = task.build_model()
    clean = task.evaluate(lambda i: model(**i.kwargs), "val").metrics["perplexity"]
    assert clean < 15.0
    assert task.evaluate_shift(lambda i: model(**i.kwargs), "typos").metrics["perplexity"] > clean + 1.0


def test_what_the_examples_read_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TaskError) as missing:
        language_task(characters=100_001)
    assert "Install Debian's bible-kjv" in str(missing.value.hint)
    with pytest.raises(TaskError, match=r"Cannot read the text .*none\.txt"):
        language_task(text=str(tmp_path / "none.txt"))
    (tmp_path / "mine.txt").write_text("To be, or not to be, that is the question. " * 200)
    assert language_task(text=str(tmp_path / "mine.txt")).data.vocabulary < 25


def test_what_the_text_example_needs_is_named_where_it_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    needs("text")
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "tokenizers", None)
        with pytest.raises(TaskError, match="needs transformers") as missing:
            text_task()
    assert "pip install 'autoprune[hf]'" in str(missing.value.hint)
    package = runpy.run_path(str(EXAMPLES / "text.py"))["package"]
    monkeypatch.setitem(package.__globals__, "PACKAGES", tmp_path)
    with pytest.raises(TaskError, match="vaderSentiment") as missing:
        package("vaderSentiment-*.tar.gz")
    assert "make data" in str(missing.value.hint)


@pytest.mark.slow
def test_the_whole_text_task_keeps_the_contract_without_a_warning() -> None:
    needs("text")
    assert check_task(load_task("text.py:make_task", base=EXAMPLES), full=True) == []
