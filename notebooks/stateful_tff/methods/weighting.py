"""How much a client counts in the mean of a round: by its examples, or otherwise.

Knows nothing of engines and stores.
"""

from collections.abc import Callable

import attrs
import tensorflow as tf

from .method import Method


@attrs.frozen
class Weighted:
    """A client update whose weight is a function of the client's number of examples.

    Attributes:
        client_update: the update itself.
        weight: from a float32 tensor of numbers of examples to one of weights.
    """

    client_update: Callable
    weight: Callable

    def __call__(self, trainer, data, client_state, server_message):
        """Returns the update's `ClientOutput` with the other weight."""
        output = self.client_update(trainer, data, client_state, server_message)
        return attrs.evolve(output, client_weight=self.weight(output.client_weight))


def equal_weights(method: Method) -> Method:
    """Returns a method in which each client with data counts the same.

    With steps of one size for each batch, a client with n ratings already moves the items n
    times as far; weighted by n, it counts n squared (Wang et al. 2020, "Tackling the Objective
    Inconsistency Problem", section 3).

    Args:
        method: any method.
    """
    return weighted(method, tf.sign)


def weighted(method: Method, weight: Callable) -> Method:
    """Returns a method with weights of its own, such as `tf.sqrt` of the numbers of examples.

    Args:
        method: any method.
        weight: from float32 numbers of examples to weights; zero must stay zero.
    """
    return attrs.evolve(method, client_update=Weighted(method.client_update, weight))


def taken_apart(method: Method) -> tuple[Method, Callable]:
    """Returns the method with weights by examples, and the function from these to its own."""
    update = method.client_update
    if not isinstance(update, Weighted):
        return method, tf.identity
    return attrs.evolve(method, client_update=update.client_update), update.weight
