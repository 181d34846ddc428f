"""Update files that are damaged, truncated, mis-typed, poisoned or hostile: an error, or a load."""

import contextlib
import functools
import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from seepage import (
    Batch,
    FedAvg,
    FedSGD,
    Images,
    InvalidInput,
    Model,
    Noise,
    Observation,
    Prune,
    SeepageError,
    files,
    observe,
    stream,
    tree,
)

FORM = Images((1, 4, 4), 3, mean=(0.5,), std=(0.25,))
CLIENT = Prune(Noise(FedAvg(epochs=2, lr=0.1), 0.01), 0.5)

# Every example writes a file of its own into one folder, so that sharing the folder is harmless.
fuzzed = functools.partial(
    settings, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@functools.cache
def model() -> Model:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(18, 3)
    )
    return Model.of(module, functional.cross_entropy, FORM)


@functools.cache
def seen() -> Observation:
    batch = Batch(torch.rand(2, 1, 4, 4), torch.tensor([0, 2]))
    return observe(model(), batch, CLIENT, stream(0, "client"), tell=("n", "y"))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "seen.safetensors"
    seen().save(path)
    return path.read_bytes()


def loaded(path: Path) -> Observation | None:
    """A usable observation, or None where a clear error was raised; anything else fails."""
    try:
        got = Observation.load(path, model())
    except SeepageError as error:
        assert len(str(error)) > 20  # noqa: PT017
        return None
    assert set(got.update) <= set(model().state)
    for name, tensor in got.update.items():
        assert tensor.shape == model().state[name].shape
        assert tensor.isfinite().all()
    assert callable(got.client)
    return got


def header(data: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def with_header(about: object, body: bytes) -> bytes:
    text = json.dumps(about).encode()
    return struct.pack("<Q", len(text)) + text + body


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "seen.safetensors"
    seen().save(path)
    torch.manual_seed(9)
    other = model().replaced(tree.mapped(torch.randn_like, model().params))
    got = Observation.load(path, other)
    assert got.client == CLIENT
    assert got.n == 2
    assert got.y is not None
    assert got.y.tolist() == [0, 2]
    assert got.model.form == FORM
    assert tree.fingerprint(got.update) == tree.fingerprint(seen().update)
    assert tree.fingerprint(got.model.state) == tree.fingerprint(model().state)
    assert Observation.load(path, model(), FedSGD()).client == FedSGD()
    assert [file.name for file in path.parent.iterdir()] == ["seen.safetensors"]


def test_a_bare_file_of_tensors_is_an_update_of_plain_fedsgd(tmp_path: Path) -> None:
    path = tmp_path / "bare.safetensors"
    half = tree.mapped(lambda u: u.to(torch.bfloat16), seen().update)
    save_file(dict(reversed(half.items())), path)
    got = Observation.load(path, model())
    assert got.client == FedSGD()
    assert got.n is None
    assert list(got.update) == list(seen().update)
    assert {u.dtype for u in got.update.values()} == {torch.float32}


@fuzzed(max_examples=200)
@given(cut=st.floats(0, 1), flips=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255))))
def test_truncated_and_damaged_bytes(
    good: bytes, tmp_path: Path, cut: float, flips: list[tuple[float, int]]
) -> None:
    data = bytearray(good[: max(1, int(cut * len(good)))] if flips == [] else good)
    for place, change in flips:
        data[int(place * (len(data) - 1))] ^= change
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(bytes(data))
    loaded(path)


@fuzzed(max_examples=100)
@given(data=st.binary(max_size=400), length=st.none() | st.integers(0, 2**64 - 1))
def test_bytes_that_are_no_file_at_all(tmp_path: Path, data: bytes, length: int | None) -> None:
    path = tmp_path / "random.safetensors"
    path.write_bytes(data if length is None else struct.pack("<Q", length) + data)
    assert loaded(path) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)
FIELDS = st.sampled_from(["version", "client", "form", "n"])
FORM_FIELDS = st.sampled_from(["kind", "shape", "classes", "low", "high", "mean", "std", "more"])


@fuzzed(max_examples=200)
@given(field=FIELDS, inner=st.none() | FORM_FIELDS, content=JSON)
def test_mistyped_headers(
    good: bytes, tmp_path: Path, field: str, inner: str | None, content: object
) -> None:
    about, body = header(good)
    meta = json.loads(about["__metadata__"]["seepage"])
    if inner is not None and field == "form":
        meta["form"][inner] = content
    else:
        meta[field] = content
    about["__metadata__"]["seepage"] = json.dumps(meta)
    path = tmp_path / "header.safetensors"
    path.write_bytes(with_header(about, body))
    loaded(path)


NAMES = ["update/0.weight", "update/4.bias", "params/0.weight", "buffers/1.running_var", "told/y"]
POISONS = st.sampled_from([torch.nan, torch.inf, -torch.inf])
DTYPES = [torch.float16, torch.float64, torch.int8, torch.bool, torch.complex64, torch.float8_e5m2]


@fuzzed(max_examples=150)
@given(
    name=st.sampled_from(NAMES),
    change=st.tuples(
        st.none() | POISONS,
        st.none() | st.sampled_from(DTYPES),
        st.none() | st.lists(st.integers(0, 3), max_size=4),
        st.none() | st.text(max_size=12),
    ),
)
def test_poisoned_misshaped_and_renamed_tensors(
    tmp_path: Path,
    good: bytes,
    name: str,
    change: tuple[float | None, torch.dtype | None, list[int] | None, str | None],
) -> None:
    poison, dtype, shape, rename = change
    source = tmp_path / "source.safetensors"
    source.write_bytes(good)
    tensors, about = files.read(source)
    tensor = tensors.pop(name)
    tensor = tensor if shape is None else torch.ones(shape)
    tensor = tensor if dtype is None else tensor.to(dtype)
    poisoned = poison is not None and tensor.is_floating_point() and tensor.numel() > 0
    if poisoned:
        tensor = torch.full_like(tensor.float(), poison).to(tensor.dtype)
    path = tmp_path / "poisoned.safetensors"
    with contextlib.suppress(UnicodeEncodeError):  # a lone surrogate is no name of a tensor
        files.write(path, tensors | {name if rename is None else rename: tensor}, about)
        got = loaded(path)
        if poisoned and rename is None and name != "told/y":
            assert got is None


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "no file at"),
        (lambda path: path.mkdir(), "no file at"),
        (lambda path: path.write_bytes(b""), "not a readable safetensors file"),
        (lambda path: torch.save({"a": torch.zeros(1)}, path), "pickled checkpoints are not read"),
        (lambda path: save_file({"x": torch.zeros(1)}, path), "no tensor of this model"),
        (lambda path: save_file({"x": torch.zeros(1)}, path, {"seepage": "{"}), "not JSON"),
        (lambda path: save_file({"x": torch.zeros(1)}, path, {"seepage": "[1]"}), "not an object"),
        (
            lambda path: save_file({"x": torch.zeros(1)}, path, {"seepage": "[" * 100_000}),
            "not JSON",
        ),
        (
            lambda path: save_file({"x": torch.zeros(1)}, path, {"seepage": '{"version": 7}'}),
            "newer Seepage",
        ),
    ],
)
def test_each_error_names_its_problem(tmp_path: Path, make: Any, words: str) -> None:
    path = tmp_path / "file.safetensors"
    make(path)
    with pytest.raises(InvalidInput) as error:
        Observation.load(path, model())
    assert words in str(error.value)
    assert str(path) in str(error.value)


def test_a_hostile_client_text_runs_nothing(good: bytes, tmp_path: Path) -> None:
    about, body = header(good)
    meta = json.loads(about["__metadata__"]["seepage"])
    marker = tmp_path / "ran"
    for text in (
        f"__import__('pathlib').Path({str(marker)!r}).touch()",
        "os:system('true')",
        "Given(1)",
        "Images((1, 2, 2), 3)",
        "FedSGD",
    ):
        meta["client"] = text
        about["__metadata__"]["seepage"] = json.dumps(meta)
        path = tmp_path / "hostile.safetensors"
        path.write_bytes(with_header(about, body))
        loaded(path)
    assert not marker.exists()


def test_writing_where_nothing_can_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match="cannot write"):
        seen().save(tmp_path / "file" / "seen.safetensors")


def test_tensors_that_share_memory_are_written_as_they_look(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    parts = {"whole": whole, "half": whole[:3], "turned": whole.view(2, 3).T}
    files.write(tmp_path / "views.safetensors", parts, {})
    tensors, _ = files.read(tmp_path / "views.safetensors")
    assert all(torch.equal(tensors[name], part) for name, part in parts.items())


def test_told_labels_must_fit_the_number_of_examples(tmp_path: Path) -> None:
    path = tmp_path / "told.safetensors"
    seen().save(path)
    tensors, about = files.read(path)
    wrong: dict[str, Tensor] = tensors | {"told/y": torch.zeros(3)}
    files.write(path, wrong, about)
    with pytest.raises(InvalidInput, match=r"\(3,\) labels for n=2"):
        Observation.load(path, model())
