"""Rounds in which TFF calls the client work once for each client: any model, any method.

Knows nothing of the details of methods, and nothing of stores.
"""

from collections.abc import Callable

import tensorflow as tf
import tensorflow_federated as tff

from ..methods import stateful
from ..methods.method import Method
from ..methods.optimizers import Optimizers
from ..methods.trainers import VariableTrainer
from .round import FederatedProcess, first_state_fn, sums_of, trace_round


def build_process(method: Method, model_fn: Callable, optimizers: Optimizers) -> FederatedProcess:
    """Builds the process of a method for any model, one client at a time.

    Args:
        method: the method.
        model_fn: builds a new `VariableModel` at each call, with `local_model_variables` and
            `global_model_variables` as lists of `tf.Variable`; or a `FunctionalModel`.
        optimizers: of the server, the clients and their local weights.

    Returns:
        A process with `initialize() -> server_state` and `next(server_state, datasets,
        client_states) -> (server_state, metrics, client_states)`. `datasets` and
        `client_states` are lists over the cohort; for a method of several passes a client's
        data is a tuple of datasets. `metrics` are the model's, over all examples of the
        cohort. The states that come back name their client by their index.

    Raises:
        TypeError: if the model does not name its groups.
        ValueError: if a variable is in both groups.
    """
    model_fn = getattr(model_fn, "model_fn", model_fn)
    input_spec, finalizers = _checked(model_fn)

    def trainer_fn():
        return VariableTrainer(model_fn(), optimizers)

    def work(trainer, data, client_state, message):
        output = method.client_update(trainer, data, client_state, message)
        return sums_of(output), output.client_state

    def inputs(clients, cohort, round_num):
        passes = [
            clients.part(one.data).for_round(cohort, round_num, one.epochs)
            for one in method.passes
        ]
        data = passes[0] if len(passes) == 1 else [list(parts) for parts in zip(*passes)]
        return data, [int(client) for client in cohort]

    batches = tff.SequenceType(tff.types.tensorflow_to_type(input_spec))
    count = len(method.passes)
    functions = trace_round(
        method,
        trainer_fn,
        optimizers.server,
        finalizers,
        batches if count == 1 else tff.StructWithPythonType([batches] * count, list),
        work,
    )
    return FederatedProcess(functions, inputs, first_state_fn(method, trainer_fn))


def build_stateful_fed_avg(
    model_fn: Callable, server_optimizer, client_optimizer, local_optimizer
) -> FederatedProcess:
    """Builds federated averaging in which clients keep their local variables.

    Args:
        model_fn: see `build_process`.
        server_optimizer: moves the global variables at the server, once per round.
        client_optimizer: moves the client's copy of the global variables, once per batch.
        local_optimizer: moves the client's local variables, once per batch.
    """
    optimizers = Optimizers(server_optimizer, client_optimizer, local_optimizer)
    return build_process(stateful, model_fn, optimizers)


def _checked(model_fn: Callable) -> tuple:
    """Refuses models without groups; returns the type of a batch and the finalizers."""
    with tf.Graph().as_default():  # keeps the variables of this model out of the reader's way
        model, groups = model_fn(), {}
        for name in ("local_model_variables", "global_model_variables"):
            groups[name] = getattr(model, name, None)
            if not groups[name]:
                raise TypeError(f"The model of model_fn has no {name}; chapter 3 adds them.")
        names = {name: {id(v) for v in variables} for name, variables in groups.items()}
        if names["local_model_variables"] & names["global_model_variables"]:
            raise ValueError("A variable is both local and global; it must be one of the two.")
        return model.input_spec, model.metric_finalizers()
