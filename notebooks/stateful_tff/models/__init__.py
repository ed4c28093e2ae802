"""Models with a global and a local part: matrix factorization, its TFF wrapper, any small network.

Knows nothing of methods, engines and stores.
"""

from .frame import INPUT_SPEC, MatrixFactorizationModel, ModelFn, build_model_fn
from .functional import FunctionalModel, functional_keras_model, functional_matrix_factorization
from .keras_model import (
    UserEmbedding,
    build_keras_model,
    global_model_variables,
    local_model_variables,
)
from .matrix_factorization import MatrixFactorization, matrix_factorization_model
from .networks import (
    Classifier,
    choice_network,
    classifier,
    dense_network,
    exchanged,
    factorization_network,
    image_network,
    sequence_network,
)

__all__ = [
    "INPUT_SPEC",
    "Classifier",
    "FunctionalModel",
    "MatrixFactorization",
    "MatrixFactorizationModel",
    "ModelFn",
    "UserEmbedding",
    "build_keras_model",
    "build_model_fn",
    "choice_network",
    "classifier",
    "dense_network",
    "exchanged",
    "factorization_network",
    "functional_keras_model",
    "functional_matrix_factorization",
    "global_model_variables",
    "image_network",
    "local_model_variables",
    "matrix_factorization_model",
    "sequence_network",
]
