"""The implicit sum of many packed clients at once: what a second table says of their own items.

See `methods.implicit_sum`. Knows nothing of stores and TFF's placements.
"""

from __future__ import annotations

import attrs
import tensorflow as tf

from .packed_steps import Batches, weighted_rows
from .packing import BLOCK


@attrs.frozen(eq=False)
class OwnItems:
    """Which items each client of a shard has rated.

    Attributes:
        count: how many clients.
        client: int32[m], the row of each rating's client among the states.
        item: int32[m].
        share: float32[m], the inverse root of the client's number of ratings; zero where there
            is no rating.
        steps: float32[m], the client's number of batches.
    """

    count = attrs.field()
    client = attrs.field()
    item = attrs.field()
    share = attrs.field()
    steps = attrs.field()

    @classmethod
    def of(cls, batches: Batches) -> OwnItems:
        """Returns the items of the ratings that the batches hold."""
        shard, at = batches.shard, batches.shard.items[0]
        place = shard.block[:, None] * BLOCK + tf.range(BLOCK)[None]
        place = tf.repeat(tf.reshape(place, [-1]), tf.shape(at)[2])
        ratings = tf.gather(batches.num_examples, place)
        size = tf.cast(tf.shape(at)[2], tf.float32)
        return cls(
            tf.size(shard.index),
            tf.gather(shard.member, place),
            tf.reshape(at, [-1]),
            tf.math.divide_no_nan(tf.reshape(batches.valid, [-1]), tf.sqrt(ratings)),
            tf.math.ceil(ratings / size),
        )

    def told(self, table):
        """Returns what the table says of each client's items, float32[n, k]."""
        return weighted_rows(self.client, self.item, self.share, self.count, table)

    def change(self, update, client_weights, p, num_items: int):
        """Returns the weighted sum of the clients' changes of the table, float32[num_items, k].

        Args:
            update: the `ImplicitSum`.
            client_weights: float32[n].
            p: float32[n, k], what the clients keep.
            num_items: rows of the table.
        """
        weights = self.steps * tf.gather(client_weights, self.client)
        often = update.change(self.share, weights, 1.0)
        return weighted_rows(self.item, self.client, often, num_items, p)
