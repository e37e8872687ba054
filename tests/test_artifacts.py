"""Emitted models: they load equal to what was saved, and whatever was done to them is found."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from autoprune.artifacts import Member, load, save_member, verify, verify_with_model
from autoprune.errors import ArtifactError, CandidateError
from autoprune.groups import find_groups, prepare_model
from autoprune.groups.slicing import architecture_of, slice_model
from autoprune.storage import MANIFEST, FileEntry, read_manifest
from autoprune.storage.hashed import manifest_bytes
from autoprune.tasks.protocol import Inputs

FILES = {
    "README.md", "policy.json", "plan.json", "model.safetensors", "model.onnx", "model.pt2", "probes.safetensors",
    "metrics.json", MANIFEST,
}  # fmt: skip


class Net(nn.Module):
    """Small CNN; `classes` is not pruned and so decides whether a stored model fits."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.norm(self.stem(x)))
        return self.fc(torch.relu(self.body(hidden)).mean((2, 3)))


class Attention(nn.Module):
    """One attention layer, which is replaced before pruning, called by keyword and returning a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 4, batch_first=True)
        self.up = nn.Linear(8, 16)
        self.down = nn.Linear(16, 8)

    def forward(self, *, tokens: Tensor) -> dict[str, Tensor]:
        mixed = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return {"out": self.down(torch.relu(self.up(mixed)))}


def trained(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data.copy_(torch.rand(tensor.shape, generator=generator) - 0.3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
            module.running_var.abs_()
    return model.eval()


def emitted(model: nn.Module, example: Inputs, directory: Path, **changes: Any) -> tuple[nn.Module, Path]:
    prepared, replaced = prepare_model(copy.deepcopy(model))
    groups = find_groups(prepared, example)
    alive = np.ones(groups.plan.unit_count, dtype=np.bool_)
    for group in groups.groups:
        alive[group.start] = False
    pruned = slice_model(prepared, groups.plan, alive).eval()
    for parameter in pruned.parameters():
        parameter.data.mul_(0.9)  # recovered: differs from a gather of the user's weights
    content: dict[str, Any] = {
        "model": pruned,
        "example": example,
        "policy": {"sparsity": {"stem": 0.125}},
        "architecture": architecture_of(prepared, groups.plan, alive, replaced),
        "metrics": {"accuracy": 0.97},
        "card": "# card\n",
    }
    return pruned, save_member(directory, Member(**{**content, **changes}))


def images(batch: int = 2) -> Inputs:
    return Inputs((torch.randn(batch, 1, 8, 8, generator=torch.Generator().manual_seed(0)),), {})


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, nn.Module, Path]:
    model = trained(Net())
    pruned, directory = emitted(model, images(), tmp_path_factory.mktemp("front") / "01_fast")
    return model, pruned, directory


@pytest.fixture
def copied(saved: tuple[nn.Module, nn.Module, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved[2], tmp_path / "member"))


def reseal(directory: Path) -> None:
    """Write a manifest that vouches for the directory as it stands."""
    import hashlib

    names = [p.name for p in directory.iterdir() if p.name != MANIFEST]
    read = {name: (directory / name).read_bytes() for name in names}
    entries = {name: FileEntry(hashlib.sha256(data).hexdigest(), len(data)) for name, data in read.items()}
    (directory / MANIFEST).write_bytes(manifest_bytes(entries))


def failed(directory: Path) -> dict[str, str]:
    return {check.name: check.detail for check in verify(directory).checks if not check.ok}


def test_a_saved_directory_holds_every_form_and_verifies(saved: tuple[nn.Module, nn.Module, Path]) -> None:
    _, _, directory = saved
    assert {p.name for p in directory.iterdir()} == FILES
    report = verify(directory)
    assert report.ok, report
    assert [c.name for c in report.checks] == ["files", "architecture", "onnx", "pt2"]
    assert set(read_manifest(directory)) == FILES - {MANIFEST}


def test_a_loaded_model_gives_equal_outputs_and_leaves_the_users_model_alone(
    saved: tuple[nn.Module, nn.Module, Path],
) -> None:
    _, pruned, directory = saved
    mine = trained(Net()).train()
    before = copy.deepcopy(mine.state_dict())
    loaded = load(directory, mine)
    assert not loaded.training
    assert mine.training
    assert all(torch.equal(value, before[name]) for name, value in mine.state_dict().items())
    with torch.inference_mode():
        assert torch.equal(loaded(*images(5).args), pruned(*images(5).args))
    assert sum(p.numel() for p in loaded.parameters()) < sum(p.numel() for p in mine.parameters())


def test_an_untrained_model_of_the_same_definition_is_enough(saved: tuple[nn.Module, nn.Module, Path]) -> None:
    _, pruned, directory = saved
    loaded = load(str(directory), Net())
    with torch.inference_mode():
        assert torch.equal(loaded(*images().args), pruned(*images().args))
    assert verify_with_model(directory, Net()).ok


def test_a_model_with_replaced_attention_keywords_and_dict_outputs_survives(tmp_path: Path) -> None:
    model = trained(Attention())
    example = Inputs((), {"tokens": torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))})
    pruned, directory = emitted(model, example, tmp_path / "member")
    assert verify(directory).ok, verify(directory)
    with torch.inference_mode():
        assert torch.equal(load(directory, model)(**example.kwargs)["out"], pruned(**example.kwargs)["out"])


def test_saving_again_replaces_the_directory(tmp_path: Path) -> None:
    model = trained(Net())
    emitted(model, images(), tmp_path / "m", formats=())
    emitted(model, images(), tmp_path / "m", formats=(), card="# new\n")
    assert (tmp_path / "m" / "README.md").read_text() == "# new\n"
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    assert [c.name for c in verify(tmp_path / "m").checks] == ["files", "architecture"]


def test_a_form_that_was_exported_before_is_stored_as_it_is(
    saved: tuple[nn.Module, nn.Module, Path], tmp_path: Path
) -> None:
    measured = (saved[2] / "model.onnx").read_bytes()
    _, directory = emitted(saved[0], images(), tmp_path / "m", formats=("onnx",), exported={"onnx": measured})
    assert (directory / "model.onnx").read_bytes() == measured
    assert verify(directory).ok


def test_a_model_that_cannot_be_exported_leaves_nothing(tmp_path: Path) -> None:
    class Broken(Net):
        def forward(self, x: Tensor) -> Tensor:
            if torch.compiler.is_exporting():
                raise RuntimeError("no export")
            return super().forward(x)

    net = Broken()
    blank = Member(net, images(), {}, _empty_plan(), {}, "", formats=("pt2",))
    with pytest.raises(CandidateError) as caught:
        save_member(tmp_path / "m", blank)
    assert caught.value.stage == "export"
    assert list(tmp_path.iterdir()) == []


def _empty_plan() -> Any:
    from autoprune.groups.types import ArchitecturePlan

    return ArchitecturePlan({})


def test_outputs_that_are_not_finite_are_never_emitted(tmp_path: Path) -> None:
    model = trained(Net())
    model.fc.weight.data.fill_(float("nan"))
    with pytest.raises(ArtifactError, match="not finite"):
        save_member(tmp_path / "m", Member(model, images(), {}, _empty_plan(), {}, ""))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (lambda: Net(classes=4), "fc"),
        (lambda: Net().half(), "float"),
        (lambda: nn.Sequential(nn.Conv2d(1, 8, 3)), "stem|body|norm|fc"),
        (lambda: nn.Sequential(Net()), "stem|body|norm|fc"),
    ],
)
def test_a_model_of_another_definition_is_refused_and_the_parameter_named(
    saved: tuple[nn.Module, nn.Module, Path], model: Any, named: str
) -> None:
    with pytest.raises(ArtifactError, match=named):
        load(saved[2], model())
    report = verify_with_model(saved[2], model())
    assert [c.name for c in report.checks if not c.ok] == ["reload"]


@pytest.mark.parametrize("name", sorted(FILES))
def test_an_altered_byte_of_any_file_is_found(copied: Path, name: str) -> None:
    data = bytearray((copied / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copied / name).write_bytes(data)
    assert set(failed(copied)) == {"files"}
    if name in ("plan.json", "model.safetensors"):
        with pytest.raises(ArtifactError, match="no intact model"):
            load(copied, Net())


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_missing_file_is_found(copied: Path, name: str) -> None:
    (copied / name).unlink()
    assert name in failed(copied)["files"]


def test_a_foreign_file_is_found(copied: Path) -> None:
    (copied / "sitecustomize.py").write_text("raise SystemExit")
    assert "sitecustomize.py" in failed(copied)["files"]


def test_a_symbolic_link_is_found(copied: Path) -> None:
    (copied / "model.onnx").rename(copied.parent / "model.onnx")
    (copied / "model.onnx").symlink_to(copied.parent / "model.onnx")
    assert "symbolic link" in failed(copied)["files"]


def test_a_path_outside_the_directory_is_refused(copied: Path) -> None:
    (copied.parent / "outside").write_bytes(b"")
    text = (copied / MANIFEST).read_text().replace("README.md", "../outside")
    (copied / MANIFEST).write_text(text)
    assert "unsafe name" in failed(copied)["files"]


def test_an_absent_directory_is_said_to_be_absent(tmp_path: Path) -> None:
    assert failed(tmp_path / "none") == {"files": "there is no such directory"}
    with pytest.raises(ArtifactError, match="missing"):
        load(tmp_path / "none", Net())


class Payload:
    """Runs a command when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def test_a_pickle_in_place_of_safetensors_is_never_run(copied: Path, tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    buffer = io.BytesIO()
    torch.save({"fc.bias": Payload(trace)}, buffer)
    for name in ("model.safetensors", "probes.safetensors"):
        for content in (buffer.getvalue(), pickle.dumps(Payload(trace))):
            shutil.copy(copied / name, tmp_path / "original")
            (copied / name).write_bytes(content)
            reseal(copied)
            assert failed(copied)
            if name == "model.safetensors":
                with pytest.raises(ArtifactError, match="no safetensors file"):
                    load(copied, Net())
            shutil.copy(tmp_path / "original", copied / name)
    assert not trace.exists()


def test_a_pt2_file_that_the_manifest_does_not_vouch_for_is_never_opened(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    monkeypatch.setattr(torch.export, "load", lambda *a, **k: opened.append(a))
    with zipfile.ZipFile(copied / "model.pt2", "a") as archive:
        archive.writestr("extra", "1")
    assert "model.pt2" in failed(copied)["files"]
    assert not opened


def test_weights_that_do_not_follow_the_plan_are_found(copied: Path) -> None:
    weights = load_file(copied / "model.safetensors")
    weights["stem.weight"] = torch.zeros(8, 1, 3, 3)
    save_file(weights, copied / "model.safetensors")
    reseal(copied)
    assert "'stem.weight' has shape (8, 1, 3, 3), the plan says (7, 1, 3, 3)" in failed(copied)["architecture"]


def test_a_form_that_computes_something_else_is_found(copied: Path) -> None:
    probes = load_file(copied / "probes.safetensors")
    from safetensors import safe_open

    with safe_open(copied / "probes.safetensors", framework="pt") as file:
        metadata = file.metadata()
    probes["output.0"] = probes["output.0"] + 0.001 * probes["output.0"].abs().max()
    save_file(probes, copied / "probes.safetensors", metadata=metadata)
    reseal(copied)
    found = failed(copied)
    assert set(found) == {"onnx", "pt2"}
    assert "outputs differ from the stored ones by 0.001" in found["onnx"]


@pytest.mark.parametrize("content", [b"", b"garbage" * 100, b"\x08\x07\x12\x00"])
def test_an_exported_file_that_is_no_model_is_a_failed_check_not_a_crash(copied: Path, content: bytes) -> None:
    (copied / "model.onnx").write_bytes(content)
    (copied / "model.pt2").write_bytes(content)
    reseal(copied)
    assert set(failed(copied)) == {"onnx", "pt2"}


@pytest.mark.parametrize("name", ["policy.json", "plan.json"])
@pytest.mark.parametrize("content", [b"[]", b"{}", b"NaN", b"\xff", b"[" * 100_000])
def test_a_document_that_is_none_is_a_failed_check(copied: Path, name: str, content: bytes) -> None:
    (copied / name).write_bytes(content)
    reseal(copied)
    expected = set() if (name, content) == ("policy.json", b"{}") else {"architecture"}
    assert set(failed(copied)) == expected


def test_a_process_of_its_own_verifies_and_imports_nothing_from_the_directory(copied: Path) -> None:
    (copied / "torch.py").write_text("raise SystemExit(99)")
    command = [sys.executable, "-P", "-m", "autoprune.artifacts", "."]
    out = subprocess.run(command, cwd=copied, capture_output=True, text=True, check=False)
    assert out.returncode == 1, out.stderr
    document = json.loads(out.stdout)
    assert not document["ok"]
    assert "torch.py" in document["checks"][0]["detail"]


def test_no_path_of_this_machine_is_stored(saved: tuple[nn.Module, nn.Module, Path]) -> None:
    here = [str(Path(__file__).parent).encode(), str(Path(torch.__file__).parent).encode()]
    for path in saved[2].iterdir():
        data = [path.read_bytes()]
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                data += [archive.read(name) for name in archive.namelist()]
        assert not [p for p in here if any(p in d for d in data)], path.name


def test_the_onnx_and_pt2_files_take_another_batch(saved: tuple[nn.Module, nn.Module, Path]) -> None:
    from autoprune.artifacts import FORMATS

    _, pruned, directory = saved
    with torch.inference_mode():
        expected = pruned(*images(7).args)
    for form in FORMATS.values():
        assert torch.allclose(form.run(directory / form.file, images(7)), expected, atol=1e-4)


def masked_member(directory: Path, granularity: str) -> Path:
    """Save a model whose first linear layer keeps two of every four weights, with two rows that do not divide by 4."""
    model = trained(nn.Sequential(nn.Linear(10, 6), nn.ReLU(), nn.Linear(6, 3)))
    model[0].weight.data[:, [0, 3, 5, 6]] = 0.0
    architecture = dataclasses.replace(_empty_plan(), masks={"0.weight": granularity})
    example = Inputs((torch.randn(2, 10, generator=torch.Generator().manual_seed(0)),), {})
    return save_member(directory, Member(model, example, {}, architecture, {}, "", formats=()))


def fresh_mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(10, 6), nn.ReLU(), nn.Linear(6, 3))


def test_a_model_that_keeps_two_of_four_weights_is_loaded_with_its_zeros(tmp_path: Path) -> None:
    loaded = load(masked_member(tmp_path / "m", "n_m"), fresh_mlp())
    weight = loaded.get_parameter("0.weight")
    assert int((weight == 0).sum()) == 4 * 6
    assert bool((weight[:, 8:] != 0).all()), "what is left over after whole fours stays dense"


@pytest.mark.parametrize(("granularity", "refused"), [("n_m", True), ("weight", False), ("block", False)])
def test_a_third_weight_of_four_is_refused_where_the_plan_says_two_of_four(
    tmp_path: Path, granularity: str, refused: bool
) -> None:
    directory = masked_member(tmp_path / "m", granularity)
    weights = load_file(directory / "model.safetensors")
    weights["0.weight"][2, 3] = 0.5
    save_file(weights, directory / "model.safetensors")
    reseal(directory)
    if not refused:
        assert load(directory, fresh_mlp()).get_parameter("0.weight")[2, 3] == 0.5
        return
    with pytest.raises(ArtifactError, match=r"'0\.weight' has more than 2 of 4"):
        load(directory, fresh_mlp())


def test_edits_that_the_stored_weights_do_not_have_are_refused(copied: Path) -> None:
    plan = json.loads((copied / "plan.json").read_text())
    plan["edits"] = [{"kind": "fold_norm", "path": "norm", "other": "stem"}]
    (copied / "plan.json").write_text(json.dumps(plan))
    reseal(copied)
    with pytest.raises(ArtifactError, match="norm"):
        load(copied, Net())
    plan["edits"] = [{"kind": "remove", "path": "head"}]
    (copied / "plan.json").write_text(json.dumps(plan))
    reseal(copied)
    with pytest.raises(ArtifactError, match="'head'"):
        load(copied, Net())
