"""A step that is a graph of addresses is the step, and all of it happens on one device."""

import logging
from dataclasses import replace

import pytest
import torch

from tests.trials.conformance import CASES, READ_LENGTHS, drive, protonet
from tests.trials.double import REPORTS, lanes_in_double
from tests.trials.stand_ins import ELSEWHERE, TwoPlaces, taped
from trials.contract import Component
from trials.lanes.step.capture import Captured
from trials.lanes.step.cuda_graph import cuda_graph, replayed
from trials.programs.build import PROGRAMS

# Rungs of trials that come and go at unlike times, so that lanes are refilled and moved. The first
# trial is stopped at its first rung.
#
# In two lanes draws and steps have one shape. Both are captured at their second call, and replayed
# from the third on.
SHORT = [(1, 2), (1, 2, 4), (3,)]
# In three lanes, with enough steps for graphs of a GPU.
LONG = [(2, 6), (3, 8), (4,), (9,), (3, 5)]


def assert_near(found, expected):
    """To the rounding of float64."""
    for (score, metrics), (own_score, own_metrics) in zip(found, expected, strict=True):
        assert score == pytest.approx(own_score, rel=REPORTS, abs=REPORTS)
        assert metrics == pytest.approx(own_metrics, rel=REPORTS, abs=REPORTS)


def told(program, case, all_rungs=LONG):
    specs = [case.spec(number, rungs=rungs) for number, rungs in enumerate(all_rungs)]
    stories = drive(program, specs, stops={specs[0].key: specs[0].rungs[0]})
    reports = [report for spec in specs for report in stories[spec.key].reports]
    return [(report.score, report.metrics) for report in reports]


# One case of each kind of step; the slow tests have the others.
OF_EACH_KIND = ("baseline_pp", "distillation", "fine_tuning", "lora", "maml", "mixed", "taught")
SOME = [
    pytest.param(name, marks=() if name in OF_EACH_KIND else pytest.mark.slow) for name in CASES
]


@pytest.fixture(params=SOME)
def case(request, case_named):
    return case_named(request.param)


def test_a_step_of_addresses_changes_no_report(case, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("trials.lanes.step.capture.WORTH", 10**9)
    expected = told(case.program(tmp_path / "eager", lanes=2), case, SHORT)
    monkeypatch.setattr("trials.lanes.step.capture.WORTH", 1)
    plays = []
    monkeypatch.setattr(
        "trials.lanes.lanes.replayed", lambda step, device: Captured(step, by=taped(plays), after=2)
    )
    assert told(case.program(tmp_path / "graphs", lanes=2), case, SHORT) == expected
    assert plays
    # A step that looks how long its texts are is not captured.
    assert ("waits" in caplog.text) == (case.name in READ_LENGTHS)


def test_on_a_cpu_a_step_is_called_as_it_is():
    def step():
        raise AssertionError("only looked at")

    assert replayed(step, torch.device("cpu")) is step


def elsewhere(case, folder):
    """A program whose tensors lie on another device, and move nowhere between two rungs."""
    places = TwoPlaces()
    with places:
        objective = PROGRAMS[case.recipe.program](case.recipe, case.cache, ELSEWHERE)
        program = lanes_in_double(objective, lanes=2, folder=folder, device=ELSEWHERE)
        drive(program, [case.spec(9, rungs=(1,))])  # what is made once has been made
        train = program.train

        def settled(steps):
            places.settled = True
            train(steps)
            places.settled = False

        program.train = settled
        return told(program, case, SHORT)


@pytest.mark.parametrize("name", [case for case in SOME if case.values[0] not in READ_LENGTHS])
def test_what_lies_on_a_device_stays_there(name, case_named, tmp_path):
    case = replace(case_named(name), double=True)
    (tmp_path / "elsewhere").mkdir()
    expected = told(case.program(tmp_path / "here", lanes=2), case, SHORT)
    # A device that is not a CPU adds some numbers in another order.
    assert_near(elsewhere(case, tmp_path / "elsewhere"), expected)


@pytest.mark.parametrize(
    "strays",
    [
        lambda x: x + torch.ones(3),
        lambda x: x[torch.tensor([0])],
        lambda x: torch.cat([x, torch.zeros(1)]),
    ],
)
def test_what_lies_on_two_devices_is_recognised(strays):
    with TwoPlaces(), pytest.raises(AssertionError, match="two places"):
        strays(torch.ones(3, device=ELSEWHERE))


@pytest.mark.parametrize("moves", [lambda x: x.cpu(), lambda x: x.copy_(torch.ones(3))])
def test_what_moves_between_rungs_is_recognised(moves):
    with TwoPlaces() as places:
        there = torch.zeros(3, device=ELSEWHERE)
        moves(there)
        places.settled = True
        with pytest.raises(AssertionError, match="place"):
            moves(there)


@pytest.mark.gpu
class TestOnAGPU:
    @pytest.fixture(autouse=True)
    def gpu(self):
        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")

    def test_a_graph_changes_no_report(self, case, tmp_path, monkeypatch, caplog):
        eager = pytest.MonkeyPatch()
        eager.setattr("trials.lanes.lanes.replayed", lambda step, device: step)
        case = replace(case, double=True)
        expected = told(case.program(tmp_path / "eager", lanes=3), case)
        eager.undo()
        # Not the first, in which some copy to the GPU what they keep there.
        monkeypatch.setattr("trials.lanes.step.capture.WORTH", 2)
        graphs = []

        def counted(*arguments, **named):
            graphs.append(cuda_graph(*arguments, **named))
            return graphs[-1]

        monkeypatch.setattr("trials.lanes.step.cuda_graph.cuda_graph", counted)
        found = told(case.program(tmp_path / "graphs", lanes=3), case)
        assert graphs
        assert ("not captured" in caplog.text) == (case.name in READ_LENGTHS)
        assert_near(found, expected)

    def test_tf32_is_near(self, case_named, tmp_path):
        case = case_named("conv")
        model = Component(name="conv", options={"width": 64, "blocks": 1, "n_out": 64})
        recipes = [replace(case.recipe, model=model, precision=p) for p in ("float32", "tf32")]
        exact, near = (
            [report["train/loss"] for _, report in told(program, case)]
            for recipe in recipes
            for program in [case.program(tmp_path / recipe.precision, lanes=3, recipe=recipe)]
        )
        assert near != exact
        assert near == pytest.approx(exact, rel=0.02)

    def test_what_is_given_by_a_graph_lasts_until_the_next(self):
        twice = replayed(lambda x: x * 2, torch.device("cuda"))
        sizes = [*[3] * 40, *[5000] * 40, *[3, 5000] * 10]  # each of which has a graph of its own
        xs = [torch.full((n,), float(i), device="cuda") for i, n in enumerate(sizes)]
        assert [twice(x).mean().item() for x in xs] == [2.0 * i for i in range(len(xs))]

    def test_what_looks_at_values_is_called_as_it_is(self, caplog):
        caplog.set_level(logging.WARNING)
        total = torch.zeros(1, device="cuda")

        def step(x):
            total.add_(x if x.item() > 0 else -x)

        captured = Captured(step, by=lambda *call: cuda_graph(*call, None))
        for sign in [1.0, -1.0] * 10:
            captured(torch.full((1,), sign, device="cuda"))
        assert total.item() == 20
        assert "not captured" in caplog.text

    def test_a_trial_is_what_it_is_on_a_cpu(self, tmp_path):
        case, cpu = replace(protonet(tmp_path), double=True), torch.device("cpu")
        found = told(case.program(tmp_path / "gpu", lanes=3), case)
        objective = PROGRAMS[case.recipe.program](case.recipe, case.cache, cpu)
        (tmp_path / "cpu").mkdir()
        program = lanes_in_double(objective, lanes=3, folder=tmp_path / "cpu", device=cpu)
        assert_near(found, told(program, case))
