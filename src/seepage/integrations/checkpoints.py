"""States of any framework, and an update as the difference of two: nothing in them is executed."""

import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from seepage import files, tree
from seepage.errors import InvalidInput
from seepage.tree import Tensors

__all__ = ["difference", "named", "read"]

_TORCH = (".pt", ".pth", ".ckpt", ".bin")
_NESTED = ("state_dict", "model_state_dict", "model")  # where trainers put the network's state
_WRAPPERS = ("module.", "_orig_mod.", "_module.")  # DataParallel, torch.compile, Opacus
_PACKED = 200  # times its size on disk that an archive may unpack to


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors, .npz, or PyTorch file, each with its name.

    A PyTorch file is loaded with weights only, NumPy's without pickles.
    """
    if not path.is_file():
        raise InvalidInput(f"no file at {path}. Give a .safetensors, .npz, or PyTorch checkpoint.")
    kind = path.suffix.lower()
    if kind == ".npz":
        return _numpy(path)
    if kind in _TORCH:
        return _torch(path)
    tensors, about = files.read(path)
    if about:  # a saved observation holds the broadcast state
        kept = [name for name in tensors if name.startswith(("params/", "buffers/"))]
        return {name.partition("/")[2]: tensors[name] for name in kept}
    return tensors


def difference(before: Tensors, after: Tensors) -> dict[str, Tensor]:
    """before - after, in the wider type of the two; whole numbers, such as counters, stay behind.

    >>> difference({"w": torch.ones(2), "steps": torch.tensor(1)}, {"w": torch.zeros(2)})
    Traceback (most recent call last):
    ...
    seepage.errors.InvalidInput: the state after and the model differ. missing: steps. ...
    """
    tree.check_names(after, before, "the state after")
    floats = [name for name, tensor in before.items() if tensor.is_floating_point()]
    if not floats:
        raise InvalidInput("the states hold no tensor of floats, so nothing was trained.")
    for state, what in ((before, "the state before"), (after, "the state after")):
        chosen = {name: state[name] for name in floats}
        tree.check_floats(chosen, what)
        tree.check_finite(chosen, what)
    update = {}
    for name in floats:
        wide = torch.promote_types(before[name].dtype, after[name].dtype)
        wide = torch.promote_types(wide, torch.float32)  # half precision has no digits to spare
        update[name] = before[name].to(wide) - after[name].to(wide)
    if not any(bool(tensor.any()) for tensor in update.values()):
        raise InvalidInput(
            "the two states are equal, so the update is zero. Give the state that was broadcast, "
            "and the one that the client sent back."
        )
    return update


def named(arrays: Mapping[str, Tensor], like: Tensors, what: str) -> dict[str, Tensor]:
    """Arrays that were saved by position, arr_0 and so on, with the names of a state_dict.

    >>> named({"arr_0": torch.zeros(2)}, {"bias": torch.ones(2)}, "it")
    {'bias': tensor([0., 0.])}
    """
    if not positional(arrays):
        return dict(arrays)
    if len(arrays) != len(like):
        raise InvalidInput(
            f"{what} holds {len(arrays)} arrays without names, and the model's state has "
            f"{len(like)}. Save them with names: numpy.savez(path, **arrays)."
        )
    ordered = [arrays[f"arr_{place}"] for place in range(len(arrays))]
    return dict(zip(like, ordered, strict=True))


def positional(arrays: Mapping[str, Tensor]) -> bool:
    """Whether these are the names that numpy.savez gives to arrays without one."""
    return set(arrays) == {f"arr_{place}" for place in range(len(arrays))}


def _numpy(path: Path) -> dict[str, Tensor]:
    import numpy

    try:
        _check_unpacked(path)
        with numpy.load(path, allow_pickle=False) as archive:
            return {name: torch.from_numpy(archive[name].copy()) for name in archive.files}
    except InvalidInput:
        raise
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InvalidInput(
            f"{path} is not a readable .npz of arrays of numbers ({_first_line(error)}). "
            "Write it with numpy.savez(path, **state); arrays of objects are not read."
        ) from None


def _torch(path: Path) -> dict[str, Tensor]:
    try:
        _check_unpacked(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except InvalidInput:
        raise
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, EOFError, AttributeError,
            IndexError, zipfile.BadZipFile, pickle.UnpicklingError) as error:  # fmt: skip
        raise InvalidInput(
            f"{path} is not a checkpoint that loads with weights only ({_first_line(error)}). "
            "Save the state alone, torch.save(model.state_dict(), path), or as safetensors."
        ) from None
    return dict(_plain(_state(loaded, path), path))


def _state(loaded: object, path: Path) -> dict[str, Tensor]:
    """The network's state among what a trainer saved beside it."""
    if isinstance(loaded, Mapping):
        nested = [loaded[key] for key in _NESTED if isinstance(loaded.get(key), Mapping)]
        loaded = nested[0] if nested else loaded
        tensors = {str(name): t for name, t in dict(loaded).items() if isinstance(t, Tensor)}
        if tensors:
            return unwrapped(tensors)
    raise InvalidInput(
        f"{path} holds no named tensors, nor a state_dict among {', '.join(_NESTED)}. "
        "Save the state alone: torch.save(model.state_dict(), path)."
    )


def unwrapped(tensors: Tensors) -> dict[str, Tensor]:
    """Without the prefix that wrappers of a network put before all of its names.

    >>> list(unwrapped({"module.w": torch.ones(1), "module.b": torch.ones(1)}))
    ['w', 'b']
    """
    for prefix in _WRAPPERS:
        if tensors and all(name.startswith(prefix) for name in tensors):
            return unwrapped({name.removeprefix(prefix): t for name, t in tensors.items()})
    return dict(tensors)


def _plain(tensors: Tensors, path: Path) -> Iterator[tuple[str, Tensor]]:
    """Each tensor as an ordinary one, refused where it claims more entries than the file holds."""
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise InvalidInput(f"{path}: '{name}' is no plain tensor. Save it dense, as floats.")
        if tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
            raise InvalidInput(
                f"{path}: '{name}' claims {tensor.numel()} entries, and the file holds fewer. "
                "Save it with .contiguous(); do not load a file that you did not expect."
            )
        yield name, tensor.detach()


def _check_unpacked(path: Path) -> None:
    """Refuse an archive that is small on disk and would fill the memory."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        size = sum(part.file_size for part in archive.infolist())
    if size > _PACKED * max(path.stat().st_size, 2**20):
        raise InvalidInput(
            f"{path} would unpack to {size / 2**30:.1f} GiB from {path.stat().st_size} bytes, as "
            "no honest state does. Save it uncompressed if it is yours."
        )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
