"""Tables of texts, their features, datasets by name."""

import gzip
import json
import zlib

import pandas as pd
import pytest
import torch

from fewshot.errors.inputs import InputError
from fewshot.tasks.datasets import DATASETS, load_dataset
from fewshot.tasks.text import lengths, load, ngrams

ROWS = [
    {"text": "null", "label": "a", "n": 1},
    {"text": "what is my balance", "label": "b", "n": 2},
    {"text": "123", "label": "a", "n": 3},
    {"text": "où est, s’il vous plaît, la gare", "label": "b", "n": 4},
]


def jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def written(folder, ending, rows=ROWS):
    path = folder / f"data{ending}"
    table = pd.DataFrame(rows)
    match ending:
        case ".csv" | ".csv.gz":
            table.to_csv(path, index=False)
        case ".jsonl":
            path.write_bytes(jsonl(rows))
        case ".jsonl.gz":
            path.write_bytes(gzip.compress(jsonl(rows)))
        case ".parquet":
            table.sample(frac=1, random_state=0).sort_index().to_parquet(path)
    return str(path)


def read(path, folder, **options):
    return load(path=path, cache=folder, features="ngrams", **options)


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".parquet"])
class TestEveryFormat:
    def test_keeps_all_columns_and_reads_texts_as_they_are(self, tmp_path, ending):
        dataset = read(written(tmp_path, ending), tmp_path)
        assert dataset.columns["text"].tolist() == [row["text"] for row in ROWS]
        assert dataset.columns["label"].tolist() == ["a", "b", "a", "b"]
        assert dataset.columns["n"].tolist() == [1, 2, 3, 4]
        assert dataset.columns["n_words"].tolist() == [1, 4, 1, 7]
        assert dataset.columns.index.equals(pd.RangeIndex(4))

    def test_names_the_rows_without_text(self, tmp_path, ending):
        rows = [ROWS[0], {**ROWS[1], "text": ""}, ROWS[2], {**ROWS[3], "text": " \t"}]
        with pytest.raises(InputError, match="none in rows 1, 3"):
            read(written(tmp_path, ending, rows), tmp_path)

    def test_tells_an_unknown_column_with_those_there_are(self, tmp_path, ending):
        with pytest.raises(InputError, match=r"'utterance'.*It has text, label, n\."):
            read(written(tmp_path, ending), tmp_path, text="utterance")

    def test_tells_a_damaged_file(self, tmp_path, ending):
        path = tmp_path / f"data{ending}"
        path.write_bytes(b'{"text": "half a\n\x00\xff')
        with pytest.raises(InputError, match="data"):
            read(str(path), tmp_path)


class TestFaults:
    @pytest.mark.parametrize("line", [b"{half", b"[1]", b"\xff", b'{"text": "a", "text": "b"}'])
    def test_a_bad_line_is_told_by_its_number(self, tmp_path, line):
        (tmp_path / "data.jsonl").write_bytes(jsonl(ROWS[:2]) + b"\n" + line + b"\n")
        with pytest.raises(InputError, match=r"line 4 is not (valid|a) JSON"):
            read(str(tmp_path / "data.jsonl"), tmp_path)

    def test_a_missing_file_is_told_with_its_neighbours(self, tmp_path):
        written(tmp_path, ".csv")
        with pytest.raises(InputError, match=r"has data\.csv\."):
            read(str(tmp_path / "data.jsonl"), tmp_path)

    def test_another_ending_is_told_with_the_known_ones(self, tmp_path):
        (tmp_path / "data.xlsx").touch()
        with pytest.raises(InputError, match=r"\.csv, .*\.parquet"):
            read(str(tmp_path / "data.xlsx"), tmp_path)

    def test_an_unset_variable_is_told_with_how_to_set_it(self, tmp_path, monkeypatch):
        monkeypatch.delenv("FEWTUNE_DATA", raising=False)
        with pytest.raises(InputError, match="export FEWTUNE_DATA="):
            read("$FEWTUNE_DATA/clinc150/data.jsonl.gz", tmp_path)

    def test_a_table_without_rows_is_told(self, tmp_path):
        (tmp_path / "data.csv").write_text("text,label\n")
        with pytest.raises(InputError, match="at least one row"):
            read(str(tmp_path / "data.csv"), tmp_path)

    def test_all_options_out_of_range_are_told_at_once(self, tmp_path):
        with pytest.raises(InputError) as caught:
            load(path="", cache=tmp_path, features="bag", buckets=1, max_length=0, length_bins=0)
        assert {input_error.path for input_error in caught.value.details} == {
            "text.features",
            "text.buckets",
            "text.max_length",
            "text.length_bins",
        }

    @pytest.mark.parametrize(
        "options", [{"features": "ngrams", "encoder": "x"}, {"features": "encoder"}]
    )
    def test_an_encoder_goes_with_its_features_only(self, tmp_path, options):
        with pytest.raises(InputError, match=r"text\.encoder: must be set with"):
            load(path=written(tmp_path, ".csv"), cache=tmp_path, **options)


class TestNgrams:
    def test_ids_are_in_range_and_padded_with_zeros(self):
        ids = ngrams(["a", "hello world"], buckets=50, max_length=16)
        assert ids.dtype == torch.int64
        assert ids.shape == (2, 16)
        assert ids[0].count_nonzero() == 2  # the word, and " a "
        assert ids[1].count_nonzero() == 2 + 1 + 10
        assert ids.min() == 0
        assert ids.max() < 50

    def test_share_words_whatever_their_case_or_place(self):
        one, two, other = ngrams(["Open the door", "the DOOR", "xyz"], buckets=8192, max_length=64)
        shared = set(one.tolist()) & set(two.tolist())
        assert len(shared - {0}) >= 3
        assert not (set(one.tolist()) & set(other.tolist())) - {0}

    def test_words_come_before_what_is_cut(self):
        full = ngrams(["one two three four"], buckets=8192, max_length=64)
        cut = ngrams(["one two three four"], buckets=8192, max_length=5)
        assert torch.equal(full[:, :5], cut)

    def test_are_the_same_in_every_process(self):
        # CRC-32 modulo 8191, plus one; `hash` would differ between processes.
        expected = [zlib.crc32(gram) % 8191 + 1 for gram in (b"1where", b"1is", b"1it")]
        assert ngrams(["where is it"], buckets=8192, max_length=3).tolist() == [expected]


class TestLengths:
    def test_bins_follow_the_number_of_words_then_of_characters(self):
        columns = lengths(["a b c", "a", "aaaaaaa", "a b"], bins=4)
        assert columns["n_words"].tolist() == [3, 1, 1, 2]
        assert columns["length"].tolist() == [3, 0, 1, 2]

    def test_texts_of_one_length_share_a_bin(self):
        assert lengths(["ab", "cd", "ef", "long one"], bins=4)["length"].tolist()[:3] == [1, 1, 1]

    def test_a_column_of_the_table_is_left_alone(self, tmp_path):
        path = written(tmp_path, ".jsonl", [{"text": "a b", "length": "mine"}] * 2)
        columns = read(path, tmp_path).columns
        assert columns["length"].tolist() == ["mine", "mine"]
        assert columns["n_words"].tolist() == [2, 2]


class TestRegistry:
    def test_an_unknown_dataset_is_told_with_the_known_ones(self, tmp_path):
        with pytest.raises(InputError, match="glyphs, images, named_glyphs, table, text"):
            load_dataset("mnist", {}, tmp_path)

    @pytest.mark.parametrize("name", DATASETS)
    def test_unknown_options_are_told_with_the_known_ones(self, tmp_path, name):
        with pytest.raises(InputError) as caught:
            load_dataset(name, {"colour": 1, "cache": "x"}, tmp_path)
        told = {input_error.path for input_error in caught.value.details}
        assert {f"{name}.colour", f"{name}.cache"} <= told
        assert "It has " in str(caught.value)

    def test_a_missing_option_is_told(self, tmp_path):
        with pytest.raises(InputError, match=r"text\.path: must be given"):
            load_dataset("text", {}, tmp_path)

    def test_a_dataset_is_loaded_with_its_options(self, tmp_path):
        options = {"path": written(tmp_path, ".csv"), "features": "ngrams", "max_length": 5}
        assert load_dataset("text", options, tmp_path).inputs.shape == (4, 5)


def test_clinc_has_its_intents_domains_and_twenty_lengths(data, tmp_path, monkeypatch):
    monkeypatch.setenv("FEWTUNE_DATA", str(data))
    dataset = read("${FEWTUNE_DATA}/clinc150/data.jsonl.gz", tmp_path)
    columns = dataset.columns
    assert dataset.inputs.shape == (23_700, 64)
    assert columns["label"].nunique() == 151
    assert (columns.groupby("domain")["label"].nunique().drop("oos") == 15).all()
    assert dict(columns["split"].value_counts()) == {"train": 15_100, "test": 5_500, "val": 3_100}
    sizes = columns["length"].value_counts()
    assert len(sizes) == 20
    assert sizes.min() > 1000
    assert (columns.sort_values("length")["n_words"].diff().dropna() < 20).all()
