"""Functions that XLA compiles once in a process, whatever number of graphs calls them.

XLA keeps what it has compiled, by the name of the function, for as long as the process lives. A
function that is traced again for each graph has a new name each time, and is compiled and kept
again. Knows nothing of what is computed.
"""

import functools
import threading
from collections.abc import Callable

import tensorflow as tf


def compiled_once(build: Callable) -> Callable:
    """Returns what builds a compiled function, and builds it once for the same arguments.

    Args:
        build: from hashable arguments to a function on tensors and the `tf.TensorSpec` of each
            of its arguments. All that differs from call to call must be one of these.
    """

    @functools.cache
    def built(*arguments):
        function, specs = build(*arguments)
        traced = []

        def trace():
            compiled = tf.function(function, jit_compile=True, autograph=False)
            traced.append(compiled.get_concrete_function(*specs))

        # A new thread builds no graph, so what is traced in it belongs to none.
        thread = threading.Thread(target=trace)
        thread.start()
        thread.join()
        return traced[0]

    return functools.wraps(build)(built)
