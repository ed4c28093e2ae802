"""How a state lies in bytes: which part comes where, and a checksum of all of them.

Knows nothing of databases, rounds or runs.
"""

import functools
import zlib

import attrs
import numpy as np
import tensorflow as tf

from .errors import StoreError


class Layout:
    """How the parts of a state lie side by side in bytes, lowest byte first on every machine.

    The layout belongs to the model and not to the bytes, so nothing that is read can run code,
    and a state of another shape or dtype is refused on its way in.

    Args:
        template: a state, a `ClientState` or `ServerState`, of NumPy arrays.

    Attributes:
        kinds: the parts in words, such as `{"local_weights[0]": "float32[1, 50]"}`.
        size: the number of bytes.

    Raises:
        TypeError: if a part holds no numbers.
    """

    def __init__(self, template):
        """See the class."""
        self._template, self._fields, self.kinds, self.size = template, [], {}, 0
        for field in attrs.fields(type(template)):
            for number, part in enumerate(tf.nest.flatten(getattr(template, field.name))):
                name, part = f"{field.name}[{number}]", np.asarray(part)
                if part.dtype.kind not in "biufc":
                    raise TypeError(f"{name} is of {part.dtype}; a store keeps numbers only.")
                self._fields.append((name, part.dtype.newbyteorder("<"), part.shape))
                self.kinds[name] = _kind(part.dtype, part.shape)
                self.size += part.nbytes

    @functools.cached_property
    def dtype(self) -> np.dtype:
        """A structured dtype, one field per part, such as `local_weights[0]`."""
        return np.dtype(self._fields)

    def parts(self, state, owner: str, *, stacked: bool = False) -> list[np.ndarray]:
        """Returns the parts of a state, each with a first axis of states.

        Args:
            state: of the template's kind.
            owner: whose state it is, for the message.
            stacked: whether it is a stack of several.

        Raises:
            TypeError: if it is of another type.
            ValueError: if a part is not of the shape and dtype that the layout has.
        """
        if not isinstance(state, type(self._template)):
            raise TypeError(
                f"The state of {owner} is a {type(state).__name__}; the store keeps a "
                f"{type(self._template).__name__}."
            )
        parts = [np.asarray(part) for part in tf.nest.flatten(state)]
        if len(parts) != len(self.kinds):
            raise ValueError(
                f"The state of {owner} has {len(parts)} parts; the store keeps {len(self.kinds)}, "
                "so it is of another model."
            )
        parts = parts if stacked else [part[None] for part in parts]
        for (name, kind), part in zip(self.kinds.items(), parts, strict=True):
            found = _kind(part.dtype, part.shape[1:])
            if found != kind or not part.shape[:1] == parts[0].shape[:1] != ():
                raise ValueError(
                    f"{name} of the state of {owner} is {found}; the store keeps {kind}, so it is "
                    "of another model."
                )
        return parts

    def rows(self, parts: list[np.ndarray]) -> np.ndarray:
        """Lays parts side by side; returns dtype[n], one row for each state."""
        rows = np.empty(len(parts[0]), self.dtype)
        for name, part in zip(self.kinds, parts, strict=True):
            rows[name] = part
        return rows

    def packed(self, parts: list[np.ndarray]):
        """Returns parts as a state of the template's kind."""
        return tf.nest.pack_sequence_as(self._template, parts)

    def state(self, rows):
        """Returns rows as a stacked state, or a single one of them as one state."""
        return self.packed([rows[name].copy() for name in self.dtype.names])

    def read(self, data: bytes, checksum: int, owner: str) -> np.void:
        """Returns the row that bytes hold, if they are the bytes that were written.

        Args:
            data: the bytes of one row.
            checksum: their CRC-32 when they were written.
            owner: whose state this is, for the message.

        Raises:
            StoreError: if they are not.
        """
        size = len(data) if isinstance(data, bytes) else 0
        if size != self.dtype.itemsize and not (self._has_tables and 0 < size < self.size):
            raise StoreError(
                f"The state of {owner} has {size} bytes and not {self.dtype.itemsize}: the "
                "store is damaged; go back to a backup."
            )
        row = None
        if zlib.crc32(data) == checksum:
            dense = size == self.dtype.itemsize
            row = np.frombuffer(data, self.dtype)[0] if dense else _from_touched_rows(data, self)
        if row is None:
            raise StoreError(
                f"The state of {owner} is not what was written: the store is damaged; go back to "
                "a backup."
            )
        return row

    @property
    def _has_tables(self) -> bool:
        """Whether a part may be written as its touched rows."""
        return any(_is_table(shape) for *_, shape in self._fields)


_FEWEST_ROWS = 16  # of a part that is taken for a table


def _is_table(shape: tuple) -> bool:
    """Tells whether a part of a state may be written as its touched rows."""
    return len(shape) > 1 and shape[0] >= _FEWEST_ROWS


def as_bytes(row: np.ndarray | np.void) -> dict:
    """Returns a row as a store has it, bytes in `state` and their checksum in `crc32`.

    Where that is shorter, tables are written as their touched rows: one bit for each row, which
    tells whether a bit of it is set, and then the rows of which one is. All else is as it is.
    """
    data, row = row.tobytes(), np.asarray(row).reshape(-1)[0]
    if any(_is_table(kind.shape) for kind, *_ in row.dtype.fields.values()):
        touched = b"".join(map(_touched_rows, (row[name] for name in row.dtype.names)))
        data = min(data, touched, key=len)
    return dict(crc32=zlib.crc32(data), state=data)


def _touched_rows(part: np.ndarray) -> bytes:
    """Returns a table as which rows are touched, and these rows; any other part as it is."""
    part = np.ascontiguousarray(part)
    if not _is_table(part.shape):
        return part.tobytes()
    touched = part.view(np.uint8).reshape(len(part), -1).any(axis=1)
    return np.packbits(touched).tobytes() + part[touched].tobytes()


def _from_touched_rows(data: bytes, layout: Layout) -> np.void | None:
    """Returns the row that was written as touched rows; `None` if the lengths do not fit."""
    row, at = np.zeros((), layout.dtype), 0
    for name in layout.dtype.names:
        part = row[name]
        if _is_table(part.shape):
            bits = np.frombuffer(data[at : at + -(-len(part) // 8)], np.uint8)
            at += -(-len(part) // 8)
            touched = np.unpackbits(bits, count=len(part)).astype(bool)
        else:
            part, touched = part.reshape(1, -1), np.ones(1, bool)
        shape = touched.sum(), *part.shape[1:]
        size = int(np.prod(shape)) * part.itemsize
        if len(data) < at + size:
            return None
        part[touched] = np.frombuffer(data[at : at + size], part.dtype).reshape(shape)
        at += size
    return row[()] if at == len(data) else None


def not_finite(parts: list[np.ndarray]) -> int | None:
    """Returns which of some states holds an infinity or no number, if one does."""
    for part in parts:
        if part.dtype.kind in "fc":
            sound = np.isfinite(part).reshape(len(part), -1).all(axis=1)
            if not sound.all():
                return int(np.flatnonzero(~sound)[0])
    return None


def _kind(dtype: np.dtype, shape: tuple) -> str:
    return f"{dtype.name}{list(shape)}"
