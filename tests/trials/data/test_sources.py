"""The datasets of a recipe are loaded together."""

import pytest

from fewshot.errors.inputs import InputError
from trials.contract import Component
from trials.data.sources import Sources


def test_a_damaged_file_is_told_by_the_path_of_its_folder(tmp_path):
    damaged = tmp_path / "photos" / "cat" / "1.png"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"no image")
    part = Component(name="images", options={"path": str(tmp_path / "photos"), "size": 8})
    with pytest.raises(InputError) as caught:
        Sources({"photos": part}, tmp_path / "cache")
    (told,) = caught.value.details
    assert told.path == str(tmp_path / "photos")
    assert "1.png" in str(told)


def test_all_datasets_that_can_not_be_loaded_are_told_by_their_places_in_the_config(tmp_path):
    (tmp_path / "a.txt").write_text("no table")
    parts = {
        "photos": Component(name="images", options={"path": str(tmp_path), "channels": 4}),
        "one": Component(name="text", options={"path": str(tmp_path / "gone.csv")}),
        "two": Component(name="text", options={"path": str(tmp_path / "a.txt"), "size": 3}),
        "good": Component(name="glyphs", options={"size": 14}),
    }
    with pytest.raises(InputError) as caught:
        Sources(parts, tmp_path / "cache")
    places = [detail.path for detail in caught.value.details]
    assert places[0] == "datasets.photos.channels"
    assert set(places[1:]) == {"datasets.one.encoder", "datasets.two.size"}
