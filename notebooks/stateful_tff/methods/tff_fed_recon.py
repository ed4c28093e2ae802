"""What TFF's own `build_fed_recon` takes: a reconstruction model and alternating batches.

Knows nothing of engines and stores.
"""

from collections.abc import Callable, Iterable

import tensorflow as tf
import tensorflow_federated as tff

from ..checks import client_ids
from ..data.clients import DatasetsByClient
from ..models import (
    INPUT_SPEC,
    MatrixFactorization,
    global_model_variables,
    local_model_variables,
)


def reconstruction_model_fn(
    spec: MatrixFactorization,
) -> Callable[[], tff.learning.models.ReconstructionModel]:
    """Returns a function that builds matrix factorization as `build_fed_recon` takes it.

    Args:
        spec: the model.

    Raises:
        ValueError: if it has a penalty, which TFF would leave out without a word.
    """
    if spec.l2:
        raise ValueError(
            "build_fed_recon computes its loss from predictions and ratings alone and never sees "
            "the model's penalty; set l2 to zero, or use methods.fed_recon."
        )

    def model_fn() -> tff.learning.models.ReconstructionModel:
        model = spec.keras_model()
        return tff.learning.models.ReconstructionModel.from_keras_model_and_variables(
            model,
            global_trainable_variables=global_model_variables(model),
            global_non_trainable_variables=[],
            local_trainable_variables=local_model_variables(model),
            local_non_trainable_variables=[],
            input_spec=INPUT_SPEC,
        )

    return model_fn


def alternating_batches(
    clients: DatasetsByClient, cohort: Iterable[int], round_num: int
) -> list[tf.data.Dataset]:
    """Returns datasets whose even batches are support and whose odd ones are query.

    This is how `build_fed_recon` splits a dataset unless told otherwise. A client has as many
    batches of both, or one more of support.

    Args:
        clients: the datasets of the population.
        cohort: client ids, each once.
        round_num: the number of the round, from 0; decides the order of the examples.
    """
    cohort = client_ids(cohort, clients.num_clients)
    halves = [clients.part(name).for_round(cohort, round_num) for name in ("support", "query")]
    turns = tf.data.Dataset.range(2).repeat()
    return [
        tf.data.Dataset.choose_from_datasets(list(pair), turns, stop_on_empty_dataset=False)
        for pair in zip(*halves, strict=True)
    ]
