"""Measures a round of a small network with private heads: vectorized, per client, and in FedJAX.

    python -m experiments.benchmarks.any_model_speed [--outside PYTHON]

All rows train the same cohort on the same batches in one run, and their results are compared.
PYTHON is the interpreter of an environment with requirements_fedjax.txt beside this file; without
it FedJAX is left out. Writes experiments/results/any_model_speed.jsonl. Takes about a minute.
"""

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from experiments.record import Recorder

# isort: split
import tensorflow as tf

from stateful_tff.data import ExampleDatasets
from stateful_tff.engines.in_process import InThisProcess
from stateful_tff.engines.vectorized import build_vectorized_process
from stateful_tff.methods import sgd, stateful
from stateful_tff.models import FunctionalModel
from stateful_tff.stores import MemoryStore

CLIENTS, BATCH, INPUTS, HIDDEN, CLASSES = 100, 20, 64, 32, 10
SERVER, CLIENT, LOCAL = 1.0, 0.1, 0.05
REPEATS = 20


def example_losses(body, head, x, y):
    """The cross-entropy of each example; the second layer is the client's own."""
    logits = tf.nn.relu(x @ body[0] + body[1]) @ head[0] + head[1]
    labels = tf.cast(y, tf.int32)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)


def network() -> FunctionalModel:
    """Two layers: the first shared, the second private."""
    rng = np.random.default_rng(0)
    body, head = (
        [(rng.normal(size=(n, m)) * n**-0.5).astype("f"), np.zeros(m, "f")]
        for n, m in ((INPUTS, HIDDEN), (HIDDEN, CLASSES))
    )
    spec = {"x": tf.TensorSpec([None, INPUTS]), "y": tf.TensorSpec([None])}
    return FunctionalModel(body, head, example_losses, spec)


def population() -> ExampleDatasets:
    """Clients with 20 to 200 examples each."""
    rng = np.random.default_rng(1)
    counts = rng.integers(20, 201, CLIENTS)
    examples = [
        (rng.normal(size=(n, INPUTS)).astype("f"), rng.integers(0, CLASSES, n).astype("f"))
        for n in counts
    ]
    return ExampleDatasets(examples, BATCH, shuffle_seed=0)


def best(function) -> float:
    """The seconds of the fastest of some calls, after one that compiles."""
    function()
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def fed_jax(python, model, clients) -> tuple[float, np.ndarray]:
    """Runs the round in FedJAX and returns its seconds and the shared layer afterwards."""
    batches = [list(dataset) for dataset in clients.for_round(range(CLIENTS), 0)]
    x, y = (np.concatenate([b[key] for one in batches for b in one]) for key in "xy")
    sizes = [[len(b["y"]) for b in one] for one in batches]
    arrays = [np.asarray(w) for w in [*model.global_weights, *model.local_weights]]
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "round.npz")
        weights = {f"w{i}": w for i, w in enumerate(arrays)}
        np.savez(
            path, x=x, y=y, sizes=np.concatenate(sizes), steps=[len(one) for one in sizes],
            server_rate=SERVER, client_rate=CLIENT, local_rate=LOCAL, **weights,
        )  # fmt: skip
        script = Path(__file__).with_name("outside.py")
        command = [python, str(script), "fedjax", path, str(REPEATS)]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            raise RuntimeError(f"FedJAX failed:\n{run.stderr[-2000:]}")
        return json.loads(run.stdout.splitlines()[-1])["seconds"], np.load(path + ".out.npy")


def main() -> None:
    """Measures, prints and records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--outside", help="Python of an environment with FedJAX")
    options = parser.parse_args()
    model, clients = network(), population()
    process = build_vectorized_process(stateful, model, sgd(SERVER, CLIENT, LOCAL))
    data, ids = process.inputs(clients, np.arange(CLIENTS), 0)
    found = {}
    runtimes = {"vectorized": InThisProcess(process), "vectorized, TFF's runtime": process}
    for name, runtime in runtimes.items():
        store = MemoryStore(runtime, CLIENTS)
        states = [store[part] for part in ids]
        server, *_ = runtime.next(store.server_state, data, states)
        seconds = best(lambda r=runtime, s=store, c=states: r.next(s.server_state, data, c))
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
