"""Flower's messages as states and back: what they hold is checked before it is decoded."""

import math
from collections.abc import Mapping
from io import BytesIO
from typing import Any, Literal

import numpy
import torch
from flwr.app import Array, ArrayRecord, Error, Message, MessageType, MetricRecord, RecordDict
from torch import Tensor

from seepage import tree
from seepage.errors import InvalidInput
from seepage.tree import Tensors

REFUSED = 6  # Flower's code for a mod whose condition was not met
_HEADER = 4096  # bytes that NumPy's format may need beside the numbers


def arrays_of(content: RecordDict, what: str) -> tuple[str, ArrayRecord]:
    """The one record of arrays of a message, with its name."""
    records = list(content.array_records.items())
    if len(records) != 1:
        raise InvalidInput(
            f"{what} holds {len(records)} ArrayRecords, and one is expected: the model's state. "
            "Send what else there is as ConfigRecord or MetricRecord."
        )
    name, record = records[0]
    return name, record


def state_of(record: ArrayRecord, like: Tensors, what: str) -> dict[str, Tensor]:
    """The arrays as tensors, if they are those of this state; nothing larger is ever decoded."""
    known = {name: array for name, array in record.items() if name in like}
    missing = [name for name in like if name not in record and like[name].is_floating_point()]
    unexpected = [n for n in record if n not in like and not n.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise InvalidInput(
            f"{what} is not this model's state: missing {_few(missing)}; unexpected "
            f"{_few(unexpected)}. Send the model's state_dict(), all of it."
        )
    state = {name: _decoded(array, like[name], f"{what}: '{name}'")
             for name, array in known.items()}  # fmt: skip
    floats = {name: t for name, t in state.items() if like[name].is_floating_point()}
    tree.check_floats(floats, what)
    tree.check_finite(floats, what)
    return state


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + ("..." if len(names) > 5 else "") if names else "none"


def _decoded(array: Array, like: Tensor, what: str) -> Tensor:
    if array.stype != "numpy.ndarray":
        raise InvalidInput(f"{what} is serialised as {array.stype!r}, not as a NumPy array.")
    if len(array.data) > 8 * max(like.numel(), 1) + _HEADER:
        raise InvalidInput(
            f"{what} has {len(array.data)} bytes for {like.numel()} numbers. It was not read: do "
            "not trust whoever sent it."
        )
    try:
        shape, order, kind, start = _header(array.data)
        if shape != tuple(like.shape) or kind.hasobject:
            raise InvalidInput(f"{what} is {shape} of {kind}, expected {tuple(like.shape)}.")
        count = math.prod(shape)
        flat = numpy.frombuffer(array.data, kind, count, start) if count else numpy.empty(0, kind)
        return torch.from_numpy(flat.reshape(shape, order=order).copy())
    except InvalidInput:
        raise
    except (ValueError, TypeError, EOFError, OSError, SyntaxError) as error:
        raise InvalidInput(f"{what} cannot be read ({str(error)[:200]}). Send it again.") from None


def _header(data: bytes) -> tuple[tuple[int, ...], Literal["C", "F"], "numpy.dtype[Any]", int]:
    """Shape, order, type and start of the numbers, as NumPy's format declares them."""
    reader = BytesIO(data)
    version = numpy.lib.format.read_magic(reader)
    read = {
        (1, 0): numpy.lib.format.read_array_header_1_0,
        (2, 0): numpy.lib.format.read_array_header_2_0,
    }
    if version not in read:
        raise ValueError(f"unknown version {version} of the format")
    shape, fortran, kind = read[version](reader)
    return shape, "F" if fortran else "C", kind, reader.tell()


def replaced(record: ArrayRecord, state: Mapping[str, Tensor]) -> ArrayRecord:
    """The record with these tensors, each in the type and place that it had."""
    return ArrayRecord(
        {
            name: Array(state[name].detach().cpu().numpy()) if name in state else array
            for name, array in record.items()
        }
    )


def refusal(message: Message, why: str) -> Message:
    """An error in place of an update: Flower's strategies count it, and go on without it."""
    return Message(Error(REFUSED, why), reply_to=message)


def told(reply: Message, key: str | None) -> int | None:
    """The number of examples, where the client's metrics hold it under this key."""
    for record in reply.content.metric_records.values():
        given = record.get(key) if key else None
        if isinstance(given, int | float) and given >= 1:
            return int(given)
    return None


def recorded(reply: Message, recovered: float, failed: int) -> None:
    """Add what an audit found to the metrics of the reply."""
    record = next(iter(reply.content.metric_records.values()), None)
    if record is None:
        record = MetricRecord()
        reply.content["seepage"] = record
    record["seepage.recovered"] = float(recovered)
    record["seepage.failed"] = failed


def withheld(worst: float, limit: float, errors: str) -> str:
    """Why an update stays at home."""
    if worst != worst:  # noqa: PLR0124 (NaN)
        return f"withheld by the audit: no attack finished, so nothing was measured: {errors}"
    return (
        f"withheld by the audit: {worst:.0%} of the examples could be recovered from this update "
        f"(limit {limit:.0%}). Train on more examples a round, or put a defense on the update."
    )


def trains(message: Message) -> bool:
    """Whether this message asks for training."""
    # "train" and "train.NAME" are training; what else a server asks for shares no update.
    return bool(message.metadata.message_type.partition(".")[0] == MessageType.TRAIN)
