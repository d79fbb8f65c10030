"""Features of short texts, such as names and titles: hashed n-grams, or embeddings."""

import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fewshot.errors.inputs import ErrorDetail
from fewshot.functional import unit
from fewshot.models.pretrained.text_tower import embed_texts

WIDTH = 512  # of hashed n-grams, by default
_WORD = re.compile(r"\w+|[^\w\s]")
_LONGEST = 4  # characters of an n-gram
_SIGN = 1 << 31  # the bit of a hash that decides the sign


def features_of(
    texts: Sequence[str], *, encoder: str | None, width: int | None, cache: Path
) -> Tensor:
    """Features (n, t) float32 of length 1 of texts; 0 for the text "". One must not be "".

    encoder: the text encoder, see `fewshot.models.pretrained.text_tower`; t is its width. Without
    one, `hashed` of `width`, by default `WIDTH`.
    """
    # Several examples may have the same text, such as drawings of one character.
    distinct = sorted({text for text in texts if text})
    if encoder is None:
        found = hashed(distinct, WIDTH if width is None else width)
    else:
        found = embed_texts(distinct, encoder=encoder, cache=cache)
    place = {text: i for i, text in enumerate(distinct)}
    features = torch.zeros(len(texts), found.shape[1])
    some = [i for i, text in enumerate(texts) if text]
    features[some] = found[[place[texts[i]] for i in some]]
    return features


def hashed(texts: Sequence[str], width: int) -> Tensor:
    """Hashed n-grams (n, width) float32 of texts, of length 1; the same on every machine.

    An n-gram is a whole word, or one to four characters of a word with its ends. Case is ignored.
    Each n-gram adds +1 or -1 to one of the features, so that n-grams that share a feature cancel on
    average (Weinberger et al., "Feature hashing for large scale multitask learning", ICML 2009).
    """
    counts = np.zeros((len(texts), width), dtype=np.float32)
    for row, text in enumerate(texts):
        for gram, n in Counter(_grams(text)).items():
            code = zlib.crc32(gram.encode("utf-8", "surrogatepass"))
            counts[row, (code & ~_SIGN) % width] += n if code & _SIGN else -n
    return unit(torch.from_numpy(counts))


def _grams(text: str) -> Iterator[str]:
    for word in _WORD.findall(text.casefold()):
        yield f"w{word}"
        ended = f" {word} "
        for n in range(1, _LONGEST + 1):
            grams = (ended[at : at + n] for at in range(len(ended) - n + 1))
            yield from (gram for gram in grams if gram != " ")


def errors_of_text(source: str, encoder: object, width: object) -> list[ErrorDetail]:
    """The errors in the options `text_encoder` and `text_width` of a dataset."""
    if width is None:
        return []
    if encoder is not None:
        rule = "can't be set with `text_encoder`, which decides the width."
        return [ErrorDetail(f"{source}.text_width", rule, width, "Remove it.")]
    if type(width) is not int or not 1 <= width <= 1 << 16:
        rule = f"must be a whole number from 1 to {1 << 16}."
        return [ErrorDetail(f"{source}.text_width", rule, width)]
    return []
