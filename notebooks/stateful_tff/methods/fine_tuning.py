"""What a client predicts with: read from the types of its state and of the server's weights.

Knows nothing of engines and stores.
"""

import numpy as np

from ..state import ClientState


def predicting_weights(model, client_states: ClientState, server_weights) -> tuple[list, list]:
    """Returns the global and the local weights with which each client predicts.

    A client whose state holds a whole model predicts with that, or, before its first visit, with
    the server's, if that is whole. One whose state holds local weights puts them on the server's
    global ones. One who keeps nothing takes everything from the server. What a method keeps of
    the training (control variates) is not used.

    Args:
        model: the `FunctionalModel` that was trained.
        client_states: stacked states.
        server_weights: the server's `model_weights`.

    Returns:
        Two lists of arrays, each with a first axis of clients, to train on or to predict with.
    """
    size = len(model.global_weights)
    number = size + len(model.local_weights)
    kept = [np.asarray(part) for part in client_states.local_weights]
    visits = np.asarray(client_states.num_visits)

    def everybody(weights):
        return [np.repeat(np.asarray(w)[None], len(visits), axis=0) for w in weights]

    sent = everybody(server_weights[:number])
    if len(kept) == number and len(sent) == number:
        new = visits == 0
        for mine, theirs in zip(kept, sent, strict=True):
            mine[new] = theirs[new]
    if len(kept) == number:
        whole = kept
    elif kept:
        whole = sent[:size] + kept
    else:
        whole = sent + everybody(model.local_weights)[: number - len(sent)]
    return whole[:size], whole[size:]
