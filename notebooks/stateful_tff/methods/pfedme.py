"""pFedMe: the shared model is where the personal ones, held near it, agree.

Source: Dinh et al. 2020, "Personalized Federated Learning with Moreau Envelopes", algorithm 1.
Keeps the personal model, which only predicts: no later training reads it. Sends the change of
the client's copy of the shared one. The server's rate is beta of the paper. Differs: the inner
problem is on all of a client's data, in passes, where the paper takes one mini-batch for each
local round. Knows nothing of engines and stores.
"""

import attrs

from ..checks import finite_number, num_passes
from ..state import ClientOutput
from .method import DataPass, Method, difference
from .whole_model import (
    checked_strength,
    equally,
    keep_whole_model,
    strength_at,
    toward,
    train_whole,
    whole_model,
)


def pfedme(
    strength: float = 1.0, rate: float = 0.1, local_rounds: int = 2, epochs: int = 1
) -> Method:
    """Returns pFedMe.

    Args:
        strength: lambda of the paper, the pull of the personal model toward the shared one; it
            may be a function of the number of the round.
        rate: eta of the paper; a local round moves the client's copy of the shared model by
            `rate * strength` of its distance from the personal one.
        local_rounds: R of the paper.
        epochs: passes over the data in each local round.
    """
    strength, rate = checked_strength("strength", strength), finite_number("rate", rate, 0)
    local_rounds = num_passes("local_rounds", local_rounds)

    def update(trainer, data, client_state, server_message) -> ClientOutput:
        received = copy = own = server_message.model_weights
        pull = strength_at(strength, server_message)
        for part in data if local_rounds > 1 else [data]:
            own, trained = train_whole(trainer, part, own, toward(copy, pull))
            copy = [w - rate * pull * (w - o) for w, o in zip(copy, own, strict=True)]
        state = attrs.evolve(client_state, local_weights=own)
        delta = difference(copy, received)
        return ClientOutput(delta, equally(trained), trained.metrics, state)

    passes = (DataPass("all", epochs),) * local_rounds
    return Method("pFedMe", keep_whole_model, update, server_weights_fn=whole_model, passes=passes)
