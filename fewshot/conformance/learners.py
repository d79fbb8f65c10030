"""The laws of `Learner`, as tests.

`make` is the class of a learner. It is tested with a small perceptron as the model. A learner with
the option `kind` is tested on regression problems too.
"""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.func import grad, vmap
from torch.testing import assert_close

from fewshot.conformance.learner_setup import (
    CASES,
    Case,
    Lanes,
    fresh,
    hyperparameters,
    made,
    meta_loss,
    stacked,
)
from fewshot.conformance.problems import (
    NASTY,
    QUERY,
    SHOT,
    WAY,
    WIDTH,
    classes,
    mislabelled,
)
from fewshot.episodes import Episode
from fewshot.functional import Hyperparameters, Params
from fewshot.learners.base import KeepsAdapted, Learner
from fewshot.learners.learners import LearnerFactory, supports_regression
from fewshot.models.mlp import MLP

Predict = Callable[..., Tensor]


class LearnerLaws:
    """The laws of every learner.

    Laws that do not apply to a learner are skipped. A conftest.py can deselect them instead, by
    calling `applies` with the name and the parameters of a law.
    """

    @staticmethod
    def applies(law: str, params: Mapping[str, Any]) -> bool:
        """Whether a law applies to the learner `params["make"]`, tested on `params.get("of")`."""
        make, numbers = params["make"], params.get("of") == "numbers"
        if law == "test_accepts_a_different_way":
            return not numbers and not make.model_scores_classes
        if law == "test_renumbered_classes_renumber_the_logits" and numbers:
            return False
        return not numbers or supports_regression(make)

    @pytest.fixture(autouse=True)
    def only_what_applies(self, request: pytest.FixtureRequest) -> None:
        item = request.node
        if not self.applies(item.originalname, item.callspec.params):
            pytest.skip("does not apply to this learner")

    @pytest.fixture(params=CASES)
    def of(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.fixture(params=["logits", "meta_logits"])
    def stage(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.fixture
    def case(self, of: str) -> Case:
        return CASES[of]

    @pytest.fixture
    def problems(self, case: Case) -> Episode:
        return case.problems()

    @pytest.fixture
    def learner(self, make: LearnerFactory, case: Case) -> Learner:
        return made(make, **case.options)

    @pytest.fixture
    def params(self, learner: Learner) -> Params:
        return fresh(learner)

    @pytest.fixture
    def hyper(self, make: LearnerFactory, case: Case) -> dict[str, Tensor]:
        return hyperparameters(make, case.rate)

    @pytest.fixture
    def lanes(self, learner: Learner, hyper: dict[str, Tensor]) -> Lanes:
        params = [fresh(learner, seed) for seed in range(3)]
        hypers = [{key: value * (1 + i) for key, value in hyper.items()} for i in range(3)]
        return Lanes(params, hypers, stacked(params), stacked(hypers))

    @pytest.fixture
    def predict(self, learner: Learner, stage: str, hyper: dict[str, Tensor]) -> Predict:
        """A function from parameters and problems to outputs."""
        method = getattr(learner, stage)
        return lambda params, problems, hyper=hyper: method(params, problems, hyper)

    # ---- inputs and outputs -----------------------------------------------------------------

    def test_answers_every_query(
        self, predict: Predict, params: Params, problems: Episode, case: Case
    ) -> None:
        shape = (4, WAY * QUERY, case.options["way"])
        assert predict(params, problems).shape == shape

    def test_declares_its_hyperparameters(
        self, predict: Predict, params: Params, problems: Episode, make: LearnerFactory
    ) -> None:
        read = set()

        class Watched(dict[str, Tensor]):
            def __missing__(self, key: str) -> Tensor:
                read.add(key)
                return torch.tensor(0.1, dtype=torch.float64)

        predict(params, problems, Watched())
        assert read <= set(make.hyperparameters)

    def test_is_the_same_each_time_whatever_the_ambient_seed(
        self, predict: Predict, learner: Learner, problems: Episode
    ) -> None:
        answers = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            answers.append(predict(fresh(learner), problems))
        assert torch.equal(*answers)

    def test_learns_from_the_answers_of_the_support(
        self, predict: Predict, params: Params, case: Case
    ) -> None:
        problems = case.problems(b=20)
        right, wrong = (
            case.kind.losses(predict(params, given), problems.query_y).mean()
            for given in (problems, mislabelled(problems))
        )
        assert right < wrong

    # ---- symmetries -------------------------------------------------------------------------

    def test_does_not_see_the_order_of_the_support(
        self, predict: Predict, params: Params, problems: Episode
    ) -> None:
        order = torch.randperm(WAY * SHOT, generator=torch.Generator().manual_seed(1))
        x, y = problems.support_x[:, order], problems.support_y[:, order]
        mixed = problems._replace(support_x=x, support_y=y)
        assert_close(predict(params, mixed), predict(params, problems))

    def test_answers_queries_in_their_order(
        self, predict: Predict, params: Params, problems: Episode
    ) -> None:
        turned = problems._replace(query_x=problems.query_x.flip(1))
        assert_close(predict(params, turned), predict(params, problems).flip(1))

    def test_renumbered_classes_renumber_the_logits(
        self, predict: Predict, params: Params, problems: Episode, make: LearnerFactory
    ) -> None:
        order = torch.tensor([2, 0, 1])  # class c gets the new number order[c]
        renamed = problems._replace(support_y=order[problems.support_y])
        renumbered = params
        if make.model_scores_classes:  # the columns of the last layer are the classes
            head = MLP(features=(WIDTH,), hidden=(8,), n_out=WAY).head
            renumbered = {
                name: value[..., order.argsort()] if name.endswith(head) else value
                for name, value in params.items()
            }
        assert_close(predict(renumbered, renamed)[..., order], predict(params, problems))

    # ---- what a prediction must not depend on -----------------------------------------------

    @pytest.mark.parametrize("label", [-1, float("nan")])
    def test_never_sees_the_answers_to_the_queries(
        self, predict: Predict, params: Params, problems: Episode, label: float
    ) -> None:
        wrong = problems._replace(query_y=torch.full(problems.query_y.shape, label))
        assert torch.equal(predict(params, wrong), predict(params, problems))

    def test_answers_each_query_without_the_others(
        self, predict: Predict, params: Params, problems: Episode
    ) -> None:
        first = problems._replace(query_x=problems.query_x[:, :1], query_y=problems.query_y[:, :1])
        assert_close(predict(params, first), predict(params, problems)[:, :1])

    def test_solves_each_problem_as_if_it_were_alone(
        self, predict: Predict, params: Params, problems: Episode
    ) -> None:
        alone = [predict(params, Episode(*(p[i : i + 1] for p in problems))) for i in (0, 1)]
        assert_close(predict(params, problems)[:2], torch.cat(alone))

    # ---- the adapted model ------------------------------------------------------------------

    def test_an_adapted_model_is_kept_without_the_support(
        self, learner: Learner, params: Params, problems: Episode, hyper: dict[str, Tensor]
    ) -> None:
        if not isinstance(learner, KeepsAdapted):
            pytest.skip("the learner has no adapted model to keep")
        for i, logits in enumerate(learner.logits(params, problems, hyper)):
            x, y, queries, _ = (part[i] for part in problems)
            fitted = learner.fit(params, x, y, hyper)
            assert_close(learner.predict(fitted, queries), logits)

    # ---- lanes ------------------------------------------------------------------------------

    def test_mapped_over_lanes_is_a_loop_over_lanes(
        self, predict: Predict, lanes: Lanes, problems: Episode
    ) -> None:
        mapped = vmap(predict, in_dims=(0, None, 0))(
            lanes.stacked_params, problems, lanes.stacked_hyper
        )
        trials = zip(lanes.params, lanes.hyper, strict=True)
        assert_close(mapped, torch.stack([predict(p, problems, h) for p, h in trials]))

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_a_lane_that_has_diverged_leaves_the_others_alone(
        self, predict: Predict, lanes: Lanes, problems: Episode, bad: float
    ) -> None:
        for value in lanes.stacked_params.values():
            value[1] = bad
        mapped = vmap(predict, in_dims=(0, None, 0))(
            lanes.stacked_params, problems, lanes.stacked_hyper
        )
        for i in (0, 2):
            assert_close(mapped[i], predict(lanes.params[i], problems, lanes.hyper[i]))

    # ---- problems that differ from those of meta-training -----------------------------------

    @pytest.mark.parametrize(("way", "shot"), [(2, 1), (7, 1), (7, 5)])
    def test_accepts_a_different_way(
        self, params: Params, make: LearnerFactory, stage: str, way: int, shot: int
    ) -> None:
        problems = classes(b=50, spread=8.0, noise=0.05, way=way, shot=shot)
        logits = getattr(made(make, way=way), stage)(params, problems, hyperparameters(make))
        assert logits.shape[-1] == way
        assert (logits.argmax(-1) == problems.query_y).double().mean() > 0.5

    # ---- the training loss: the learner's own, or that of its outputs -----------------------

    def test_lanes_have_the_gradients_that_each_has_alone(
        self, learner: Learner, lanes: Lanes, problems: Episode, case: Case
    ) -> None:
        def gradient(params: Params, hyper: Hyperparameters) -> Params:
            slope: Params = grad(meta_loss(learner, problems, hyper, case.kind))(params)
            return slope

        mapped = vmap(gradient)(lanes.stacked_params, lanes.stacked_hyper)
        trials = zip(lanes.params, lanes.hyper, strict=True)
        assert_close(mapped, stacked([gradient(*trial) for trial in trials]))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("nasty", NASTY)
    def test_extreme_inputs_give_finite_outputs(
        self, make: LearnerFactory, learner: Learner, case: Case, nasty: str, dtype: torch.dtype
    ) -> None:
        problems = NASTY[nasty](case.problems())
        parts = [part.to(dtype) if part.is_floating_point() else part for part in problems]
        problems = Episode(*parts)
        # The size of a gradient step must fit the size of the inputs.
        size = max(1.0, problems.support_x.abs().max().item())
        hyper = hyperparameters(make, case.rate / size**2, dtype)
        params = fresh(learner, dtype=dtype)
        for stage in (learner.logits, learner.meta_logits):
            assert stage(params, problems, hyper).isfinite().all()
        loss = meta_loss(learner, problems, hyper, case.kind)
        assert loss(params).isfinite()
        assert all(part.isfinite().all() for part in grad(loss)(params).values())


class ExactLearnerLaws(LearnerLaws):
    """The laws of all learners except those that use an approximate gradient on purpose."""

    def test_the_gradients_of_its_answers_are_those_of_finite_differences(
        self, make: LearnerFactory, case: Case, hyper: dict[str, Tensor], stage: str
    ) -> None:
        learner = made(make, hidden=(4,), **case.options)
        start, problems = fresh(learner, 1), case.problems(b=1)

        def outputs(support_x: Tensor, query_x: Tensor, *values: Tensor) -> Tensor:
            changed = problems._replace(support_x=support_x, query_x=query_x)
            params = dict(zip(start, values, strict=True))
            predicted: Tensor = getattr(learner, stage)(params, changed, hyper)
            return predicted

        inputs = (problems.support_x, problems.query_x[:, :2], *start.values())
        leaves = [part.clone().requires_grad_() for part in inputs]
        assert gradcheck(outputs, leaves, fast_mode=True)

    def test_the_gradient_of_its_loss_is_that_of_finite_differences(
        self,
        learner: Learner,
        params: Params,
        problems: Episode,
        hyper: dict[str, Tensor],
        case: Case,
    ) -> None:
        loss = meta_loss(learner, problems, hyper, case.kind)
        slope, rng = grad(loss)(params), torch.Generator().manual_seed(5)
        for _ in range(3):
            way = {k: torch.randn(v.shape, generator=rng).to(v) for k, v in params.items()}
            ahead, behind = (
                loss({k: v + step * way[k] for k, v in params.items()}) for step in (1e-6, -1e-6)
            )
            along = torch.stack([(slope[k] * way[k]).sum() for k in params]).sum()
            assert_close((ahead - behind) / 2e-6, along, rtol=1e-5, atol=1e-7)
