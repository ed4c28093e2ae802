"""One dataset per client, under the client's id: of ratings, or of any arrays.

Knows nothing of models, methods, engines and TFF.
"""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

import numpy as np
import tensorflow as tf

from ..checks import client_id as checked_id
from ..checks import client_ids as checked_ids
from ..checks import num_passes, shown, whole_number
from .orders import permutations
from .ratings import DataError, Ratings


class DatasetsByClient(Mapping):
    """What `ClientDatasets` and `ExampleDatasets` share: a slice of two arrays for each client.

    A client's dataset holds batches `OrderedDict(x=[?, ...], y=[?, ...])`.

    Attributes:
        x: the inputs of all clients, client after client, [N, ...].
        y: the targets of all clients, [N, ...].
        counts: int64[num_clients], the number of examples of each client.
        starts: int64[num_clients]; client c's rows of `x` and `y` are
            `starts[c] : starts[c] + counts[c]`.
        batch_size: examples per batch; the last batch of a client or of an epoch may be smaller.
        shuffle_seed: decides every order that `for_round` deals; `None` refuses to deal any.
        element_spec: the types of a batch, as TensorFlow writes them.
        differ_by_round: whether rounds have other examples, and not only other orders.
    """

    differ_by_round = False

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        counts: np.ndarray,
        batch_size: int,
        shuffle_seed: int | None,
    ):
        """Keeps the arrays, which hold the examples of client 0, then of client 1, and so on."""
        self.batch_size = whole_number("batch_size", batch_size, 1)
        if shuffle_seed is not None:
            shuffle_seed = whole_number("shuffle_seed", shuffle_seed, 0)
        self.shuffle_seed = shuffle_seed
        self.element_spec = OrderedDict(
            (name, tf.TensorSpec([None, *array.shape[1:]], array.dtype))
            for name, array in (("x", x), ("y", y))
        )
        specs = self.element_spec.values()
        self._types = [spec.dtype for spec in specs]
        self._batch_shapes = [spec.shape for spec in specs]
        self._row_shapes = [spec.shape[1:] for spec in specs]
        self._keep(x, y, counts)

    def _keep(self, x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> None:
        self.x, self.y, self.counts = x, y, np.asarray(counts, np.int64)
        self.starts = np.cumsum(self.counts) - self.counts
        self._parts = {}

    @property
    def num_clients(self) -> int:
        """The size of the population; ids run from 0 to `num_clients - 1`."""
        return len(self.counts)

    def __len__(self) -> int:
        """Number of clients."""
        return len(self.counts)

    def __iter__(self) -> Iterator[int]:
        """The ids of the clients."""
        return iter(range(len(self)))

    def __contains__(self, client_id) -> bool:
        """Whether this is the id of a client."""
        try:
            checked_id(client_id, self.num_clients)
        except (TypeError, ValueError):
            return False
        return True

    def __getitem__(self, client_id: int) -> tf.data.Dataset:
        """A client's examples in stored order, for evaluation.

        Raises:
            TypeError: if the id is no whole number.
            ValueError: if no client has this id.
        """
        return self._batches(*DatasetsByClient.arrays(self, client_id))

    def get(self, client_id, default=None):
        """Returns a client's dataset, or the default where no client has this id."""
        return self[client_id] if client_id in self else default

    def arrays(self, client_id: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns a client's inputs and targets in stored order; see `[]` for the errors."""
        rows = self._rows(checked_id(client_id, self.num_clients))
        return self.x[rows], self.y[rows]

    def for_round(
        self, client_ids: Iterable[int], round_num: int, epochs: int = 1
    ) -> list[tf.data.Dataset]:
        """Returns the datasets of one round of training, in the order of the ids.

        The order of a client's examples depends on the shuffle seed, the client, the round and
        the epoch alone; `orders.permutations` makes it. No batch spans two epochs.

        Args:
            client_ids: the clients of the round, each once.
            round_num: the number of the round, from 0.
            epochs: passes over each client's examples.

        Raises:
            DataError: without a shuffle seed.
            TypeError: if an id or a number is no whole number.
            ValueError: if an id is unknown or comes twice, or a number is too small.
        """
        if self.shuffle_seed is None:
            raise DataError(
                f"for_round shuffles examples; give {type(self).__name__} a shuffle_seed."
            )
        round_num = whole_number("round_num", round_num, 0)
        epochs = num_passes("epochs", epochs)
        ids = checked_ids(client_ids, self.num_clients)
        x_all, y_all, counts = self.in_round(ids, round_num)
        orders = iter(permutations(self.shuffle_seed, ids, counts, round_num, epochs))
        datasets = []
        for start, count in zip(np.cumsum(counts) - counts, counts, strict=True):
            x, y = x_all[start : start + count], y_all[start : start + count]
            passes = [self._batches(x[order], y[order]) for order in islice(orders, epochs)]
            datasets.append(functools.reduce(tf.data.Dataset.concatenate, passes))
        return datasets

    def in_round(self, client_ids: np.ndarray, round_num: int) -> tuple:
        """Returns the examples of some clients in a round, in stored order.

        Args:
            client_ids: int64[n], each once.
            round_num: the number of the round, from 0; here every round has the same examples.

        Returns:
            Inputs and targets, client after client, and how many of each client, int64[n].
        """
        counts = self.counts[client_ids]
        begins = np.cumsum(counts) - counts
        rows = np.arange(counts.sum()) + np.repeat(self.starts[client_ids] - begins, counts)
        return self.x[rows], self.y[rows], counts

    def part(self, name: str) -> DatasetsByClient:
        """Returns one part of every client's examples, as datasets of the same kind.

        Args:
            name: "all" for these datasets themselves; "support" for each client's examples 0,
                2, 4, … in stored order; "query" for 1, 3, 5, …. A client with one example has
                it in its support, and an empty query.
        """
        if isinstance(name, str) and name == "all":
            return self
        if not isinstance(name, str) or name not in ("support", "query"):
            raise ValueError(f"There is no part {shown(name)}; use 'all', 'support' or 'query'.")
        if name not in self._parts:
            index = np.arange(len(self.x)) - np.repeat(self.starts, self.counts)
            rows = index % 2 == (name == "query")
            queries = self.counts // 2
            part = copy.copy(self)
            part._keep(
                self.x[rows], self.y[rows], queries if name == "query" else self.counts - queries
            )
            self._parts[name] = part
        return self._parts[name]

    def _rows(self, client_id: int) -> slice:
        return slice(self.starts[client_id], self.starts[client_id] + self.counts[client_id])

    def _batches(self, x: np.ndarray, y: np.ndarray) -> tf.data.Dataset:
        """What `from_tensor_slices(OrderedDict(x=x, y=y)).batch(batch_size)` returns, sooner.

        Most of the time of those two calls is bookkeeping around the two operations below.
        """
        slices = tf.raw_ops.TensorSliceDataset(components=[x, y], output_shapes=self._row_shapes)
        batches = tf.raw_ops.BatchDatasetV2(
            input_dataset=slices,
            batch_size=self.batch_size,
            drop_remainder=False,
            output_types=self._types,
            output_shapes=self._batch_shapes,
        )
        return tf.data.experimental.from_variant(batches, self.element_spec)


class ClientDatasets(DatasetsByClient):
    """One dataset per user, by contiguous id, also for users without ratings.

    A dataset holds batches `OrderedDict(x=int64[?, 1], y=float32[?, 1])` of movies and stars.

    Args:
        ratings: the ratings.
        batch_size: ratings per batch; a client's last batch may be smaller.
        max_ratings: at most so many of a client's oldest ratings, by time and, where times are
            equal, by a hash, so in whatever order the ratings are stored; `None` keeps all.
        max_clients: only the first so many users; `None` keeps all.
        shuffle_seed: decides every order that `for_round` gives.

    Raises:
        TypeError: if one of the numbers is no whole number.
        ValueError: if it is too small.
    """

    def __init__(
        self,
        ratings: Ratings,
        batch_size: int = 5,
        *,
        max_ratings: int | None = None,
        max_clients: int | None = None,
        shuffle_seed: int | None = None,
    ):
        """See the class."""
        bounds = ratings.bounds
        if max_clients is not None:
            bounds = bounds[: whole_number("max_clients", max_clients, 1) + 1]
        counts, rows = np.diff(bounds), slice(bounds[-1])
        if max_ratings is not None:
            limit = whole_number("max_ratings", max_ratings, 1)
            index = np.arange(bounds[-1]) - np.repeat(bounds[:-1], counts)
            oldest = ratings.in_time()[: bounds[-1]][index < limit]
            counts, rows = np.minimum(counts, limit), np.sort(oldest)
        items = ratings.table["item"].to_numpy(np.int64)[rows, None]
        stars = ratings.table["rating"].to_numpy(np.float32)[rows, None]
        super().__init__(items, stars, counts, batch_size, shuffle_seed)

    def arrays(self, client_id: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns a client's movies, int64[n], and stars, float32[n], in stored order."""
        items, stars = super().arrays(client_id)
        return items[:, 0], stars[:, 0]

    def num_ratings(self, client_id: int) -> int:
        """Returns how many ratings a client holds."""
        return int(self.counts[checked_id(client_id, self.num_clients)])


class ExampleDatasets(DatasetsByClient):
    """One dataset per client of any examples: inputs and targets, as arrays.

    Args:
        examples: for client 0, 1, … a pair of arrays of equal length, inputs and targets; a
            client may have none, as arrays of length 0.
        batch_size: examples per batch; a client's last batch may be smaller.
        shuffle_seed: decides every order that `for_round` gives.

    Raises:
        DataError: if a client's arrays do not fit together or with those of client 0.
        TypeError: if one of the numbers is no whole number.
        ValueError: if it is too small.
    """

    def __init__(self, examples: Sequence[tuple], batch_size: int, shuffle_seed: int | None = None):
        """See the class."""
        pairs = [_two_arrays(client, pair) for client, pair in enumerate(_all_of(examples))]
        if not pairs:
            raise DataError("examples is empty; give a pair of arrays for each client.")
        for client, (x, y) in enumerate(pairs):
            kinds = [(array.dtype, array.shape[1:]) for array in (x, y)]
            if not x.ndim or not y.ndim or len(x) != len(y):
                fault = "which are not of equal length"
            elif kinds != [(array.dtype, array.shape[1:]) for array in pairs[0]]:
                fault = "which do not fit those of client 0"
            else:
                continue
            raise DataError(
                f"Client {client} has inputs {x.dtype}{list(x.shape)} and targets "
                f"{y.dtype}{list(y.shape)}, {fault}; give each client alike arrays."
            )
        x, y = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
        super().__init__(x, y, [len(x) for x, _ in pairs], batch_size, shuffle_seed)


def _all_of(examples) -> list:
    """Returns the examples of all clients in a list, if they come in one."""
    if isinstance(examples, str | bytes | dict) or not hasattr(examples, "__iter__"):
        raise DataError(f"examples must list a pair of arrays for each client: {shown(examples)}.")
    return list(examples) if getattr(examples, "ndim", 1) else [examples]


def _two_arrays(client: int, pair) -> tuple[np.ndarray, np.ndarray]:
    """Returns the inputs and the targets of one client, if it has both."""
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise DataError(f"Client {client} has no pair of arrays, but {shown(pair)}.")
    try:
        pair = tuple(np.asarray(part) for part in pair)
    except ValueError as error:  # rows of several lengths
        raise DataError(f"Client {client} has an array with rows of several lengths.") from error
    if any(part.dtype.kind == "O" for part in pair):
        raise DataError(f"Client {client} has an array of objects; give numbers or texts.")
    return pair
