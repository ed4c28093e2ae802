"""What the chapter on personal methods stands on: clients that differ, networks, error rates."""

import urllib.error
import urllib.request

import attrs
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from stateful_tff import methods, models
from stateful_tff.data import (
    DataError,
    ExampleDatasets,
    choice_clients,
    deal_by_label,
    digit_clients,
    femnist_clients,
    rating_clients,
    sequence_clients,
    split_examples,
    synthetic_clients,
    synthetic_log,
)
from stateful_tff.engines.vectorized import build_vectorized_process
from stateful_tff.evaluation.clients import (
    error_rates,
    paired_errors,
    share_harmed,
    worst_tenth,
)
from stateful_tff.models import implicit
from stateful_tff.models.networks import normalized


def largest_share(clients):
    """How much of its examples a client's most frequent label takes, on average."""
    return np.mean([np.bincount(y).max() / len(y) for _, y in clients])


def test_skew_of_labels_grows_with_its_strength():
    shares = [largest_share(digit_clients(strength=s)) for s in (0.0, 0.3, 0.6, 0.9)]
    assert shares == sorted(shares)
    assert shares[0] < 0.25 and shares[-1] > 0.8


def test_examples_are_dealt_once_and_equally():
    labels = np.repeat(np.arange(5), 40)
    rows = deal_by_label(labels, 10, 20, 0.1, seed=3)
    assert {len(mine) for mine in rows} == {20}
    assert sorted(np.concatenate(rows)) == list(range(200))
    with pytest.raises(DataError, match="11 clients with 20 examples each need 220"):
        deal_by_label(labels, 11, 20, 0.1)


def test_turned_and_renamed_digits_are_the_same_images():
    plain = digit_clients(skew="rotation", strength=0, seed=2)
    turned = digit_clients(skew="rotation", strength=1, seed=2)
    renamed = digit_clients(skew="concept", strength=1, seed=2)
    for client in range(4):
        x = plain[client][0].reshape(-1, 8, 8)
        np.testing.assert_array_equal(
            np.rot90(x, client, (1, 2)).reshape(-1, 64), turned[client][0]
        )
        np.testing.assert_array_equal(plain[client][0], renamed[client][0])
        pairs = {*zip(plain[client][1].tolist(), renamed[client][1].tolist(), strict=True)}
        assert len(pairs) == len({old for old, _ in pairs})  # one name for each digit
        assert (client == 0) == all(old == new for old, new in pairs)


def test_synthetic_clients_differ_as_alpha_and_beta_say():
    def spread(alpha, beta, part):
        pairs = synthetic_clients(alpha, beta, 200, per_client=20, seed=1)
        return np.std([part(x, y) for x, y in pairs])

    means = [spread(0, beta, lambda x, y: x.mean()) for beta in (0, 1, 9)]
    # 60 coordinates around the client's middle, each with variance 1.
    np.testing.assert_allclose(np.square(means) - means[0] ** 2, [0, 1, 9], rtol=0.3, atol=0.05)
    x, y = synthetic_clients(per_client=7)[0]
    assert x.shape == (7, 60) and x.dtype == np.float32 and set(y) <= set(range(10))


def test_sequences_follow_the_common_chain_where_nothing_is_their_own():
    def transitions(clients):
        counts = np.zeros((len(clients), 8, 8))
        for client, (x, y) in enumerate(clients):
            np.add.at(counts[client], (x.ravel(), y.ravel()), 1)
        return counts / np.maximum(counts.sum(2, keepdims=True), 1)

    alike, own = (
        transitions(sequence_clients(6, 400, strength=s, seed=1)).std(axis=0).mean()
        for s in (0.0, 1.0)
    )
    assert alike < 0.03 < 0.1 < own
    x, y = sequence_clients(1, 3, seed=5)[0]
    np.testing.assert_array_equal(x[:, 1:], y[:, :-1])


def test_a_split_leaves_an_example_on_each_side():
    pairs = [(np.arange(n), np.arange(n)) for n in (2, 5, 10)]
    first, second = split_examples(pairs, 0.9)
    assert [len(x) for x, _ in first] == [1, 4, 9]
    for (a, _), (b, _), (all_of, _) in zip(first, second, pairs, strict=True):
        assert sorted([*a, *b]) == list(all_of)


NETWORKS = {
    "image": (
        models.image_network, (["filters"], ["hidden", "head"]), np.ones((3, 64), "f"), (3, 10),
    ),
    "normalized": (
        lambda **a: models.image_network(normalize=True, **a),
        (["normalization"], ["head", "filters"]), np.ones((3, 64), "f"), (3, 10),
    ),
    "dense": (lambda **a: models.dense_network(5, 4, **a), (["head"], ["hidden"]),
              np.ones((3, 5), "f"), (3, 4)),
    "sequence": (
        lambda **a: models.sequence_network(6, 7, **a), (["symbols"], ["recurrent", "head"]),
        np.tile(np.arange(7) % 6, (3, 1)), (3, 7, 6),
    ),
    "factorization": (lambda **a: models.factorization_network(9, **a), (["user"], ["items"]),
                      np.array([0, 8, 8]), (3, 5)),
    "choice": (lambda **a: models.choice_network(9, **a), (["user"], ["head", "items"]),
               np.array([0, 8, 8]), (3, 2)),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_computes_the_same_however_it_is_divided(name):
    build, divisions, x, shape = NETWORKS[name]
    found, y = [], np.zeros(shape[:-1], np.int64)
    for private in divisions:
        model = build(private=private, seed=4)
        for one in (model, models.exchanged(model)):
            sides = one.global_weights, one.local_weights
            found.append((one.scores(*sides, x), one.example_losses(*sides, x, y)))
            assert found[-1][0].shape == shape and found[-1][1].shape == shape[:1]
    for scores, losses in found[1:]:
        np.testing.assert_allclose(scores, found[0][0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(losses, found[0][1], rtol=1e-5, atol=1e-6)


def test_statistics_are_running_averages():
    rng = np.random.default_rng(0)
    values = tf.constant(rng.normal(2, 3, (50, 4, 2)), tf.float32)
    layer = [tf.constant(w, tf.float32) for w in ([1.5, 1], [0.5, 0], [1, 2], [4, 1])]
    with tf.GradientTape() as tape:
        tape.watch(layer)
        losses = []
        out = normalized(values, layer, losses)
        loss = tf.reduce_mean(losses[0])
    _, _, mean, variance = tape.gradient(loss, layer, unconnected_gradients="zero")
    seen = values.numpy().reshape(-1, 2)
    np.testing.assert_allclose(layer[2] - 0.3 * mean, 0.7 * layer[2] + 0.3 * seen.mean(0), 1e-5)
    square = ((seen - layer[2].numpy()) ** 2).mean(0)
    np.testing.assert_allclose(layer[3] - 0.3 * variance, 0.7 * layer[3] + 0.3 * square, 1e-5)
    expected = 1.5 * (values[..., 0] - 1) / np.sqrt(4.01) + 0.5
    np.testing.assert_allclose(out[..., 0], expected, rtol=1e-5, atol=1e-6)


def test_layers_are_divided_or_refused():
    for private, sentence in (
        ([], "private names 0 of 2 layers"), (["head", "hidden"], "private names 2 of 2"),
        (["tail"], "Each of private"), ("head", "private must list names"),
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError), match=sentence):
            models.dense_network(3, 2, private=private)


def test_error_rates_are_those_of_each_client():
    model = models.dense_network(4, 3, seed=1)
    rng = np.random.default_rng(0)
    weights = [
        [rng.normal(size=(5, *w.shape)).astype("f") for w in side]
        for side in (model.global_weights, model.local_weights)
    ]
    examples = [(rng.normal(size=(6, 4)).astype("f"), rng.integers(0, 3, 6)) for _ in range(5)]
    found = error_rates(model, *weights, examples)
    for client, (x, y) in enumerate(examples):
        body, head = ([w[client] for w in side] for side in weights)
        scores = np.maximum(x @ body[0] + body[1], 0) @ head[0] + head[1]
        assert found[client] == np.mean(scores.argmax(1) != y)
    with pytest.raises(ValueError, match="Weights and examples are of"):
        error_rates(model, *weights, examples[:4])


def test_who_is_worst_off_and_who_is_harmed():
    errors = np.arange(20) / 20
    assert worst_tenth(errors) == pytest.approx((19 + 18) / 40)
    assert worst_tenth(errors[:5]) == 0.2
    assert share_harmed(np.array([0.1, 0.2, 0.3]), np.array([0.2, 0.2, 0.1])) == pytest.approx(
        1 / 3
    )
    with pytest.raises(ValueError, match="make no pairs"):
        share_harmed(errors, errors[:3])


def test_paired_errors_are_paired():
    rng = np.random.default_rng(0)
    hard = rng.random((4, 60))  # clients differ far more than the methods do
    first, second = hard - 0.02, hard + rng.normal(0, 0.005, (4, 60))
    gap = paired_errors(list(first), list(second))
    assert gap.value == pytest.approx(-0.02, abs=0.002) and gap.verdict == "better"
    assert gap.high - gap.low < 0.005 and len(gap.by_seed) == 4
    assert paired_errors(list(hard), list(hard + 0.001)).verdict == "no difference"
    with pytest.raises(ValueError, match="Two methods make pairs"):
        paired_errors([first[0]], [second[0], second[1]])


def test_the_factorization_is_that_of_chapter_2():
    model, item = models.factorization_network(9, num_factors=3, seed=2), np.array([4, 0, 8])
    (table,), (user,) = model.global_weights, model.local_weights
    stars = 3 + table[item, 0] + user[0] + table[item, 1:] @ user[1:]  # from one
    losses = model.example_losses([table], [user], item, np.array([0, 2, 4]))
    np.testing.assert_allclose(losses, (stars - [1, 3, 5]) ** 2, rtol=1e-5)
    table[4, 0], table[8, 0] = 1.4, -1.6
    np.testing.assert_array_equal(model.scores([table], [user], item).numpy().argmax(1), [3, 2, 0])


def test_the_choice_network_is_that_of_the_chapter_on_ranking():
    model = models.choice_network(9, 4, width=6, private=["user"], seed=2)
    other = implicit.neural_factorization(9, 4, (6,), seed=1)
    other = attrs.evolve(other, global_weights=model.global_weights)
    item, y = np.array([4, 0, 8]), np.array([0, 1, 1])
    expected = other.example_losses(
        other.global_weights, [model.local_weights[0][None]], item[:, None], np.float32(y)[:, None]
    )
    found = model.example_losses(model.global_weights, model.local_weights, item, y)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_choices_stand_beside_as_many_others():
    log, _ = synthetic_log(20, 150, seed=3)
    clients = choice_clients(20, 150, seed=3)
    for user, (x, y) in enumerate(clients):
        chosen = log.table["item"][log.table["user"] == user]
        assert len(np.unique(x)) == len(x) and y.sum() * 2 == len(y)
        assert sorted(x[y == 1]) == sorted(chosen)


def test_femnist_is_dealt_by_writer():
    source = tff.simulation.datasets.emnist.get_synthetic()  # two writers, each digit once
    clients = femnist_clients(2, 10, source=source)
    for x, y in clients:
        assert x.shape == (10, 784) and x.dtype == np.float32 and sorted(y) == list(range(10))
        assert x.min() == 0 and x.max() == 1 and x.mean() < 0.5  # paper is 0, ink is 1
    train, test = split_examples(clients, 0.6)
    population = ExampleDatasets(train, 4, shuffle_seed=0)
    network = models.image_network(28, private=["head"])
    process = build_vectorized_process(methods.fed_per(), network, methods.sgd(1.0, 0.1, 0.1))
    data, ids = process.inputs(population, [0, 1], 0)
    assert data[0]["passes"][0].x.shape == (2, 2, 4, 784) and list(ids[0]) == [0, 1]
    weights = [
        [np.stack([w] * 2) for w in g] for g in (network.global_weights, network.local_weights)
    ]
    assert error_rates(network, *weights, test).shape == (2,)
    with pytest.raises(DataError, match="0 writers have 11 images"):
        femnist_clients(2, 11, source=source)


def test_without_a_network_femnist_says_what_to_take(monkeypatch, tmp_path):
    def refused(*args, **kwargs):
        raise urllib.error.URLError("no route")

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", refused)
    with pytest.raises(DataError, match="FEMNIST cannot be downloaded .*take digit_clients"):
        femnist_clients()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_clients_of_every_kind_make_datasets():
    for clients in (
        digit_clients(5, 10),
        synthetic_clients(num_clients=5),
        sequence_clients(5),
        rating_clients(5),
        choice_clients(5),
    ):
        assert len(ExampleDatasets(clients, 4, shuffle_seed=0)) == 5
