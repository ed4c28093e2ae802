"""PFedRec: a private score function, and an item table of one's own after each visit.

Source: Zhang et al. 2023, "Dual Personalization on Federated Recommendation" (IJCAI),
algorithm 1. Knows nothing of engines and stores.
"""

import attrs
import tensorflow as tf

from ..checks import yes_or_no
from ..state import ClientOutput
from .method import DataPass, Method, difference, keep_local_weights
from .trainers import IN_TURN
from .weighting import equal_weights


@attrs.frozen
class ScoreThenItems:
    """A client update that moves the score function, then, with it, the items, batch by batch.

    Where the client's state holds more than the model's local weights, the rest is by how much
    the client's own item table differs from the one that it received.
    """

    def __call__(self, trainer, data, client_state, server_message) -> ClientOutput:
        """Returns a `ClientOutput`, as `method.client_update` does."""
        received, kept = server_message.model_weights, client_state.local_weights
        own = kept[: len(trainer.local_weights)]
        trained = trainer.train(data, received, own, moves=IN_TURN)
        delta = difference(trained.global_weights, received)
        rest = delta if len(kept) > len(own) else []
        state = attrs.evolve(client_state, local_weights=[*trained.local_weights, *rest])
        return ClientOutput(delta, trained.num_examples, trained.metrics, state)


def keep_table(trainer):
    """Returns the first state of a client that also keeps its own item table, as a change."""
    state = keep_local_weights(trainer)
    rest = [tf.zeros_like(weight) for weight in trainer.global_weights]
    return attrs.evolve(state, local_weights=[*state.local_weights, *rest])


def pfedrec(keeps_table: bool = False) -> Method:
    """Returns PFedRec. Its server takes the plain mean of the clients' item tables.

    The next visit starts from the server's table, so a client's own table is no more than the
    result of its last visit. It serves the client until then, and nothing else reads it.

    Args:
        keeps_table: whether the state holds that table, as the change of the received one: its
            rows are zero where the client touched nothing. Else a client that wants it visits
            once more.
    """
    keep = keep_table if yes_or_no("keeps_table", keeps_table) else keep_local_weights
    return equal_weights(Method("PFedRec", keep, ScoreThenItems(), passes=(DataPass(),)))
