"""Models without variables: first weights, and a pure function from weights to losses.

Knows nothing of methods, engines and stores.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping

import attrs
import tensorflow as tf
import tensorflow_federated as tff

from ..checks import called, cut_short, finite_array, shown, whole_number
from .keras_model import global_model_variables, local_model_variables
from .matrix_factorization import MatrixFactorization

_FLOATS = ("float", "bfloa")


@attrs.frozen(eq=False)
class FunctionalModel:
    """A model without variables: its first weights, and a pure function from weights to losses.

    Attributes:
        global_weights: the first values of the weights that all clients share, a list of arrays.
        local_weights: the first values of the weights that a client keeps, a list of arrays.
        example_losses: called with the two lists, `x` and `y` of a batch, it returns the loss
            of each example, float32[batch]. Penalties belong in here, too. No example's loss
            may depend on the others, since short batches are padded.
        input_spec: the type of a batch, a mapping of x and y to `tf.TensorSpec` with a first
            axis of any length.
        num_rows: where x holds row numbers, and is used for nothing else: the number of rows of
            the tables that it looks them up in. Every weight whose first axis is as long is such
            a table.
    """

    global_weights: list
    local_weights: list
    example_losses: Callable
    input_spec: OrderedDict
    num_rows: int | None = None

    def __attrs_post_init__(self):
        """Checks every attribute.

        Raises:
            TypeError: if one is of the wrong kind.
            ValueError: if a weight is not finite, or the axes of the batches have fixed lengths.
        """
        for name in ("global_weights", "local_weights"):
            weights = getattr(self, name)
            if not isinstance(weights, list | tuple) or not weights:
                raise TypeError(f"{name} must be a list of arrays, not {shown(weights)}.")
            for weight in weights:
                finite_array(f"Each of {name}", weight)
                if getattr(getattr(weight, "dtype", None), "name", "")[:5] not in _FLOATS:
                    raise TypeError(f"{name} must hold floating-point numbers; make them float32.")
        called("example_losses", self.example_losses)
        if self.num_rows is not None:
            whole_number("num_rows", self.num_rows, 1)
        spec = self.input_spec
        if not isinstance(spec, Mapping) or list(spec) != ["x", "y"]:
            raise TypeError(f"input_spec must map x and y to a tf.TensorSpec, not {shown(spec)}.")
        for part in spec.values():
            if not isinstance(part, tf.TensorSpec) or part.shape.rank in (None, 0) or part.shape[0]:
                raise ValueError(
                    "input_spec must map x and y to a tf.TensorSpec with a first axis of any "
                    f"length, such as [None, 3]; it holds {shown(part)}."
                )

    def batch_sums(self, global_weights, local_weights, x, y, size) -> OrderedDict:
        """Returns the unfinalized metrics of a batch whose first `size` examples are real."""
        losses = tf.reshape(self.example_losses(global_weights, local_weights, x, y), [-1])
        losses = tf.cast(losses, tf.float32)
        real = tf.sequence_mask(size, tf.shape(losses)[0], losses.dtype)
        count = tf.cast(size, tf.int64)
        return OrderedDict(num_examples=[count], loss=[tf.reduce_sum(losses * real), count])

    def zero_sums(self) -> OrderedDict:
        """Returns the unfinalized metrics of no example."""
        zero = tf.constant(0, tf.int64)
        return OrderedDict(num_examples=[zero], loss=[tf.constant(0.0), zero])

    def metric_finalizers(self) -> OrderedDict:
        """Returns per metric the function from its summed parts to its value."""
        return OrderedDict(
            num_examples=tf.function(lambda parts: parts[0]),
            loss=tf.function(lambda parts: parts[0] / tf.cast(parts[1], tf.float32)),
        )

    def model_fn(self) -> "VariableFunctionalModel":
        """Returns the same model with variables, for the engines that want them."""
        return VariableFunctionalModel(self)


class VariableFunctionalModel(tff.learning.models.VariableModel):
    """A `FunctionalModel` whose weights lie in variables."""

    def __init__(self, functional: FunctionalModel):
        """Makes the variables."""
        self._functional = functional
        self.global_model_variables = [tf.Variable(w) for w in functional.global_weights]
        self.local_model_variables = [tf.Variable(w) for w in functional.local_weights]
        self.local_variables = [
            tf.Variable(zero, trainable=False) for zero in tf.nest.flatten(functional.zero_sums())
        ]

    trainable_variables = property(lambda s: s.global_model_variables + s.local_model_variables)
    non_trainable_variables = property(lambda s: [])
    local_variables = None
    input_spec = property(lambda s: s._functional.input_spec)

    def predict_on_batch(self, x, training=True):
        """Is not known of a functional model, which has losses only."""
        raise NotImplementedError("A FunctionalModel has losses and no predictions.")

    @tf.function(reduce_retracing=True)
    def forward_pass(self, batch_input, training=True) -> tff.learning.models.BatchOutput:
        """Returns a batch's mean loss, and adds the batch to the metrics."""
        x, y = batch_input["x"], batch_input["y"]
        size = tf.shape(x)[0]
        # As tensors: what a loss does with a variable runs even where nobody uses the result.
        groups = self.global_model_variables, self.local_model_variables
        weights = ([variable.read_value() for variable in group] for group in groups)
        sums = self._functional.batch_sums(*weights, x, y, size)
        for variable, value in zip(self.local_variables, tf.nest.flatten(sums), strict=True):
            variable.assign_add(value)
        loss = sums["loss"][0] / tf.cast(size, tf.float32)
        return tff.learning.models.BatchOutput(loss, (), size)

    @tf.function
    def report_local_unfinalized_metrics(self) -> OrderedDict:
        """Returns sums and counts, which may be added up over clients."""
        values = [variable.read_value() for variable in self.local_variables]
        return tf.nest.pack_sequence_as(self._functional.zero_sums(), values)

    def metric_finalizers(self) -> OrderedDict:
        """Returns per metric the function from its summed parts to its value."""
        return self._functional.metric_finalizers()

    @tf.function
    def reset_metrics(self) -> None:
        """Sets the metrics back to zero."""
        for variable in self.local_variables:
            variable.assign(tf.zeros_like(variable))


def functional_matrix_factorization(spec: MatrixFactorization) -> FunctionalModel:
    """Returns matrix factorization as a functional model, equal to `spec.keras_model()`.

    Args:
        spec: the model; its `seed` decides the first weights.
    """
    keras_model = spec.keras_model()

    def example_losses(global_weights, local_weights, x, y):
        items = [tf.gather(table, x[:, 0]) for table in global_weights]
        stars = tf.reduce_sum(items[0] * local_weights[0], axis=1) + spec.mean_rating
        if spec.biases:
            stars += items[1][:, 0] + local_weights[1][0, 0]
        penalty = sum(tf.reduce_sum(part**2, axis=1) for part in [*items, *local_weights])
        return (stars - y[:, 0]) ** 2 + spec.l2 * penalty

    return FunctionalModel(
        [variable.numpy() for variable in global_model_variables(keras_model)],
        [variable.numpy() for variable in local_model_variables(keras_model)],
        example_losses,
        OrderedDict(x=tf.TensorSpec([None, 1], tf.int64), y=tf.TensorSpec([None, 1], tf.float32)),
        spec.num_items,
    )


def functional_keras_model(keras_model, local_variables, loss, target_spec) -> FunctionalModel:
    """Makes a `FunctionalModel` of a Keras model by putting tensors in place of its variables.

    Args:
        keras_model: a functional or sequential model whose calls behave alike in training and
            out of it, without penalties and without weights that are not trained.
        local_variables: those of its variables that belong to the client.
        loss: called with `y` and the prediction, it returns one loss per example.
        target_spec: the `tf.TensorSpec` of `y`, with a first axis of any length.

    Raises:
        ValueError: if the model has penalties or layers with untrained weights, which are named,
            or a local variable is not one of its own.
    """
    called("loss", loss)
    if keras_model.losses:
        raise ValueError("The model has penalties; they belong in the loss of a FunctionalModel.")
    if keras_model.non_trainable_variables:
        untrained = [layer for layer in _layers(keras_model) if layer.non_trainable_variables]
        names = ", ".join(f"{layer.name} ({type(layer).__name__})" for layer in untrained)
        raise ValueError(
            f"Some weights are not trained, in {cut_short(names) or 'the model itself'}; a "
            "functional model cannot keep them, such as the statistics of batch normalization: "
            "take layers without them, such as LayerNormalization, or the per-client engine."
        )
    variables = keras_model.trainable_variables
    local = {id(variable) for variable in local_variables}
    if not local or local - {id(variable) for variable in variables}:
        raise ValueError("local_variables must name some of the model's own variables.")
    kept = [id(variable) in local for variable in variables]
    order = _creation_order(keras_model)

    def example_losses(global_weights, local_weights, x, y):
        sides = iter(global_weights), iter(local_weights)
        values = [next(sides[is_local]) for is_local in kept]
        pending = [values[index] for index in order]
        with tf.variable_creator_scope(lambda *_, **__: pending.pop(0)):
            prediction = tf.keras.models.clone_model(keras_model)(x, training=True)
        return loss(y, prediction)

    sides = [], []
    for variable, is_local in zip(variables, kept, strict=True):
        sides[is_local].append(variable.numpy())
    x = tf.TensorSpec([None, *keras_model.input_shape[1:]], keras_model.inputs[0].dtype)
    return FunctionalModel(*sides, example_losses, OrderedDict(x=x, y=target_spec))


def _layers(keras_model) -> list:
    """Returns the layers of a model, and those of the models that are its layers."""
    found = []
    for layer in keras_model.layers:
        found += _layers(layer) if isinstance(layer, tf.keras.Model) else [layer]
    return found


def _creation_order(keras_model) -> list[int]:
    """Returns, in the order in which a copy makes its variables, their indices in the model."""
    made = []

    def note(make, **kwargs):
        made.append(make(**kwargs))
        return made[-1]

    with tf.Graph().as_default(), tf.variable_creator_scope(note):
        copy = tf.keras.models.clone_model(keras_model)
        indices = {id(variable): i for i, variable in enumerate(copy.trainable_variables)}
        if len(made) != len(indices) or len(indices) != len(keras_model.trainable_variables):
            raise ValueError("The model shares weights between layers, which is not supported.")
        return [indices[id(variable)] for variable in made]
