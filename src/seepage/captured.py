"""Observations as files: one safetensors file holds all that the server held after a round."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from seepage import files
from seepage.core import Client, Model, Observation, check_update
from seepage.errors import InvalidInput
from seepage.expr import read_client
from seepage.forms import form_from, form_to
from seepage.tree import Tensors
from seepage.values import describe

_GROUPS = ("params", "buffers", "update", "told")


def save(seen: Observation, path: str | Path) -> None:
    """Write an observation: its tensors in groups, its configuration as JSON."""
    groups = {
        "params": seen.model.params,
        "buffers": seen.model.buffers,
        "update": seen.update,
        "told": {} if seen.y is None else {"y": seen.y},
    }
    about = {
        "version": 1,
        "client": describe(seen.client),
        "form": form_to(seen.model.form),
        "n": seen.n,
    }
    tensors = {f"{group}/{name}": t for group, ts in groups.items() for name, t in ts.items()}
    files.write(path, tensors, about)


def load(path: str | Path, model: Model, client: Client | None) -> Observation:
    """Read a saved observation, or a bare file of named update tensors, for this network."""
    tensors, about = files.read(path)
    if not about:
        believed = client or read_client("FedSGD()", path)
        return _observation(Observation(model, believed, tensors), path)
    if about.get("version") != 1:
        raise InvalidInput(
            f"{path}: format version {about.get('version')!r} is not known. It was written by a "
            "newer Seepage, or is damaged: update Seepage, or write the file again."
        )
    groups = _grouped(tensors, path)
    if groups["params"]:
        model = model.with_params(groups["params"] | groups["buffers"])
    model = dataclasses.replace(model, form=form_from(about.get("form"), path))
    believed = client or read_client(about.get("client"), path)
    n, y = _told(about, groups["told"], path)
    return _observation(Observation(model, believed, groups["update"], n, y), path)


def _observation(seen: Observation, path: str | Path) -> Observation:
    check_update(seen.update, seen.model, f"{path}")
    order = [name for name in seen.model.state if name in seen.update]
    update = {name: _widened(seen.update[name], seen.model.state[name]) for name in order}
    return dataclasses.replace(seen, update=update)


def _widened(tensor: Tensor, like: Tensor) -> Tensor:
    """Half precision was for the wire: the attacker calculates in the model's own."""
    return tensor.to(like.device, torch.promote_types(tensor.dtype, like.dtype))


def _grouped(tensors: Tensors, path: str | Path) -> dict[str, dict[str, Tensor]]:
    groups: dict[str, dict[str, Tensor]] = {k: {} for k in ("params", "buffers", "update", "told")}
    for full, tensor in tensors.items():
        group, _, name = full.partition("/")
        if group not in groups or not name:
            raise InvalidInput(f"{path}: tensor '{full}' is none of {', '.join(groups)}/NAME.")
        groups[group][name] = tensor
    return groups


def _told(
    about: Mapping[str, object], told: Tensors, path: str | Path
) -> tuple[int | None, Tensor | None]:
    n, y = about.get("n"), told.get("y")
    if n is not None and (not isinstance(n, int) or isinstance(n, bool) or n < 1):
        raise InvalidInput(f"{path}: n={n!r} is not a number of examples. Write the file again.")
    if y is not None and (y.ndim == 0 or (n is not None and len(y) != n)):
        raise InvalidInput(f"{path}: {tuple(y.shape)} labels for n={n}. Write the file again.")
    return n, y
