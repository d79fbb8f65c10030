"""Checkpoints: whole or not there, and all that is needed to go on."""

import math
import os
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fewshot.errors.inputs import InputError
from fewshot.metrics import Estimate
from tests.trials.conformance import assert_same_reports, drive, protonet
from trials.contract import RungReport
from trials.lanes import checkpoint


@pytest.fixture
def case(tmp_path):
    (tmp_path / "data").mkdir()
    return replace(protonet(tmp_path / "data"), double=True)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


@pytest.fixture
def tensors():
    return {
        "params.weight": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
        "first.weight": torch.full((3, 4), math.nan),
        "step": torch.tensor(12),
        "empty": torch.zeros(0),
    }


def report(step, score=0.25):
    return RungReport(
        key="search-0000",
        step=step,
        score=Estimate(score, 0.1 / 3, 12),
        per_task={"a": Estimate(score, 0.1, 6), "b": Estimate(0.1 + 0.2, 1e-17, 6)},
        metrics={"val/a/accuracy": 1 / 3, "train/loss": 0.7},
        time=1767225600.123456,
        seconds=1.5,
        lane_seconds=0.5,
    )


class TestRoundTrip:
    def test_all_comes_back_as_it_was(self, case, folder, tensors):
        spec, reports = case.spec(0), [report(2), report(12)]
        path = checkpoint.save(folder, spec, tensors, reports)
        identity, found, said = checkpoint.load(path)
        assert identity == checkpoint.identity(spec)
        assert said == tuple(reports)
        assert found.keys() == tensors.keys()
        for name, value in tensors.items():
            assert found[name].dtype == value.dtype
            assert found[name].shape == value.shape
            assert torch.equal(found[name].nan_to_num(7), value.nan_to_num(7))

    def test_a_score_of_nan_comes_back(self, case, folder, tensors):
        path = checkpoint.save(folder, case.spec(0), tensors, [report(2, math.nan)])
        (said,) = checkpoint.load(path)[2]
        assert math.isnan(said.score.mean)
        assert math.isnan(said.per_task["a"].mean)

    def test_a_row_of_a_stack_comes_back(self, case, folder):
        stack = torch.arange(24.0).view(2, 3, 4)
        rows = {"row": stack[1], "turned": stack[0].T}
        found = checkpoint.load(checkpoint.save(folder, case.spec(0), rows, []))[1]
        assert torch.equal(found["row"], stack[1])
        assert torch.equal(found["turned"], stack[0].T)

    def test_numbers_that_only_torch_has_come_back(self, case, folder):
        rows = {"params.half": torch.arange(3.0).bfloat16(), "step": torch.tensor(2)}
        found = checkpoint.load(checkpoint.save(folder, case.spec(0), rows, []))[1]
        assert found["params.half"].dtype == torch.bfloat16
        assert torch.equal(found["params.half"], rows["params.half"])

    def test_parameters_go_by_their_own_names(self, case, folder, tensors):
        path = checkpoint.save(folder, case.spec(0), tensors, [])
        found = checkpoint.parameters(path)
        assert found.keys() == {"weight"}
        assert torch.equal(found["weight"], tensors["params.weight"])

    def test_lies_where_it_is_looked_for(self, case, folder, tensors):
        spec = case.spec(3)
        path = checkpoint.save(folder, spec, tensors, [])
        assert path == checkpoint.path_of(folder, spec.key)
        assert [entry.name for entry in folder.iterdir()] == ["search-0003.safetensors"]


class TestAtomicity:
    def test_a_crash_while_writing_leaves_the_old_one(self, case, folder, tensors, monkeypatch):
        spec = case.spec(0)
        path = checkpoint.save(folder, spec, tensors, [report(2)])

        def killed(*paths):
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(folder, spec, tensors | {"step": torch.tensor(20)}, [report(20)])
        assert int(checkpoint.load(path)[1]["step"]) == 12
        assert [said.step for said in checkpoint.load(path)[2]] == [2]

    def test_half_a_file_is_ignored_and_then_overwritten(self, case, folder, tmp_path):
        spec = case.spec(0)
        checkpoint.path_of(folder, spec.key).with_suffix(".partial").write_bytes(b"\x10\0\0half")
        torn = drive(case.program(folder), [spec])[spec.key]
        clean = drive(case.program(tmp_path / "clean"), [spec])[spec.key]
        assert_same_reports(torn.reports, clean.reports)
        assert [entry.name for entry in folder.iterdir()] == ["search-0000.safetensors"]

    def test_a_later_one_takes_the_place_of_an_earlier_one(self, case, folder, tensors):
        spec = case.spec(0)
        checkpoint.save(folder, spec, tensors, [report(2)])
        path = checkpoint.save(folder, spec, tensors, [report(2), report(12)])
        assert [said.step for said in checkpoint.load(path)[2]] == [2, 12]

    def test_it_is_on_the_disk_before_it_takes_the_place_of_the_old_one(
        self, case, folder, tensors, monkeypatch
    ):
        done = []
        monkeypatch.setattr(os, "fsync", lambda file: done.append(("sync", os.fstat(file).st_ino)))
        monkeypatch.setattr(
            os, "replace", lambda old, new: done.append(("move", old.stat().st_ino))
        )
        checkpoint.save(folder, case.spec(0), tensors, [])
        (sync, file), (move, moved) = done
        assert (sync, move, file) == ("sync", "move", moved)

    def test_a_worker_that_was_given_up_may_write_at_the_same_time(
        self, case, folder, tensors, monkeypatch
    ):
        """Its node was cut off, and does not know that the trial goes on elsewhere."""
        spec, sync = case.spec(0), os.fsync

        def in_between(file):
            monkeypatch.setattr(os, "fsync", sync)
            checkpoint.save(folder, spec, tensors, [report(2)])

        monkeypatch.setattr(os, "fsync", in_between)
        path = checkpoint.save(folder, replace(spec, attempt=1), tensors, [report(2), report(12)])
        assert [said.step for said in checkpoint.load(path)[2]] == [2, 12]
        assert list(folder.iterdir()) == [path]

    def test_a_write_that_fails_leaves_no_half_file(self, case, folder, tensors):
        path = checkpoint.save(folder, case.spec(0), tensors, [report(2)])
        (folder / "search-0000.partial").symlink_to("/dev/full")
        with pytest.raises(OSError, match="No space left") as error:
            checkpoint.save(folder, case.spec(0), tensors, [report(12)])
        assert error.value.filename == str(path)
        assert list(folder.iterdir()) == [path]
        assert [said.step for said in checkpoint.load(path)[2]] == [2]


def rewritten(path, change, *, metadata=None):
    """The checkpoint at `path` with other tensors, or other metadata."""
    with safe_open(path, framework="pt") as file:
        kept = file.metadata()
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, kept if metadata is None else metadata)


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-5]),
    "only a header": lambda path: path.write_bytes(path.read_bytes()[:40]),
    "garbage": lambda path: path.write_bytes(bytes(range(256)) * 9),
    "without metadata": lambda path: rewritten(path, lambda tensors: None, metadata={}),
    "reports are garbage": lambda path: rewritten(
        path, lambda tensors: None, metadata={"identity": "", "reports": "[{]"}
    ),
    "of another shape": lambda path: rewritten(
        path, lambda tensors: tensors.update({last(tensors): torch.zeros(7, 7)})
    ),
    "of another type": lambda path: rewritten(
        path, lambda tensors: tensors.update({last(tensors): tensors[last(tensors)].half()})
    ),
    "without a tensor": lambda path: rewritten(path, lambda tensors: tensors.pop(last(tensors))),
    "of another step": lambda path: rewritten(
        path, lambda tensors: tensors.update(step=torch.tensor(4))
    ),
}


def last(tensors):
    """One that is restored late, when others have been restored."""
    return max(name for name in tensors if name.startswith("params."))


class TestDamage:
    @pytest.mark.parametrize("damage", DAMAGES)
    def test_a_trial_whose_checkpoint_is_damaged_is_trained_again(
        self, case, folder, tmp_path, damage, caplog
    ):
        spec = case.spec(0)
        program = case.program(folder)
        program.admit(spec)
        program.advance()  # and the process ends
        DAMAGES[damage](checkpoint.path_of(folder, spec.key))
        again = drive(case.program(folder), [spec])[spec.key]
        assert_same_reports(
            again.reports, drive(case.program(tmp_path / "clean"), [spec])[spec.key].reports
        )
        (said,) = [record for record in caplog.records if record.levelname == "WARNING"]
        assert "search-0000.safetensors" in said.getMessage()
        assert "trained again" in said.getMessage()
        assert "\n" not in said.getMessage()

    @pytest.mark.parametrize("damage", ["empty", "truncated", "of another shape"])
    def test_a_test_whose_finals_checkpoint_is_damaged_trains_it_again(
        self, case, folder, tmp_path, damage, caplog
    ):
        final = case.spec(0, rungs=(4,), stage="final")
        drive(case.program(folder), [final])
        tested = replace(final, stage="test", initial=final.key)
        DAMAGES[damage](checkpoint.path_of(folder, final.key))
        (after,) = drive(case.program(folder), [tested])[tested.key].reports
        (clean,) = drive(case.program(tmp_path / "clean"), [tested])[tested.key].reports
        assert_same_reports([after], [clean])
        assert "final-0000.safetensors" in caplog.text


@pytest.mark.parametrize("damage", ["empty", "truncated", "garbage", "without metadata"])
def test_what_is_damaged_is_said_in_one_sentence(case, folder, damage):
    spec = case.spec(0)
    drive(case.program(folder), [spec])
    path = checkpoint.path_of(folder, spec.key)
    DAMAGES[damage](path)
    with pytest.raises(checkpoint.Unreadable, match=r"search-0000.safetensors is not a readable"):
        checkpoint.parameters(path)
    with pytest.raises(InputError, match=r"teacher.path: must be a model"):
        checkpoint.trained(path)
    if damage != "without metadata":
        with pytest.raises(InputError, match="`fewtune export` wrote"):
            checkpoint.exported(path)


class TestIdentity:
    def test_is_that_of_every_attempt(self, case):
        spec = case.spec(0)
        assert checkpoint.identity(replace(spec, attempt=4)) == checkpoint.identity(spec)

    def test_does_not_hang_on_the_order_of_names(self, case):
        spec = case.spec(0)
        turned = dict(reversed(list(spec.task_weights.items())))
        other = replace(spec, task_weights=turned)
        assert checkpoint.identity(other) == checkpoint.identity(spec)

    def test_tells_specs_apart_that_train_differently(self, case):
        spec = case.spec(0)
        others = [
            replace(spec, seed=1),
            replace(spec, hyperparameters={"lr/outer": math.nextafter(0.01, 1)}),
            replace(spec, task_weights=case.weights(3)),
            replace(spec, recipe=replace(spec.recipe, shot=1)),
        ]
        identities = {checkpoint.identity(one) for one in (spec, *others)}
        assert len(identities) == 5
