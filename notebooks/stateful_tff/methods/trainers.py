"""How a client takes its local steps, for a model with variables and for a functional model.

Knows nothing of methods, engines and stores.
"""

import attrs
import tensorflow as tf

from .optimizers import Optimizers, initial_state, step_in_place, with_own_rates

LOCAL, GLOBAL, BOTH, NEITHER = "local", "global", "both", "neither"
IN_TURN = "in turn"  # at each batch first the local weights, then, with these, the global ones


def checked_solve(moves: str) -> str:
    """Returns what moves by steps where the local weights are solved for: neither group.

    Raises:
        ValueError: if more than the local weights is to move.
    """
    if moves != LOCAL:
        raise ValueError("A phase that solves moves the local weights alone; give it moves=LOCAL.")
    return NEITHER


@attrs.frozen(eq=False)
class Trained:
    """What local steps result in.

    Attributes:
        global_weights: a list of tensors.
        local_weights: a list of tensors.
        optimizer_state: of the local optimizer, or `()` if none was handed in.
        num_examples: a float32 scalar.
        metrics: the model's unfinalized metrics, sums over the examples.
    """

    global_weights = attrs.field()
    local_weights = attrs.field()
    optimizer_state = attrs.field()
    num_examples = attrs.field()
    metrics = attrs.field()


def trained_ones(model, variables) -> tuple[bool, ...]:
    """Tells of some variables of a model which of them a step may move.

    Frozen ones, statistics and counters are not: those that the model does not name as trainable,
    those that are not trainable by themselves, and those of whole numbers.
    """
    named = {id(variable) for variable in model.trainable_variables}
    return tuple(id(v) in named and v.trainable and v.dtype.is_floating for v in variables)


class VariableTrainer:
    """Trains a `VariableModel` on a `tf.data.Dataset`, batch by batch.

    Args:
        model: has `local_model_variables` and `global_model_variables`; used by this object
            alone.
        optimizers: `client` moves the global variables, `local` the local ones.
    """

    def __init__(self, model, optimizers: Optimizers):
        """See the class."""
        self.model, self.optimizers = model, optimizers

    @property
    def global_weights(self) -> list:
        """The first values of the global variables."""
        return [variable.read_value() for variable in self.model.global_model_variables]

    @property
    def local_weights(self) -> list:
        """The first values of the local variables."""
        return [variable.read_value() for variable in self.model.local_model_variables]

    def train(
        self,
        data,
        global_weights,
        local_weights,
        *,
        moves=BOTH,
        rate=None,
        optimizer_state=(),
        adjust=None,
        solve=False,
    ) -> Trained:
        """Takes one step for each batch.

        Args:
            data: a `tf.data.Dataset` of batches.
            global_weights: where the global weights start, a list.
            local_weights: where the local weights start, a list.
            moves: `LOCAL`, `GLOBAL`, `BOTH`, `IN_TURN` or `NEITHER`; what does not move stays as
                it is.
            rate: the learning rate of the local weights, in place of the local optimizer's own.
            optimizer_state: of the local optimizer; `()` starts it afresh.
            adjust: `((global, local) gradients, (global, local) weights) -> gradients`, called
                before each step, for methods that add a term.
            solve: set the local weights to the minimum of the client's loss, in place of steps;
                `moves` must be `LOCAL`. It is one Newton step, which is exact where the loss is
                quadratic in the local weights and strongly convex: squared error of a linear
                prediction, with an L2 penalty. The metrics are those before the step.

        Raises:
            ValueError: if `solve` is to move the global weights, too.
        """
        if solve and not all(trained_ones(self.model, self.model.local_model_variables)):
            raise ValueError(
                "A phase that solves needs local weights that are all trained; this model keeps "
                "statistics or frozen weights at the client, so take steps instead."
            )
        if solve:
            frozen = self.train(
                data, global_weights, local_weights,
                moves=checked_solve(moves), optimizer_state=optimizer_state,
            )  # fmt: skip
            slope, curvature = self._derivatives(data)
            return attrs.evolve(frozen, local_weights=_newton(local_weights, slope, curvature))
        model, optimizers = self.model, self.optimizers
        groups = model.global_model_variables, model.local_model_variables
        in_motion = moves in (GLOBAL, BOTH, IN_TURN), moves in (LOCAL, BOTH, IN_TURN)
        start = global_weights, local_weights
        trained = [trained_ones(model, group) for group in groups]
        kept = bool(tf.nest.flatten(optimizer_state))
        data = data.with_options(_without_tuning())

        def pull(batch):
            with tf.GradientTape() as tape:
                output = model.forward_pass(batch)
            gradients = tape.gradient(output.loss, groups)
            if adjust is not None:
                gradients = adjust(*_dense(gradients, groups))
            gradients = [
                [g if moved else None for g, moved in zip(*pair, strict=True)]
                for pair in zip(gradients, trained, strict=True)
            ]
            return output, gradients

        @tf.function
        def steps():
            model.reset_metrics()
            for variable, value in zip(
                [*groups[0], *groups[1]], [*global_weights, *local_weights], strict=True
            ):
                variable.assign(value)
            client_state = initial_state(optimizers.client, groups[0])
            local_state = optimizer_state if kept else initial_state(optimizers.local, groups[1])
            local_state = with_own_rates(optimizers.local, local_state, groups[1], rate)
            num_examples = tf.constant(0.0)
            for batch in iter(data):
                output, gradients = pull(batch)
                if in_motion[1]:
                    local_state = step_in_place(
                        optimizers.local, local_state, groups[1], gradients[1]
                    )
                if moves == IN_TURN:
                    counted = [variable.read_value() for variable in model.local_variables]
                    _, gradients = pull(batch)
                    for variable, value in zip(model.local_variables, counted, strict=True):
                        variable.assign(value)
                if in_motion[0]:
                    client_state = step_in_place(
                        optimizers.client, client_state, groups[0], gradients[0]
                    )
                num_examples += tf.cast(output.num_examples, tf.float32)
            # Statistics change with each batch, also those of a group that stays as it is.
            values = [
                [v.read_value() for v in group] if moving else list(map(tf.identity, before))
                for group, moving, before in zip(groups, in_motion, start, strict=True)
            ]
            metrics = model.report_local_unfinalized_metrics()
            return (*values, local_state if kept else (), num_examples, metrics)

        return Trained(*steps())

    def _derivatives(self, data) -> tuple:
        """Returns gradient and Hessian of the loss by the local weights, where they are."""
        model, mine = self.model, self.model.local_model_variables
        size = sum(variable.shape.num_elements() for variable in mine)

        @tf.function
        def derivatives():
            gradient, hessian = tf.zeros([size]), tf.zeros([size, size])
            for batch in iter(data.with_options(_without_tuning())):
                with tf.GradientTape(persistent=True) as outer:
                    with tf.GradientTape() as inner:
                        output = model.forward_pass(batch)
                        loss = output.loss * tf.cast(output.num_examples, tf.float32)
                    slope = _flat(inner.gradient(loss, mine))
                rows = [outer.jacobian(slope, variable) for variable in mine]
                hessian += tf.concat([tf.reshape(part, [size, -1]) for part in rows], axis=1)
                gradient += slope
            return gradient, hessian

        return derivatives()

    def only_if(self, condition, data: tf.data.Dataset) -> tf.data.Dataset:
        """Returns the data where the condition holds, else no batches."""
        return data.take(tf.where(condition, tf.constant(-1, tf.int64), 0))

    def num_steps(self, data: tf.data.Dataset):
        """Returns how many steps `train` takes on the data, an int64 scalar."""
        return data.reduce(tf.constant(0, tf.int64), lambda count, _: count + 1)

    def touched_rows(self, data: tf.data.Dataset, num_rows: int):
        """Returns a one for each row id that stands in `x` of a batch, float32[num_rows]."""
        return data.reduce(
            tf.zeros([num_rows]),
            lambda found, batch: tf.maximum(
                found, tf.math.bincount(batch["x"], maxlength=num_rows, minlength=num_rows,
                                        binary_output=True, dtype=tf.float32)[:num_rows]
            ),
        )  # fmt: skip


def _flat(parts) -> tf.Tensor:
    """Returns tensors, or gradients that may be sparse, in one vector."""
    return tf.concat([tf.reshape(tf.convert_to_tensor(part), [-1]) for part in parts], axis=0)


def _newton(weights, gradient, hessian) -> list:
    """Returns weights after one Newton step; where the Hessian is zero, nothing moves."""
    empty = tf.reduce_all(tf.equal(hessian, 0.0))
    hessian = tf.where(empty, tf.eye(tf.shape(gradient)[0]), hessian)
    step = tf.linalg.solve(hessian, tf.where(empty, 0.0, gradient)[:, None])[:, 0]
    parts = tf.split(step, [weight.shape.num_elements() for weight in weights])
    return [w - tf.reshape(part, w.shape) for w, part in zip(weights, parts, strict=True)]


def _dense(gradients, groups):
    """Returns gradients and weights of both groups as dense tensors."""
    dense = [
        [
            tf.zeros_like(v) if g is None else tf.convert_to_tensor(g)
            for g, v in zip(*pair, strict=True)
        ]
        for pair in zip(gradients, groups, strict=True)
    ]
    return dense, [[variable.read_value() for variable in group] for group in groups]


def _without_tuning() -> tf.data.Options:
    """Options that keep tf.data from rewriting a pipeline of a few batches at each call."""
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    return options


@attrs.frozen(eq=False)
class PaddedBatches:
    """A client's batches, padded to one number of batches and one size.

    Attributes:
        x: inputs, [steps, batch_size, ...].
        y: targets, [steps, batch_size, ...].
        sizes: int32[steps], the number of real examples in each batch; they come first.
    """

    x = attrs.field()
    y = attrs.field()
    sizes = attrs.field()


class FunctionalTrainer:
    """Trains a `FunctionalModel` on `PaddedBatches`; it holds no variables.

    Args:
        model: a `FunctionalModel`.
        optimizers: `client` moves the global weights, `local` the local ones.
    """

    def __init__(self, model, optimizers: Optimizers):
        """See the class."""
        self.model, self.optimizers = model, optimizers

    @property
    def global_weights(self) -> list:
        """The first values of the global weights."""
        return [tf.convert_to_tensor(weight) for weight in self.model.global_weights]

    @property
    def local_weights(self) -> list:
        """The first values of the local weights."""
        return [tf.convert_to_tensor(weight) for weight in self.model.local_weights]

    def train(
        self,
        data,
        global_weights,
        local_weights,
        *,
        moves=BOTH,
        rate=None,
        optimizer_state=(),
        adjust=None,
        solve=False,
    ) -> Trained:
        """Takes one step for each batch; see `VariableTrainer.train`."""
        if solve:
            frozen = self.train(
                data, global_weights, local_weights,
                moves=checked_solve(moves), optimizer_state=optimizer_state,
            )  # fmt: skip
            slope, curvature = self._derivatives(data, global_weights, local_weights)
            return attrs.evolve(frozen, local_weights=_newton(local_weights, slope, curvature))
        optimizers = self.optimizers.client, self.optimizers.local
        weights = tuple(global_weights), tuple(local_weights)
        kept = bool(tf.nest.flatten(optimizer_state))
        client_state = initial_state(optimizers[0], weights[0])
        local_state = optimizer_state if kept else initial_state(optimizers[1], weights[1])
        states = client_state, with_own_rates(optimizers[1], local_state, weights[1], rate)
        in_turn = (1,), (0,)  # groups that move together, one such after the other
        turns = {GLOBAL: ((0,),), LOCAL: ((1,),), BOTH: ((0, 1),), IN_TURN: in_turn}.get(moves, ())

        def pull(t, weights):
            size = data.sizes[t]
            with tf.GradientTape() as tape:
                tape.watch(weights)
                sums = self.model.batch_sums(*map(list, weights), data.x[t], data.y[t], size)
                mean = sums["loss"][0] / tf.cast(tf.maximum(size, 1), tf.float32)
            gradients = tape.gradient(mean, weights)
            unused = [[gradient is None for gradient in group] for group in gradients]
            gradients = tuple(
                tuple(tf.zeros_like(w) if g is None else g for g, w in zip(*pair, strict=True))
                for pair in zip(gradients, weights, strict=True)
            )
            if adjust is not None:
                gradients = tf.nest.map_structure(tf.convert_to_tensor, adjust(gradients, weights))
            return sums, gradients, unused

        def step(t, weights, states, metrics):
            size, after, states_after = data.sizes[t], list(weights), list(states)
            sums, gradients, unused = pull(t, weights)
            for number, together in enumerate(turns):
                if number:
                    _, gradients, unused = pull(t, tuple(after))
                for group in together:
                    states_after[group], moved = self.take_step(
                        optimizers[group], states[group], after[group], gradients[group], size > 0
                    )
                    if adjust is None:  # a weight that the loss does not use stays as it is
                        pairs = zip(unused[group], after[group], moved, strict=True)
                        moved = tuple(old if alone else new for alone, old, new in pairs)
                    after[group] = moved
            metrics = tf.nest.map_structure(tf.add, metrics, sums)
            return t + 1, tuple(after), tuple(states_after), metrics

        # A zero of the client's own: a vectorized map that sees at once what differs from client
        # to client converts the steps once, and not three times.
        zero = 0 * tf.reduce_sum(data.sizes)
        start = tf.nest.map_structure(
            lambda part: part + tf.cast(zero, part.dtype),
            (weights, states, self.model.zero_sums()),
        )
        _, weights, states, metrics = tf.while_loop(
            lambda t, *_: t < tf.shape(data.sizes)[0], step, (tf.constant(0), *start)
        )
        num_examples = tf.cast(tf.reduce_sum(data.sizes), tf.float32)
        local_state = states[1] if kept else ()
        return Trained(list(weights[0]), list(weights[1]), local_state, num_examples, metrics)

    def take_step(self, optimizer, state, weights, gradients, is_real):
        """Takes a step, unless the batch is padding; returns the optimizer's state and weights."""
        before, after = (state, weights), optimizer.next(state, weights, tuple(gradients))
        return tf.nest.map_structure(lambda old, new: tf.where(is_real, new, old), before, after)

    def _derivatives(self, data, global_weights, local_weights) -> tuple:
        """Returns gradient and Hessian of the loss by the local weights."""
        x, y = (tf.reshape(part, [-1, *part.shape[2:]]) for part in (data.x, data.y))
        real = tf.sequence_mask(data.sizes, tf.shape(data.x)[1], tf.float32)
        shapes = [weight.shape for weight in local_weights]
        sizes = [shape.num_elements() for shape in shapes]
        with tf.GradientTape() as outer:
            point = _flat(local_weights)
            outer.watch(point)
            with tf.GradientTape() as inner:
                inner.watch(point)
                parts = map(tf.reshape, tf.split(point, sizes), shapes)
                losses = self.model.example_losses(list(global_weights), list(parts), x, y)
                loss = tf.reduce_sum(tf.reshape(losses, [-1]) * tf.reshape(real, [-1]))
            gradient = inner.gradient(loss, point)
        return gradient, outer.jacobian(gradient, point)

    def only_if(self, condition, data: PaddedBatches) -> PaddedBatches:
        """Returns the data where the condition holds, else empty batches."""
        return attrs.evolve(data, sizes=tf.where(condition, data.sizes, tf.zeros_like(data.sizes)))

    def num_steps(self, data: PaddedBatches):
        """Returns how many steps `train` takes on the data, an int64 scalar."""
        return tf.math.count_nonzero(data.sizes)

    def touched_rows(self, data: PaddedBatches, num_rows: int):
        """Returns a one for each row id that stands in `x` of a batch, float32[num_rows]."""
        real = tf.sequence_mask(data.sizes, tf.shape(data.x)[1], tf.float32)
        rows = tf.one_hot(tf.reshape(data.x, [-1]), num_rows)
        return tf.reduce_max(rows * tf.reshape(real, [-1, 1]), axis=0)
