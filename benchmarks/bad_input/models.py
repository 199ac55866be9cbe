"""Wrong weights: of models from elsewhere, and of our own runs."""

from __future__ import annotations

import io
import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from safetensors.torch import load, save

from benchmarks.bad_input.cases import PARAMS, Case
from benchmarks.bad_input.data import OTHERS, Code, archive, params, put_digits
from benchmarks.bad_input.files import suite
from pipeline.config import parse_params
from pipeline.files import write_record
from pipeline.models import build_model

State = dict[str, Any]


@cache
def _state() -> State:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return dict(build_model("small_cnn", "digits").state_dict())


def _pickled(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _first(change: Callable[[torch.Tensor], Any]) -> State:
    """The right state with its first tensor changed."""
    name = next(iter(_state()))
    return {**_state(), name: change(_state()[name])}


def _quantised(tensor: torch.Tensor) -> torch.Tensor:
    with warnings.catch_warnings(action="ignore"):  # torch will drop them, files that have them remain
        return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


def _without_data(content: bytes) -> bytes:
    """A .pt file whose tensors' data is missing."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(buffer, "w") as target:
        for name in source.namelist():
            if "/data/" not in name:
                target.writestr(name, source.read(name))
    return buffer.getvalue()


@cache
def contents() -> dict[str, tuple[str, bytes]]:
    """(ending, bytes) of files that are no weights of the network, by what is wrong with them."""
    whole, tensors = _pickled(_state()), save(_state())
    states: dict[str, Any] = {
        "one tensor of another shape": _first(lambda t: t.flatten()),
        "one tensor of no elements": _first(lambda t: t[:0]),
        "complex numbers": _first(lambda t: t.to(torch.complex64)),
        "texts as tensors": _first(lambda t: "x"),
        "a sparse tensor": _first(lambda t: t.to_sparse()),
        "a tensor without data": _first(lambda t: t.to("meta")),
        "a quantised tensor": _first(_quantised),
        "not finite": _first(lambda t: t * float("nan")),
        "infinite": _first(lambda t: t + float("inf")),
        "one tensor too few": dict(list(_state().items())[1:]),
        "one tensor too many": {**_state(), "extra": torch.zeros(1)},
        "no tensors": {"epoch": 3},
        "nothing": {},
        "a list": [1, 2],
        "a number": 7,
        "names that are numbers": dict(enumerate([torch.zeros(1)])),
        "wrapped ten times": _wrapped(10),
        "a mapping that holds itself": _circular(),
        "code": Code(),
        "code among tensors": {**_state(), "extra": Code()},
        "a whole module": torch.nn.Linear(2, 2),
    }
    made = {what: (".pt", _pickled(state)) for what, state in states.items()}
    made |= {
        f"safetensors, {what}": (
            ".safetensors",
            save({k: v for k, v in states[what].items() if v.dtype != torch.complex64}),
        )
        for what in ("one tensor of another shape", "not finite", "one tensor too few", "one tensor too many")
    }
    return made | {
        "a plain pickle with code": (".pt", pickle.dumps(Code())),
        "a plain pickle of plain values": (".pt", pickle.dumps({"a": 1})),
        "an archive of ten years ago": (".pt", archive([])),
        "a .pt file without its data": (".pt", _without_data(whole)),
        "a .pt file cut off": (".pt", whole[: len(whole) // 2]),
        "a .pt file that is called safetensors": (".safetensors", whole),
        "a safetensors file that is called .pt": (".pt", tensors),
        "safetensors cut off": (".safetensors", tensors[:-9]),
        "safetensors with bytes behind": (".safetensors", tensors + b"xx"),
        "safetensors, a header of 2**60 bytes": (".safetensors", (2**60).to_bytes(8, "little") + tensors[8:]),
        "safetensors, a header that is no JSON": (".safetensors", (8).to_bytes(8, "little") + b"not JSON"),
        "safetensors, a header nested too deeply": (".safetensors", (90_000).to_bytes(8, "little") + b"[" * 90_000),
        "safetensors, a tensor of 10**15 bytes": (".safetensors", _header({"a": _entry([10**15], [0, 10**15])})),
        "safetensors, tensors that overlap": (
            ".safetensors",
            _header({"a": _entry([4], [0, 4]), "b": _entry([4], [0, 4])}) + b"1234",
        ),
        "safetensors, offsets backwards": (".safetensors", _header({"a": _entry([4], [4, 0])}) + b"1234"),
        "safetensors, an unknown type": (
            ".safetensors",
            _header({"a": {**_entry([4], [0, 4]), "dtype": "X9"}}) + b"1234",
        ),
        "an empty file": (".pt", b""),
        "an empty safetensors file": (".safetensors", b""),
        "text": (".pth", b"<html>404</html>"),
    }


def _wrapped(times: int) -> Any:
    content: Any = {"epoch": 1}
    for _ in range(times):
        content = {"state_dict": content}
    return content


def _circular() -> State:
    content: State = {}
    content["model"] = content
    return content


def _entry(shape: list[int], offsets: list[int]) -> State:
    return {"dtype": "U8", "shape": shape, "data_offsets": offsets}


def _header(content: State) -> bytes:
    text = json.dumps(content).encode()
    return len(text).to_bytes(8, "little") + text


@st.composite
def external(draw: st.DrawFn, kind: str) -> Case:
    """A file for `stages.attack`: one of those above, or right weights with bytes changed."""
    what, (ending, content) = draw(st.sampled_from(sorted(contents().items(), key=lambda item: item[0])))
    make: Callable[[Path], Any] = lambda path: path.write_bytes(content)  # noqa: E731
    if draw(st.integers(0, 9)) == 0:
        ending = draw(st.sampled_from([".pt", ".safetensors"]))
        what, make = draw(st.sampled_from(sorted(OTHERS.items(), key=lambda item: item[0])))
    elif draw(st.integers(0, 3)) == 0:
        ending = draw(st.sampled_from([".pt", ".safetensors"]))
        whole = save(_state()) if ending == ".safetensors" else _pickled(_state())
        place, foreign = draw(st.integers(0, len(whole))), draw(st.binary(min_size=1, max_size=20))
        changed = whole[:place] + foreign + whole[place + len(foreign) :]
        what, make = f"bytes replaced at {place}", lambda path: path.write_bytes(changed)
    name = f"weights{ending}"

    def write(folder: Path) -> None:
        (folder / PARAMS).write_bytes(params("digits"))
        put_digits(folder)
        make(folder / name)

    return Case(kind, f"{name}: {what}", "attack", (name,), write, (name, "the model"), _loads)


def _loads(folder: Path, accepted: Any) -> bool:
    """Whether the file is one that the libraries themselves read, with the network's shapes and finite numbers."""
    path = next(folder.glob("weights.*"))
    read = load(path.read_bytes()) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    shapes, expected = (sorted(tuple(tensor.shape) for tensor in state.values()) for state in (read, _state()))
    return shapes == expected and all(bool(torch.isfinite(tensor).all()) for tensor in read.values())


# --- Of our own runs

RUN = Path("results/digits/nt-1/train")
SUMMARIES: dict[str, bytes] = {
    "a summary of bytes": b"\xff\xfe",
    "an empty summary": b"",
    "a summary that is a list": b"[]",
    "a summary that is null": b"null",
    "a summary without a fingerprint": b"{}",
    "a summary nested too deeply": b"[" * 100_000,
    "a summary of another experiment": b'{"fingerprint": "0000000000000000"}',
    "a fingerprint that is a number": b'{"fingerprint": 7}',
}


@st.composite
def trained(draw: st.DrawFn, kind: str) -> Case:
    """What `stages.evaluate` finds where the trained weights belong."""
    weights = {
        what: content for what, (_, content) in contents().items() if not what.startswith(("not finite", "infinite"))
    }
    weights.pop("safetensors, not finite"), weights.pop("a safetensors file that is called .pt")
    what = draw(
        st.sampled_from(
            sorted(
                [
                    *weights,
                    *SUMMARIES,
                    *(f"weights: {name}" for name in OTHERS),
                    *(f"summary: {name}" for name in OTHERS),
                ]
            )
        )
    )

    def write(folder: Path) -> None:
        (folder / PARAMS).write_bytes(params("digits"))
        (folder / RUN).mkdir(parents=True)
        fingerprint = parse_params(suite(0)).experiment("nt", 1).fingerprint
        summary, model = folder / RUN / "summary.json", folder / RUN / "model.safetensors"
        model.write_bytes(weights.get(what, save(_state())))
        write_record(summary, {"fingerprint": fingerprint}, [model.name])
        if what in SUMMARIES:
            summary.write_bytes(SUMMARIES[what])
        for target, path in (("weights: ", model), ("summary: ", summary)):
            if what.startswith(target):
                os.unlink(path)
                OTHERS[what.removeprefix(target)](path)

    return Case(kind, what, "evaluate", ("nt", "--seed", "1"), write, ("results/digits/nt-1",))


KINDS: dict[str, Callable[[str], st.SearchStrategy[Case]]] = {
    "models from elsewhere": external,
    "weights of our own runs": trained,
}
