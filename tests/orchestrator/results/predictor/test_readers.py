"""Images are read in the same way from files, arrays and images in memory."""

import numpy as np
import pytest
import torch
from PIL import Image

from fewshot.errors.inputs import InputError
from orchestrator.results.predictor.readers import ImageReader


@pytest.fixture
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 14, 3), dtype=np.uint8)


@pytest.mark.parametrize("options", [{"size": 6, "channels": 3}, {"size": 6, "channels": 1}])
def test_a_file_an_array_and_an_image_give_the_same_inputs(options, photo, tmp_path):
    reader = ImageReader(options)
    Image.fromarray(photo).save(tmp_path / "a.png")
    expected = reader.inputs(reader.from_file(str(tmp_path)).values)
    grey = photo[..., 0]
    for given in (
        photo[None],
        [photo],
        [Image.fromarray(photo)],
        (Image.fromarray(photo), Image.fromarray(grey), grey, photo[:9]),
    ):
        found = reader.inputs(reader.from_values(given).values)
        assert len(found) == len(given)
        assert torch.equal(found[:1], expected)
    assert torch.equal(found[1], found[2])


def test_what_are_not_several_images_is_refused(photo):
    reader = ImageReader({"size": 6})
    for wrong in (
        photo,  # one image, which would be 20 grey ones with three columns
        photo[None] / 255,
        [photo.tolist()],
        [photo, None],
        Image.fromarray(photo),
        "a.png",
    ):
        with pytest.raises(InputError, match="must be several images"):
            reader.from_values(wrong)
