"""What the engines share: stacked types, first states, and a look at the reader's model.

Knows nothing of the details of methods, and nothing of stores.
"""

from collections.abc import Callable

import tensorflow as tf
import tensorflow_federated as tff

from ..methods.method import Method
from ..state import ClientState


def stacked_type(state_type: tff.Type) -> tff.Type:
    """Returns the type of many states in one: every tensor gets a first axis of any length."""

    def stack(kind):
        if isinstance(kind, tff.TensorType):
            return tff.TensorType(kind.dtype, [None, *kind.shape]), True
        return kind, False

    return tff.types.type_transformations.transform_type_postorder(state_type, stack)[0]


def first_state_fn(method: Method, trainer_fn: Callable) -> Callable[[], ClientState]:
    """Returns the function that makes the state of a client that was never visited.

    Args:
        method: the method, whose `client_state_fn` takes a trainer.
        trainer_fn: returns a new trainer.

    Returns:
        A function without arguments; its `ClientState` holds NumPy arrays and the index -1.
    """

    def client_state_fn() -> ClientState:
        return tf.nest.map_structure(
            lambda part: tf.convert_to_tensor(part).numpy(), method.client_state_fn(trainer_fn())
        )

    return client_state_fn


def model_types(model_fn: Callable, num_passes: int) -> tuple:
    """Returns what a round needs to know of a model, and refuses models without groups.

    Args:
        model_fn: builds a new `VariableModel` at each call.
        num_passes: how many data sets a client gets.

    Returns:
        The metric finalizers, and the type of a client's data: a sequence of batches, or
        several.

    Raises:
        TypeError: if the model does not name its groups.
        ValueError: if a variable is in both groups.
    """
    with tf.Graph().as_default():  # in a graph of its own, which is dropped
        model, groups = model_fn(), {}
        for name in ("local_model_variables", "global_model_variables"):
            groups[name] = getattr(model, name, None)
            if not groups[name]:
                raise TypeError(f"The model of model_fn has no {name}; chapter 3 adds them.")
        names = {name: {id(v) for v in variables} for name, variables in groups.items()}
        if names["local_model_variables"] & names["global_model_variables"]:
            raise ValueError("A variable is both local and global; it must be one of the two.")
        batches = tff.SequenceType(tff.types.tensorflow_to_type(model.input_spec))
        finalizers = model.metric_finalizers()
    if num_passes == 1:
        return finalizers, batches
    return finalizers, tff.StructWithPythonType([batches] * num_passes, list)


def client_datasets(passes, clients, cohort, round_num: int) -> tuple[list, list[int]]:
    """Returns the data of a round for an engine that takes one client at a time.

    Args:
        passes: what data a client gets, each with `data` and `epochs`.
        clients: `ClientDatasets` or `ExampleDatasets`.
        cohort: int64[n], client ids.
        round_num: the number of the round, from 0.

    Returns:
        For each client its dataset, or the list of its datasets where there are several passes;
        and the ids in the same order.
    """
    parts = [clients.part(one.data).for_round(cohort, round_num, one.epochs) for one in passes]
    data = parts[0] if len(parts) == 1 else [list(each) for each in zip(*parts, strict=True)]
    return data, [int(client) for client in cohort]
