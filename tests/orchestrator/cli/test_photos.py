"""Colour photos from a folder to predictions: init, check, search, export, adapt."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from fewshot.models.pretrained import vision
from orchestrator.cli import app as cli
from tests.fewshot import tiny_vision

pytestmark = pytest.mark.slow

HUES = ("red", "green", "blue", "cyan", "magenta", "yellow", "orange", "purple")
SEARCH = {
    "search": {"trials": 4, "reference_trials": 2, "finalists": 1, "seeds": 2, "lanes": 2},
    "episodes": {"way": 2, "shot": 1, "query": 2, "validation": 6, "test": 6},
    "steps": 12,
}


def save_photos(folder: Path, hues, n=6, seed=0) -> Path:
    """Folders of n noisy photos per hue, of several sizes, modes and formats."""
    rng = np.random.default_rng(seed)
    for hue in hues:
        (folder / hue).mkdir(parents=True)
        for i in range(n):
            shape = (30 + 7 * i, 50 - 3 * i)
            plain = np.asarray(Image.new("RGB", shape[::-1], hue))
            noisy = (0.6 * plain + 100 * rng.random((*shape, 3))).astype(np.uint8)
            image = Image.fromarray(noisy).convert(("RGB", "RGBA", "P")[i % 3])
            image.save(folder / hue / (f"{i}.jpg" if i % 3 == 0 else f"{i}.png"))
    return folder


@pytest.fixture
def called(capsys):
    def call(*arguments: object) -> "subprocess.CompletedProcess[str]":
        code = cli.main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        assert code == 0, printed.err
        return subprocess.CompletedProcess(arguments, code, printed.out, printed.err)

    return call


@pytest.mark.parametrize("way", ["embeddings", "pixels", "lora"])
def test_photos_go_the_whole_way(way, tmp_path, called):
    photos = save_photos(tmp_path / "photos", HUES)
    config, home = tmp_path / "search.yaml", tmp_path / "home"
    called("init", photos, "--out", config)
    search = yaml.safe_load(config.read_text()) | SEARCH
    assert search["datasets"]["data"].items() >= {"channels": 3, "crop": True}.items()
    if way == "lora":
        encoder = tiny_vision.save(tmp_path / "vit")
        search["model"] = {"name": "lora", "encoder": "./vit", "layers": 1, "rank": 2}
    if way == "embeddings":
        encoder = tiny_vision.save(tmp_path / "vit")
        search["datasets"]["data"] = {
            "source": "images", "path": "photos", "features": "encoder", "encoder": "./vit",
        }  # fmt: skip
        search["model"] = {"name": "residual"}
    config.write_text(yaml.safe_dump(search))
    called("check", config, "--home", home)
    said = called("search", config, "--executor", "inline", "--home", home, "--json").stdout
    summary = json.loads(said.splitlines()[-1])
    assert summary["trials"]["failed"] == 0
    best = tmp_path / "best"
    called("export", search["name"], "--out", best, "--home", home)
    if way == "lora":
        from peft import PeftModel
        from transformers import AutoModel

        assert PeftModel.from_pretrained(AutoModel.from_pretrained(best / "encoder"), str(best))
    if way != "pixels":
        assert vision.reads_images(str(best / "encoder"))
        ours, theirs = (
            load_file(Path(p) / "model.safetensors") for p in (best / "encoder", encoder)
        )
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
        (tmp_path / "vit").rename(tmp_path / "elsewhere")  # the export has its own copy
    new = save_photos(tmp_path / "new", ("pink", "navy", "olive"), seed=1)
    out = tmp_path / "adapted"
    words = ["--data", new, "--shots", "2", "--out", out, "--home", tmp_path / "other"]
    called("adapt", best, *words)
    predictions = pd.read_csv(out / "predictions.csv")
    assert len(predictions) == 3 * 4
    assert set(predictions["prediction"]) <= {"pink", "navy", "olive"}
    assert json.loads((out / "metrics.json").read_text())["accuracy"] > 0.6
