"""Per-FedAvg: a shared start that is good after one more step.

Source: Fallah et al. 2020, "Personalized Federated Learning with Theoretical Guarantees",
algorithm 1, in its first-order form. A client keeps nothing; it adapts the received
model on the support half of its data, trains on from there on the query half, and sends that
second change. Clients count the same. Differs: one local update in each round, of a pass over
each half. Knows nothing of engines and stores.
"""

from ..state import ClientOutput
from .method import DataPass, Method, difference, keep_nothing
from .whole_model import equally, train_whole, whole_model


def per_fed_avg(epochs: int = 1) -> Method:
    """Returns first-order Per-FedAvg.

    Args:
        epochs: passes over the support half.
    """

    def update(trainer, data, client_state, server_message) -> ClientOutput:
        support, query = data
        adapted, _ = train_whole(trainer, support, server_message.model_weights)
        weights, trained = train_whole(trainer, query, adapted)
        delta = difference(weights, adapted)
        return ClientOutput(delta, equally(trained), trained.metrics, client_state)

    passes = DataPass("support", epochs), DataPass("query")
    return Method("Per-FedAvg", keep_nothing, update, server_weights_fn=whole_model, passes=passes)
