"""A round of PFedRec with everybody: clients on the rows they touch, and plain loops over clients.

    python -m experiments.benchmarks.ranking_speed [--outside PYTHON]

All take the same batches: four negatives for each positive, batches of 256, 32 factors. The loop in
NumPy works on the client's own copy of the rows it touches, the one in PyTorch on a copy of the
whole table, as released code does. PYTHON is the interpreter of an environment with
requirements_torch.txt beside this file; without it PyTorch is left out. The largest difference of
the item tables, by the largest change, is recorded with the ratio of the seconds.
STATEFUL_TFF_DATA names the folder or the zip of MovieLens-1M; on other data, `--data`.
"""

import argparse
import time

from experiments.benchmarks.outside import ask
from experiments.record import Recorder

# isort: split
import numpy as np

from stateful_tff import data
from stateful_tff.engines.by_rows import build_rows_process
from stateful_tff.engines.in_process import InThisProcess
from stateful_tff.methods import sgd
from stateful_tff.methods.pfedrec import pfedrec
from stateful_tff.models import implicit
from stateful_tff.stores import MemoryStore

NAME, SCORE_RATE = "ranking_speed", 0.1


def plain_round(table, model, parts, item_rate: float) -> np.ndarray:
    """Returns the mean of the clients' tables after one round from first score functions."""
    total, count = np.zeros((len(table) + 1, table.shape[1]), np.float32), 0
    spare = np.concatenate([table, np.zeros((1, table.shape[1]), np.float32)])
    for part in parts:
        (padded,) = part["passes"]
        for number, rows in enumerate(part["rows"]):
            own, (vector, bias) = spare[rows], (weight[0] for weight in model.local_weights)
            for x, y, size in zip(
                *(p[number] for p in (padded.x, padded.y, padded.sizes)), strict=True
            ):
                x, y = x[:size, 0], y[:size, 0]
                for moves_items in (False, True):
                    seen = own[x]
                    error = (1 / (1 + np.exp(-(seen @ vector + bias[0]))) - y) / max(size, 1)
                    if moves_items:
                        np.subtract.at(own, x, np.float32(item_rate) * error[:, None] * vector)
                    else:
                        vector = vector - SCORE_RATE * error @ seen
                        bias = bias - SCORE_RATE * error.sum()
            np.add.at(total, rows, own - spare[rows])
            count += 1
    return table + total[:-1] / count


def in_pytorch(python, model, parts, item_rate: float) -> tuple[float, np.ndarray]:
    """Returns the seconds of the same round in PyTorch, and the mean of the clients' tables."""
    xs, ys, sizes, steps = [], [], [], []
    for part in parts:
        (padded,) = part["passes"]
        for number, rows in enumerate(part["rows"]):
            real = np.arange(padded.x.shape[2]) < padded.sizes[number][:, None]
            xs.append(rows[padded.x[number][real][:, 0]])
            ys.append(padded.y[number][real][:, 0])
            sizes.append(padded.sizes[number][padded.sizes[number] > 0])
            steps.append(len(sizes[-1]))
    vector, bias = (weight[0] for weight in model.local_weights)
    return ask(
        python, "torch", 1, x=np.concatenate(xs).astype(np.int64), y=np.concatenate(ys),
        sizes=np.concatenate(sizes), steps=steps, table=model.global_weights[0],
        vector=vector, bias=bias[0], item_rate=item_rate, score_rate=SCORE_RATE,
    )  # fmt: skip


def main() -> None:
    """Measures all, and records them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="ml-1m", help="or 'synthetic log'")
    parser.add_argument("--outside", help="Python of an environment with PyTorch")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", default=NAME)
    options = parser.parse_args()
    if options.data == "synthetic log":
        log, _ = data.synthetic_log()
    else:
        log = data.positives(data.load_ratings(options.data))
    train, everyone = data.split_leave_one_out(log).train, np.arange(log.num_users)
    model, item_rate = implicit.logistic_factorization(log.num_items, 32), 0.1 * log.num_items * 80
    process = InThisProcess(build_rows_process(pfedrec(), model, sgd(1.0, item_rate, SCORE_RATE)))
    clients = data.ImplicitDatasets(train, 256, sampler=data.NegativeSampler(train))
    store, seconds = MemoryStore(process, log.num_users), []
    for _ in range(1 + options.repeats):  # the first one compiles
        start = time.perf_counter()
        parts, ids = process.inputs(clients, everyone, 0)
        states = [store[some] for some in ids]
        prepared = time.perf_counter()
        after, _, _ = process.next(store.server_state, parts, states)
        moved = np.asarray(after.model_weights[0])
        seconds.append((time.perf_counter() - prepared, prepared - start))
    fastest, preparation = map(min, zip(*seconds[1:], strict=True))
    start = time.perf_counter()
    plain = plain_round(model.global_weights[0], model, parts, item_rate)
    loop = time.perf_counter() - start
    change = np.abs(plain - model.global_weights[0]).max()
    recorder = Recorder(options.out, log)
    shared = dict(data=log.name, clients=log.num_users, examples=int(clients.round_counts.sum()))
    recorder.write(
        name="by rows", **shared, seconds=fastest, preparation=preparation,
        rounds_100=100 * (fastest + preparation), times_plain_loop=loop / fastest,
        difference=float(np.abs(moved - plain).max() / change),
    )  # fmt: skip
    recorder.write(name="plain loop in NumPy", **shared, seconds=loop)
    if options.outside:
        seconds, table = in_pytorch(options.outside, model, parts, item_rate)
        recorder.write(
            name="plain loop in PyTorch", **shared, seconds=seconds,
            times_by_rows=seconds / fastest,
            difference=float(np.abs(moved - table).max() / change),
        )  # fmt: skip
    recorder.finish()


if __name__ == "__main__":
    main()
