"""Computations of a forked process, which cannot compute itself, done by a fresh one beside it.

A fork has no copies of the threads that TensorFlow and gRPC need. So a forked process starts a
Python of its own, sends it each computation with its argument, and waits for the result.

Knows nothing of what is computed.
"""

from __future__ import annotations

import copyreg
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

SERVE = "from stateful_tff import fresh; fresh.serve()"


class FreshProcess:
    """A Python that computes for this one, and ends with it."""

    def __init__(self):
        """Starts it; the first computation waits for its imports."""
        paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        )

    def compute(self, computation, argument):
        """Returns the result of a computation of TFF.

        Args:
            computation: a `tff.Computation`.
            argument: its argument, as TFF packs it; arrays and containers of them.

        Raises:
            RuntimeError: if the argument cannot be sent, such as a dataset, or the fresh process
                has ended.
            Exception: what the computation raises.
        """
        import tensorflow_federated as tff

        _send_structures(tff)
        proto = tff.framework.serialize_computation(computation)
        try:
            message = pickle.dumps((proto, argument))
        except Exception as error:
            raise RuntimeError(
                "A forked process can compute only on arrays, which it can send to a fresh one. "
                'Start processes with multiprocessing.get_context("spawn"), or use threads.'
            ) from error
        try:
            self._process.stdin.write(message)
            self._process.stdin.flush()
            is_right, result = pickle.load(self._process.stdout)
        except (OSError, EOFError) as error:
            raise RuntimeError(
                "The process that computes for this forked one has ended; start processes with "
                'multiprocessing.get_context("spawn"), or use threads.'
            ) from error
        if not is_right:
            raise result
        return _contained(tff, result, computation.type_signature.result)


def _contained(tff, value, kind):
    """Returns a result in the containers of its type, which what was sent has forgotten."""
    if isinstance(kind, tff.FederatedType):
        if kind.placement is tff.CLIENTS and not kind.all_equal:
            return [_contained(tff, one, kind.member) for one in value]
        return _contained(tff, value, kind.member)
    if not isinstance(kind, tff.StructType):
        return value
    values = value.values() if isinstance(value, Mapping) else value
    pairs = zip(tff.structure.iter_elements(kind), values, strict=True)
    parts = [(name, _contained(tff, one, part)) for (name, part), one in pairs]
    return tff.types.type_to_py_container(tff.structure.Struct(parts), kind)


def serve() -> None:
    """Computes what comes in until nothing comes any more."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what is printed goes beside the answers
    import tensorflow_federated as tff

    _send_structures(tff)
    while True:
        try:
            proto, argument = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            computation = tff.framework.deserialize_computation(proto)
            context = tff.framework.get_context_stack().current
            answer = True, context.invoke(computation, argument)
        except Exception as error:
            answer = False, RuntimeError(f"{type(error).__name__}: {error}")
        try:
            pickle.dump(answer, answers)
            answers.flush()
        except BrokenPipeError:  # who asked has ended
            os._exit(0)


def _send_structures(tff) -> None:
    """Lets TFF's structures be pickled, as lists of names and values."""
    struct = tff.structure.Struct
    copyreg.pickle(struct, lambda one: (struct, (tff.structure.to_elements(one),)))
