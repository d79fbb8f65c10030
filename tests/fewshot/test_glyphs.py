"""Glyphs that can be told apart, drawn by fonts that have them."""

import unicodedata
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.ft2font import FT2Font

from fewshot.errors.inputs import InputError
from fewshot.tasks import glyphs
from fewshot.tasks.base import Dataset


@pytest.fixture(scope="module")
def drawn(drawn_glyphs) -> Dataset:
    return glyphs.load(cache=drawn_glyphs)


@pytest.fixture
def no_drawing(monkeypatch):
    monkeypatch.setattr(glyphs, "_draw", lambda *_: pytest.fail("drew again"))


def of(dataset: Dataset, script: str) -> torch.Tensor:
    """(characters, images, size, size)."""
    rows = np.flatnonzero(dataset.columns["script"] == script)
    n = dataset.columns["character"].iloc[rows].nunique()
    return dataset.inputs[rows].unflatten(0, (n, -1))


@pytest.mark.parametrize("script", glyphs.SCRIPTS)
class TestEveryScript:
    def test_has_enough_characters_for_hard_episodes(self, drawn, script):
        assert len(of(drawn, script)) >= 43

    def test_has_no_blank_image(self, drawn, script):
        assert of(drawn, script).sum(dim=(-2, -1)).min() > 0.5

    def test_has_no_two_characters_that_look_alike(self, drawn, script):
        means = of(drawn, script).mean(1).flatten(1)
        correlation = torch.corrcoef(means).fill_diagonal_(0)
        assert correlation.max() < 0.998

    def test_has_characters_that_pixels_alone_tell_apart_to_some_degree(self, drawn, script):
        images = of(drawn, script).flatten(2)
        support, query = images[:, ::2].mean(1), images[:, 1::2].flatten(0, 1)
        guess = torch.cdist(query, support).argmin(1)
        right = guess == torch.arange(len(support)).repeat_interleave(images.shape[1] // 2)
        assert right.float().mean() > 2 / len(support)

    def test_has_jittered_images_of_each_character(self, drawn, script):
        spread = of(drawn, script).std(dim=1).amax(dim=(-2, -1))
        assert spread.min() > 0.1


def test_inputs_are_small_grey_images(drawn):
    assert drawn.inputs.shape == (len(drawn.columns), 14, 14)
    assert drawn.inputs.dtype == torch.float32
    assert drawn.inputs.min() == 0
    assert 0.99 < drawn.inputs.max() <= 1


def test_every_character_is_drawn_equally_often_in_one_script_only(drawn):
    by_character = drawn.columns.groupby("character")
    assert (by_character.size() == 12).all()
    assert (by_character["script"].nunique() == 1).all()


def test_only_fonts_that_have_a_character_draw_it(drawn):
    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    for cut, rows in drawn.columns.groupby("font"):
        charmap = FT2Font(str(folder / f"{cut}.ttf")).get_charmap()
        assert all(ord(unicodedata.lookup(name)) in charmap for name in rows["character"])


def test_fonts_take_turns(drawn):
    latin = drawn.columns[drawn.columns["script"] == "latin"]
    assert latin["font"].nunique() == len(glyphs.CUTS)
    nko = drawn.columns[drawn.columns["script"] == "nko"]
    assert (nko.groupby(["character", "font"]).size() == 6).all()


def test_the_alphabet_is_there_once(drawn):
    latin = set(drawn.columns.loc[drawn.columns["script"] == "latin", "character"])
    assert {f"LATIN CAPITAL LETTER {letter}" for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"} <= latin
    assert "LATIN CAPITAL LETTER A WITH GRAVE" not in latin


def test_a_second_load_reads_what_the_first_one_drew(drawn, drawn_glyphs, no_drawing):
    again = glyphs.load(cache=drawn_glyphs)
    assert torch.equal(again.inputs, drawn.inputs)
    assert again.columns.equals(drawn.columns)


def test_the_seed_decides_the_images_but_not_the_characters(tmp_path, monkeypatch):
    some = {name: glyphs.SCRIPTS[name] for name in ("greek", "braille")}  # all take as long each
    monkeypatch.setattr(glyphs, "SCRIPTS", some)
    one, same, other = (
        glyphs.load(cache=tmp_path / str(run), per_character=1, size=8, seed=seed)
        for run, seed in enumerate([5, 5, 6])
    )
    assert torch.equal(one.inputs, same.inputs)
    assert one.columns.equals(same.columns)
    assert not torch.equal(one.inputs, other.inputs)
    assert one.columns["character"].equals(other.columns["character"])


def test_a_damaged_cache_is_drawn_again(drawn, drawn_glyphs, tmp_path, monkeypatch):
    (whole,) = drawn_glyphs.iterdir()
    content = whole.read_bytes()
    (tmp_path / whole.name).write_bytes(content[: len(content) // 2])
    kept = glyphs._read(whole)
    monkeypatch.setattr(glyphs, "_draw", lambda *_: kept)
    assert torch.equal(glyphs.load(cache=tmp_path).inputs, drawn.inputs)
    assert [file.name for file in tmp_path.iterdir()] == [whole.name]
    assert glyphs._read(tmp_path / whole.name) is not None


def test_every_argument_out_of_range_is_told(tmp_path):
    with pytest.raises(InputError) as caught:
        glyphs.load(cache=tmp_path, size=2, per_character=0, seed=-1)
    assert [input_error.path for input_error in caught.value.details] == [
        "glyphs.size",
        "glyphs.per_character",
        "glyphs.seed",
    ]
