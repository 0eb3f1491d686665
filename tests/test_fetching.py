"""Pre-trained weights without a network: one line, soon, and what was fetched before is found."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants, errors
from PIL import Image
from safetensors.torch import save_file
from small_networks import APPS
from small_run import make_data, make_run

from wsss import fetching
from wsss.console import run


@pytest.fixture
def cut_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The hub does not answer, and its cache is empty; returns the cache."""
    monkeypatch.setattr(fetching, "_answers", lambda endpoint: False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


COMMANDS = [
    "vitseg explain cat.png --architecture vit_tiny_patch16_224",
    "vitseg explore --architecture vit_tiny_patch16_224",
    "vitseg train-classifier --data data/data.yaml --train-split val",
    "vitseg train-classifier --data data/data.yaml --train-split val --architecture resnet18+vit_tiny_patch16_224",
    "cnnseg explain cat.png --architecture resnet18",
    "cnnseg train-classifier --data data/data.yaml --train-split val",
    "cnnseg train-segmentation --data data/data.yaml --split val --masks true --encoder resnet18",
    "affinity train --data data/data.yaml --split val --seeds one --network.weights pretrained",
]


@pytest.mark.parametrize("line", COMMANDS)
def test_without_a_network_it_takes_one_line(
    line: str, cut_off: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_data(tmp_path / "data")
    if " one " in line:
        make_run(tmp_path / "runs/one", tmp_path / "data/data.yaml")
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "cat.png")
    program, *words = line.split()
    assert run(APPS[program], [*words, "--runs", "runs"]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert f"huggingface.co does not answer, and they are not in the cache {cut_off}" in told and "give a" in told
    assert constants.HF_HUB_OFFLINE is False


def test_what_the_cache_has_needs_no_network(cut_off: Path) -> None:
    settings = timm.get_pretrained_cfg("test_vit")
    folder = cut_off / f"models--{settings.hf_hub_id.replace('/', '--')}"
    torch.manual_seed(3)
    wanted = timm.create_model("test_vit").state_dict()
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(wanted, folder / "snapshots" / ("0" * 40) / "model.safetensors")
    with fetching.fetching():
        found = timm.create_model("test_vit", pretrained=True).state_dict()
    assert all(tensor.equal(found[name]) for name, tensor in wanted.items())


def test_a_hub_that_answers_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(fetching, "_answers", lambda endpoint: True)
    with pytest.raises(errors.LocalEntryNotFoundError), fetching.fetching():
        assert constants.HF_HUB_OFFLINE is False
        raise errors.LocalEntryNotFoundError("theirs")
    monkeypatch.setattr(fetching, "_answers", None)  # is not asked
    with fetching.fetching(wanted=False):
        assert constants.HF_HUB_OFFLINE is False
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE is set"), fetching.fetching():
        raise errors.OfflineModeIsEnabled("theirs")
    assert constants.HF_HUB_OFFLINE is True


class Late(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        time.sleep(0.7)
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def late() -> Iterator[str]:
    server = http.server.HTTPServer(("127.0.0.1", 0), Late)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_slow_answer_is_an_answer_and_silence_is_none(late: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert fetching._answers(late)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.3)
    assert not fetching._answers(late)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert not fetching._answers(f"http://127.0.0.1:{closed.getsockname()[1]}")
