"""PFedRec: a private score function, and an item table of one's own after each visit.

Source: Zhang et al. 2023, "Dual Personalization on Federated Recommendation" (IJCAI),
algorithm 1. Knows nothing of engines and stores.
"""

import attrs
import tensorflow as tf

from ..checks import one_of
from ..state import ClientOutput
from .method import Method, difference, keep_local_weights
from .trainers import IN_TURN
from .weighting import equal_weights

NOTHING, SCORES, TABLE = "nothing", "scores", "table"


@attrs.frozen
class ScoreThenItems:
    """A client update that moves the score function, then, with it, the items, batch by batch.

    Attributes:
        keeps: what the state holds of the client's own item table; see `pfedrec`.
    """

    keeps: str

    def __call__(self, trainer, data, client_state, server_message) -> ClientOutput:
        """Returns a `ClientOutput`, as `method.client_update` does."""
        received = server_message.model_weights
        score = client_state.local_weights[: len(trainer.local_weights)]
        trained = trainer.train(data, received, score, moves=IN_TURN)
        delta = difference(trained.global_weights, received)
        kept = {NOTHING: [], TABLE: delta}.get(self.keeps)
        if kept is None:
            vector = trained.local_weights[0]
            kept = [tf.matmul(table, vector, transpose_b=True) for table in delta]
        state = attrs.evolve(client_state, local_weights=[*trained.local_weights, *kept])
        return ClientOutput(delta, trained.num_examples, trained.metrics, state)


@attrs.frozen
class KeepScoreAnd:
    """The first state of a client that keeps its score function and something of its table."""

    keeps: str

    def __call__(self, trainer):
        """Returns the state, with zeros for every item."""
        state = keep_local_weights(trainer)
        rest = {
            NOTHING: [],
            SCORES: [tf.zeros_like(weight[:, :1]) for weight in trainer.global_weights],
            TABLE: [tf.zeros_like(weight) for weight in trainer.global_weights],
        }[self.keeps]
        return attrs.evolve(state, local_weights=[*state.local_weights, *rest])


def pfedrec(keeps: str = NOTHING) -> Method:
    """Returns PFedRec. Its server takes the plain mean of the clients' item tables.

    The next visit starts from the server's table, so a client's own table is no more than what
    its last visit made of the one it received. It serves the client until the next visit, and
    no step of training reads it.

    Args:
        keeps: what the state holds of it, in zeros where the client touched nothing: "nothing";
            "scores", `[num_items, 1]`, by how much each item's score differs under the trained
            score function; or "table", `[num_items, k]`, by how much each row differs.

    Raises:
        ValueError: if it is none of these.
    """
    keeps = one_of("keeps", keeps, (NOTHING, SCORES, TABLE))
    return equal_weights(Method("PFedRec", KeepScoreAnd(keeps), ScoreThenItems(keeps)))
