"""Rounds in this Python process: the graphs that TFF has made of a round, run by TensorFlow.

TFF's own runtime is a child process; what a round costs there is mostly the way to it and back.
Knows nothing of methods, models and stores: it runs the same graphs that TFF would place.
"""

import os
import uuid
from collections.abc import Mapping
from concurrent import futures

import attrs
import tensorflow as tf
import tensorflow_federated as tff

from .. import runtime
from ..checks import whole_number
from .round import FederatedProcess


class GraphFunction:
    """The graph of a typed TensorFlow computation, as a function of this process.

    Args:
        computation: made by `tff.tensorflow.computation`.
    """

    def __init__(self, computation: tff.Computation):
        """Imports the graph."""
        runtime.note_use()
        proto = computation.to_building_block().proto.tensorflow
        graph_def = tf.compat.v1.GraphDef()
        proto.graph_def.Unpack(graph_def)
        _keep_apart(graph_def)
        wrapped = tf.compat.v1.wrap_function(
            lambda: tf.graph_util.import_graph_def(graph_def, name=""), []
        )
        element = wrapped.graph.as_graph_element
        feeds = _names(proto.parameter) if proto.HasField("parameter") else []
        feeds = [element(name) for name in feeds]
        pruned = wrapped.prune(feeds, [element(name) for name in _names(proto.result)])
        # Called directly, a pruned function first fails to bind its arguments, and prints them all.
        traced = tf.function(lambda *parts: pruned(*parts), autograph=False)
        self._run = traced.get_concrete_function(*map(tf.TensorSpec.from_tensor, feeds))
        start = proto.initialize_op
        self._start = wrapped.prune([], [element(start)]) if start else None
        self._result_type = computation.type_signature.result

    @property
    def has_variables(self) -> bool:
        """Whether the graph has variables, which two calls at once would share."""
        return self._start is not None

    def flat(self, *arguments) -> list:
        """Runs the graph and returns its results as a flat list of tensors."""
        runtime.check_process()
        if self._start is not None:
            self._start()
        return self._run(*(_tensor(part) for part in flatten(arguments)))

    def __call__(self, *arguments):
        """Runs the graph on values and returns values in the containers of its type."""
        return unflatten(self._result_type, iter(self.flat(*arguments)))


def _keep_apart(graph_def: tf.compat.v1.GraphDef) -> None:
    """Gives the variables of a graph a container of their own.

    TensorFlow finds a variable by container and name, and graphs of different models use the
    same names.
    """
    container = f"graph {uuid.uuid4().hex}".encode()
    nodes = [*graph_def.node, *(n for f in graph_def.library.function for n in f.node_def)]
    for node in nodes:
        if node.op == "VarHandleOp":
            node.attr["container"].s = container


def number_of_parts(data, client_states) -> int:
    """Returns how many parts a round's inputs have.

    Raises:
        ValueError: if data and states differ in number, or there are none.
    """
    if not len(data) == len(client_states) > 0:
        raise ValueError(
            f"A round needs data and a state for each of at least one client; it got "
            f"{len(data)} parts of data and {len(client_states)} states."
        )
    return len(data)


class InThisProcess:
    """A process whose rounds run in this Python process.

    Args:
        process: made by an engine of this package.
        threads: how many parts of a round run side by side; left out, one for each core. Parts
            whose graph has variables run one after the other.
    """

    def __init__(self, process: FederatedProcess, threads: int | None = None):
        """See the class."""
        if not isinstance(process, FederatedProcess):
            raise TypeError(
                "InThisProcess takes a FederatedProcess, as the build functions of the engines "
                f"return it, not {type(process).__name__}."
            )
        if threads is not None:
            threads = whole_number("threads", threads, 1)
        functions = process.functions
        self.inputs, self.client_state_fn = process.inputs, process.client_state_fn
        self.initialize = GraphFunction(functions.initialize)
        self._message, self._work, self._finish = map(
            GraphFunction, (functions.message, functions.client_work, functions.finish)
        )
        self._types = functions.client_work.type_signature.result
        self._threads = 1 if self._work.has_variables else threads or os.cpu_count() or 1
        self._pool = None

    def next(self, server_state, data, client_states) -> tuple:
        """Runs one round; see `FederatedProcess`.

        Raises:
            ValueError: if data and states differ in number, or there are none.
        """
        number_of_parts(data, client_states)
        message = self._message.flat(server_state)
        calls = list(zip(data, client_states, strict=True))
        if self._threads == 1 or len(calls) == 1:
            results = [self._work.flat(*call, message) for call in calls]
        else:
            self._pool = self._pool or futures.ThreadPoolExecutor(self._threads)
            results = list(self._pool.map(lambda call: self._work.flat(*call, message), calls))
        count = len(flat_types(self._types[0]))
        total = [
            parts[0] if len(parts) == 1 else tf.add_n(parts)
            for parts in zip(*(result[:count] for result in results), strict=True)
        ]
        server_state, metrics = self._finish(server_state, total)
        states = [unflatten(self._types[1], iter(result[count:])) for result in results]
        return server_state, metrics, states


def _names(binding) -> list[str]:
    """Returns the tensors of a binding in a TFF proto, in order."""
    kind = binding.WhichOneof("binding")
    if kind == "struct":
        return [name for part in binding.struct.element for name in _names(part)]
    if kind == "sequence":
        return [binding.sequence.variant_tensor_name]
    return [binding.tensor.tensor_name] if kind == "tensor" else []


def _tensor(part):
    """Returns a value as a graph takes it: a dataset as its variant tensor."""
    if isinstance(part, tf.data.Dataset):
        return tf.data.experimental.to_variant(part)
    return tf.convert_to_tensor(part)


def flatten(value) -> list:
    """Returns the parts of a structure in the order of its TFF type."""
    if attrs.has(type(value)):
        value = [getattr(value, field.name) for field in attrs.fields(type(value))]
    elif isinstance(value, Mapping):
        value = list(value.values())
    elif not isinstance(value, list | tuple):
        return [value]
    return [leaf for part in value for leaf in flatten(part)]


def flat_types(kind: tff.Type) -> list[tff.Type]:
    """Returns the types of the parts of a structure, in order."""
    if isinstance(kind, tff.StructType):
        return [leaf for part in kind for leaf in flat_types(part)]
    return [kind]


def unflatten(kind: tff.Type, parts):
    """Returns the parts of an iterator in the Python containers of a type."""
    if not isinstance(kind, tff.StructType):
        return next(parts)
    named = [(name, unflatten(part, parts)) for name, part in tff.structure.iter_elements(kind)]
    container = getattr(kind, "python_container", None) or (
        dict if kind and named and named[0][0] else list
    )
    if attrs.has(container) or issubclass(container, Mapping):
        return container(**dict(named)) if attrs.has(container) else container(named)
    return container(value for _, value in named)
