"""Tables of numbers: what is read from a file, and pools of tasks that have numbers to tell."""

from functools import partial

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from torch.testing import assert_close

from fewshot.conformance.tasks import PoolLaws, keys
from fewshot.errors.inputs import InputError
from fewshot.tasks.regression import RegressionTask, regression_pool
from fewshot.tasks.table import load
from fewshot.tasks.text import load as load_text


def table(n=6):
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "name": [f"row {i}" for i in range(n)],
            "width": rng.normal(size=n),
            "count": np.arange(n),
            "open": np.arange(n) % 2 == 0,
            "price": 1e4 + 100 * rng.normal(size=n),
        }
    )


@pytest.fixture
def written(tmp_path):
    """Writes a table to a file of a name, and says where it lies."""

    def write(what, name="t.csv"):
        path = tmp_path / name
        if name.endswith("parquet"):
            what.to_parquet(path)
        else:
            what.to_csv(path, index=False)
        return str(path)

    return write


def loaded(path, **options):
    return load(path=path, cache=None, **options)


def details(path, **options):
    with pytest.raises(InputError) as caught:
        loaded(path, **options)
    return [(input_error.path, input_error.rule) for input_error in caught.value.details]


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.parquet"])
def test_two_columns_of_one_name_are_refused(tmp_path, name):
    twice = ["width", "name", "width"]
    if name.endswith("parquet"):
        rows = pa.table([[1.0], ["a"], [2.0]], names=twice)
        pa.parquet.write_table(rows, tmp_path / name)
    else:
        pd.DataFrame([[1.0, "a", 2.0]], columns=twice).to_csv(tmp_path / name, index=False)
    for load_any in (load, partial(load_text, text="name", features="ngrams")):
        with pytest.raises(InputError) as caught:
            load_any(path=str(tmp_path / name), cache=tmp_path)
        (input_error,) = caught.value.details
        assert input_error.rule == "must not have two columns with the same name."
        assert input_error.found == "width"


def test_two_columns_without_a_name_may_be_there(tmp_path):
    (tmp_path / "t.csv").write_text("width,,\n1,2,3\n")
    assert len(loaded(str(tmp_path / "t.csv")).columns.columns) == 3


class TestReading:
    @pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.parquet"])
    def test_reads_numbers_and_keeps_all_columns(self, written, name):
        found = loaded(written(table(), name))
        assert found.features == ("width", "count", "open", "price")
        assert found.inputs.dtype == torch.float32
        expected = table()[list(found.features)].to_numpy(np.float64)
        np.testing.assert_allclose(found.inputs.numpy(), expected, rtol=1e-6)
        pd.testing.assert_frame_equal(found.columns, table())

    def test_labels_are_no_features(self, written):
        found = loaded(written(table()), labels=["price", "name"])
        assert found.features == ("width", "count", "open")

    def test_features_come_in_the_order_that_they_are_given_in(self, written):
        found = loaded(written(table()), features=["price", "width"])
        assert found.inputs[:, 1].tolist() == pytest.approx(table()["width"].tolist())

    def test_a_table_of_another_index_is_read_from_zero(self, written):
        found = loaded(written(table().set_index(np.arange(6) + 3), "t.parquet"))
        assert list(found.columns.index) == list(range(6))

    @pytest.mark.parametrize(
        ("options", "path", "rule"),
        [
            ({"features": ["widht"]}, "table.features", "must name columns of the file."),
            ({"labels": ["widht"]}, "table.labels", "must name columns of the file."),
            ({"features": ["name"]}, "table.features", "must be numeric columns."),
            ({"features": ["width", "width"]}, "table.features", "must not name a column twice."),
            (
                {"features": ["width"], "labels": ["width"]},
                "table.features",
                "must not be in `labels` too.",
            ),
            ({"features": "width"}, "table.features", "must be a list of column names."),
        ],
    )
    def test_wrong_columns_are_named(self, written, options, path, rule):
        assert details(written(table()), **options) == [(path, rule)]

    @pytest.mark.parametrize("bad", [np.nan, np.inf, 1e39])
    def test_a_feature_that_is_no_finite_number_is_named_with_its_rows(self, written, bad):
        broken = table()
        broken.loc[[1, 4], "width"] = bad
        with pytest.raises(InputError, match=r"t.csv:width: must have.*rows 1, 4"):
            loaded(written(broken))
        assert "width" not in loaded(written(broken), features=["count"]).features

    def test_what_can_not_be_read_is_named(self, written, tmp_path):
        (tmp_path / "broken.parquet").write_text("no table")
        assert details(str(tmp_path / "broken.parquet"))[0][1].startswith("can't be read")
        (tmp_path / "t.txt").write_text("a\n1\n")
        assert "ends in .csv" in details(str(tmp_path / "t.txt"))[0][1]
        assert details(written(table()[:0]))[0][1] == "must have at least one row."
        assert "must have a numeric column" in details(written(table()[["name"]]))[0][1]


def task(name, n, first=0, scale=1.0):
    rows = first + np.arange(n)
    return RegressionTask(name, rows, 10.0 + scale * rows)


def pool_of(*tasks, shot=3, query=2):
    """Whose inputs are their own rows, twice."""
    inputs = torch.arange(100.0)[:, None].expand(-1, 2)
    return regression_pool(tasks, inputs, shot=shot, query=query)


@pytest.mark.parametrize("pool", [pool_of(task("a", 9), task("b", 7, first=50))])
class TestAPoolOfNumbers(PoolLaws):
    pass


class TestPool:
    def test_every_example_has_its_own_number_in_its_own_unit(self):
        made = pool_of(task("a", 9), task("b", 7, first=50, scale=-3.0)).draw(keys(20), 2)
        for x, y in ((made.support_x, made.support_y), (made.query_x, made.query_y)):
            assert_close(y[:, 0], 10 + x[:, 0, ..., :1])
            assert_close(y[:, 1], 10 - 3 * x[:, 1, ..., :1])

    def test_support_and_query_share_no_example_and_are_of_their_task(self):
        made = pool_of(task("a", 9), task("b", 7, first=50)).draw(keys(50), 2)
        rows = torch.cat([made.support_x, made.query_x], -2)[..., 0]
        assert all(each.unique().numel() == 5 for each in rows.flatten(0, -2))
        assert set(rows[:, 0].flatten().tolist()) == set(range(9))
        assert set(rows[:, 1].flatten().tolist()) == set(range(50, 57))

    def test_an_episode_is_the_same_alone_as_among_others(self):
        both, alone = pool_of(task("a", 9), task("b", 30)), pool_of(task("a", 9))
        together = both.draw(keys(10), 5)
        for i, key in enumerate(keys(10)):
            for one, many in zip(alone.draw(key, 2), together, strict=True):
                assert torch.equal(one, many[i, :1, :2])

    def test_null_loss_is_the_variance(self):
        made = pool_of(task("a", 9), task("b", 7, scale=-3.0))
        expected = [np.arange(9).var(), 9 * np.arange(7).var()]
        assert_close(made.null_losses, torch.tensor(expected, dtype=torch.float32))
        assert made.sizes == {"a": 9, "b": 7}

    def test_shuffled_numbers_are_the_same_numbers(self):
        before = task("a", 30)
        after = before.shuffled(1)
        assert sorted(after.values) == sorted(before.values)
        assert abs(np.corrcoef(before.values, after.values)[0, 1]) < 0.5

    def test_a_share_of_noisy_numbers_is_any_of_them(self):
        before = RegressionTask("t", np.arange(1000), np.arange(1000.0))
        after = before.noisy(0.3, 1)
        assert (after.values != before.values).mean() == pytest.approx(0.3, abs=0.01)
        assert set(after.values) <= set(before.values)
        assert np.array_equal(after.rows, before.rows)
        assert np.array_equal(after.values, before.noisy(0.3, 1).values)

    def test_too_few_examples_and_numbers_all_alike_are_named_at_once(self):
        with pytest.raises(InputError) as caught:
            pool_of(task("few", 4), task("flat", 9, scale=0.0), task("vast", 9, scale=1e30))
        found = [(input_error.path, input_error.rule[:20]) for input_error in caught.value.details]
        assert found == [
            ("tasks.few", "needs at least shot "),
            ("tasks.flat", "must have numbers wh"),
            ("tasks.vast", "must have numbers wh"),
        ]
