"""What the engines share: stacked types, first states, and a look at the reader's model.

Knows nothing of the details of methods, and nothing of stores.
"""

from collections.abc import Callable, Sequence

import attrs
import tensorflow as tf
import tensorflow_federated as tff

from ..checks import cohort_ids
from ..methods.method import Method
from ..methods.optimizers import Optimizers, SomeWeights
from ..methods.trainers import trained_ones
from ..state import ClientState

GROUPS = ("global_model_variables", "local_model_variables")


def stacked_type(state_type: tff.Type) -> tff.Type:
    """Returns the type of many states in one: every tensor gets a first axis of any length."""

    def stack(kind):
        if isinstance(kind, tff.TensorType):
            return tff.TensorType(kind.dtype, [None, *kind.shape]), True
        return kind, False

    return tff.types.type_transformations.transform_type_postorder(state_type, stack)[0]


def weighted(delta, weight):
    """Returns a change times a client's weight, in a type wide enough to add up many of them."""
    dtype = delta.dtype
    if dtype.is_integer:
        dtype = tf.float64
    elif dtype.size < 4:
        dtype = tf.float32
    return tf.cast(weight, dtype) * tf.cast(delta, dtype)


def weighted_mean(total, total_weight):
    """Returns the mean change from the sum of weighted ones; zero where nobody had data."""
    return tf.math.divide_no_nan(total, tf.cast(total_weight, total.dtype))


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


def model_types(model_fn: Callable, optimizers: Optimizers, passes: Sequence) -> tuple:
    """Returns what a round needs to know of a model, and refuses models without groups.

    Args:
        model_fn: builds a new `VariableModel` at each call.
        optimizers: the three optimizers.
        passes: those of the method; one data set for each.

    Returns:
        The optimizers, which leave alone what is not trained; the metric finalizers; and the
        type of a client's data: a sequence of batches, or several.

    Raises:
        TypeError: if the model does not name its groups, or holds what is no number.
        ValueError: if the groups are not a partition of the model's variables.
    """
    if not callable(model_fn):
        raise TypeError(
            f"model_fn is a function that builds a new model at each call, not "
            f"{type(model_fn).__name__}."
        )
    with tf.Graph().as_default() as graph:  # in a graph of its own, which is dropped
        model = model_fn()
        if not isinstance(model, tff.learning.models.VariableModel):
            raise TypeError(
                f"model_fn returned {type(model).__name__}; it must build a new VariableModel of "
                "tff.learning.models."
            )
        groups = [_group(model, name, graph) for name in GROUPS]
        _refuse_no_partition(model, *groups)
        trained = [trained_ones(model, group) for group in groups]
        batches = tff.SequenceType(tff.types.tensorflow_to_type(model.input_spec))
        finalizers = model.metric_finalizers()
    masks = {"server": sum(trained, ()), "client": trained[0], "local": trained[1]}
    usual = all(v.dtype in (tf.float32, tf.float64) for group in groups for v in group)
    for place, mask in masks.items():
        if not (usual and all(mask)):
            some = SomeWeights(getattr(optimizers, place), mask)
            optimizers = attrs.evolve(optimizers, **{place: some})
    if len(passes) == 1:
        return optimizers, finalizers, batches
    return optimizers, finalizers, tff.StructWithPythonType([batches] * len(passes), list)


def _group(model, name: str, graph: tf.Graph) -> list[tf.Variable]:
    """Returns the variables of a group after looking at each."""
    group = list(getattr(model, name, None) or ())
    if not group:
        raise TypeError(f"The model of model_fn has no {name}; chapter 3 adds them.")
    for number, variable in enumerate(group):
        if not isinstance(variable, tf.Variable):
            raise TypeError(f"{name} holds {type(variable).__name__}; it lists tf.Variable only.")
        if any(variable is one for one in group[:number]):
            raise ValueError(f"{_named(variable)} is twice in {name}; name it once.")
        if getattr(variable.handle, "graph", None) is not graph:
            raise ValueError(
                f"{_named(variable)} of {name} was there before model_fn was called; build the "
                "model, with all its variables, inside of model_fn."
            )
        if not (variable.dtype.is_floating or variable.dtype.is_integer):
            raise TypeError(
                f"{_named(variable)} of {name} is of {variable.dtype.name}, and only whole and "
                "floating-point numbers can be averaged; keep it out of the model's variables."
            )
    return group


def _named(variable: tf.Variable) -> str:
    """Returns how a message names a variable."""
    return f"The variable {variable.name} of shape {list(variable.shape)}"


def _refuse_no_partition(model, shared: list, own: list) -> None:
    """Refuses groups that do not hold each of the model's variables once."""
    for variable in shared:
        if any(variable is one for one in own):
            raise ValueError(
                f"{_named(variable)} is both local and global; it must be one of the two."
            )
    known = [*model.trainable_variables, *model.non_trainable_variables]
    for variable in known:
        if not any(variable is one for one in shared + own):
            raise ValueError(
                f"{_named(variable)} is neither local nor global, so nobody would keep it; name "
                "each variable of the model in one of the two groups."
            )
    for variable in shared + own:
        if not any(variable is one for one in known):
            raise ValueError(
                f"{_named(variable)} is in a group, and not among the model's trainable or "
                "non-trainable variables; add it there, or take it out of its group."
            )


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
    cohort = cohort_ids(cohort, clients.num_clients)
    parts = [clients.part(one.data).for_round(cohort, round_num, one.epochs) for one in passes]
    data = parts[0] if len(parts) == 1 else [list(each) for each in zip(*parts, strict=True)]
    return data, [int(client) for client in cohort]
