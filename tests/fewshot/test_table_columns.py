"""Tables with categories, missing values, means of values, merged values and split groups."""

import json

import numpy as np
import pandas as pd
import pytest

from fewshot.errors.inputs import InputError
from fewshot.tasks.table import load


@pytest.fixture
def written(tmp_path):
    def write(rows, name="t.csv"):
        pd.DataFrame(rows).to_csv(tmp_path / name, index=False)
        return str(tmp_path / name)

    return write


def loaded(path, **options):
    return load(path=path, cache=None, **options)


def details(path, **options):
    with pytest.raises(InputError) as caught:
        loaded(path, **options)
    return [(detail.path, detail.rule, detail.found) for detail in caught.value.details]


PATIENTS = {
    "age": [40, -9, 60, 80],
    "chest": ["a", "b", "?", "a"],
    "level": [1.5, None, 2.5, 0.5],
    "ill": [0, 1, 2, 0],
}
PEOPLE = {"who": np.repeat(np.arange(200), 2), "x": np.arange(400.0)}
FILMS = {
    "user": ["a", "a", "b", "b", "c", "c"],
    "film": [1, 2, 1, 2, 1, 3],
    "rating": [5.0, 1.0, 4.0, 2.0, 1.0, 5.0],
}
RULE = {"by": "user", "validation": ["b"], "test": ["c"]}


class TestMissingValues:
    def test_become_the_median_and_an_indicator(self, written):
        made = loaded(written(PATIENTS), features=["age", "level"], missing=[-9])
        assert made.inputs.tolist() == [
            [40, 1.5, 0, 0],
            [60, 1.5, 1, 1],
            [60, 2.5, 0, 0],
            [80, 0.5, 0, 0],
        ]
        assert made.fixed["fill"] == {"age": 60, "level": 1.5}

    def test_of_one_column_only(self, written):
        made = loaded(written(PATIENTS), features=["age", "level"], missing={"age": [-9]})
        assert made.inputs[1].tolist() == [60, 1.5, 1, 1]  # empty cells are missing everywhere

    def test_may_be_text_in_a_column_of_numbers(self, written):
        path = written({"x": ["1", "?", "3"], "y": [1, 2, 3]})
        assert loaded(path, missing=["?"]).inputs.tolist() == [[1, 1, 0], [2, 2, 1], [3, 3, 0]]
        assert loaded(path).inputs.tolist() == [[1], [2], [3]]
        assert details(path, features=["x"], missing=["-"])[0][1] == "must be numeric columns."

    def test_are_refused_unless_declared(self, written):
        ((path, rule, found),) = details(written(PATIENTS), features=["level"])
        assert path.endswith(":level")
        assert "finite number in every row" in rule
        assert found == "none in row 1"

    def test_are_read_alike_in_another_file(self, written):
        first = loaded(written(PATIENTS), features=["age", "level"], missing=[-9])
        other = written({"age": [-9, 50], "level": [1, 2]}, "other.csv")
        again = loaded(other, missing=[-9], **first.fixed)
        assert again.inputs.tolist() == [[60, 1, 1, 0], [50, 2, 0, 0]]

    @pytest.mark.parametrize("missing", [-9, "-9", {"age": -9}, [[-9]], [None]])
    def test_must_be_a_list_of_codes(self, written, missing):
        assert "must be a list of codes" in details(written(PATIENTS), missing=missing)[0][1]


class TestCategories:
    def test_become_one_feature_for_each_value_and_one_for_others(self, written):
        made = loaded(written(PATIENTS), features=["age"], categories=["chest"])
        assert made.features == ("age", "chest")
        assert made.inputs.tolist() == [
            [40, 0, 1, 0, 0],
            [-9, 0, 0, 1, 0],
            [60, 1, 0, 0, 0],
            [80, 0, 1, 0, 0],
        ]

    def test_may_list_their_values(self, written):
        made = loaded(written(PATIENTS), features=[], categories={"chest": ["b"]})
        assert made.inputs.tolist() == [[0, 1], [1, 0], [0, 1], [0, 1]]

    def test_are_whole_numbers_whether_or_not_a_cell_is_empty(self, written):
        whole = loaded(written({"c": [1, 2]}), categories=["c"])
        empty = loaded(written({"c": [1, 2, None]}), **whole.fixed)
        assert whole.fixed["categories"] == {"c": ["1", "2"]}
        assert empty.inputs.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]

    def test_have_a_value_for_missing_codes(self, written):
        path = written(PATIENTS)
        made = loaded(path, features=[], categories=["chest"], missing=["?"])
        assert made.fixed["categories"] == {"chest": ["", "a", "b"]}

    def test_with_too_many_values_are_refused(self, written):
        found = details(written({"c": np.arange(2000)}), categories=["c"])
        assert "at most 1000 values" in found[0][1]


class TestSplit:
    def test_puts_each_group_into_one_split(self, written):
        table = loaded(written(PEOPLE), split="who").columns
        assert (table.groupby("who")["split"].nunique() == 1).all()
        shares = table["split"].value_counts(normalize=True)
        assert shares["train"] == pytest.approx(0.6, abs=0.1)
        assert shares["test"] == pytest.approx(0.2, abs=0.1)

    def test_does_not_depend_on_the_other_rows(self, written):
        table = loaded(written(PEOPLE), split="who").columns
        less = {name: values[::-3] for name, values in PEOPLE.items()}
        again = loaded(written(less, "less.csv"), split="who").columns
        assert again["split"].tolist() == table["split"].tolist()[::-3]

    def test_leaves_the_groups_out_of_the_features(self, written):
        assert loaded(written(PEOPLE), split="who").features == ("x",)

    def test_may_name_groups(self, written):
        rule = {"by": "who", "validation": [3], "test": [5, 7]}
        table = loaded(written(PEOPLE), split=rule).columns
        held_out = table.loc[table["split"] == "test", "who"].unique().tolist()
        assert held_out == [5, 7]
        assert (table["split"] == "train").sum() == 394

    @pytest.mark.parametrize(
        ("rule", "path", "words"),
        [
            ("whom", "table.split.by", "must name a column"),
            (3, "table.split", "must be a column"),
            ({"by": "who", "valid": 0.1}, "table.split.valid", "not a known key"),
            ({"by": "who", "test": 2}, "table.split.test", "share above 0"),
            ({"by": "who", "test": 0.6, "validation": 0.4}, "table.split", "leave groups"),
            ({"by": "who", "test": [1], "validation": [1]}, "table.split", "in two splits"),
            ({"by": "who", "test": [1000]}, "table.split", "must name groups"),
            ({"by": "split"}, "table.split.by", "must name a column"),
        ],
    )
    def test_names_what_is_wrong(self, written, rule, path, words):
        ((found, text, _),) = details(written(PEOPLE), split=rule)
        assert found == path
        assert words in text

    def test_needs_a_group_in_every_row_and_a_free_name(self, written):
        rows = {"who": ["a", None], "split": [1, 2], "x": [1, 2]}
        assert "has a column 'split'" in details(written(rows), split="who")[0][1]
        del rows["split"]
        ((path, rule, found),) = details(written(rows), split="who")
        assert path.endswith(":who")
        assert (rule[:25], found) == ("must have a group in ever", "none in row 1")


class TestMeans:
    def features(self, written, rows=None, **options):
        options = {"features": [], "means": {"film": "rating"}} | options
        return loaded(written(rows or FILMS), **options)

    def test_come_from_training_groups_alone(self, written):
        before = self.features(written, split=RULE).inputs
        rows = FILMS | {"rating": [5.0, 1.0, -50.0, 99.0, 1e3, -1e3]}
        assert self.features(written, rows, split=RULE).inputs.tolist() == before.tolist()
        # The mean of `a` is 3; of film 1 it gave 5, of film 3 nothing.
        mean, n = before[4].tolist()
        assert mean == pytest.approx(3 + 2 / 6)
        assert n == pytest.approx(np.log(2))
        assert before[5].tolist() == pytest.approx([3, 0])

    def test_leave_out_the_own_group_of_training_rows(self, written):
        rule = RULE | {"validation": ["c"], "test": ["c2"]}
        rows = FILMS | {"user": ["a", "a", "b", "b", "c", "c2"]}
        made = self.features(written, rows, split=rule).inputs
        assert made[0, 0] == pytest.approx(3 + (4 - 3) / 6)  # what `b` gave
        assert made[0, 1] == pytest.approx(np.log(2))

    def test_are_kept_for_other_files(self, written):
        made = self.features(written, split=RULE)
        fixed = json.loads(json.dumps(made.fixed))
        other = written({"film": [1, 9]}, "new.csv")
        again = loaded(other, **fixed).inputs
        assert again[0].tolist() == made.inputs[4].tolist()
        assert again[1].tolist() == pytest.approx([3, 0])

    def test_need_a_split_and_known_columns(self, written):
        path = written(FILMS)
        assert "needs `split`" in details(path, features=[], means={"film": "rating"})[0][1]
        found = details(path, means={"movie": "rating", "film": "stars"})
        assert [each[0] for each in found] == ["table.means", "table.means.film"]
        assert "columns with a column each" in details(path, means=["film"])[0][1]


class TestMerge:
    def test_gives_values_a_new_name(self, written):
        made = loaded(
            written(PATIENTS), features=["age"], merge={"ill": {"yes": [1, 2], "no": [0]}}
        )
        assert made.columns["ill"].tolist() == ["no", "yes", "yes", "no"]

    def test_keeps_other_values_and_empty_cells(self, written):
        made = loaded(written(PATIENTS), features=["age"], merge={"level": {"high": [2.5]}})
        assert made.columns["level"].isna().tolist() == [False, True, False, False]
        assert made.columns["level"].tolist()[2] == "high"

    @pytest.mark.parametrize(
        ("merge", "words"),
        [
            ({"ail": {"yes": [1]}}, "must name a column"),
            ({"ill": [1]}, "must be new values"),
            ({"ill": {"yes": 1}}, "must be new values"),
            ({"ill": {"yes": [1, 2], "no": [2]}}, "must not name an old value twice"),
            ([1], "must be new values"),
        ],
    )
    def test_names_what_is_wrong(self, written, merge, words):
        assert words in details(written(PATIENTS), features=["age"], merge=merge)[0][1]


def test_all_wrong_names_are_told_at_once(written):
    found = details(
        written(PATIENTS),
        features=["agee"],
        labels=["il"],
        categories=["chesst", "ill"],
        missing={"levle": [-9]},
    )
    assert [(path, name) for path, _, name in found] == [
        ("table.features", "agee"),
        ("table.labels", "il"),
        ("table.categories", "chesst"),
        ("table.missing", "levle"),
    ]


def test_faults_of_all_options_are_told_at_once(written):
    found = details(
        written(FILMS),
        features=["scor"],
        scale="trian",
        split={"by": "user", "tst": 1},
        merge={"color": {"red": [1]}},
        labels=["rating"],
    )
    assert [path for path, _, _ in found] == [
        "table.scale",
        "table.split.tst",
        "table.merge.color",
        "table.features",
    ]


@pytest.mark.parametrize("scale", ["all", 1, None, True])
def test_a_scale_is_one_of_three(written, scale):
    assert "must be support, train, none." in details(written(PATIENTS), scale=scale)[0][1]
