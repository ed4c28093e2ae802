"""Methods made of phases: which data, which weights move, how many epochs, and when.

Knows nothing of engines and stores.
"""

from collections.abc import Callable

import attrs

from ..state import ClientOutput, ClientState
from .method import Method, difference, keep_local_weights
from .trainers import BOTH, GLOBAL, LOCAL


@attrs.frozen
class Phase:
    """One pass of a client's local training.

    Attributes:
        data: "all", or a half of the client's examples: "support" or "query".
        moves: `LOCAL`, `GLOBAL` or `BOTH`, the weights that move; the others are frozen.
        epochs: how many passes over the data.
        when: `(client_state) -> bool`, whether this client takes the phase; left out, always.
    """

    data: str = attrs.field(default="all", validator=attrs.validators.in_(("all", "support", "query")))
    moves: str = attrs.field(default=BOTH, validator=attrs.validators.in_((LOCAL, GLOBAL, BOTH)))
    epochs: int = 1
    when: Callable | None = None


@attrs.frozen
class InPhases:
    """A client update that takes one phase after the other.

    It starts from the local weights that the client's state holds, or from the model's first ones
    where the state's type holds none. Weight and metrics are those of the last phase.

    Attributes:
        phases: at least one `Phase`.
    """

    phases: tuple

    def __call__(self, trainer, data, client_state: ClientState, server_message) -> ClientOutput:
        """Trains as `client_update` of `stateful_tff.methods.method` does, phase by phase."""
        received, kept = server_message.model_weights, client_state.local_weights
        weights = received, kept if len(kept) else trainer.local_weights
        state = client_state.optimizer_state
        for phase, part in zip(self.phases, data if len(self.phases) > 1 else [data], strict=True):
            if phase.when is not None:
                part = trainer.only_if(phase.when(client_state), part)
            trained = trainer.train(part, *weights, moves=phase.moves, optimizer_state=state)
            weights, state = (trained.global_weights, trained.local_weights), trained.optimizer_state
        new = attrs.evolve(
            client_state, local_weights=weights[1] if len(kept) else [], optimizer_state=state
        )
        delta = difference(weights[0], received)
        return ClientOutput(delta, trained.num_examples, trained.metrics, new)


def in_phases(
    name: str, *phases: Phase, client_state_fn: Callable = keep_local_weights, **functions
) -> Method:
    """Returns the method of a client that trains in phases.

    Args:
        name: for tables and messages.
        *phases: what the client does, in this order.
        client_state_fn: what the client keeps; `keep_nothing` starts from the first weights in
            every round.
        **functions: what else `Method` takes.
    """
    update = InPhases(tuple(phases))
    return Method(name, client_state_fn, update, passes=update.phases, **functions)
