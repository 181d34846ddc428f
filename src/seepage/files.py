"""Tensors and JSON in one safetensors file: no pickle, and a clear error for every damaged file."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from seepage.errors import InvalidInput

Json = Mapping[str, object]
_KEY = "seepage"


def write(path: str | Path, tensors: Mapping[str, Tensor], about: Json) -> None:
    """Write all or nothing: a reader never sees half a file, whenever the writer dies."""
    path = Path(path)
    # The format knows no views: tensors that share memory are written as copies.
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    data = save(plain, metadata={_KEY: json.dumps(about)})
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(data)
        draft.replace(path)
    except OSError as error:
        raise InvalidInput(f"cannot write {path}: {error.strerror}. Choose another path.") from None


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, object]]:
    """The tensors of a safetensors file and what Seepage wrote about them (empty for others)."""
    path = Path(path)
    if not path.is_file():
        raise InvalidInput(f"no file at {path}. Give the path of a safetensors file.")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            about = (file.metadata() or {}).get(_KEY, "{}")
    except (SafetensorError, OSError, ValueError, RuntimeError, AttributeError, KeyError) as error:
        raise InvalidInput(
            f"{path} is not a readable safetensors file ({_first_line(error)}). Write it with "
            "Observation.save or safetensors.torch.save_file; pickled checkpoints are not read."
        ) from None
    return tensors, _parsed(about, path)


def _parsed(text: str, path: Path) -> dict[str, object]:
    try:
        about = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            f"{path}: its '{_KEY}' header is not JSON ({_first_line(error)}). "
            "The file is damaged: write it again."
        ) from None
    if not isinstance(about, dict):
        raise InvalidInput(f"{path}: its '{_KEY}' header is not an object. Write the file again.")
    return about


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
