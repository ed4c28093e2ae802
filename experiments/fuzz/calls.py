"""Calls that work, for every public function of the package, and what each argument is meant to be.

Knows nothing of how they are tried.
"""

import contextlib
import datetime
import functools
import itertools
import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import attrs
import numpy as np
import pandas as pd
import tensorflow as tf
import tensorflow_federated as tff

from experiments.fuzz.run import Call
from experiments.fuzz.values import (
    ANYTHING,
    CALLED,
    COUNT,
    FLAG,
    FROM_ZERO,
    NONE,
    NOT_NEGATIVE,
    PATH,
    POSITIVE,
    SEED,
    SHARE,
    TEXT,
    THING,
    Kind,
    array,
    either,
    ids,
    is_whole,
    number,
    one_of,
    whole,
)
from experiments.stand_in import StandIn
from stateful_tff import checks, data, methods, models, stores, training
from stateful_tff.data import archives, releases
from stateful_tff.data.orders import permutations
from stateful_tff.data.splits import Split
from stateful_tff.engines import (
    by_rows,
    channel,
    in_process,
    packed,
    packing,
    per_client,
    vectorized,
    workers,
)
from stateful_tff.evaluation import (
    baselines,
    bootstrap,
    centralized,
    client_evaluation,
    cold_start,
    costs,
    drift,
    gains,
    in_one_place,
    lists,
    metrics,
    own_ratings,
    paired,
    participation,
    ranking,
    staleness,
)
from stateful_tff.evaluation.clients import (
    error_rates,
    paired_errors,
    share_harmed,
    worst_tenth,
)
from stateful_tff.experiment import Experiment
from stateful_tff.methods.fcf import fcf
from stateful_tff.methods.fed_bpr import fed_bpr
from stateful_tff.methods.fed_mf import fed_mf
from stateful_tff.methods.fed_ncf import fed_ncf
from stateful_tff.methods.fed_rap import falling_by_batch, fed_rap, fed_rap_rates
from stateful_tff.methods.pfedrec import pfedrec
from stateful_tff.methods.tff_fed_recon import alternating_batches, reconstruction_model_fn
from stateful_tff.models import implicit
from stateful_tff.progress import progress
from stateful_tff.recorded import origin, results
from stateful_tff.state import ClientState
from stateful_tff.stores.database import database_url

NUM_USERS, NUM_ITEMS = 24, 30
BUILD = tff.learning.optimizers.build_sgdm
CALLS: list[Call] = []
_names = itertools.count()


def call(room: str, make: Callable, name: str | None = None, /, **arguments) -> None:
    """Notes a call: for each argument its working value, or a function that makes it, and kind."""
    kinds = {
        key: ((value if callable(value) and kind is not CALLED else lambda v=value: v), kind)
        for key, (value, kind) in arguments.items()
    }
    CALLS.append(Call(room, name or getattr(make, "__name__", repr(make)), make, kinds))


@functools.cache
def ratings() -> data.Ratings:
    """Ratings of a few users."""
    return data.synthetic_ratings(NUM_USERS, NUM_ITEMS, 0, median_ratings=22)


@functools.cache
def parts() -> Split:
    """The same, split by time."""
    return data.split_by_time(ratings())


def clients() -> data.ClientDatasets:
    """Their datasets."""
    return data.ClientDatasets(ratings(), 5, shuffle_seed=0)


SPEC = models.MatrixFactorization(NUM_ITEMS, 3, biases=True, mean_rating=3.5, l2=0.05, seed=0)
RATES = methods.sgd(1.0, 0.1, 0.1)
RNG = np.random.default_rng(0)
LENGTH = len(parts().test)
PREDICTED = RNG.uniform(1, 5, LENGTH)
OF_USERS, OF_ITEMS = RNG.normal(size=(NUM_USERS, 3)), RNG.normal(size=(NUM_ITEMS, 3))
WEIGHTS = Kind(lambda v: False)  # lists of arrays that fit each other
IDS, SOME_IDS = ids(NUM_USERS), ids(NUM_USERS, empty=False)
ID = whole(0, NUM_USERS - 1)
PREDICTIONS = array((LENGTH,))
MANY = whole(1, 100_000)
NEW_RATING = Kind(lambda v: False, is_object=True)


@functools.cache
def process():
    """A process that starts and runs at once."""
    return StandIn()


def states(some=(1, 4, 2)) -> ClientState:
    """Stacked states."""
    store = stores.MemoryStore(process(), NUM_USERS)
    return attrs.evolve(store[list(some)], last_round=np.array([1, 0, 2], np.int32))


def done(**changes) -> training.Round:
    """A first round of a store."""
    store, here = stores.MemoryStore(process(), NUM_USERS), process()
    inputs, order = here.inputs(None, [1, 4], 0)
    state, numbers, after = here.next(store.server_state, inputs, [store[i] for i in order])
    found = training.Round(1, np.array([1, 4]), state, after, numbers, 0.1, 0.1)
    return attrs.evolve(found, **changes)


# checks
for _f, _more in ((checks.whole_number, {}), (checks.finite_number, {})):
    call(
        "checks",
        _f,
        name=("a size", THING),
        value=(3, whole() if _f is checks.whole_number else number()),
        least=(0, THING),
    )
call("checks", checks.positive_number, name=("a rate", THING), value=(0.1, POSITIVE))
call("checks", checks.client_ids, ids=([3, 1], IDS), num_clients=(NUM_USERS, THING))
call("checks", checks.client_id, value=(3, ID), num_clients=(NUM_USERS, THING))

# data
call(
    "data",
    data.synthetic_ratings,
    num_users=(24, whole(2, 10**5)),
    num_items=(30, whole(20, 480)),
    seed=(0, SEED),
    num_factors=(2, COUNT),
    median_ratings=(22, either(whole(20, 30), NONE)),
)
for _f in (data.split_by_time, data.split_at_random, data.split_users):
    _most = {"max_ratings": (300, COUNT)} if _f is data.split_users else {}
    call(
        "data",
        _f,
        ratings=(ratings, THING),
        train=(0.7, SHARE),
        validation=(0.15, number(above=0, below=0.3)),
        seed=(0, SEED),
        **_most,
    )
call("data", data.support_and_query, ratings=(ratings, THING))
call(
    "data",
    data.ClientDatasets,
    ratings=(ratings, THING),
    batch_size=(5, COUNT),
    max_ratings=(3, either(COUNT, NONE)),
    max_clients=(3, either(COUNT, NONE)),
    shuffle_seed=(0, either(SEED, NONE)),
)
PAIR = Kind(lambda v: False)
call(
    "data",
    data.ExampleDatasets,
    examples=(lambda: [(np.ones((3, 2)), np.ones(3))] * 2, PAIR),
    batch_size=(2, COUNT),
    shuffle_seed=(0, either(SEED, NONE)),
)
call(
    "data",
    lambda **a: clients().for_round(**a),
    "ClientDatasets.for_round",
    client_ids=([1, 0], IDS),
    round_num=(0, FROM_ZERO),
    epochs=(1, COUNT),
)
for _name in ("arrays", "num_ratings", "__getitem__"):
    call(
        "data",
        lambda client_id, name=_name: getattr(clients(), name)(client_id),
        f"ClientDatasets.{_name}",
        client_id=(3, ID),
    )
call("data", lambda key: clients().get(key), "ClientDatasets.get", key=(3, ANYTHING))
call("data", lambda key: key in clients(), "ClientDatasets.__contains__", key=(3, ANYTHING))
call(
    "data",
    lambda name: clients().part(name),
    "ClientDatasets.part",
    name=("query", one_of("all", "support", "query")),
)
call(
    "data",
    lambda rows: ratings().select(rows),
    "Ratings.select",
    rows=([0, 2], either(array((...,), whole=True, least=0), Kind(lambda v: np.size(v) == 0))),
)
call(
    "data",
    permutations,
    seed=(0, SEED),
    clients=([1, 2], array((2,), whole=True, least=0)),
    counts=([3, 2], array((2,), whole=True, least=0)),
    round_num=(0, FROM_ZERO),
    epochs=(1, COUNT),
)
call(
    "data", data.deal_by_label, labels=([0, 1, 1, 0, 2, 2], array((6,), whole=True)),
    num_clients=(2, whole(1, 3)), per_client=(2, whole(1, 3)), concentration=(0.5, POSITIVE),
    seed=(0, SEED),
)  # fmt: skip
call(
    "data", data.digit_clients, num_clients=(5, whole(1, 170)), per_client=(10, whole(1, 359)),
    skew=("labels", one_of("rotation")), strength=(0.5, number(least=0, most=1)), seed=(0, SEED),
)  # fmt: skip
call(
    "data", data.synthetic_clients, alpha=(1.0, NOT_NEGATIVE), beta=(1.0, NOT_NEGATIVE),
    num_clients=(3, MANY), per_client=(4, MANY), seed=(0, SEED),
)  # fmt: skip
call(
    "data", data.sequence_clients, num_clients=(3, MANY), per_client=(4, MANY),
    strength=(0.5, number(least=0, most=1)), num_symbols=(4, whole(2, 1000)),
    length=(5, whole(1, 10_000)),
    seed=(0, SEED),
)  # fmt: skip
for _f, _least in ((data.rating_clients, 20), (data.choice_clients, 100)):
    call(
        "data", _f, num_clients=(9, whole(1, 100_000)),
        num_items=(_least, whole(_least)), seed=(0, SEED),
    )  # fmt: skip
call(
    "data", data.femnist_clients, num_clients=(2, whole(1, 2)), per_client=(4, whole(1, 10)),
    seed=(0, SEED), source=(tff.simulation.datasets.emnist.get_synthetic, THING),
)  # fmt: skip
call(
    "data",
    lambda **a: data.split_examples([(np.ones((4, 2)), np.ones(4))] * 2, **a),
    "split_examples",
    train=(0.5, SHARE),
    seed=(0, SEED),
)
call(
    "data", data.parse_users, data=(b"1::F::25::3::12345", Kind(lambda v: False)),
    where=("users.dat", ANYTHING),
)  # fmt: skip
call(
    "data", lambda path: data.read_users(path, ratings()), "read_users",
    path=(lambda: _written_users(), PATH),
)  # fmt: skip
call("data", lambda ratings: _load_users(ratings), "load_users", ratings=(ratings, THING))
call(
    "data", data.load_ratings, name=("synthetic", one_of("auto")),
    cache_dir=(None, either(PATH, NONE)),
)  # fmt: skip
call(
    "data",
    data.read_movielens,
    path=(lambda: _written(), PATH),
    names=(None, either(NONE, Kind(lambda v: v in (["a"],) if type(v) is list else False))),
)
call(
    "data",
    data.write_movielens,
    ratings=(ratings, THING),
    folder=("written", PATH),
    release=("ml-1m", one_of("ml-10m")),
)


def _downloaded(**arguments):
    """Calls `download`, with a stand-in for what reaches the network."""
    with mock.patch("pooch.retrieve", lambda url, *_, **__: url):
        return data.download(**arguments)


call(
    "data", _downloaded, "download", name=("ml-1m", one_of("ml-1m")),
    cache_dir=(None, either(PATH, NONE)),
)  # fmt: skip
call("data", archives.as_path, name=("x", PATH))
call("data", archives.find, path=(lambda: Path(_written()), PATH))
call(
    "data",
    releases.recognize,
    layout=("ratings.dat", one_of("ratings.dat")),
    num_ratings=(5, FROM_ZERO),
    num_users=(5, FROM_ZERO),
    half_stars=(False, FLAG),
)
for _parse, _file in ((data.parse_ratings, "ratings.dat"), (data.parse_movies, "movies.dat")):
    call(
        "data",
        _parse,
        data=(lambda name=_file: (Path(_written()) / name).read_bytes(), Kind(lambda v: False)),
        layout=("ratings.dat", one_of("ratings.dat")),
        where=("ratings", ANYTHING),
    )
# One field of one line holds the odd value, as it is written.
for _layout in releases.LAYOUTS.values():
    for _column, _fits in enumerate(("12", "34", "4", "978300760")):

        def _parsed(field, layout=_layout, column=_column):
            fields = ["12", "34", "4", "978300760"]
            fields[column] = str(field)
            lines = [layout.header] * bool(layout.header) + [layout.separator.join(fields)]
            text = "\n".join([*lines, layout.separator.join(["13", "34", "4", "978300760"])])
            return data.parse_ratings(text.encode(), layout.ratings_file)

        call(
            "data",
            _parsed,
            f"parse_ratings of {_layout.ratings_file}, field {_column}",
            field=(_fits, Kind(lambda v, column=_column: _can_stand(str(v), column))),
        )


def _can_stand(text: str, column: int) -> bool:
    """Tells whether a text is an id, a rating or a time that a file of MovieLens may hold."""
    text = text.partition(".")[0] if column != 2 and text.endswith(".0") else text
    if column == 2:
        return text in ("0.5", "1", "1.0", "1.5", "2", "2.0", "3", "3.0", "5")
    least, most = (1, 2**63 - 1) if column < 2 else (788_918_400, 2_524_608_000)
    return text.isdecimal() and least <= int(text) <= most


FRAME = dict(u=["a", "a", "b"], i=[1, 2, 1], r=[4.0, 3.5, 1.0], t=[1, 2, 3], n=["x", "y", "x"])
for _name, _source, _column in (
    ("a DataFrame", lambda: pd.DataFrame(FRAME), lambda name: (name, one_of(name))),
    ("a file", lambda: _table(True), lambda name: (name, one_of(name))),
    (
        "a file without header",
        lambda: _table(False),
        lambda name: (list(FRAME).index(name), Kind(lambda v: type(v) is int and 0 <= v < 5)),
    ),
):
    call(
        "data",
        data.read_table,
        f"read_table of {_name}",
        source=(_source, Kind(lambda v: False)),
        user=_column("u"),
        item=_column("i"),
        rating=_column("r"),
        time=(_column("t")[0], either(_column("t")[1], NONE)),
        title=(_column("n")[0], either(_column("n")[1], NONE)),
        name=("mine", TEXT),
        scale=(None, either(NONE, Kind(lambda v: False))),
    )


def _table(header: bool) -> str:
    pd.DataFrame(FRAME).to_csv(f"table {header}.csv", index=False, header=header)
    return f"table {header}.csv"


_IDS = Kind(lambda v: isinstance(v, int | float | str | bytes | np.generic | Path | datetime.date))
_READ = (
    (data.read_table, "of a DataFrame", lambda table: table),
    (data.read_table, "of a file", lambda table: table.to_csv("odd.csv", index=False) or "odd.csv"),
)
for _make, _what, _as in _READ:
    for _column in FRAME:  # one cell holds the odd value

        def _with_cell(value, column=_column, make=_make, source=_as):
            cells = pd.Series([value, *FRAME[column][1:]], dtype=object)
            table = pd.DataFrame(FRAME | {column: cells})
            return make(source(table), "u", "i", "r", "t", title="n")

        call("data", _with_cell, f"read_table {_what}, a cell of {_column}",
             value=(FRAME[_column][0], ANYTHING))  # fmt: skip


def _of_table(**changes):
    table = ratings().table
    return data.Ratings("mine", table, ratings().user_ids, ratings().items, **changes)


call(
    "data",
    _of_table,
    "Ratings",
    best_rmse=(0.9, either(NOT_NEGATIVE, NONE)),
    scale=((1, 5), either(NONE, array((2,)))),
)
for _column, _fits in (
    ("user", whole(0, 0)),
    ("item", whole(0, NUM_ITEMS - 1)),
    ("rating", number()),
    ("timestamp", whole(-(2**63), 2**63 - 1)),
):

    def _with_first(value, column=_column):  # in the first row
        table = ratings().table
        return attrs.evolve(
            ratings(), table=table.assign(**{column: pd.Series([value, *table[column][1:]])})
        )

    call(
        "data",
        _with_first,
        f"Ratings, column {_column}",
        value=(lambda column=_column: ratings().table[column].iloc[0], _fits),
    )


def _written():
    return data.write_movielens(ratings(), os.path.abspath("movielens"))


def _written_users():
    folder = _written()
    lines = [f"{user}::F::25::3::12345" for user in ratings().user_ids]
    (folder / "users.dat").write_text("\n".join(lines))
    return folder


def _load_users(of):
    with mock.patch.dict(os.environ, STATEFUL_TFF_DATA=str(_written_users())):
        return data.load_users(attrs.evolve(of, name="ml-1m"))


RAW = pd.DataFrame(dict(user=[1, 2], movie=[3, 3], rating=[4.0, 5.0], timestamp=[1, 2]))
MOVIES = pd.DataFrame(dict(title=["a"], genres=["b"]), index=[3])
call(
    "data",
    data.index_ratings,
    name=("mine", ANYTHING),
    raw=(RAW, THING),
    movies=(MOVIES, THING),
    best_rmse=(None, either(NOT_NEGATIVE, NONE)),
    scale=(None, either(NONE, array((2,)))),
)


@functools.cache
def log() -> data.Ratings:
    """Choices of a few users."""
    return data.positives(ratings())


def sampler() -> data.NegativeSampler:
    """What draws their negatives."""
    return data.NegativeSampler(log(), 0)


@functools.cache
def one_left_out() -> Split:
    """The choices but for two of each user."""
    return data.split_leave_one_out(log())


COUNTS = array((2,), whole=True, least=0)
LOG = pd.DataFrame(dict(who=[1, 1, 2], what=[3, 4, 3], when=[1, 2, 3]))
call("data", data.positives, ratings=(ratings, THING), least=(4, either(number(most=5), NONE)))
call(
    "data",
    data.read_log,
    source=(LOG, THING),
    user=("who", THING),
    item=("what", THING),
    time=("when", THING),
    name=("mine", ANYTHING),
)
call(
    "data",
    data.synthetic_log,
    num_users=(20, whole(1, 100_000)),
    num_items=(100, whole(100, 10_000)),
    seed=(0, SEED),
    num_factors=(2, whole(1, 100)),
)
call("data", data.split_leave_one_out, log=(log, THING), seed=(0, SEED))
call(
    "data",
    data.split_at_time,
    log=(log, THING),
    train=(0.7, SHARE),
    validation=(0.15, number(above=0, below=0.3)),
    seed=(0, SEED),
)
call("data", data.NegativeSampler, known=(log, THING), seed=(0, SEED))
call(
    "data",
    lambda **a: sampler()(**a),
    "NegativeSampler.__call__",
    clients=([1, 0], IDS),
    counts=([3, 2], COUNTS),
    round_num=(0, FROM_ZERO),
)
call(
    "data",
    data.times_drawn,
    sampler=(sampler, THING),
    clients=([1, 2], ids(2**32)),
    counts=([3, 2], COUNTS),
    rounds=([0], THING),
    size=(NUM_ITEMS, whole(NUM_ITEMS)),
)
call(
    "data",
    data.refuse_peeking,
    sampler=(lambda: data.NegativeSampler(one_left_out().train, 0), THING),
    train=(lambda: one_left_out().train, THING),
    held_out=(lambda: one_left_out().test, THING),
    negatives=(4, COUNT),
    rounds=(2, COUNT),
)
call(
    "data",
    data.ImplicitDatasets,
    log=(log, THING),
    batch_size=(5, COUNT),
    negatives=(4, whole(0, 10_000)),
    sampler=(sampler, THING),
    pairs=(False, FLAG),
    shuffle_seed=(0, either(SEED, NONE)),
)
# models
_spec = dict(
    num_items=(30, COUNT),
    num_factors=(3, COUNT),
    biases=(True, FLAG),
    mean_rating=(3.5, number()),
    l2=(0.1, NOT_NEGATIVE),
    seed=(0, either(SEED, NONE)),
)
call("models", models.MatrixFactorization, **_spec)
call("models", models.build_model_fn, **_spec)
call("models", models.matrix_factorization_model, **_spec)
call(
    "models",
    lambda **a: models.UserEmbedding(**a)(tf.zeros([2, 1])),
    "UserEmbedding",
    num_factors=(3, COUNT),
    initializer=("uniform", either(TEXT, NONE)),
)
_sides = [OF_ITEMS, OF_ITEMS[:, :1]], [OF_USERS, OF_USERS[:, :1]]
call(
    "models",
    SPEC.predict,
    "MatrixFactorization.predict",
    global_weights=(lambda: _sides[0], WEIGHTS),
    local_weights=(lambda: _sides[1], WEIGHTS),
    user=([0, 1], array((2,), whole=True, least=0, most=NUM_USERS - 1)),
    item=([2, 1], array((2,), whole=True, least=0, most=NUM_ITEMS - 1)),
)
call("models", models.functional_matrix_factorization, spec=(SPEC, THING))
call("models", models.build_keras_model, spec=(SPEC, THING))
for _f in (models.local_model_variables, models.global_model_variables):
    call("models", _f, model=(SPEC.keras_model, THING))


def losses(shared, own, x, y):
    """A small model's losses."""
    return (tf.linalg.matvec(x, shared[0]) + own[0] - y) ** 2


INPUTS = OrderedDict(x=tf.TensorSpec([None, 2]), y=tf.TensorSpec([None]))
_functional = dict(
    global_weights=([np.ones(2, np.float32)], Kind(lambda v: False)),
    local_weights=([np.float32(1)], Kind(lambda v: False)),
    example_losses=(losses, CALLED),
    input_spec=(INPUTS, Kind(lambda v: False)),
)
call("models", models.FunctionalModel, **_functional)


def keras_network():
    """A small Keras model."""
    return tf.keras.Sequential([tf.keras.layers.Dense(1, input_shape=[2])])


@functools.cache
def the_network():
    """The same one each time."""
    return keras_network()


call(
    "models",
    models.functional_keras_model,
    keras_model=(the_network, THING),
    local_variables=(lambda: the_network().trainable_variables[1:], THING),
    loss=(lambda y, p: (y - p[:, 0]) ** 2, CALLED),
    target_spec=(tf.TensorSpec([None]), THING),
)

ERRORS = np.array([0.1, 0.5, 0.2])
call("evaluation", worst_tenth, errors=(ERRORS, array((...,))))
call("evaluation", share_harmed, errors=(ERRORS, array((3,))), others=(ERRORS[::-1], array((3,))))
call(
    "evaluation", paired_errors, first=([ERRORS], array((1, 3))), second=([ERRORS], array((1, 3))),
    draws=(10, COUNT), seed=(0, SEED),
)  # fmt: skip
call(
    "evaluation",
    error_rates,
    model=(lambda: models.dense_network(2, 2), THING),
    global_weights=(lambda: [w[None] for w in models.dense_network(2, 2).global_weights], THING),
    local_weights=(lambda: [w[None] for w in models.dense_network(2, 2).local_weights], THING),
    examples=(lambda: [(np.ones((3, 2), "f"), np.ones(3, int))], THING),
)
LAYERS = {name: models.networks.dense(np.random.default_rng(0), 2, 2) for name in "ab"}
PRIVATE = Kind(lambda v: isinstance(v, list) and v == ["a"])  # one layer of two
call(
    "models",
    models.classifier,
    layers=(LAYERS, THING),
    scores=(lambda layers, x, losses: x @ layers["a"][0] @ layers["b"][0], CALLED),
    private=(["b"], PRIVATE),
    input_spec=(INPUTS, THING),
)
call(
    "models", models.image_network, side=(8, whole(4, 100)), num_classes=(3, whole(2)),
    filters=(2, COUNT), width=(4, COUNT), private=(["head"], PRIVATE), seed=(0, SEED),
)  # fmt: skip
call(
    "models", models.dense_network, num_inputs=(5, COUNT), num_classes=(3, whole(2)),
    width=(4, COUNT), private=(["hidden"], PRIVATE), seed=(0, SEED),
)  # fmt: skip
call(
    "models", models.sequence_network, num_symbols=(4, whole(2)), length=(3, COUNT),
    width=(4, COUNT), private=(["head"], PRIVATE), seed=(0, SEED),
)  # fmt: skip
call(
    "models", models.factorization_network, num_items=(5, COUNT), num_stars=(3, whole(2)),
    num_factors=(2, COUNT), private=(["user"], PRIVATE), seed=(0, SEED),
)  # fmt: skip
call(
    "models", models.choice_network, num_items=(5, COUNT), num_factors=(2, COUNT),
    width=(4, COUNT), private=(["user"], PRIVATE), seed=(0, SEED),
)  # fmt: skip
call("models", models.exchanged, model=(lambda: models.FunctionalModel(**FIRST), THING))
FIRST = {name: value for name, (value, _) in _functional.items()}

# methods
RATE = either(NOT_NEGATIVE, NONE)
for _f in (
    methods.fed_avg_whole, methods.reptile, methods.alone, methods.fed_per, methods.fed_rep,
    methods.lg_fed_avg, methods.fed_bn, methods.apfl, methods.per_fed_avg,
):  # fmt: skip
    call("methods", _f, epochs=(1, COUNT))
call("methods", methods.implicit_sum, l2=(0.1, POSITIVE), rate=(0.1, NOT_NEGATIVE))
STRENGTH = either(NOT_NEGATIVE, Kind(callable))  # a function of the number of the round
call("methods", methods.fed_prox, mu=(0.1, STRENGTH), epochs=(1, COUNT))
call("methods", methods.ditto, strength=(0.1, STRENGTH), epochs=(1, COUNT))
call(
    "methods", methods.pfedme, strength=(0.1, STRENGTH), rate=(0.1, NOT_NEGATIVE),
    local_rounds=(2, COUNT), epochs=(1, COUNT),
)  # fmt: skip
call("methods", methods.scaffold, num_clients=(5, COUNT), epochs=(1, COUNT))
call(
    "methods", methods.fed_dyn, num_clients=(5, COUNT),
    strength=(0.1, either(POSITIVE, Kind(callable))), epochs=(1, COUNT),
)  # fmt: skip
call(
    "methods",
    methods.mixed,
    model=(lambda: models.FunctionalModel(**FIRST), THING),
    mixing=(0.5, SHARE),
)
call(
    "methods", methods.sgd, server=(1.0, NOT_NEGATIVE), client=(1.0, NOT_NEGATIVE),
    local=(1.0, NOT_NEGATIVE),
)  # fmt: skip
_opt = BUILD(0.1)
call("methods", methods.Optimizers, server=(_opt, THING), client=(_opt, THING), local=(_opt, THING))
call("methods", methods.fed_avg, num_clients=(5, COUNT))
call("methods", methods.local_only, epochs=(1, COUNT), data=("all", one_of("all")))
call("methods", methods.fed_recon, epochs=(1, COUNT), joint=(False, FLAG), split=(True, FLAG))
call(
    "methods", methods.alternating, local_epochs=(1, COUNT), joint=(False, FLAG),
    keep=(methods.keep_nothing, CALLED),
)  # fmt: skip
call("methods", methods.rebuilt_at_first_visit, epochs=(1, COUNT), rate=(0.1, RATE))
call(
    "methods",
    methods.Phase,
    data=("all", one_of("all")),
    moves=("both", one_of("both")),
    epochs=(1, COUNT),
    when=(lambda: methods.first_visit, either(CALLED, NONE)),
    rate=(0.1, RATE),
    solve=(False, FLAG),
)
call("methods", methods.DataPass, data=("all", one_of("all")), epochs=(1, COUNT))
call(
    "methods", methods.in_phases, "in_phases", name=("mine", TEXT),
)  # fmt: skip
CALLS[-1] = attrs.evolve(
    CALLS[-1], make=lambda name, **more: methods.in_phases(name, methods.Phase(), **more)
)
call(
    "methods",
    lambda phase: methods.in_phases("mine", phase),
    "in_phases, phase",
    phase=(methods.Phase(), THING),
)
call(
    "methods",
    methods.Method,
    name=("mine", TEXT),
    client_state_fn=(methods.keep_nothing, CALLED),
    client_update=(methods.client_update, CALLED),
    server_update=(methods.server_update, CALLED),
    passes=((methods.DataPass(),), THING),
)
call("methods", methods.optimizers.falling_to_zero, rate=(1.0, POSITIVE), rounds=(5, COUNT))
call("methods", methods.weighting.equal_weights, method=(methods.stateful, THING))
call(
    "methods",
    methods.weighting.weighted,
    method=(methods.stateful, THING),
    weight=(tf.sqrt, CALLED),
)
call("methods", methods.weighting.taken_apart, method=(methods.stateful, THING))
call("methods", reconstruction_model_fn, spec=(attrs.evolve(SPEC, l2=0.0), THING))
call(
    "methods",
    alternating_batches,
    clients=(clients, THING),
    cohort=([1, 2], IDS),
    round_num=(0, FROM_ZERO),
)

# engines
FUNCTIONAL = models.FunctionalModel(*(value for value, _ in _functional.values()))
for _f, _model in (
    (per_client.build_process, lambda: models.ModelFn(SPEC)),
    (packed.build_packed_process, SPEC),
    (vectorized.build_vectorized_process, FUNCTIONAL),
    (by_rows.build_rows_process, implicit.logistic_factorization(NUM_ITEMS, 3, seed=0)),
):
    call(
        "engines",
        _f,
        method=(methods.stateful, THING),
        **{"model_fn" if _f is per_client.build_process else "model": (_model, THING)},
        optimizers=(RATES, THING),
    )
call(
    "engines",
    per_client.build_stateful_fed_avg,
    model_fn=(lambda: models.ModelFn(SPEC), THING),
    server_optimizer=(_opt, THING),
    client_optimizer=(_opt, THING),
    local_optimizer=(_opt, THING),
)


@functools.cache
def packed_process():
    """The packed process of a small model."""
    return packed.build_packed_process(methods.stateful, SPEC, RATES)


@functools.cache
def per_client_process():
    """The per-client process of the same model."""
    return per_client.build_process(methods.stateful, models.ModelFn(SPEC), RATES)


@functools.cache
def vectorized_process():
    """The vectorized process of a small network."""
    return vectorized.build_vectorized_process(methods.stateful, FUNCTIONAL, RATES)


@functools.cache
def here():
    """The packed process, run in this one."""
    return in_process.InThisProcess(packed_process())


def examples() -> data.ExampleDatasets:
    """Examples of the network's clients."""
    pairs = [(np.ones((3, 2), np.float32), np.ones(3, np.float32))] * NUM_USERS
    return data.ExampleDatasets(pairs, 2, 0)


for _process, _clients in (
    (packed_process, clients),
    (per_client_process, clients),
    (vectorized_process, examples),
):
    call(
        "engines",
        lambda make=_process, **a: make().inputs(**a),
        f"{_process.__name__}.inputs",
        clients=(_clients, THING),
        cohort=(np.array([1, 0]), SOME_IDS),
        round_num=(0, FROM_ZERO),
    )
    # The engines name the arguments alike, but for a partial's.
    CALLS[-1] = attrs.evolve(
        CALLS[-1], make=lambda clients, cohort, round_num, make=_process: make().inputs(
            clients, cohort, round_num
        )
    )  # fmt: skip
call(
    "engines",
    in_process.InThisProcess,
    process=(packed_process, THING),
    threads=(2, either(COUNT, NONE)),
)


def _data():
    return here().inputs(clients(), np.array([1, 0, 2]), 0)


call(
    "engines",
    lambda **a: here().next(**a),
    "InThisProcess.next",
    server_state=(lambda: here().initialize(), THING),
    data=(lambda: _data()[0], THING),
    client_states=(lambda: [_store_here()[some] for some in _data()[1]], THING),
)


def _store_here():
    return stores.MemoryStore(here(), NUM_USERS)


call("engines", packing.rounded_up, length=(5, FROM_ZERO))
call("engines", packing.PackedRatings, clients=(clients, THING))
call(
    "engines",
    lambda **a: packing.PackedRatings(clients()).pack(**a),
    "PackedRatings.pack",
    index=(np.array([1, 0]), SOME_IDS),
    round_num=(0, FROM_ZERO),
    epochs=(1, COUNT),
    keep_slots=(True, FLAG),
)
call(
    "engines",
    packing.shards,
    packed=(lambda: [packing.PackedRatings(clients())], THING),
    phases=([methods.Phase()], THING),
    cohort=([1, 0], SOME_IDS),
    round_num=(0, FROM_ZERO),
    num_parts=(1, COUNT),
)
call(
    "engines",
    packing.cut,
    cohort=(np.array([1, 0]), IDS),
    counts=(lambda: clients().counts, THING),
    num_parts=(1, COUNT),
)
call(
    "engines",
    vectorized.pad,
    clients=(clients, THING),
    cohort=(np.array([1, 0]), IDS),
    round_num=(0, FROM_ZERO),
    epochs=(1, COUNT),
)
_limits = dict(
    answer_within=(5.0, POSITIVE), finish_within=(5.0, POSITIVE), ready_within=(5.0, POSITIVE)
)
call("engines", channel.Limits, **_limits)


def _without_workers(make, **arguments):
    """Calls what would start or reach workers, with a stand-in for these."""
    with mock.patch.object(workers, "Worker"), mock.patch.object(workers, "Workers"):
        return make(**arguments)


call(
    "engines", functools.partial(_without_workers, workers.start_workers), "start_workers",
    count=(2, whole(1, 1000)), pin=(False, FLAG), **_limits,
)  # fmt: skip
call(
    "engines", functools.partial(_without_workers, workers.connect_workers), "connect_workers",
    addresses=(["localhost:1"], Kind(lambda v: False)), **_limits,
)  # fmt: skip
call(
    "engines",
    workers.OverWorkers,
    process=(packed_process, THING),
    workers=([1, 2], THING),
    parts=(2, either(COUNT, NONE)),
)

# stores
call("stores", stores.MemoryStore, process=(process, THING), num_clients=(5, whole(1, 10**7)))


def _memory():
    return stores.MemoryStore(process(), NUM_USERS)


_files, NEW = itertools.count(), Path("new")


@contextlib.contextmanager
def _sql(**changes):
    path = f"store {next(_files)}.sqlite"
    store = stores.SqlStore(path, process(), NUM_USERS, keep_states=True)
    try:
        yield store
    finally:
        store.close()
        os.unlink(path)


def _opened(**arguments):
    is_new = isinstance(arguments["url"], str) and arguments["url"] == "new"
    arguments["url"] = f"{next(_files)}.sqlite" if is_new else arguments["url"]
    with stores.SqlStore(**arguments):
        pass


call(
    "stores",
    _opened,
    "SqlStore",
    url=("new", PATH),
    process=(process, THING),
    num_clients=(5, COUNT),
    name=("run", TEXT),
    settings=({"rate": 0.1}, Kind(lambda v: v is None or v == {} or v == {"a": 1})),
    keep_states=(False, FLAG),
)
call("stores", database_url, url=("a.sqlite", PATH))


def _in(kind: str, use: Callable, **arguments):
    if kind == "memory":
        return use(_memory(), **arguments)
    with _sql() as store:
        return use(store, **arguments)


ROUND = dict(
    round_num=(1, Kind(lambda v: is_whole(v, 1, 1))),
    cohort=(np.array([1, 4]), Kind(lambda v: False)),
    server_state=(lambda: done().server_state, THING),
    client_states=(lambda: done().client_states, THING),
    metrics=(
        lambda: {"loss": 1.0},
        Kind(lambda v: v in ({}, {"a": 1}) if type(v) is dict else False),
    ),
)
for _kind in ("memory", "sql"):
    for _name, _use, _arguments in (
        ("[]", lambda store, ids: store[ids], dict(ids=([1, 0], either(IDS, ID)))),
        ("commit", lambda store, **a: store.commit(done(**a)), ROUND),
        (
            "add_metrics",
            lambda store, metrics: (store.commit(done()), store.add_metrics(metrics)),
            dict(metrics=ROUND["metrics"]),
        ),
        (
            "keep_plan",
            lambda store, plan: store.keep_plan(plan),
            dict(plan=({"a": 1}, Kind(lambda v: type(v) is dict))),
        ),
    ):
        call("stores", functools.partial(_in, _kind, _use), f"{_kind}.{_name}", **_arguments)
call(
    "stores",
    functools.partial(_in, "memory", lambda store, states: store.replace(states)),
    "memory.replace",
    states=(states, THING),
)
for _part, _kind in (("index", THING), ("local_weights", THING), ("last_round", THING)):
    call(
        "stores",
        lambda value, part=_part: _memory().replace(attrs.evolve(states(), **{part: value})),
        f"memory.replace, {_part}",
        value=(lambda part=_part: getattr(states(), part), Kind(lambda v: False)),
    )
for _name, _use, _arguments in (
    (
        "state_at",
        lambda store, **a: (store.commit(done()), store.state_at(**a)),
        dict(client=(1, ID), round_num=(1, whole(0, 1))),
    ),
    ("forget", lambda store, client: store.forget(client), dict(client=(1, ID))),
    (
        "backup",
        lambda store, path: store.backup(f"{next(_files)}.copy" if path is NEW else path),
        dict(path=(NEW, PATH)),
    ),
):
    call("stores", functools.partial(_in, "sql", _use), f"sql.{_name}", **_arguments)

# training
call(
    "training",
    training.sample_cohort,
    num_clients=(NUM_USERS, whole(5)),
    cohort_size=(5, whole(1, NUM_USERS)),
    round_num=(0, FROM_ZERO),
    seed=(0, SEED),
)
call(
    "training",
    lambda round_num, **a: training.UniformSampler(**a)(round_num),
    "UniformSampler",
    clients=(NUM_USERS, either(whole(1), IDS)),
    cohort_size=(1, whole(1, NUM_USERS)),
    seed=(0, SEED),
    round_num=(0, FROM_ZERO),
)


def _rounds(**arguments):
    store = arguments["store"]
    for one in itertools.islice(training.rounds(**arguments), 3):
        store.commit(one)


call(
    "training",
    _rounds,
    "rounds",
    process=(process, THING),
    store=(_memory, THING),
    clients=(clients, THING),
    sampler=(lambda: training.UniformSampler(NUM_USERS, 2), CALLED),
    until=(2, FROM_ZERO),
)
CALLS[-1].arguments["sampler"] = (lambda: training.UniformSampler(NUM_USERS, 2), CALLED)
call(
    "training",
    lambda drawn: _rounds(
        process=process(), store=_memory(), clients=clients(), sampler=lambda _: drawn, until=1
    ),
    "rounds, what is sampled",
    drawn=([1, 2], SOME_IDS),
)

# evaluation
TRAIN, TEST = (lambda: parts().train), (lambda: parts().test)
_intervals = dict(draws=(10, COUNT), seed=(0, SEED), level=(0.95, SHARE))
call("evaluation", baselines.global_mean, train=(TRAIN, THING), ratings=(TEST, THING))
call(
    "evaluation", baselines.item_mean, train=(TRAIN, THING), ratings=(TEST, THING),
    shrink=(5.0, POSITIVE),
)  # fmt: skip
call(
    "evaluation",
    baselines.fit_biases,
    train=(TRAIN, THING),
    shrink=(5.0, POSITIVE),
    sweeps=(2, COUNT),
    l2=(0.0, NOT_NEGATIVE),
    users_first=(False, FLAG),
)
call(
    "evaluation",
    lambda **a: baselines.fit_biases(TRAIN()).fold_in(**a),
    "Biases.fold_in",
    support=(TEST, THING),
    l2=(0.0, NOT_NEGATIVE),
    shrink=(5.0, POSITIVE),
)
call("evaluation", baselines.global_mean_baseline, train=(TRAIN, THING), test=(TEST, THING))
call(
    "evaluation",
    baselines.biases_baseline,
    train=(TRAIN, THING),
    test=(TEST, THING),
    shrink=(5.0, POSITIVE),
    sweeps=(2, COUNT),
)
call("evaluation", bootstrap.populations, num_users=(5, COUNT), draws=(10, COUNT), seed=(0, SEED))
call(
    "evaluation", bootstrap.bounds,
    values=(np.arange(5.0), array((...,), (..., ...), finite=False)), level=(0.95, SHARE),
)  # fmt: skip
call(
    "evaluation",
    bootstrap.interval,
    values=(np.arange(5.0), array((...,), (..., ...), finite=False)),
    statistic=(np.mean, CALLED),
    **_intervals,
)
_fit = dict(
    train=(TRAIN, THING),
    num_factors=(2, COUNT),
    l2=(0.05, NOT_NEGATIVE),
    seed=(0, SEED),
)
call(
    "evaluation", centralized.fit_als, **_fit, shrink=(2.0, POSITIVE), sweeps=(1, COUNT),
)  # fmt: skip
call(
    "evaluation",
    centralized.fit_sgd,
    **_fit,
    rate=(0.05, NOT_NEGATIVE),
    epochs=(1, COUNT),
    batch_size=(50, COUNT),
    implicit=(0.0, NOT_NEGATIVE),
)
call(
    "evaluation",
    centralized.told_by_items,
    ratings=(TRAIN, THING),
    table=(OF_ITEMS, array((NUM_ITEMS, ...))),
)
call(
    "evaluation",
    lambda **a: centralized.fit_als(TRAIN(), 2, sweeps=1).fold_in(**a),
    "Factors.fold_in",
    support=(TEST, THING),
    l2=(0.0, NOT_NEGATIVE),
    shrink=(5.0, POSITIVE),
)
call(
    "evaluation",
    client_evaluation.build_strategy,
    group=("local_model_variables", one_of("local_model_variables")),
    optimizer=(_opt, THING),
    scale=((1.0, 5.0), array((2,))),
    batch_size=(5, COUNT),
)
call(
    "evaluation", cold_start.seen_and_unseen, ratings=(ratings, THING), seed=(0, SEED),
    tuning=(False, FLAG),
)  # fmt: skip
COUNTS = Kind(lambda v: not isinstance(v, dict) and array((...,), whole=True, least=0).makes_sense(
    list(v) if isinstance(v, set | range) else v) and len(v))  # fmt: skip
call("evaluation", cold_start.first_ratings, unseen=(ratings, THING), counts=([1, 5], COUNTS))
call(
    "evaluation",
    cold_start.cold_start,
    unseen=(ratings, THING),
    counts=([1, 5], COUNTS),
    serve=(lambda support, query, count: np.ones(len(query)), CALLED),
)
call("evaluation", cold_start.serve_biases, train=(TRAIN, THING), shrink=(5.0, POSITIVE))
call("evaluation", costs.num_bytes, weights=(_sides[0], Kind(lambda v: np.size(v) == 0)))
call(
    "evaluation",
    costs.client_costs,
    global_weights=(_sides[0], Kind(lambda v: np.size(v) == 0)),
    local_weights=(_sides[1], Kind(lambda v: np.size(v) == 0)),
    counts=([20, 30], array((...,), whole=True, least=1)),
    batch_size=(5, COUNT),
    keeps_state=(True, FLAG),
    sends_user=(False, FLAG),
    support_epochs=(0, FROM_ZERO),
)
for _f in (gains.gains, gains.gains_in_halves):
    call(
        "evaluation",
        _f,
        predicted=(PREDICTED, PREDICTIONS),
        baseline=(PREDICTED, PREDICTIONS),
        ratings=(TEST, THING),
    )
PER_USER = Kind(lambda v: array((...,)).makes_sense(v) and np.size(v) > 0)
call("evaluation", gains.worse_off, gains=(np.arange(3.0), PER_USER))
PAIRS_OF_GAINS = array((9, 2))
call(
    "evaluation", gains.shrunk_gains, halves=(RNG.normal(size=(9, 2)), PAIRS_OF_GAINS),
    counts=(np.arange(1, 10), array((9,), least=1)),
)  # fmt: skip
call("evaluation", gains.user_traits, train=(TRAIN, THING))


def _of_users():
    users = gains.user_traits(TRAIN())
    return pd.Series(RNG.normal(size=len(users)), users.index), users


call(
    "evaluation",
    gains.gains_by_group,
    gains=(lambda: _of_users()[0], THING),
    before=(lambda: _of_users()[0] + 9, THING),
    groups=(lambda: _of_users()[1]["ratings"] > 18, THING),
)
call(
    "evaluation",
    gains.trait_effects,
    gains=(lambda: _of_users()[0], THING),
    traits=(lambda: _of_users()[1], THING),
)
for _f in (metrics.clipped_errors, metrics.per_user, metrics.score, metrics.score_with_intervals):
    _more = _intervals if _f is metrics.score_with_intervals else {}
    call("evaluation", _f, predicted=(PREDICTED, PREDICTIONS), ratings=(TEST, THING), **_more)
call(
    "evaluation",
    metrics.error_by,
    groups=([0, 1] * (NUM_USERS // 2), Kind(lambda v: False)),
    predicted=(PREDICTED, PREDICTIONS),
    ratings=(TEST, THING),
)
call("evaluation", metrics.rmse_of_runs, predicted=(PREDICTED, PREDICTIONS), ratings=(TEST, THING))
call(
    "evaluation",
    metrics.rmse_difference,
    first=(PREDICTED, PREDICTIONS),
    second=(PREDICTED, PREDICTIONS),
    ratings=(TEST, THING),
    **_intervals,
)
call("evaluation", paired.user_errors, predicted=(PREDICTED, PREDICTIONS), ratings=(TEST, THING))


def _errors():
    return [paired.user_errors(PREDICTED, TEST())] * 2


call(
    "evaluation",
    paired.paired_difference,
    first=(_errors, Kind(lambda v: False)),
    second=(_errors, Kind(lambda v: False)),
    minus=(None, NONE),
    **_intervals,
)
call("evaluation", paired.rmse_of_users, runs=(_errors, Kind(lambda v: False)))
BY_SEED = array((..., ...))
call(
    "evaluation",
    paired.mean_over_users,
    values=(np.ones((2, 9)), BY_SEED),
    per=(None, NONE),
    users=(None, NONE),
    minus=(None, NONE),
    **_intervals,
)
call(
    "evaluation",
    drift.drift,
    support=(TRAIN, THING),
    residuals=(lambda: np.zeros(len(TRAIN())), Kind(lambda v: False)),
    judged=(TEST, THING),
    reach=(3.0, POSITIVE),
    shrink=(2.0, POSITIVE),
)
call(
    "evaluation",
    participation.draw_available,
    weights=(np.ones(9), Kind(lambda v: array((...,), least=0).makes_sense(v))),
    cohort_size=(3, COUNT),
    rng=(np.random.default_rng(0), THING),
)
_round = dict(round_num=(3, FROM_ZERO))
call(
    "evaluation",
    lambda round_num, **a: participation.ByActivity(**a)(round_num),
    "ByActivity",
    num_ratings=(np.ones(9), array((...,), least=0)),
    **_round,
)
call(
    "evaluation",
    lambda round_num, **a: participation.DailyCycle(**a)(round_num),
    "DailyCycle",
    hours=(np.ones(9), array((...,), least=0, most=24)),
    rounds_per_day=(8, POSITIVE),
    open_hours=(8, number(above=0, most=24)),
    **_round,
)
call(
    "evaluation",
    lambda round_num, **a: participation.LongAbsence(**a)(round_num),
    "LongAbsence",
    away=(np.zeros(9, bool), Kind(lambda v: v == [True] and type(v) is list)),
    first=(2, FROM_ZERO),
    last=(5, FROM_ZERO),
    **_round,
)
call(
    "evaluation",
    lambda round_num, **a: participation.Schedule(**a)(round_num),
    "Schedule",
    num_clients=(9, COUNT),
    cohort_size=(3, COUNT),
    conditions=((lambda _: np.ones(9),), Kind(lambda v: np.size(v) == 0)),
    drop_out=(0.1, number(least=0, below=1)),
    seed=(0, SEED),
    **_round,
)
CALLS[-1].arguments["conditions"] = (
    lambda: (lambda _: np.ones(9),),
    CALLS[-1].arguments["conditions"][1],
)
call(
    "evaluation",
    ranking.leave_one_out,
    ratings=(ratings, THING),
    test=(TEST, THING),
    seed=(0, SEED),
    negatives=(3, COUNT),
)
call(
    "evaluation",
    ranking.target_ranks,
    scores=(OF_USERS, array((NUM_USERS, 3), (3,))),
    target=(np.zeros(NUM_USERS, int), array((NUM_USERS,), whole=True)),
    candidates=(np.ones((NUM_USERS, 3), bool), Kind(lambda v: False)),
)
call(
    "evaluation",
    ranking.hit_rate_and_ndcg,
    above=(np.array([1, 2]), array((2,), whole=True, least=0)),
    tied=(np.array([0, 1]), array((2,), whole=True, least=0)),
    cutoff=(10, COUNT),
)
call(
    "evaluation",
    ranking.score_all,
    model=(SPEC, THING),
    global_weights=(_sides[0], WEIGHTS),
    local_weights=(_sides[1], WEIGHTS),
    users=([1, 0], IDS),
)
# lists
_TABLE = dict(num_items=(30, COUNT), num_factors=(3, whole(1, 10_000)))
call(
    "models",
    implicit.logistic_factorization,
    **_TABLE,
    item_stddev=(1.0, NOT_NEGATIVE),
    user_range=(0.1, either(NOT_NEGATIVE, NONE)),
    l2=(0.0, NOT_NEGATIVE),
    seed=(0, SEED),
)
call(
    "models",
    implicit.two_table_factorization,
    **_TABLE,
    independence=(0.1, NOT_NEGATIVE),
    sparsity=(0.1, NOT_NEGATIVE),
    seed=(0, SEED),
)
for _f in (implicit.one_class_factorization, implicit.pairwise_factorization):
    call("models", _f, **_TABLE, stddev=(0.1, NOT_NEGATIVE), seed=(0, SEED))
call(
    "models",
    implicit.neural_factorization,
    **_TABLE,
    hidden=((4, 2), Kind(lambda v: isinstance(v, list) and v and all(is_whole(n, 1) for n in v))),
    stddev=(0.1, NOT_NEGATIVE),
    seed=(0, SEED),
)
for _f in (fed_mf, fed_ncf, fed_bpr):
    call("methods", _f)
call("methods", pfedrec, keeps=("scores", one_of("nothing", "scores", "table")))
call(
    "methods",
    fcf,
    weight=(0.1, POSITIVE),
    l2=(0.1, POSITIVE),
    power=(1.0, NOT_NEGATIVE),
    scaled=(True, FLAG),
)
call(
    "methods", fed_rap, epochs=(1, COUNT), table_rate=(10.0, POSITIVE), round_decay=(0.9, POSITIVE)
)
call("methods", falling_by_batch, rate=(0.5, POSITIVE), decay=(0.9, POSITIVE))
call(
    "methods",
    fed_rap_rates,
    rate=(0.5, POSITIVE),
    batch_decay=(0.9, POSITIVE),
    server=(1.0, NOT_NEGATIVE),
)
LISTS, HITS = Kind(lambda v: np.ndim(v) == 2), Kind(lambda v: False)
call(
    "evaluation",
    lists.top_items,
    scores=(OF_USERS, array((NUM_USERS, 3), (3,))),
    candidates=(np.ones((NUM_USERS, 3), bool), Kind(lambda v: False)),
    cutoff=(2, whole(1, 3)),
)
call("evaluation", lists.coverage, lists=([[0, 1, 2]], LISTS), num_items=(30, whole(3)))
call("evaluation", lists.popularity_lift, lists=([[0, 1, 2]], LISTS), train=(log, THING))
call(
    "evaluation",
    lists.paired_mean,
    first=([np.ones(3)], HITS),
    second=([np.zeros(3)], HITS),
    draws=(10, COUNT),
    seed=(0, SEED),
    level=(0.9, SHARE),
)
call(
    "evaluation",
    in_one_place.popularity,
    log=(log, THING),
    newest=(0.5, number(above=0, most=1)),
)
call(
    "evaluation",
    in_one_place.item_neighbours,
    log=(log, THING),
    neighbours=(3, COUNT),
    shrink=(1.0, NOT_NEGATIVE),
)
call("evaluation", in_one_place.ease, log=(log, THING), l2=(10.0, POSITIVE))
call(
    "evaluation",
    in_one_place.ials,
    log=(log, THING),
    num_factors=(3, whole(1, 10_000)),
    weight=(0.1, POSITIVE),
    l2=(0.1, POSITIVE),
    power=(1.0, NOT_NEGATIVE),
    sweeps=(1, COUNT),
    seed=(0, SEED),
)
call("evaluation", staleness.ages, states=(states, THING), round_num=(5, whole(2)))
call(
    "evaluation",
    staleness.decayed,
    states=(states, THING),
    first=(states, THING),
    round_num=(5, whole(2)),
    half_life=(3.0, POSITIVE),
)
MATRIX = array((NUM_ITEMS, 3))
for _f in (staleness.rotation_between, staleness.drift):
    call("evaluation", _f, old_items=(OF_ITEMS, MATRIX), new_items=(OF_ITEMS + 1, MATRIX))
call(
    "evaluation", staleness.aligned, states=(states, THING),
    rotation=(np.eye(4, dtype=np.float32), array((4, 4))),
)  # fmt: skip
call(
    "evaluation", cold_start.prior_of, sides=(lambda: _sides[1], WEIGHTS),
    users=([1, 4, 2], SOME_IDS),
)  # fmt: skip
call(
    "evaluation",
    lambda **a: cold_start.prior_of(_sides[1], [1, 4, 2]).fit(**a),
    "Prior.fit",
    model=(SPEC, THING),
    items=(lambda: _sides[0], WEIGHTS),
    support=(TEST, THING),
    noise=(0.5, POSITIVE),
)
call(
    "evaluation",
    own_ratings.cross_validated,
    serve=(lambda part, held_out: np.ones(len(held_out)), CALLED),
    support=(TRAIN, THING),
    folds=(3, whole(2)),
)
call(
    "evaluation", own_ratings.serves_better, personal=(PREDICTED, PREDICTIONS),
    baseline=(PREDICTED, PREDICTIONS), support=(TEST, THING),
)  # fmt: skip

# experiment


@functools.cache
def experiment() -> Experiment:
    """A small experiment."""
    return Experiment(ratings(), num_factors=2, cohort_size=4)


def _light(*_, **__):
    return packed_process()


call(
    "experiment",
    functools.partial(Experiment, engine=_light),
    "Experiment",
    ratings=(ratings, THING),
    method=(methods.stateful, THING),
    num_factors=(3, COUNT),
    biases=(True, FLAG),
    mean_rating=(3.5, either(number(), NONE)),
    l2=(0.1, NOT_NEGATIVE),
    rates=((1.0, 0.1, 0.1), Kind(lambda v: False)),
    cohort_size=(4, COUNT),
    batch_size=(5, COUNT),
    seed=(0, SEED),
)


def _train(**arguments):
    """Trains the first rounds only."""
    run, all_rounds = experiment().branch(), Experiment.rounds
    with mock.patch.object(Experiment, "rounds", lambda *a: itertools.islice(all_rounds(*a), 3)):
        return run.train(**arguments)


call(
    "experiment",
    _train,
    "Experiment.train",
    until=(0, FROM_ZERO),
    evaluate=(None, either(CALLED, NONE)),
    every=(1, COUNT),
)
call(
    "experiment",
    lambda **a: experiment().branch().serve(**a),
    "Experiment.serve",
    epochs=(0, whole(0, 3)),
    ratings=(None, THING),
    users=([1, 0], either(IDS, NONE)),
    start=(None, THING),
    round_num=(0, FROM_ZERO),
    rate=(None, RATE),
)
call(
    "experiment",
    lambda **a: experiment().branch().solve(**a),
    "Experiment.solve",
    ratings=(None, THING),
    l2=(None, either(NOT_NEGATIVE, NONE)),
    shrink=(0.01, POSITIVE),
)
call(
    "experiment",
    lambda ratings: experiment().branch().hold(ratings),
    "Experiment.hold",
    ratings=(ratings, THING),
)
call(
    "experiment",
    lambda sampler: experiment().branch(sampler),
    "Experiment.branch",
    sampler=(None, either(CALLED, NONE)),
)
call(
    "experiment",
    lambda until: list(itertools.islice(experiment().branch().rounds(until), 1)),
    "Experiment.rounds",
    until=(0, FROM_ZERO),
)
for _name in ("predict", "score"):
    call(
        "experiment",
        lambda name=_name, **a: getattr(experiment(), name)(**a),
        f"Experiment.{_name}",
        ratings=(TEST, THING),
        local_weights=(None, THING),
    )

# leaves
call(
    "leaves", progress, iterable=(lambda: [1, 2], ANYTHING), description=("", ANYTHING),
    total=(None, either(NOT_NEGATIVE, NONE)),
)  # fmt: skip
call("leaves", results, name=("convergence", one_of("convergence")))
call("leaves", origin, table=(lambda: results("convergence"), THING))
