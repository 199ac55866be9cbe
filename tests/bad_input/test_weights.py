"""Wrong weights: of models from elsewhere, and of our own runs."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from pipeline.config import parse_params
from pipeline.core.files import write_record
from pipeline.models import build_model
from tests.bad_input.archives import Code
from tests.bad_input.conftest import OTHERS, Make, bytes_of, refused

STATE = dict(build_model("small_cnn", "digits").state_dict())
FIRST = next(iter(STATE))


def pt(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def quantised() -> torch.Tensor:
    with warnings.catch_warnings(action="ignore"):  # torch will drop them, files that have them remain
        return torch.quantize_per_tensor(STATE[FIRST], 0.1, 0, torch.qint8)


def header(*tensors: dict[str, Any]) -> bytes:
    content = json.dumps({f"t{number}": tensor for number, tensor in enumerate(tensors)}).encode()
    return len(content).to_bytes(8, "little") + content + b"1234"


def entry(shape: list[int], offsets: list[int], dtype: str = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


CIRCULAR: dict[str, Any] = {}
CIRCULAR["state_dict"] = CIRCULAR
PT: dict[str, bytes] = {
    "texts as tensors": pt({**STATE, FIRST: "x"}),
    "no elements": pt({**STATE, FIRST: STATE[FIRST][:0]}),
    "a quantised tensor": pt({**STATE, FIRST: quantised()}),
    "not finite": pt({**STATE, FIRST: STATE[FIRST] * float("nan")}),
    "one tensor too few": pt({name: tensor for name, tensor in STATE.items() if name != FIRST}),
    "several state dicts": pt({"last": STATE, "best": STATE}),
    "normalisation layers that differ": pt(
        {
            **STATE,
            **{
                f"{part}.{key}": torch.tensor(value)
                for part, value in (("a", 0.5), ("b", 0.4))
                for key in ("mean", "std")
            },
        }
    ),
    "nothing": pt({}),
    "names that are numbers": pt({0: torch.zeros(1)}),
    "a mapping that holds itself": pt(CIRCULAR),
    "code among tensors": pt({**STATE, "extra": Code()}),
    "a whole module": pt(torch.nn.Linear(2, 2)),
    "a plain pickle with code": pickle.dumps(Code()),
    "a plain pickle of plain values": pickle.dumps({"a": 1}),
}
SAFETENSORS: dict[str, bytes] = {
    "a .pt file": pt(STATE),
    "bytes behind": save(STATE) + b"xx",
    "a header of 2**60 bytes": (2**60).to_bytes(8, "little") + save(STATE)[8:],
    "a header that is no JSON": (8).to_bytes(8, "little") + b"not JSON",
    "a header nested too deeply": (90_000).to_bytes(8, "little") + b"[" * 90_000,
    "a tensor of 10**15 bytes": header(entry([10**15], [0, 10**15])),
    "tensors that overlap": header(entry([4], [0, 4]), entry([4], [0, 4])),
    "offsets backwards": header(entry([4], [4, 0])),
    "an unknown type": header(entry([4], [0, 4], "X9")),
}
WEIGHTS: dict[str, tuple[str, Make]] = {
    **{f"pt: {what}": ("weights.pt", bytes_of(content)) for what, content in PT.items()},
    **{f"safetensors: {what}": ("weights.safetensors", bytes_of(content)) for what, content in SAFETENSORS.items()},
    **{
        f"{name}: {what}": (name, make)
        for name in ("weights.pt", "weights.safetensors")
        for what, make in OTHERS.items()
    },
}


@pytest.mark.parametrize(("name", "make"), WEIGHTS.values(), ids=WEIGHTS)
def test_wrong_weights_from_elsewhere(folder: Path, prepared_digits: Path, name: str, make: Make) -> None:
    shutil.copytree(prepared_digits, folder / "data/prepared/digits")
    make(folder / name)
    refused(folder, "evaluate_weights", name)


OWN: dict[str, tuple[str, Make]] = {
    **{f"weights: {what}": ("model.safetensors", bytes_of(content)) for what, content in SAFETENSORS.items()},
    **{
        f"{name}: {what}": (name, make)
        for name in ("model.safetensors", "summary.json")
        for what, make in OTHERS.items()
    },
    **{
        f"summary: {content[:20]!r}": ("summary.json", bytes_of(content))
        for content in (b"\xff\xfe", b"", b"[]", b"null", b"{}", b"[" * 100_000, b'{"fingerprint": 7}')
    },
}


@pytest.mark.parametrize(("name", "make"), OWN.values(), ids=OWN)
def test_wrong_weights_of_our_own_runs(folder: Path, tiny_content: dict[str, Any], name: str, make: Make) -> None:
    run = folder / "results/digits/nt-1/train"
    run.mkdir(parents=True)
    (run / "model.safetensors").write_bytes(save(STATE))
    fingerprint = parse_params(tiny_content).experiment("nt", 1).fingerprint
    write_record(run / "summary.json", {"fingerprint": fingerprint}, ["model.safetensors"])
    (run / name).unlink()
    make(run / name)
    refused(folder, "evaluate", "nt", "--seed", "1", names="results/digits/nt-1")
