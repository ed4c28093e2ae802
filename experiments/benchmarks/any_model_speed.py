"""Measures a round of the small image network with private heads: on our engines and in FedJAX.

    python -m experiments.benchmarks.any_model_speed [--outside PYTHON]

All rows train the same 100 clients on the same batches in one run, and their results are
compared: vectorized, in this process and on TFF's runtime; client by client on TFF's runtime, by
the engine of chapter 4; and in FedJAX, on the same function.
PYTHON is the interpreter of an environment with requirements_fedjax.txt beside this file; without
it FedJAX is left out. Writes experiments/results/any_model_speed.jsonl. Takes about two
minutes.
"""

import argparse

import numpy as np

from experiments.benchmarks.cohort_speed import best
from experiments.benchmarks.outside import ask
from experiments.record import Recorder

# isort: split
from stateful_tff.data import ExampleDatasets
from stateful_tff.engines.in_process import InThisProcess
from stateful_tff.engines.per_client import build_process
from stateful_tff.engines.vectorized import build_vectorized_process
from stateful_tff.methods import sgd, stateful
from stateful_tff.models import image_network
from stateful_tff.stores import MemoryStore

CLIENTS, BATCH = 100, 20
SERVER, CLIENT, LOCAL = 1.0, 0.1, 0.05
REPEATS = 20


def population() -> ExampleDatasets:
    """Clients with 20 to 200 examples each."""
    rng = np.random.default_rng(1)
    counts = rng.integers(20, 201, CLIENTS)
    examples = [(rng.random((n, 64), np.float32), rng.integers(0, 10, n)) for n in counts]
    return ExampleDatasets(examples, BATCH, shuffle_seed=0)


def fed_jax(python, model, clients) -> tuple[float, np.ndarray]:
    """Runs the round in FedJAX and returns its seconds and the filters afterwards."""
    batches = [list(dataset) for dataset in clients.for_round(range(CLIENTS), 0)]
    x, y = (np.concatenate([b[key] for one in batches for b in one]) for key in "xy")
    sizes = [[len(b["y"]) for b in one] for one in batches]
    arrays = [np.asarray(w) for w in [*model.global_weights, *model.local_weights]]
    return ask(
        python, "fedjax", REPEATS, x=x, y=y, sizes=np.concatenate(sizes),
        steps=[len(one) for one in sizes], server_rate=SERVER, client_rate=CLIENT,
        local_rate=LOCAL, **{f"w{number}": weight for number, weight in enumerate(arrays)},
    )  # fmt: skip


def main() -> None:
    """Measures, prints and records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--outside", help="Python of an environment with FedJAX")
    options = parser.parse_args()
    model, clients = image_network(private=["head"], seed=0), population()
    rates, found = sgd(SERVER, CLIENT, LOCAL), {}
    vectorized = build_vectorized_process(stateful, model, rates)
    for name, process, repeats in (
        ("vectorized", InThisProcess(vectorized), REPEATS),
        ("vectorized, TFF's runtime", vectorized, REPEATS),
        ("per client, TFF's runtime", build_process(stateful, model, rates), 3),
    ):
        data, ids = process.inputs(clients, np.arange(CLIENTS), 0)
        store = MemoryStore(process, CLIENTS)
        states = [store[part] for part in ids]
        server, *_ = process.next(store.server_state, data, states)
        seconds = best(
            lambda p=process, s=store, d=data, c=states: p.next(s.server_state, d, c), repeats
        )
        found[name] = seconds, np.asarray(server.model_weights[0])
    if options.outside:
        found["FedJAX"] = fed_jax(options.outside, model, clients)
    fastest, expected = found["vectorized"]
    moved = np.abs(expected - model.global_weights[0]).max()
    recorder = Recorder("any_model_speed")
    for name, (seconds, table) in found.items():
        difference = float(np.abs(table - expected).max() / moved)
        recorder.write(
            name=name, clients=CLIENTS, examples=int(clients.counts.sum()), seconds=seconds,
            times_vectorized=round(seconds / fastest, 2), difference=f"{difference:.1e}",
        )  # fmt: skip
    recorder.finish()


if __name__ == "__main__":
    main()
