"""Handwriting by writer: FEMNIST, for whose download it asks TFF.

Knows nothing of models, methods, engines and stores.
"""

from __future__ import annotations

import numpy as np

from ..checks import seed_number, whole_number
from .ratings import DataError


def femnist_clients(
    num_clients: int = 50, per_client: int = 35, *, seed: int = 0, source=None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns digits of FEMNIST (Caldas et al. 2018), a client for each writer.

    They take the place of those of `digit_clients`, with `image_network(side=28)`. The first call
    downloads the data to the folder `.tff` in the user's home.

    Args:
        num_clients: how many writers, drawn from those with enough images.
        per_client: how many images each holds, drawn from the writer's.
        seed: decides both.
        source: a `tff.simulation.datasets.ClientData` of examples with `pixels`, float32[28, 28],
            0 where there is ink and 1 where there is none, and `label`; left out, the training
            part of `tff.simulation.datasets.emnist.load_data()`.

    Returns:
        For each client its images, float32[per_client, 784] with 1 for ink, and digits,
        int64[per_client].

    Raises:
        DataError: if the data cannot be downloaded, or too few writers have enough images.
    """
    num_clients = whole_number("num_clients", num_clients, 1)
    per_client = whole_number("per_client", per_client, 1)
    rng = np.random.default_rng(seed_number("seed", seed))
    if source is None:
        import tensorflow_federated as tff

        try:
            source, _ = tff.simulation.datasets.emnist.load_data()
        except OSError as error:
            raise DataError(
                f"FEMNIST cannot be downloaded ({error}); check the network, or take "
                "digit_clients, which needs none."
            ) from error
    clients = []
    for writer in rng.permutation(sorted(source.client_ids)):
        examples = list(source.create_tf_dataset_for_client(writer).as_numpy_iterator())
        if len(examples) < per_client:
            continue
        some = [examples[i] for i in rng.permutation(len(examples))[:per_client]]
        ink = 1 - np.stack([one["pixels"] for one in some]).astype(np.float32)
        clients.append((ink.reshape(per_client, -1), np.array([one["label"] for one in some], int)))
        if len(clients) == num_clients:
            return clients
    raise DataError(
        f"{len(clients)} writers have {per_client} images or more, and {num_clients} are asked "
        "for; take fewer of either."
    )
