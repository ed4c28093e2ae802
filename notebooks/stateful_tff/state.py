"""What clients and server keep from round to round, and what they send each other.

Knows nothing of models, methods, engines or stores.
"""

import attrs


@attrs.frozen(eq=False)
class ClientState:
    """What one client keeps from round to round. It never reaches the server.

    A stacked `ClientState` holds several clients: every part has a first axis of clients.

    Attributes:
        index: the client's id, an int32 scalar. State is found again by it, never by position.
        local_weights: what the client keeps of the model, a list of tensors; `[]` for a method
            that keeps nothing.
        optimizer_state: the state of the optimizer of the local weights, or `()` where that
            optimizer starts afresh in each round.
        last_round: the number, from 1, of the last round the client took part in, an int32
            scalar; 0 for never.
        num_visits: the number of rounds it took part in, an int32 scalar.
    """

    index = attrs.field()
    local_weights = attrs.field()
    optimizer_state = attrs.field(default=())
    last_round = attrs.field(default=0)
    num_visits = attrs.field(default=0)


@attrs.frozen(eq=False)
class ClientOutput:
    """What one client's work in a round results in.

    Attributes:
        weights_delta: trained minus received global weights, in the structure of the message's
            weights.
        client_weight: the client's weight in the mean, its number of examples, float32.
        metrics: the model's unfinalized metrics, sums over the client's examples.
        client_state: the client's new `ClientState`.
    """

    weights_delta = attrs.field()
    client_weight = attrs.field()
    metrics = attrs.field()
    client_state = attrs.field()


@attrs.frozen(eq=False)
class ServerState:
    """What the server keeps from round to round.

    Attributes:
        model_weights: the global model weights, a list of tensors.
        optimizer_state: the state of the server's optimizer.
        round_num: how many rounds are done, an int32 scalar.
    """

    model_weights = attrs.field()
    optimizer_state = attrs.field()
    round_num = attrs.field()


@attrs.frozen(eq=False)
class BroadcastMessage:
    """What the server sends to every client of the cohort.

    Attributes:
        model_weights: the global model weights, a list of tensors.
        round_num: how many rounds are done, an int32 scalar.
    """

    model_weights = attrs.field()
    round_num = attrs.field()
