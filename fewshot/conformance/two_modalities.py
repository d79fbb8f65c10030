"""The laws of datasets whose examples have an image and a text, as tests.

`load` is a function that takes only a `cache` folder and returns the dataset, as in `DatasetLaws`,
whose laws are among these.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fewshot.conformance.tasks import DatasetLaws, keys
from fewshot.tasks.base import Dataset
from fewshot.tasks.pool import Task, pool
from fewshot.tasks.two_modalities.pairs import TEXT


def _retold(dataset: Dataset) -> Dataset:
    """The dataset with other texts, which are there for other examples."""
    rng, width = torch.Generator().manual_seed(0), dataset.text_width
    changed = dataset.inputs.clone()
    presence = (torch.rand(len(changed), 1, generator=rng) > 0.5).float()
    text = torch.randn(len(changed), width, generator=rng)
    changed[:, -width - 1 :] = torch.cat([presence * text, presence], 1)
    return replace(dataset, inputs=changed)


class TwoModalityLaws(DatasetLaws):
    """The laws of datasets with `text_width` > 0."""

    def test_its_inputs_are_image_text_and_presence(self, dataset: Dataset) -> None:
        assert dataset.text_width > 0
        assert dataset.inputs.dim() == 2
        assert dataset.inputs.dtype == torch.float32
        assert dataset.inputs.shape[1] >= 1 + dataset.text_width + 1

    def test_an_example_has_a_text_or_none(self, dataset: Dataset) -> None:
        presence, text = dataset.inputs[:, -1], dataset.inputs[:, -dataset.text_width - 1 : -1]
        assert presence.unique().tolist() in ([0.0, 1.0], [1.0])
        assert (text[presence == 0] == 0).all()
        assert (text[presence == 1] != 0).any(1).all()

    def test_equal_texts_have_equal_features(self, dataset: Dataset) -> None:
        if TEXT not in dataset.columns:
            pytest.skip("the texts are not known")
        _, first, inverse = np.unique(
            dataset.columns[TEXT].astype(str), return_index=True, return_inverse=True
        )
        places = torch.from_numpy(first[inverse])
        text = dataset.inputs[:, -dataset.text_width - 1 :]
        assert torch.equal(text, text[places])

    def test_equal_images_are_the_same_example_whatever_their_texts(self, dataset: Dataset) -> None:
        assert dataset.contents is not None
        assert len(dataset.contents) == len(dataset.inputs)
        images = dataset.inputs[:, : -dataset.text_width - 1].numpy()
        _, first, inverse = np.unique(images, axis=0, return_index=True, return_inverse=True)
        same = zip(dataset.contents, first[inverse.ravel()], strict=True)
        assert all(content == dataset.contents[place] for content, place in same)

    def test_a_query_shows_its_image(self, dataset: Dataset) -> None:
        image = dataset.inputs.shape[1] - dataset.text_width - 1
        assert torch.equal(dataset.as_queries()[:, :image], dataset.inputs[:, :image])

    def test_a_query_looks_the_same_with_any_text_and_with_none(self, dataset: Dataset) -> None:
        if dataset.query_text:
            pytest.skip("the dataset declares that queries show their text")
        shown = dataset.as_queries()
        assert not shown[:, -dataset.text_width - 1 :].any()
        assert torch.equal(_retold(dataset).as_queries(), shown)

    def test_episodes_bring_the_text_in_the_support_alone(self, dataset: Dataset) -> None:
        if dataset.query_text:
            pytest.skip("the dataset declares that queries show their text")
        n = len(dataset.inputs)
        codes = np.arange(n) % 2  # any classes will do
        task = Task("any", np.arange(n), codes, np.zeros(n, dtype=np.int64))

        def drawn(source: Dataset) -> torch.Tensor:
            both = torch.cat([source.inputs, source.as_queries()])
            made = pool([task], both, way=2, shot=1, query=1, query_offset=n)
            return made.draw(keys(), 2).query_x

        queries = drawn(dataset)
        assert not queries[..., -dataset.text_width - 1 :].any()
        assert torch.equal(drawn(_retold(dataset)), queries)
