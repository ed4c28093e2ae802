"""A round as data: four typed functions, and their placement by TFF.

Knows nothing of the details of methods and models, and nothing of stores.
"""

from collections import OrderedDict
from collections.abc import Callable

import attrs
import tensorflow as tf
import tensorflow_federated as tff

from ..methods.method import Method
from ..state import ClientState


@attrs.frozen(eq=False)
class RoundFunctions:
    """The four functions of a round, typed, without any placement.

    Attributes:
        initialize: `() -> server_state`.
        message: `(server_state) -> message`.
        client_work: `(data, client_state, message) -> (sums, client_state)`; for one client or,
            with stacked states, for several. `sums` may be added up over clients.
        finish: `(server_state, sums) -> (server_state, metrics)`.
    """

    initialize: tff.Computation
    message: tff.Computation
    client_work: tff.Computation
    finish: tff.Computation


def visited(state: ClientState, before: ClientState, server_message) -> ClientState:
    """Returns a client's new state with its own index, and with this round as its last one."""
    return attrs.evolve(
        state,
        index=before.index,
        last_round=tf.zeros_like(before.last_round) + server_message.round_num + 1,
        num_visits=before.num_visits + 1,
    )


def sums_of(output) -> OrderedDict:
    """Returns what a client sends to the server, in a form that adds up over clients."""
    weight = output.client_weight
    return OrderedDict(
        weighted_delta=[weight * delta for delta in output.weights_delta],
        client_weight=weight,
        metrics=output.metrics,
    )


def trace_round(
    method: Method,
    trainer_fn: Callable,
    server_optimizer,
    finalizers: OrderedDict,
    data_type: tff.Type,
    work: Callable,
    *,
    stacked: bool = False,
) -> RoundFunctions:
    """Types the four functions of a method's round.

    Args:
        method: the method.
        trainer_fn: returns a new trainer; called once in each graph.
        server_optimizer: moves the global weights.
        finalizers: per metric the function from its summed parts to its value.
        data_type: the type of a client's data, or of several clients'.
        work: `(trainer, data, client_state, message) -> (sums, client_state)`.
        stacked: whether `work` takes and returns stacked states.
    """

    @tff.tensorflow.computation
    def initialize():
        return method.first_server_state(trainer_fn(), server_optimizer)

    @tff.tensorflow.computation
    def first_client_state():
        return method.client_state_fn(trainer_fn())

    server_state_type = initialize.type_signature.result
    client_state_type = first_client_state.type_signature.result
    message = tff.tensorflow.computation(method.build_server_broadcast_message, server_state_type)

    @tff.tensorflow.computation(
        data_type,
        stacked_type(client_state_type) if stacked else client_state_type,
        message.type_signature.result,
    )
    def client_work(data, client_state, server_message):
        trainer = trainer_fn()

        # A function of its own, so that its operations run in the order in which they stand.
        @tf.function(autograph=False)
        def update():
            sums, new_state = work(trainer, data, client_state, server_message)
            return sums, visited(new_state, client_state, server_message)

        return update()

    @tff.tensorflow.computation(server_state_type, client_work.type_signature.result[0])
    def finish(server_state, sums):
        total = sums["client_weight"]
        mean = [tf.math.divide_no_nan(delta, total) for delta in sums["weighted_delta"]]
        new_state = method.server_update(server_state, server_optimizer, mean, total)
        metrics = [(name, last(sums["metrics"][name])) for name, last in finalizers.items()]
        return new_state, OrderedDict(metrics)

    return RoundFunctions(initialize, message, client_work, finish)


def stacked_type(state_type: tff.Type) -> tff.Type:
    """Returns the type of many states in one: every tensor gets a first axis of any length."""

    def stack(kind):
        if isinstance(kind, tff.TensorType):
            return tff.TensorType(kind.dtype, [None, *kind.shape]), True
        return kind, False

    return tff.types.type_transformations.transform_type_postorder(state_type, stack)[0]


class FederatedProcess(tff.templates.IterativeProcess):
    """A round placed by TFF: `initialize()` and `next(server_state, data, client_states)`.

    Args:
        functions: the `RoundFunctions`.
        inputs: `(clients, cohort, round_num) -> (data, ids)`: the data of a round, a list, and
            for each part of it the id of its client, or the ids of its clients.
        client_state_fn: `() -> ClientState`, the state of a client that was never visited.
    """

    def __init__(self, functions: RoundFunctions, inputs: Callable, client_state_fn: Callable):
        """See the class."""
        super().__init__(*placed(functions))
        self.functions, self.inputs, self.client_state_fn = functions, inputs, client_state_fn


def placed(functions: RoundFunctions) -> tuple[tff.Computation, tff.Computation]:
    """Places the functions of a round: who computes what, and what moves where.

    Args:
        functions: the `RoundFunctions`.

    Returns:
        `initialize` and `next`.
    """
    data_type, client_state_type, _ = functions.client_work.type_signature.parameter
    server_state_type = functions.initialize.type_signature.result

    @tff.federated_computation
    def initialize():
        return tff.federated_eval(functions.initialize, tff.SERVER)

    @tff.federated_computation(
        tff.FederatedType(server_state_type, tff.SERVER),
        tff.FederatedType(data_type, tff.CLIENTS),
        tff.FederatedType(client_state_type, tff.CLIENTS),
    )
    def run_one_round(server_state, data, client_states):
        message = tff.federated_broadcast(tff.federated_map(functions.message, server_state))
        sums, client_states = tff.federated_map(
            functions.client_work, (data, client_states, message)
        )
        total = tff.federated_sum(sums)
        server_state, metrics = tff.federated_map(functions.finish, (server_state, total))
        return server_state, metrics, client_states

    return initialize, run_one_round


def first_state_fn(method: Method, trainer_fn: Callable) -> Callable[[], ClientState]:
    """Returns the function that makes the state of a client that was never visited."""

    def client_state_fn() -> ClientState:
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            state = tf.nest.map_structure(
                tf.convert_to_tensor, method.client_state_fn(trainer_fn())
            )
            session.run(tf.compat.v1.global_variables_initializer())
            values = session.run(tf.nest.flatten(state))
        return tf.nest.pack_sequence_as(state, values)

    return client_state_fn


def types_sent_to_server(computation: tff.Computation) -> list[tff.Type]:
    """Lists the types of all values that a computation moves from the clients to the server.

    Args:
        computation: a federated computation, such as `process.next`.

    Returns:
        The member types of the client-placed arguments of every aggregation in it.
    """
    sent = []

    def members_at_clients(value_type):
        if isinstance(value_type, tff.StructType):
            for part in value_type:
                yield from members_at_clients(part)
        elif isinstance(value_type, tff.FederatedType) and value_type.placement is tff.CLIENTS:
            yield value_type.member

    def visit(block):
        signature = block.type_signature
        if isinstance(block, tff.framework.Intrinsic) and isinstance(signature, tff.FunctionType):
            result = signature.result
            if isinstance(result, tff.FederatedType) and result.placement is tff.SERVER:
                sent.extend(members_at_clients(signature.parameter))
        return block, False

    tff.framework.transform_postorder(computation.to_building_block(), visit)
    return sent
