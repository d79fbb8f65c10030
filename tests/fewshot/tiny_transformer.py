"""A transformer small enough for tests, as a folder that transformers loads."""

from pathlib import Path

import torch

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdef")


def save(place: Path, *, layers: int = 2) -> str:
    """Random layers of width 16 that know the words a to f."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    (place / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(vocab={word: row for row, word in enumerate(WORDS)}).save_pretrained(place)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        initializer_range=1.0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(place)
    return str(place)
