"""The laws of sources of problems (datasets, families of functions, pools), as tests."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from fewshot.episodes import Episode
from fewshot.kinds import CLASSIFICATION
from fewshot.randomness import fold
from fewshot.tasks.base import Dataset, Pool
from fewshot.tasks.functions import Family, sample, variance

N_KEYS = 50


def keys(n: int = N_KEYS, seed: int = 0) -> torch.Tensor:
    """n different random keys, (n,)."""
    return fold(torch.tensor(seed), torch.arange(n))


def _same(a: Episode, b: Episode) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


class DatasetLaws:
    """The laws of `load`, a function that takes only a `cache` folder and returns a dataset."""

    @pytest.fixture
    def dataset(self, load: Callable[..., Dataset], tmp_path: Path) -> Dataset:
        return load(cache=tmp_path)

    def test_has_a_row_for_each_example(self, dataset: Dataset) -> None:
        assert len(dataset.inputs) == len(dataset.columns) > 0
        assert dataset.columns.index.equals(pd.RangeIndex(len(dataset.columns)))
        assert all(isinstance(name, str) for name in dataset.columns)

    def test_has_finite_numbers_or_ids_from_zero_on(self, dataset: Dataset) -> None:
        assert dataset.inputs.dtype in (torch.float32, torch.int64)
        assert dataset.inputs.isfinite().all()
        assert dataset.inputs.is_floating_point() or dataset.inputs.min() >= 0

    @pytest.mark.parametrize("cache", ["the same", "another"])
    def test_is_the_same_each_time_whatever_the_ambient_seed(
        self, dataset: Dataset, load: Callable[..., Dataset], tmp_path: Path, cache: str
    ) -> None:
        torch.manual_seed(7)
        again = load(cache=tmp_path if cache == "the same" else tmp_path / "another")
        assert torch.equal(again.inputs, dataset.inputs)
        assert again.columns.equals(dataset.columns)


class FamilyLaws:
    """The laws of a `family` of functions."""

    def test_has_a_finite_value_at_every_point(self, family: Family) -> None:
        x, y = sample(family, keys().view(5, -1), 20)
        assert y.shape == x.shape
        assert y.isfinite().all()

    def test_a_function_depends_only_on_its_key(self, family: Family) -> None:
        torch.manual_seed(1)
        _, together = sample(family, keys(), 20)
        torch.manual_seed(2)
        alone = [sample(family, key, 20)[1] for key in keys()]
        assert torch.equal(torch.stack(alone), together)

    def test_varies(self, family: Family) -> None:
        assert 0 < variance(family) < float("inf")


class PoolLaws:
    """The laws of a `pool`. For these tests, its examples must all be different."""

    @staticmethod
    def applies(law: str, params: Mapping[str, Any]) -> bool:
        """Whether a law applies to `params["pool"]`; see `LearnerLaws`."""
        of_classes = law == "test_asks_for_the_classes_that_it_has_shown"
        return not of_classes or "pool" not in params or params["pool"].kind is CLASSIFICATION

    def test_declares_its_tasks(self, pool: Pool) -> None:
        assert len(set(pool.names)) == len(pool.names) > 0
        assert pool.null_losses.shape == (len(pool.names),)
        assert (pool.null_losses > 0).all()
        assert pool.null_losses.isfinite().all()
        assert set(pool.sizes) in (set(pool.names), set())

    def test_has_a_problem_for_each_key_task_and_episode(self, pool: Pool) -> None:
        drawn = pool.draw(keys(6).view(2, 3), 4)
        assert all(part.shape[:4] == (2, 3, len(pool.names), 4) for part in drawn)
        assert drawn.support_x.shape[5:] == drawn.query_x.shape[5:] == pool.features
        assert drawn.support_x.shape[4] == drawn.support_y.shape[4]
        assert drawn.query_x.shape[4] == drawn.query_y.shape[4]
        assert drawn.support_x.isfinite().all()
        assert drawn.support_y.isfinite().all()

    def test_draws_the_same_each_time_whatever_the_ambient_seed(self, pool: Pool) -> None:
        torch.manual_seed(1)
        first = pool.draw(keys(), 2)
        torch.manual_seed(2)
        assert _same(first, pool.draw(keys(), 2))

    def test_an_episode_is_the_same_alone_as_among_other_keys(self, pool: Pool) -> None:
        together = pool.draw(keys(5), 3)
        for i, key in enumerate(keys(5)):
            assert _same(pool.draw(key, 3), Episode(*(part[i] for part in together)))

    def test_an_episode_is_the_same_however_many_follow(self, pool: Pool) -> None:
        few, many = pool.draw(keys(), 2), pool.draw(keys(), 5)
        assert _same(few, Episode(*(part[:, :, :2] for part in many)))

    def test_is_the_same_on_another_device(self, pool: Pool) -> None:
        moved = pool.to(torch.device("cpu"))
        assert moved.names == pool.names
        assert _same(moved.draw(keys(), 2), pool.draw(keys(), 2))

    def test_different_keys_draw_differently(self, pool: Pool) -> None:
        support = pool.draw(keys(), 1).support_x.flatten(1)
        assert support.unique(dim=0).shape[0] > 0.9 * N_KEYS

    def test_shares_no_example_between_support_and_query(self, pool: Pool) -> None:
        drawn = pool.draw(keys(), 2)
        support, query = (x.flatten(0, 2).flatten(2) for x in (drawn.support_x, drawn.query_x))
        same = (support.unsqueeze(2) == query.unsqueeze(1)).all(-1)
        if pool.kind is CLASSIFICATION:  # rows with the label -1 are padding
            own, others = (y.flatten(0, 2) >= 0 for y in (drawn.support_y, drawn.query_y))
            same = same & own.unsqueeze(2) & others.unsqueeze(1)
        assert not same.any()

    def test_asks_for_the_classes_that_it_has_shown(self, pool: Pool) -> None:
        if pool.kind is not CLASSIFICATION:
            pytest.skip("there are no classes")
        drawn = pool.draw(keys(), 2)
        support, query = (y.flatten(0, 2) for y in (drawn.support_y, drawn.query_y))
        for own, others in zip(support, query, strict=True):
            labels = own[own >= 0].unique().tolist()
            assert labels == list(range(len(labels)))
            assert set(others[others >= 0].tolist()) == set(labels)
