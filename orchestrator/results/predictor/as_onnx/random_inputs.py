"""Random inputs of the kind that a predictor's model takes."""

from typing import Any

import numpy as np
import torch

from fewshot.models.pretrained import encoder as encoders
from orchestrator.results.predictor.as_onnx.onnx_session import Arrays
from orchestrator.results.predictor.folder import PredictorParts

TOKENS = 16  # of a random text
_RARE = 100  # ids from here on are words in the vocabularies of common encoders


def random_inputs(parts: PredictorParts, n: int) -> "np.ndarray[Any, Any]":
    """Random inputs (n, *features) of the kind that the model takes."""
    rng = np.random.default_rng(0)
    if parts.ids:
        largest = _largest_id(parts)
        ids = rng.integers(min(_RARE, largest), largest + 1, (n, *parts.features))
        lengths = rng.integers(1, parts.features[-1] + 1, (n, 1))
        padding = parts.model.padding or 0
        real = np.arange(parts.features[-1]) < lengths
        drawn_ids: np.ndarray[Any, Any] = np.where(real, ids, padding).astype(np.int64)
        return drawn_ids
    if parts.data.name == "images" and parts.encoder is None:
        return rng.random((n, *parts.features), dtype=np.float32)
    drawn = rng.standard_normal((n, *parts.features)).astype(np.float32)
    if parts.encoder is not None:
        drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
        return drawn
    means, spreads = (parts.model.params.get(f"scale.features.{k}") for k in ("mean", "spread"))
    if means is None or spreads is None:
        return drawn
    scaled: np.ndarray[Any, Any] = (means + spreads * torch.from_numpy(drawn)).numpy()
    return scaled.astype(np.float32)


def _largest_id(parts: PredictorParts) -> int:
    options = parts.data.options
    if options.get("features") == "ngrams":
        return int(options.get("buckets", 8192)) - 1
    return len(encoders.load_tokenizer(encoders.folder(str(parts.encoder)))) - 1


def random_texts(parts: PredictorParts, n: int) -> Arrays:
    """Random token ids (n, length) with their mask."""
    tokenizer = encoders.load_tokenizer(encoders.folder(str(parts.encoder)))
    return random_tokens(len(tokenizer), tokenizer.pad_token_id or 0, n)


def random_tokens(n_ids: int, padding: int, n: int) -> Arrays:
    """Random ids below n_ids (n, length) with their mask; the first text has the full length."""
    rng = np.random.default_rng(0)
    ids = rng.integers(min(_RARE, n_ids - 1), n_ids, (n, TOKENS))
    lengths = rng.integers(3, TOKENS + 1, (n, 1))
    lengths[0] = TOKENS
    real = np.arange(TOKENS) < lengths
    return {
        "input_ids": np.where(real, ids, padding).astype(np.int64),
        "attention_mask": real.astype(np.int64),
    }
