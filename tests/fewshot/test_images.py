"""Images of archives, of folders, of Omniglot and of CIFAR-100."""

import os
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from fewshot.errors.inputs import InputError
from fewshot.tasks.files import write_atomically
from fewshot.tasks.pictures import image_folder
from fewshot.tasks.pictures.images import load
from fewshot.tasks.pictures.resizing import area_average, to_inputs


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
            ({"images": np.zeros((2, 4, 4, 4), np.uint8)}, "channel of transparency"),
            ({"images": np.zeros((2, 3, 4, 4), np.uint8)}, "Put the channels last"),
            ({"images": np.zeros((2, 4, 4))}, "must be uint8"),
            ({"images": np.zeros((0, 4, 4), np.uint8)}, "no dimension 0"),
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
            patch.setattr(image_folder, "_read_images", lambda *_: pytest.fail("read again"))
            again = load(path=str(tmp_path / "in"), cache=tmp_path / "cache")
        assert torch.equal(first.inputs, again.inputs)
        png(tmp_path / "in" / "cat" / "0.png", pixels[1])
        os.utime(tmp_path / "in" / "cat" / "0.png", (1, 1))
        changed = load(path=str(tmp_path / "in"), cache=tmp_path / "cache")
        assert not torch.equal(first.inputs, changed.inputs)

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


@pytest.fixture
def photo():
    """(8, 12, 3): each channel, row and column is different."""
    return np.random.default_rng(1).integers(0, 256, size=(8, 12, 3), dtype=np.uint8)


class TestColour:
    def test_an_archive_has_its_channels_first(self, tmp_path, photo):
        path = archive(tmp_path / "a.npz", images=photo[None], label=["cat"])
        dataset = load(path=path, cache=tmp_path)
        expected = torch.from_numpy(photo / 255).float().permute(2, 0, 1)[None]
        torch.testing.assert_close(dataset.inputs, expected)
        assert dataset.inputs.is_contiguous()

    def test_each_channel_is_resized_as_a_greyscale_image(self, tmp_path, photo):
        path = archive(tmp_path / "a.npz", images=photo[None])
        for channel, own in enumerate(load(path=path, cache=tmp_path, size=4).inputs[0]):
            grey = torch.from_numpy(photo[..., channel].copy())
            torch.testing.assert_close(own, area_average(grey[None], 4)[0])

    def test_a_crop_keeps_the_centre_and_the_aspect_ratio(self, tmp_path, photo):
        path = archive(tmp_path / "a.npz", images=photo[None])
        cropped = archive(tmp_path / "b.npz", images=photo[None, :, 2:10])
        found = load(path=path, cache=tmp_path, size=4, crop=True).inputs
        torch.testing.assert_close(found, load(path=cropped, cache=tmp_path, size=4).inputs)

    def test_a_folder_is_read_as_an_archive_of_the_same_pixels(self, tmp_path, photo):
        png(tmp_path / "in" / "cat" / "0.png", photo, mode="RGB")
        path = archive(tmp_path / "a.npz", images=photo[None])
        for options in ({}, {"size": 4}, {"size": 4, "crop": True}, {"channels": 1}):
            folder = load(path=str(tmp_path / "in"), cache=tmp_path, **options).inputs
            packed = load(path=path, cache=tmp_path, **options).inputs
            torch.testing.assert_close(folder, packed, atol=1.1 / 255, rtol=0)

    def test_one_colour_image_makes_all_of_a_folder_colour(self, tmp_path, photo):
        png(tmp_path / "in" / "cat" / "0.png", photo[..., 0])
        assert load(path=str(tmp_path / "in"), cache=tmp_path).inputs.shape == (1, 8, 12)
        png(tmp_path / "in" / "cat" / "1.png", photo, mode="RGB")
        inputs = load(path=str(tmp_path / "in"), cache=tmp_path).inputs
        grey = torch.from_numpy(photo[..., 0] / 255).float()
        torch.testing.assert_close(inputs[0], grey.expand(3, 8, 12))
        assert not torch.equal(inputs[1, 0], inputs[1, 1])

    @pytest.mark.parametrize(("channels", "shape"), [(1, (1, 8, 12)), (3, (1, 3, 8, 12))])
    def test_the_number_of_channels_can_be_fixed(self, tmp_path, photo, channels, shape):
        for images in (photo[None], photo[None, ..., 0]):
            path = archive(tmp_path / "a.npz", images=images)
            assert load(path=path, cache=tmp_path, channels=channels).inputs.shape == shape

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"crop": True}, r"images\.crop: needs a `size`"),
            ({"size": 4, "crop": "yes"}, r"images\.crop: must be true or false"),
            ({"channels": 4}, r"images\.channels: must be 1"),
        ],
    )
    def test_a_wrong_option_is_refused(self, tmp_path, options, message):
        with pytest.raises(InputError, match=message):
            load(path=str(tmp_path), cache=tmp_path, **options)


class TestModes:
    """Files of Pillow's modes in one folder, each beside a file with the expected pixels."""

    @pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK"])
    def test_colour_of_any_mode_becomes_rgb(self, tmp_path, mode):
        blocks = np.kron(np.array([[[204, 51, 51], [51, 51, 204]]]), np.ones((4, 4, 1)))
        form = "tiff" if mode == "CMYK" else "png"
        png(tmp_path / "in" / "cat" / "0.png", blocks, mode="RGB")
        png(tmp_path / "in" / "cat" / f"1.{form}", blocks, mode=mode)
        first, second = load(path=str(tmp_path / "in"), cache=tmp_path).inputs
        torch.testing.assert_close(first, second, atol=2 / 255, rtol=0)

    def test_transparent_pixels_are_white(self, tmp_path):
        (tmp_path / "in" / "cat").mkdir(parents=True)
        Image.new("RGBA", (2, 2), (10, 20, 30, 0)).save(tmp_path / "in" / "cat" / "0.png")
        Image.new("LA", (2, 2), (10, 0)).save(tmp_path / "in" / "cat" / "1.png")
        assert load(path=str(tmp_path / "in"), cache=tmp_path).inputs.min() == 1

    def test_sixteen_bits_are_rounded_to_eight(self, tmp_path):
        (tmp_path / "in" / "cat").mkdir(parents=True)
        deep = np.array([[0, 257 * 100], [257 * 200, 65535]], dtype=np.uint16)
        Image.fromarray(deep).save(tmp_path / "in" / "cat" / "0.png")
        inputs = load(path=str(tmp_path / "in"), cache=tmp_path).inputs
        expected = torch.tensor([[[0.0, 100], [200, 255]]]) / 255
        torch.testing.assert_close(inputs, expected)

    def test_more_than_sixteen_bits_are_refused_by_name(self, tmp_path):
        (tmp_path / "in" / "cat").mkdir(parents=True)
        Image.new("F", (2, 2)).save(tmp_path / "in" / "cat" / "float.tiff")
        with pytest.raises(InputError, match=r"float\.tiff \(mode F: pixels of more than 16 bits"):
            load(path=str(tmp_path / "in"), cache=tmp_path)

    def test_a_photo_is_turned_as_its_camera_was_held(self, tmp_path, photo):
        (tmp_path / "in" / "cat").mkdir(parents=True)
        turned = Image.Exif()
        turned[0x0112] = 6  # the camera was turned by 90 degrees
        Image.fromarray(photo).save(tmp_path / "in" / "cat" / "0.png", exif=turned)
        inputs = load(path=str(tmp_path / "in"), cache=tmp_path).inputs
        expected = torch.from_numpy(np.rot90(photo, -1) / 255).float().permute(2, 0, 1)
        torch.testing.assert_close(inputs[0], expected)


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


def test_cifar_has_the_splits_of_the_literature(data, tmp_path):
    dataset = load(path=str(data / "cifar100" / "cifar100.npz"), cache=tmp_path)
    assert dataset.inputs.shape == (10_000, 3, 32, 32)
    classes = dataset.columns.groupby("cifar_fs")["label"].nunique()
    assert dict(classes) == {"test": 20, "train": 64, "val": 16}
    superclasses = dataset.columns.groupby("fc100")["superclass"].nunique()
    assert dict(superclasses) == {"test": 4, "train": 12, "val": 4}


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

    def test_of_colour_is_three_times_as_much(self, tmp_path, monkeypatch):
        for label in "ab":
            (tmp_path / "photos" / label).mkdir(parents=True)
            Image.new("RGB", (400, 300)).save(tmp_path / "photos" / label / "0.png")
        monkeypatch.setattr("fewshot.machine.available_memory", lambda: 1e6)
        with pytest.raises(InputError, match=r"needs about 4\.1 MB .* to read photos"):
            load(path=str(tmp_path / "photos"), cache=tmp_path)

    def test_large_images_are_resized_a_few_at_a_time(self, monkeypatch):
        images = torch.randint(0, 256, (5, 40, 30), dtype=torch.uint8)
        whole = to_inputs(images, 8)
        monkeypatch.setattr("fewshot.tasks.pictures.resizing._PIXELS", 2500)
        torch.testing.assert_close(to_inputs(images, 8), whole)
