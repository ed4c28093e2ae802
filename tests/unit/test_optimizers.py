"""Every optimizer of TFF at each of the three places takes its steps, or is refused in words."""

import attrs
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from engine_rounds import RATES, network

from stateful_tff.methods import LOCAL, Optimizers, Phase, in_phases, server_update, sgd
from stateful_tff.methods.optimizers import SomeWeights, initial_state, specs
from stateful_tff.methods.trainers import FunctionalTrainer, PaddedBatches, VariableTrainer
from stateful_tff.state import ServerState

build = tff.learning.optimizers
WORKING = {
    "SGD": build.build_sgdm(0.1),
    "momentum": build.build_sgdm(0.1, 0.9),
    "Adam": build.build_adam(0.01),
    "AdamW": build.build_adamw(0.01),
    "Adagrad": build.build_adagrad(0.1),
    "RMSprop": build.build_rmsprop(0.01),
    "Yogi": build.build_yogi(0.01),
    "a schedule": build.schedule_learning_rate(
        build.build_adam(0.1), lambda step: 0.1 / (1.0 + tf.cast(step, tf.float32))
    ),
}
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(2, 4, 3)).astype(np.float32), RNG.normal(size=(2, 4)).astype(np.float32)


def expected(optimizers):
    """Both groups of the network after two batches, by TFF's optimizers alone."""
    model, opts = network(), (optimizers.client, optimizers.local)
    groups = [tuple(map(tf.constant, g)) for g in (model.global_weights, model.local_weights)]
    states = [initial_state(o, g) for o, g in zip(opts, groups, strict=True)]
    for x, y in zip(X, Y, strict=True):
        with tf.GradientTape() as tape:
            tape.watch(groups)
            loss = tf.reduce_mean(model.example_losses(*groups, x, y))
        gradients = tape.gradient(loss, groups)
        for side in (0, 1):
            states[side], groups[side] = opts[side].next(
                states[side], groups[side], tuple(gradients[side])
            )
    return groups


def trained(kind, optimizers):
    model = network()
    start = (
        list(map(tf.constant, model.global_weights)),
        list(map(tf.constant, model.local_weights)),
    )
    if kind == "variables":
        data = tf.data.Dataset.from_tensor_slices(dict(x=X, y=Y))
        return VariableTrainer(model.model_fn(), optimizers).train(data, *start)
    data = PaddedBatches(X, Y, tf.constant([4, 4]))
    return FunctionalTrainer(model, optimizers).train(data, *start)


@pytest.mark.parametrize("kind", ["variables", "functional"])
@pytest.mark.parametrize("name", WORKING)
def test_a_client_takes_the_steps_of_its_optimizers(name, kind):
    optimizers = attrs.evolve(RATES, client=WORKING[name], local=WORKING[name])
    done, right = trained(kind, optimizers), expected(optimizers)
    for group, weights in zip((done.global_weights, done.local_weights), right, strict=True):
        for weight, value in zip(group, weights, strict=True):
            np.testing.assert_allclose(weight, value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", WORKING)
def test_the_server_takes_the_step_of_its_optimizer(name):
    optimizer, weights = WORKING[name], (tf.ones([2, 3]), tf.ones([2]))
    deltas = [tf.fill([2, 3], 0.5), tf.constant([1.0, -2.0])]
    state = initial_state(optimizer, weights)
    after = server_update(ServerState(list(weights), state, 0), optimizer, deltas, 3.0)
    _, right = optimizer.next(state, weights, tuple(-delta for delta in deltas))
    for weight, value in zip(after.model_weights, right, strict=True):
        np.testing.assert_allclose(weight, value, rtol=1e-5)
    same = server_update(ServerState(list(weights), state, 0), optimizer, deltas, 0.0)
    for weight, value in zip(same.model_weights, weights, strict=True):
        np.testing.assert_array_equal(weight, value)


@pytest.mark.parametrize("place", ["server", "client", "local"])
def test_an_optimizer_that_changes_its_kind_of_state_is_refused(place):
    with pytest.raises(ValueError, match=f"{place}_optimizer is AdafactorOptimizer, whose"):
        attrs.evolve(RATES, **{place: build.build_adafactor(0.1)})


@pytest.mark.parametrize("rate", [np.nan, np.inf])
def test_rates_that_are_not_finite_are_refused(rate):
    with pytest.raises(ValueError, match="The learning_rate of client_optimizer must be finite"):
        Optimizers(RATES.server, build.build_adam(rate), RATES.local)
    with pytest.raises(ValueError, match="The local rate must be finite"):
        sgd(1.0, 0.1, rate)
    with pytest.raises(ValueError, match="The server rate must be at least 0"):
        sgd(-1.0, 0.1, 0.1)


def test_a_schedule_leaves_no_room_for_a_rate_of_a_phase():
    optimizers = attrs.evolve(RATES, local=WORKING["a schedule"])
    update = in_phases("own rate", Phase("all", LOCAL, rate=0.3)).client_update
    with pytest.raises(ValueError, match="0.3 cannot take the place .* leave the rate out"):
        trainer = VariableTrainer(network().model_fn(), optimizers)
        trainer.train(
            tf.data.Dataset.from_tensor_slices(dict(x=X, y=Y)),
            trainer.global_weights,
            trainer.local_weights,
            rate=update.phases[0].rate,
        )


def test_some_weights_are_moved_and_the_others_take_their_change():
    some = SomeWeights(build.build_adam(0.1), (True, False, False))
    weights = tf.constant([1.0, 2.0]), tf.constant([3.0]), tf.constant([4], tf.int64)
    state = some.initialize(specs(weights))
    pull = tf.constant([1.0, 1.0]), tf.constant([-0.5]), tf.constant([-2.4], tf.float64)
    _, (moved, mean, count) = some.next(state, weights, pull)
    np.testing.assert_allclose(moved, [0.9, 1.9], rtol=1e-5)
    np.testing.assert_allclose(mean, [3.5])
    assert count.numpy() == [6] and count.dtype == tf.int64
