"""Rows and pictures of trials on disk: appended, never rewritten, readable after any crash."""

import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from seepage import files
from seepage.errors import InvalidInput

__all__ = ["Store"]

Row = dict[str, Any]
_ROWS, _LOCK, _ARTEFACTS = "rows.jsonl", "lock", "artefacts"


@dataclass(frozen=True)
class Store:
    """A folder with one JSON line for each trial, and one safetensors file for its pictures.

    A row is on the disk before the next trial is counted as started, so that a killed run loses
    what was under way and nothing else. The folder is made by the first write.

    >>> import tempfile
    >>> store = Store(Path(tempfile.mkdtemp()) / "runs")
    >>> with store.writing() as append:
    ...     append({"key": "a", "status": "done"})
    >>> store.rows()
    {'a': {'key': 'a', 'status': 'done'}}
    """

    folder: Path
    temporary: bool = False

    @staticmethod
    def of(where: "Store | str | Path | None") -> "Store":
        """A store at this place; without a place, one that is deleted when Python ends."""
        if isinstance(where, Store):
            return where
        return Store(_temporary(), True) if where is None else Store(Path(where))

    def rows(self) -> dict[str, Row]:
        """The last row of every key, in the order in which the keys first came."""
        return {row["key"]: row for row in self._lines()}

    @contextmanager
    def writing(self) -> "Iterator[Append]":
        """Hold the store for one writer, and give the function that appends a row."""
        _made(self.folder)
        with _locked(self.folder / _LOCK):
            for draft in self.folder.glob(f"{_ARTEFACTS}/.*"):
                draft.unlink(missing_ok=True)  # a picture whose writer was killed
            with _opened(self.folder / _ROWS) as descriptor:
                yield Append(descriptor)

    def artefact(self, key: str) -> Path:
        """Where the pictures of a trial are."""
        return self.folder / _ARTEFACTS / f"{key}.safetensors"

    def keep(self, key: str, tensors: Mapping[str, Tensor]) -> str:
        """Write the pictures of a trial, all or nothing; returns the path as a row names it."""
        files.write(self.artefact(key), tensors, {"key": key})
        return self.artefact(key).relative_to(self.folder).as_posix()

    def _lines(self) -> Iterator[Row]:
        path = self.folder / _ROWS
        if not path.is_file():
            return
        whole = _whole(path.read_bytes())
        for number, line in enumerate(whole.splitlines(), start=1):
            yield _row(line, path, number)


@dataclass(frozen=True)
class Append:
    """Add one row: when it returns, the row survives a kill and a loss of power."""

    descriptor: int

    def __call__(self, row: Mapping[str, Any]) -> None:
        line = json.dumps(plain(row), allow_nan=False, ensure_ascii=False) + "\n"
        rest = memoryview(line.encode())
        while rest:
            rest = rest[os.write(self.descriptor, rest) :]
        os.fsync(self.descriptor)


def plain(thing: Any) -> Any:
    """As strict JSON has it: tensors are lists, NaN and infinity are null, all else is text.

    >>> plain({"a": (1, float("nan"))})
    {'a': [1, None]}
    """
    if thing is None or isinstance(thing, str | bool | int):
        return thing
    if isinstance(thing, float):
        return float(thing) if math.isfinite(thing) else None
    if isinstance(thing, Mapping):
        return {str(name): plain(part) for name, part in thing.items()}
    if isinstance(thing, list | tuple):
        return [plain(part) for part in thing]
    if hasattr(thing, "tolist"):  # tensors, and the arrays and numbers of NumPy
        return plain(thing.tolist())
    return str(thing)


def _whole(data: bytes) -> bytes:
    """All lines but a last one that a killed writer left without its end."""
    return data[: data.rfind(b"\n") + 1]


def _row(line: bytes, path: Path, number: int) -> Row:
    try:
        row = json.loads(line)
        if isinstance(row, dict) and isinstance(row.get("key"), str):
            return row
    except (ValueError, RecursionError):
        pass
    raise InvalidInput(
        f"{path}, line {number} is not a row: {line[:60].decode(errors='replace')!r}. "
        "Delete the line, and its trial runs again; or choose another store."
    )


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.ftruncate(descriptor, len(_whole(path.read_bytes())))
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    import fcntl  # not on Windows, where rows can still be read

    with path.open("a+") as file:
        try:
            # The system gives it back when the process ends, however it ends.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise InvalidInput(
                f"{path.parent} is being written by process {file.read().strip() or '?'}. "
                "Wait until it ends, or choose another store."
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _made(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _LOCK).touch()
    except OSError as error:
        raise InvalidInput(
            f"cannot write into {folder}: {error.strerror}. Choose another store."
        ) from None


def _temporary() -> Path:
    import atexit
    import shutil

    folder = Path(tempfile.mkdtemp(prefix="seepage-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
