"""Large tables of many clients in memory, as the rows in which they differ from the first one.

Knows nothing of rounds, runs, models and databases.
"""

from __future__ import annotations

import numpy as np

_LARGE = 2**16  # bytes of one client's table


def rows_of_all(first: np.ndarray, num_clients: int) -> np.ndarray | TouchedRows:
    """Returns a part of the first state for each client: dense, or of a large table sparse.

    Args:
        first: the part of one client, with a first axis of 1.
        num_clients: for how many clients.
    """
    if first.ndim > 2 and first.nbytes >= _LARGE:
        return TouchedRows(first[0], num_clients)
    return np.repeat(first, num_clients, axis=0)


class TouchedRows:
    """The tables of all clients, which are read and written as if they were one array.

    Rows are compared bit by bit, so what is read is what was written.

    Args:
        first: the table that each client starts with.
        num_clients: how many clients there are.
    """

    def __init__(self, first: np.ndarray, num_clients: int):
        """See the class."""
        self._first = np.ascontiguousarray(first)
        nobody = np.zeros(0, np.int32), self._first[:0]
        self._touched = [nobody] * num_clients

    def __getitem__(self, ids) -> np.ndarray:
        """Returns the table of one client, or the stacked tables of several."""
        if np.ndim(ids):
            found = np.repeat(self._first[None], len(ids), axis=0)
        else:
            found, ids = self._first.copy(), [ids]
        for table, client in zip(found.reshape(-1, *self._first.shape), ids, strict=True):
            rows, values = self._touched[client]
            table[rows] = values
        return found

    def __setitem__(self, ids, tables) -> None:
        """Keeps the tables of several clients."""
        size = len(self._first)
        before = self._first.view(np.uint8).reshape(size, -1)
        for client, table in zip(ids, tables, strict=True):
            table = np.ascontiguousarray(table)
            touched = (table.view(np.uint8).reshape(size, -1) != before).any(axis=1)
            self._touched[client] = np.flatnonzero(touched).astype(np.int32), table[touched]

    def __array__(self, dtype=None) -> np.ndarray:
        """Returns all tables, dense."""
        return self[range(len(self._touched))].astype(dtype or self._first.dtype, copy=False)

    @property
    def nbytes(self) -> int:
        """The bytes that are kept."""
        return self._first.nbytes + sum(
            rows.nbytes + values.nbytes for rows, values in self._touched
        )
