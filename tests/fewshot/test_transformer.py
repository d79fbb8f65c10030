"""A transformer as a function of its parameters, against the module that it is."""

from pathlib import Path

import pytest
import torch
from torch.func import grad, vmap
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from fewshot.conformance.models import ModelLaws
from fewshot.errors.inputs import InputError
from fewshot.models.pretrained.encoder import embed, tokenize
from fewshot.models.pretrained.transformer import Transformer, save_pretrained
from tests.fewshot import tiny_transformer
from tests.rounding import assert_same

# Of a number that the model gives: two layers of sums of up to 32 numbers in a row, and their
# gradients. The layers' norms divide by deviations of about one.
DEEP = {"operations": 1e3, "condition": 1e2}
TEXTS = ["b", "a b c d e f", "a", "f e d c", "a b c"]
LABELS = ["no", "yes", "perhaps"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> str:
    return tiny_transformer.save(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def model(tiny) -> Transformer:
    return Transformer(features=(12,), encoder=tiny, n_out=3)


@pytest.fixture(scope="module")
def ids(tiny, tmp_path_factory) -> torch.Tensor:
    return tokenize(TEXTS, encoder=tiny, cache=tmp_path_factory.mktemp("cache"), max_length=12)


@pytest.fixture
def params(model):
    return model.init(torch.Generator().manual_seed(0))


@pytest.fixture
def exact(params):
    """The parameters in float64, for what is equal to rounding."""
    return {name: value.double() for name, value in params.items()}


class TestATransformer(ModelLaws):
    @pytest.fixture
    def tried(self, model, ids):
        return model, ids


class TestAnEmbedding(ModelLaws):
    @pytest.fixture
    def tried(self, tiny, ids):
        return Transformer(features=(12,), encoder=tiny, scale=3.0), ids

    def test_its_parameters_depend_only_on_the_generator(self, tiny):
        """All are pretrained: none is drawn."""
        model = Transformer(features=(12,), encoder=tiny)
        one, other = (model.init(torch.Generator().manual_seed(seed)) for seed in (0, 1))
        assert all(torch.equal(one[name], other[name]) for name in one)

    def test_without_training_it_is_the_encoder(self, tiny, ids, tmp_path):
        model = Transformer(features=(12,), encoder=tiny, scale=3.0)
        embedded = embed(TEXTS, encoder=tiny, cache=tmp_path, max_length=12)
        found = model.apply(model.init(torch.Generator()), ids)
        assert_close(found, 3 * embedded, rtol=0, atol=3e-3)  # `embed` rounds to 16 bits


@pytest.fixture
def module(model, params, tiny, tmp_path):
    """What others load of the model."""
    from transformers import AutoModelForSequenceClassification

    save_pretrained(tiny, params, LABELS, tmp_path)
    return AutoModelForSequenceClassification.from_pretrained(tmp_path, local_files_only=True)


def test_tokens_are_those_of_the_tokenizer_and_are_kept(tiny, ids, tmp_path, monkeypatch):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny, local_files_only=True)
    assert ids.shape == (5, 12)
    for row, text in zip(ids.tolist(), TEXTS, strict=True):
        assert [i for i in row if i != 0] == tokenizer(text)["input_ids"]
    made = tokenize(TEXTS, encoder=tiny, cache=tmp_path, max_length=12)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", None)
    assert torch.equal(tokenize(TEXTS, encoder=tiny, cache=tmp_path, max_length=12), made)


def test_a_saved_model_is_loaded_by_others_with_its_labels(model, exact, module, ids, tmp_path):
    from transformers import AutoTokenizer

    assert module.config.id2label == dict(enumerate(LABELS))
    assert module.config.label2id == {"no": 0, "yes": 1, "perhaps": 2}
    asked = AutoTokenizer.from_pretrained(tmp_path)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        theirs = module.eval().double()(**asked).logits
    assert_same(model.apply(exact, ids), theirs, **DEEP)


def test_gradients_are_those_of_the_module(model, exact, module, ids):
    labels = torch.tensor([0, 1, 2, 0, 1])
    found = grad(lambda p: cross_entropy(model.apply(p, ids), labels))(exact)
    theirs, mask = module.eval().double(), (ids != 0).long()
    cross_entropy(theirs(input_ids=ids, attention_mask=mask).logits, labels).backward()
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    size = max(slope.abs().max().item() for slope in expected.values())
    assert_same(found, expected, size=size, **DEEP)


def test_lanes_are_a_loop(model, ids):
    apart = [model.init(torch.Generator().manual_seed(seed)) for seed in range(3)]
    apart = [{name: value.double() for name, value in p.items()} for p in apart]
    stacked = {name: torch.stack([p[name] for p in apart]) for name in apart[0]}

    def slope(p):
        return grad(lambda q: model.apply(q, ids).logsumexp(-1).sum())(p)

    mapped = vmap(slope)(stacked)
    for i, one in enumerate(apart):
        expected = slope(one)
        size = max(value.abs().max().item() for value in expected.values())
        assert_same({name: value[i] for name, value in mapped.items()}, expected, size=size, **DEEP)


def test_padding_counts_for_nothing(model, exact, ids):
    shortest = ids[:, :8]  # six words and two special tokens
    assert_same(model.apply(exact, shortest), model.apply(exact, ids), **DEEP)


@pytest.mark.parametrize("embeds", [False, True])
def test_batches_of_similar_length_change_no_output(tiny, model, ids, embeds):
    tried = Transformer(features=(12,), encoder=tiny) if embeds else model
    apart = [tried.init(torch.Generator().manual_seed(seed)) for seed in range(2)]
    apart = [{name: value.double() for name, value in p.items()} for p in apart]
    stacked = {name: torch.stack([p[name] for p in apart]) for name in apart[0]}
    expected = torch.stack([tried.apply(p, ids) for p in apart])
    assert_same(tried.apply_to_lanes(stacked, ids[None]), expected, **DEEP)
    assert_same(tried.apply_to_lanes(stacked, ids.expand(2, -1, -1)), expected, **DEEP)


def test_only_the_head_is_drawn_by_the_seed_and_by_it_alone(model):
    drawn = []
    for ambient, seed in ((0, 5), (1, 5), (1, 6)):
        torch.manual_seed(ambient)
        drawn.append(model.init(torch.Generator().manual_seed(seed)))
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in drawn[0])
    assert {n for n in drawn[0] if not torch.equal(drawn[0][n], drawn[2][n])} == {
        "classifier.weight"
    }
    assert set(model.head) == {"classifier.weight", "classifier.bias"}


def test_the_head_of_another_task_is_not_taken_over(params, tiny, tmp_path):
    save_pretrained(tiny, params, LABELS, tmp_path)
    again = Transformer(features=(12,), encoder=str(tmp_path), n_out=3)
    fresh = again.init(torch.Generator().manual_seed(1))
    assert not torch.equal(fresh["classifier.weight"], params["classifier.weight"])
    assert torch.equal(fresh["bert.pooler.dense.weight"], params["bert.pooler.dense.weight"])
    wider = Transformer(features=(12,), encoder=str(tmp_path), n_out=7)
    assert wider.init(torch.Generator())["classifier.weight"].shape == (7, 16)


def test_what_is_no_transformer_is_refused(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="that transformers can load"):
        Transformer(features=(12,), encoder=str(tmp_path))
    with pytest.raises(InputError, match="features: tokens"):
        Transformer(features=(14, 14), encoder=str(tmp_path))
