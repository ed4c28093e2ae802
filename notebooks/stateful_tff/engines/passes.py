"""What the engines of functional models share: parts of a round hold their clients' batches.

Knows nothing of how an engine lets clients work, nor of the details of methods and stores.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from ..checks import cohort_ids
from ..data.ratings import DataError
from ..methods.method import Method
from ..methods.optimizers import Optimizers
from ..methods.trainers import FunctionalTrainer, PaddedBatches
from ..models import FunctionalModel
from .round import FederatedProcess, trace_round
from .types import first_state_fn


def cohort_in_order(clients, cohort) -> np.ndarray:
    """Returns the checked ids of a cohort, int64[n].

    Args:
        clients: `ExampleDatasets` or their kind.
        cohort: client ids.

    Raises:
        DataError: if the clients' data have no seed to shuffle examples with.
        ValueError: if it is empty, or holds what is no client's id.
    """
    cohort = cohort_ids(cohort, clients.num_clients)
    if clients.shuffle_seed is None:
        raise DataError("Rounds shuffle examples; give the datasets a shuffle_seed.")
    return cohort


def process_of_passes(
    method: Method,
    model: FunctionalModel,
    optimizers: Optimizers,
    work: Callable,
    inputs: Callable,
    more: Mapping[str, tff.Type] | None = None,
) -> FederatedProcess:
    """Builds the process whose parts hold, for each pass of the method, their clients' batches.

    Args:
        method, model, optimizers: what decides it.
        work: `(trainer, data, client_state, message) -> (sums, client_state)` of a part's clients,
            with stacked states.
        inputs: see `FederatedProcess`. Its data are an OrderedDict of `index`, int32[n], `more`,
            and `passes`, a list of `PaddedBatches` with a first axis of clients.
        more: the types of what else a part holds, by name.
    """

    def trainer_fn():
        return FunctionalTrainer(model, optimizers)

    def checked(trainer, data, client_state, message):
        tf.debugging.assert_equal(
            data["index"], client_state.index, "The states are not in the order of the data."
        )
        return work(trainer, data, client_state, message)

    kinds = [
        (name, tff.TensorType(spec.dtype.as_numpy_dtype, [None, None, *spec.shape]))
        for name, spec in model.input_spec.items()
    ]
    kinds.append(("sizes", tff.TensorType(np.int32, [None, None])))
    batches = tff.StructWithPythonType(kinds, PaddedBatches)
    passes = tff.StructWithPythonType([batches] * len(method.passes), list)
    parts = {"index": tff.TensorType(np.int32, [None]), **(more or {}), "passes": passes}
    functions = trace_round(
        method,
        trainer_fn,
        optimizers.server,
        model.metric_finalizers(),
        tff.StructWithPythonType(list(parts.items()), OrderedDict),
        checked,
        stacked=True,
    )
    return FederatedProcess(functions, inputs, first_state_fn(method, trainer_fn))
