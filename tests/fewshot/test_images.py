"""Grey images of archives, of folders, of Omniglot."""

import os
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from fewshot.errors.inputs import InputError
from fewshot.tasks import images
from fewshot.tasks.files import write_atomically
from fewshot.tasks.images import area_average, load


def archive(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def png(path, pixels, mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).convert(mode).save(path)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, size=(6, 4, 4), dtype=np.uint8)


class TestAreaAverage:
    def test_of_whole_blocks_is_their_mean(self, pixels):
        blocks = torch.from_numpy(pixels).float().unflatten(1, (2, 2)).unflatten(3, (2, 2))
        expected = blocks.mean(dim=(2, 4)) / 255
        torch.testing.assert_close(area_average(torch.from_numpy(pixels), 2), expected)

    @pytest.mark.parametrize("size", [1, 3, 4, 5, 14])
    def test_keeps_the_mean_and_the_range(self, pixels, size):
        small = area_average(torch.from_numpy(pixels), size)
        expected = torch.from_numpy(pixels).float().mean(dim=(1, 2)) / 255
        torch.testing.assert_close(small.mean(dim=(1, 2)), expected)
        assert small.min() >= 0
        assert small.max() <= 1

    def test_shares_a_pixel_between_neighbours(self):
        line = torch.tensor([[[0, 255, 0]] * 3], dtype=torch.uint8)
        torch.testing.assert_close(area_average(line, 2)[0, 0], torch.tensor([1 / 3, 1 / 3]))


class TestArchive:
    def test_arrays_of_one_value_per_image_are_columns(self, tmp_path, pixels):
        path = archive(tmp_path / "a.npz", images=pixels, digit=np.arange(6) % 3)
        dataset = load(path=path, cache=tmp_path)
        assert list(dataset.columns["digit"]) == [0, 1, 2, 0, 1, 2]
        torch.testing.assert_close(dataset.inputs, torch.from_numpy(pixels / 255).float())

    def test_indices_become_names(self, tmp_path, pixels):
        names = np.array(["nko", "lao"])
        path = archive(
            tmp_path / "a.npz", images=pixels, script=[0, 0, 1, 1, 0, 1], script_names=names
        )
        columns = load(path=path, cache=tmp_path).columns
        assert list(columns["script"]) == ["nko", "nko", "lao", "lao", "nko", "lao"]
        assert list(columns) == ["script"]

    def test_values_per_character_become_columns(self, tmp_path, pixels):
        path = archive(
            tmp_path / "a.npz",
            images=pixels,
            char=[0, 0, 1, 1, 2, 2],
            char_split=np.array(["train", "test", "train"]),
        )
        columns = load(path=path, cache=tmp_path).columns
        assert list(columns["char_split"]) == ["train", "train", "test", "test", "train", "train"]

    def test_a_last_dimension_of_one_is_grey(self, tmp_path, pixels):
        path = archive(tmp_path / "a.npz", images=pixels[..., None])
        assert load(path=path, cache=tmp_path, size=2).inputs.shape == (6, 2, 2)

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"pictures": np.zeros((2, 4, 4), np.uint8)}, "array `images`. It has pictures"),
            ({"images": np.zeros((2, 4, 4, 3), np.uint8)}, "must be greyscale"),
            ({"images": np.zeros((2, 4, 4))}, "must be uint8"),
            ({"images": np.zeros((0, 4, 4), np.uint8)}, "none of them 0"),
            ({"images": np.zeros((2, 4, 4), np.uint8), "odd": [1, 2, 3]}, "must have 2 values"),
            (
                {"images": np.zeros((2, 4, 4), np.uint8), "a": [0, 2], "a_names": ["x", "y"]},
                "0 to 2",
            ),
            (
                {"images": np.zeros((1, 4, 4), np.uint8), "a": np.array([{}])},
                "without pickled arrays",
            ),
        ],
    )
    def test_what_does_not_fit_is_told(self, tmp_path, arrays, message):
        path = archive(tmp_path / "a.npz", **arrays)
        with pytest.raises(InputError, match=message):
            load(path=path, cache=tmp_path)

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half of a zip", b"\x93NUMPY"])
    def test_a_damaged_file_is_told(self, tmp_path, content):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(InputError, match="must be an archive"):
            load(path=str(tmp_path / "a.npz"), cache=tmp_path)


class TestFolder:
    def test_classes_are_labels(self, tmp_path, pixels):
        for row, label in enumerate(["cat", "cat", "dog"]):
            png(tmp_path / "in" / label / f"{row}.png", pixels[row])
        dataset = load(path=str(tmp_path / "in"), cache=tmp_path / "cache")
        assert list(dataset.columns["label"]) == ["cat", "cat", "dog"]
        torch.testing.assert_close(dataset.inputs, torch.from_numpy(pixels[:3] / 255).float())

    def test_classes_of_one_name_in_two_groups_differ(self, tmp_path, pixels):
        png(tmp_path / "in" / "lao" / "one" / "a.png", pixels[0])
        png(tmp_path / "in" / "nko" / "one" / "a.png", pixels[1])
        columns = load(path=str(tmp_path / "in"), cache=tmp_path / "cache", size=2).columns
        assert list(columns["label"]) == ["lao/one", "nko/one"]
        assert list(columns["group"]) == ["lao", "nko"]

    def test_is_read_again_only_after_a_change(self, tmp_path, pixels, monkeypatch):
        png(tmp_path / "in" / "cat" / "0.png", pixels[0])
        first = load(path=str(tmp_path / "in"), cache=tmp_path / "cache")
        with monkeypatch.context() as patch:
            patch.setattr(images, "_read_images", lambda *_: pytest.fail("read again"))
            again = load(path=str(tmp_path / "in"), cache=tmp_path / "cache")
        assert torch.equal(first.inputs, again.inputs)
        png(tmp_path / "in" / "cat" / "0.png", pixels[1])
        os.utime(tmp_path / "in" / "cat" / "0.png", (1, 1))
        changed = load(path=str(tmp_path / "in"), cache=tmp_path / "cache")
        assert not torch.equal(first.inputs, changed.inputs)

    def test_coloured_images_are_told_by_name(self, tmp_path, pixels):
        png(tmp_path / "in" / "cat" / "grey.png", pixels[0])
        png(tmp_path / "in" / "cat" / "red.png", pixels[0], mode="RGB")
        with pytest.raises(InputError, match=r"greyscale images only.*red\.png \(mode RGB\)"):
            load(path=str(tmp_path / "in"), cache=tmp_path / "cache")

    def test_damaged_images_are_told_by_name(self, tmp_path, pixels):
        png(tmp_path / "in" / "cat" / "half.png", np.tile(pixels[0], (9, 9)))
        whole = (tmp_path / "in" / "cat" / "half.png").read_bytes()
        (tmp_path / "in" / "cat" / "half.png").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(InputError, match=r"half\.png \(damaged\)"):
            load(path=str(tmp_path / "in"), cache=tmp_path / "cache")

    def test_images_of_several_shapes_need_a_size(self, tmp_path, pixels):
        png(tmp_path / "in" / "cat" / "0.png", pixels[0])
        png(tmp_path / "in" / "cat" / "1.png", pixels[0, :3])
        with pytest.raises(InputError, match="Set `size`"):
            load(path=str(tmp_path / "in"), cache=tmp_path / "cache")
        assert load(path=str(tmp_path / "in"), cache=tmp_path, size=3).inputs.shape == (2, 3, 3)

    def test_a_folder_without_classes_is_told(self, tmp_path, pixels):
        png(tmp_path / "in" / "0.png", pixels[0])
        with pytest.raises(InputError, match="1 images, 1 levels deep"):
            load(path=str(tmp_path / "in"), cache=tmp_path)


class TestPath:
    def test_a_missing_file_is_told_with_its_neighbours(self, tmp_path):
        (tmp_path / "omniglot28.npz").touch()
        with pytest.raises(InputError, match=r"has omniglot28\.npz"):
            load(path=str(tmp_path / "omniglot.npz"), cache=tmp_path)

    def test_an_unset_variable_is_told_with_how_to_set_it(self, tmp_path, monkeypatch):
        monkeypatch.delenv("FEWTUNE_DATA", raising=False)
        with pytest.raises(InputError, match="export FEWTUNE_DATA="):
            load(path="${FEWTUNE_DATA}/omniglot/omniglot28.npz", cache=tmp_path)

    def test_another_ending_is_told(self, tmp_path):
        (tmp_path / "a.mat").touch()
        with pytest.raises(InputError, match=r"ends in \.npz, or a folder"):
            load(path=str(tmp_path / "a.mat"), cache=tmp_path)

    @pytest.mark.parametrize("size", [0, -1, 2.5, "14", True])
    def test_a_size_that_is_none_is_told(self, tmp_path, size):
        with pytest.raises(InputError, match=r"images\.size"):
            load(path=str(tmp_path), cache=tmp_path, size=size)


def test_a_writer_that_fails_leaves_the_old_file_alone(tmp_path):
    def fail(file):
        file.write(b"half")
        raise OSError("disk full")

    write_atomically(tmp_path / "cache" / "a", lambda file: file.write(b"whole") and None)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(tmp_path / "cache" / "a", fail)
    assert [file.read_bytes() for file in (tmp_path / "cache").iterdir()] == [b"whole"]


def test_omniglot_has_its_alphabets_drawers_and_splits(data, tmp_path, monkeypatch):
    monkeypatch.setenv("FEWTUNE_DATA", str(data))
    dataset = load(path="${FEWTUNE_DATA}/omniglot/omniglot28.npz", cache=tmp_path, size=14)
    columns = dataset.columns
    assert dataset.inputs.shape == (32_460, 14, 14)
    assert 0 <= dataset.inputs.min() < dataset.inputs.max() <= 1
    assert columns["alphabet"].nunique() == 50
    assert "Futurama" in set(columns["alphabet"])
    assert (columns.groupby("char").size() == 20).all()
    per_split = columns.groupby("char_vinyals_split")["char"].nunique()
    assert dict(per_split) == {"test": 423, "train": 1028, "val": 172}
    per_split = columns.groupby("char_lake_split")["alphabet"].nunique()
    assert dict(per_split) == {"background": 30, "evaluation": 20}


class TestRoom:
    """What would not fit into memory is refused before it is read."""

    def test_of_an_archive(self, tmp_path):
        path = tmp_path / "large.npz"
        with zipfile.ZipFile(path, "w") as archive, archive.open("images.npy", "w") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (1 << 20, 4000, 3000)}
            np.lib.format.write_array_header_1_0(file, header)  # and not the terabytes
        with pytest.raises(InputError) as caught:
            load(path=str(path), cache=tmp_path)
        (input_error,) = caught.value.details
        assert input_error.path == "images.size"
        assert "to read large.npz" in input_error.rule
        assert "`size: 84`" in input_error.remedy

    def test_of_a_folder(self, tmp_path, monkeypatch):
        for label in "ab":
            (tmp_path / "photos" / label).mkdir(parents=True)
            Image.new("L", (400, 300)).save(tmp_path / "photos" / label / "0.png")
        monkeypatch.setattr("fewshot.machine.available_memory", lambda: 1e6)
        path = str(tmp_path / "photos")
        with pytest.raises(InputError, match=r"needs about 1\.4 MB .* to read photos"):
            load(path=path, cache=tmp_path)
        assert load(path=path, cache=tmp_path, size=20).inputs.shape == (2, 20, 20)

    def test_large_images_are_resized_a_few_at_a_time(self, monkeypatch):
        images = torch.randint(0, 256, (5, 40, 30), dtype=torch.uint8)
        whole = area_average(images, 8)
        monkeypatch.setattr("fewshot.tasks.images._PIXELS", 2500)
        torch.testing.assert_close(area_average(images, 8), whole)
