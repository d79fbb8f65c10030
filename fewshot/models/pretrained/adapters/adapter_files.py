"""Writes LoRA weights as the files that PEFT and transformers load.

Mangrulkar et al., "PEFT: state-of-the-art parameter-efficient fine-tuning methods", 2022.
"""

import json
from pathlib import Path

from safetensors.torch import save_file

from fewshot.functional import Params
from fewshot.models.pretrained.adapters.lora import DOWN, UP, active_rank
from fewshot.models.pretrained.encoder import SAFELY, folder, loading
from fewshot.models.pretrained.modalities import TokenIds, load
from fewshot.models.pretrained.vision import load_processor
from fewshot.tasks.files import write_text


def save_adapter(params: Params, alpha: float, base: str, out: Path) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors`.

    params: of a `Lora`; parameters of a last layer are left out. alpha: see `Lora`.
    base: what PEFT loads the frozen weights from: a folder or the id of a model on the Hub.
    """
    paths = [name.removesuffix(DOWN) for name in params if name.endswith(DOWN)]
    rank = max(int(active_rank(params[f"{path}{DOWN}"])) for path in paths)
    config = {
        "peft_type": "LORA",
        "task_type": "FEATURE_EXTRACTION",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": paths,
    }
    write_text(out / "adapter_config.json", json.dumps(config, indent=2))
    weights = {}
    for path in paths:
        down, up = params[f"{path}{DOWN}"][:rank], params[f"{path}{UP}"][:, :rank]
        weights[f"base_model.model.{path}{DOWN}"] = down.contiguous()
        weights[f"base_model.model.{path}{UP}"] = up.contiguous()
    save_file(weights, out / "adapter_model.safetensors", {"format": "pt"})


def save_merged(params: Params, alpha: float, encoder: str, out: Path) -> None:
    """Write a folder that `AutoModel` loads, with the tokenizer or the image processor.

    The LoRA weights are added to those of the encoder.

    encoder: the encoder that training started from.
    """
    from transformers import AutoTokenizer

    place = folder(encoder)
    model, reads = load(place)
    with loading(place):
        texts = isinstance(reads, TokenIds)
        beside = AutoTokenizer.from_pretrained(place, **SAFELY) if texts else load_processor(place)
    for name, down in params.items():
        if name.endswith(DOWN):
            path = name.removesuffix(DOWN)
            added = alpha / active_rank(down) * params[f"{path}{UP}"] @ down
            model.get_submodule(path).weight.data += added
    model.save_pretrained(out)
    beside.save_pretrained(out)
