"""The model of one user as TFF takes it, with metrics that add up over clients.

Knows nothing of methods, engines and stores.
"""

from collections import OrderedDict

import attrs
import tensorflow as tf
import tensorflow_federated as tff

from .keras_model import global_model_variables, local_model_variables
from .matrix_factorization import MatrixFactorization


class _RatingMetrics:
    """The sums and counts that one client's metrics are made of."""

    def __init__(self):
        self.num_examples = tf.Variable(0, trainable=False, name="num_examples", dtype=tf.int64)
        self.num_close = tf.Variable(0, trainable=False, name="num_close", dtype=tf.int64)
        self.loss_sum = tf.Variable(0.0, trainable=False, name="loss_sum")
        self.squares_sum = tf.Variable(0.0, trainable=False, name="squares_sum")
        self.variables = [self.num_examples, self.num_close, self.loss_sum, self.squares_sum]

    def add_batch(self, error: tf.Tensor, loss: tf.Tensor) -> None:
        """Adds a batch: its errors in stars, `[batch, 1]`, and its mean loss."""
        self.num_examples.assign_add(tf.size(error, tf.int64))
        self.num_close.assign_add(tf.math.count_nonzero(tf.abs(error) <= 0.5))
        self.loss_sum.assign_add(loss * tf.cast(tf.size(error), tf.float32))
        self.squares_sum.assign_add(tf.reduce_sum(error**2))

    def unfinalized(self) -> OrderedDict:
        """Returns per metric the parts that may be added up over clients."""
        n, close, loss_sum, squared = [v.read_value() for v in self.variables]
        return OrderedDict(
            num_examples=[n], loss=[loss_sum, n], rmse=[squared, n], accuracy=[close, n]
        )


def _ratio(parts):
    """Divides a sum by its count; NaN when nobody had any rating."""
    return tf.cast(parts[0], tf.float32) / tf.cast(parts[1], tf.float32)


def _finalizers() -> OrderedDict:
    """Returns per metric the function from its summed parts to its value."""
    return OrderedDict(
        num_examples=tf.function(lambda parts: parts[0]),
        loss=tf.function(_ratio),
        rmse=tf.function(lambda parts: tf.sqrt(_ratio(parts))),
        accuracy=tf.function(_ratio),
    )


INPUT_SPEC = OrderedDict(
    x=tf.TensorSpec([None, 1], tf.int64, name="x"),
    y=tf.TensorSpec([None, 1], tf.float32, name="y"),
)


class MatrixFactorizationModel(tff.learning.models.VariableModel):
    """The Keras model of one user as TFF wants to see it.

    Its weights fall into two groups, `global_model_variables` and `local_model_variables`.
    Stock TFF algorithms see only their union, `trainable_variables`.
    """

    def __init__(self, keras_model: tf.keras.Model, input_spec):
        """Wraps a model and makes the variables that its metrics add up in.

        Args:
            keras_model: made by `MatrixFactorization.keras_model`, for this object alone.
            input_spec: the type of a batch, a mapping of x and y to `tf.TensorSpec`.

        Raises:
            ValueError: if the model has no user side.
        """
        local_model_variables(keras_model)  # refuses a model without a private part
        self._model = keras_model
        self._input_spec = input_spec
        self._metrics = _RatingMetrics()

    @property
    def global_model_variables(self) -> list[tf.Variable]:
        """The movies' side: what the server keeps and sends out."""
        return global_model_variables(self._model)

    @property
    def local_model_variables(self) -> list[tf.Variable]:
        """The user's side: what should stay with the client."""
        return local_model_variables(self._model)

    @property
    def trainable_variables(self) -> list[tf.Variable]:
        """All weights, the global ones first: a stock algorithm sends and averages them."""
        return self.global_model_variables + self.local_model_variables

    @property
    def non_trainable_variables(self) -> list[tf.Variable]:
        """Weights that are sent but never trained: none."""
        return []

    @property
    def local_variables(self) -> list[tf.Variable]:
        """The sums and counts of the metrics; TFF starts them anew on each client."""
        return list(self._metrics.variables)

    @property
    def input_spec(self):
        """The type of a batch."""
        return self._input_spec

    @tf.function(reduce_retracing=True)
    def predict_on_batch(self, x, training=True):
        """Predicts stars, float32 `[batch, 1]`, for movie ids, int64 `[batch, 1]`."""
        return self._model(x, training=training)

    @tf.function(reduce_retracing=True)
    def forward_pass(self, batch_input, training=True) -> tff.learning.models.BatchOutput:
        """Predicts a batch, adds it to the metrics and returns its loss.

        Args:
            batch_input: a mapping with movie ids `x`, int64 `[batch, 1]`, and ratings `y`,
                float32 `[batch, 1]`.
            training: handed to Keras; this model behaves the same either way.

        Returns:
            A `tff.learning.models.BatchOutput`: the mean squared error plus the L2 penalty, the
            predictions, and the number of ratings in the batch.
        """
        earlier = {id(penalty): penalty for penalty in self._model.losses}
        predictions = self._model(batch_input["x"], training=training)
        penalties = [p for p in self._model.losses if id(p) not in earlier]
        error = batch_input["y"] - predictions
        loss = tf.reduce_mean(error**2) + sum(penalties)
        self._metrics.add_batch(error, loss)
        return tff.learning.models.BatchOutput(loss, predictions, tf.shape(error)[0])

    @tf.function
    def report_local_unfinalized_metrics(self) -> OrderedDict:
        """Returns sums and counts, which may be added up over clients."""
        return self._metrics.unfinalized()

    def metric_finalizers(self) -> OrderedDict:
        """Returns per metric the function from its summed parts to its value."""
        return _finalizers()

    @tf.function
    def reset_metrics(self) -> None:
        """Sets the metrics back to zero."""
        for variable in self.local_variables:
            variable.assign(tf.zeros_like(variable))


@attrs.frozen
class ModelFn:
    """Builds a new model at each call, as TFF asks for.

    Attributes:
        spec: the `MatrixFactorization` to build.
    """

    spec: MatrixFactorization

    def __call__(self) -> MatrixFactorizationModel:
        """Returns a new model."""
        return MatrixFactorizationModel(self.spec.keras_model(), INPUT_SPEC)


def build_model_fn(num_items: int, num_factors: int = 50, **kwargs) -> ModelFn:
    """Returns a function that builds a new model each time, as TFF asks for.

    Args:
        num_items: how many movies there are.
        num_factors: the length of the item vectors and the user vector.
        **kwargs: what else `MatrixFactorization` takes: biases, mean_rating, l2, seed.

    Returns:
        A function without arguments that returns a new `MatrixFactorizationModel`; its
        specification is its attribute `spec`.

    Raises:
        TypeError: as `MatrixFactorization` does.
        ValueError: as `MatrixFactorization` does.
    """
    return ModelFn(MatrixFactorization(num_items, num_factors, **kwargs))
