"""How a weight begins, as Keras knows it, or a sentence where it does not.

Knows nothing of models, data, TFF, methods, engines and stores.
"""

import tensorflow as tf

from ..checks import shown


def initializer_of(value):
    """Returns a Keras initializer from itself, its name or its description; `None` stays.

    Raises:
        ValueError: if Keras knows none of this kind.
    """
    cause, known = None, tf.keras.initializers.Initializer
    try:
        found = tf.keras.initializers.get(value)
    except Exception as error:
        found, cause = value, error
    if cause is not None or not (found is None or isinstance(found, known)):
        raise ValueError(
            f'initializer must be one of Keras, such as "uniform", not {shown(value)}.'
        ) from cause
    return found
