"""One round outside TFF, for comparison: by Numba, plain JAX, pfl-research, FedJAX or PyTorch.

Called by cohort_speed.py with the Python of another environment (requirements.txt here), by
any_model_speed.py (requirements_fedjax.txt) and by ranking_speed.py (requirements_torch.txt):

    python outside.py numba|numba_epochs|jax|pfl|fedjax|torch data.npz repeats

Reads the round from the file, prints the seconds of the fastest repeat and the peak memory as
JSON, and writes the trained item table to `data.npz` + ".out.npy".
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def ask(python, kind, repeats, **arrays) -> tuple[float, np.ndarray]:
    """Runs a round in another environment and returns its seconds and the trained table."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "round.npz")
        np.savez(path, **arrays)
        command = [python, __file__, kind, path, str(repeats)]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            raise RuntimeError(f"The round by {kind} failed:\n{run.stderr[-2000:]}")
        return json.loads(run.stdout.splitlines()[-1])["seconds"], np.load(path + ".out.npy")


def one_client(items, stars, q, b, p, a, mean, size, client_rate, local_rate, l2):
    """The loop of chapter 4 on one client's own rows: returns what changed."""
    q, b, p = q[items], b[items], p.copy()
    q0, b0 = q.copy(), b.copy()
    for start in range(0, len(items), size):
        rows = slice(start, start + size)
        x, count = q[rows], len(stars[rows])
        error = mean + x @ p + b[rows] + a - stars[rows]
        scaled = error * np.float32(2 / count)
        gradient = scaled @ x + np.float32(2 * l2) * p
        gradient_a = scaled.sum() + 2 * l2 * a
        q[rows] -= client_rate * (scaled[:, None] * p + np.float32(2 * l2 / count) * x)
        b[rows] -= client_rate * (scaled + np.float32(2 * l2 / count) * b[rows])
        p -= local_rate * gradient
        a -= local_rate * gradient_a
    return q - q0, b - b0, p, a


def numba_round(data):
    """Returns a function that runs the round, compiled, on one core."""
    import numba

    @numba.njit(fastmath=True, cache=False)
    def run(items, stars, bounds, q, b, p, a, mean, size, client_rate, local_rate, l2):
        factors = q.shape[1]
        sum_q, sum_b = np.zeros_like(q), np.zeros_like(b)
        p, a = p.copy(), a.copy()
        error = np.zeros(size, np.float32)
        gradient = np.zeros(factors, np.float32)
        for user in range(len(bounds) - 1):
            begin, end = bounds[user], bounds[user + 1]
            weight, mine = np.float32(end - begin), p[user]
            for start in range(begin, end, size):
                stop = min(start + size, end)
                share = np.float32(2.0) / np.float32(stop - start)
                gradient[:] = 0
                gradient_a = np.float32(0)
                for r in range(start, stop):
                    row = q[items[r]]
                    dot = mean + b[items[r]] + a[user] - stars[r]
                    for k in range(factors):
                        dot += row[k] * mine[k]
                    dot *= share
                    error[r - start] = dot
                    gradient_a += dot
                    for k in range(factors):
                        gradient[k] += dot * row[k]
                for r in range(start, stop):
                    row, total = q[items[r]], sum_q[items[r]]
                    dot, pull = error[r - start], l2 * share
                    for k in range(factors):
                        total[k] -= weight * client_rate * (dot * mine[k] + pull * row[k])
                    sum_b[items[r]] -= weight * client_rate * (dot + pull * b[items[r]])
                for k in range(factors):
                    mine[k] -= local_rate * (gradient[k] + 2 * l2 * mine[k])
                a[user] -= local_rate * (gradient_a + 2 * l2 * a[user])
        ratings = np.float32(bounds[-1])
        return q + sum_q / ratings, b + sum_b / ratings, p, a

    numbers = [np.float32(data[n]) for n in ("client_rate", "local_rate", "l2")]
    arrays = [data[n] for n in ("items", "stars", "bounds", "q", "b", "p", "a")]
    return lambda: run(*arrays, np.float32(data["mean"]), int(data["size"]), *numbers)[0]


def numba_epochs_round(data):
    """Returns a function that runs a round of several epochs, compiled, on one core."""
    import numba

    @numba.njit(fastmath=True, cache=False)
    def run(items, stars, order, bounds, q, b, p, a, mean, size, client_rate, local_rate, l2):
        factors = q.shape[1]
        sum_q, sum_b = np.zeros_like(q), np.zeros_like(b)
        p, a = p.copy(), a.copy()
        error = np.zeros(size, np.float32)
        gradient = np.zeros(factors, np.float32)
        for user in range(len(bounds) - 1):
            begin, end = bounds[user], bounds[user + 1]
            mine, weight = p[user], np.float32((end - begin) * len(order))
            rows, biases = q[items[begin:end]].copy(), b[items[begin:end]].copy()
            for epoch in range(len(order)):
                for start in range(begin, end, size):
                    stop = min(start + size, end)
                    share = np.float32(2.0) / np.float32(stop - start)
                    gradient[:] = 0
                    gradient_a = np.float32(0)
                    for j in range(start, stop):
                        r = order[epoch, j]
                        row = rows[r]
                        dot = mean + biases[r] + a[user] - stars[begin + r]
                        for k in range(factors):
                            dot += row[k] * mine[k]
                        dot *= share
                        error[j - start] = dot
                        gradient_a += dot
                        for k in range(factors):
                            gradient[k] += dot * row[k]
                    for j in range(start, stop):
                        r = order[epoch, j]
                        row, dot, pull = rows[r], error[j - start], l2 * share
                        for k in range(factors):
                            row[k] -= client_rate * (dot * mine[k] + pull * row[k])
                        biases[r] -= client_rate * (dot + pull * biases[r])
                    for k in range(factors):
                        mine[k] -= local_rate * (gradient[k] + 2 * l2 * mine[k])
                    a[user] -= local_rate * (gradient_a + 2 * l2 * a[user])
            for r in range(end - begin):
                item = items[begin + r]
                for k in range(factors):
                    sum_q[item, k] += weight * (rows[r, k] - q[item, k])
                sum_b[item] += weight * (biases[r] - b[item])
        ratings = np.float32(bounds[-1] * len(order))
        return q + sum_q / ratings, b + sum_b / ratings, p, a

    numbers = [np.float32(data[n]) for n in ("client_rate", "local_rate", "l2")]
    arrays = [data[n] for n in ("items", "stars", "order", "bounds", "q", "b", "p", "a")]
    return lambda: run(*arrays, np.float32(data["mean"]), int(data["size"]), *numbers)[0]


def jax_round(data):
    """Returns a function that runs the round in JAX: clients of a like length side by side."""
    import jax
    import jax.numpy as jnp

    q, b, size, mean = data["q"], data["b"], int(data["size"]), np.float32(data["mean"])
    client_rate, local_rate, l2 = (np.float32(data[n]) for n in ("client_rate", "local_rate", "l2"))
    bounds = data["bounds"]

    def client(q, b, items, stars, valid, p, a, weight):
        """Local steps of one client; each of its movies comes once, so rows move at the end."""

        def step(state, batch):
            p, a = state
            items, stars, valid = batch
            share = valid * 2 / jnp.maximum(valid.sum(), 1)
            rows = q[items]
            error = (rows @ p + b[items] + a + mean - stars) * share
            pull = l2 * share
            change_q = -client_rate * (error[:, None] * p + pull[:, None] * rows)
            change_b = -client_rate * (error + pull * b[items])
            any_real = valid[0] > 0
            moved = p - local_rate * (error @ rows + 2 * l2 * p)
            moved_a = a - local_rate * (error.sum() + 2 * l2 * a)
            state = jnp.where(any_real, moved, p), jnp.where(any_real, moved_a, a)
            return state, (change_q, change_b)

        state, changes = jax.lax.scan(step, (p, a), (items, stars, valid))
        return state, weight * changes[0], weight * changes[1]

    @jax.jit
    def bucket(q, b, items, stars, valid, p, a, weights):
        state, change_q, change_b = jax.vmap(client, (None, None, 0, 0, 0, 0, 0, 0))(
            q, b, items, stars, valid, p, a, weights
        )
        sum_q = jnp.zeros_like(q).at[items.ravel()].add(change_q.reshape(-1, q.shape[1]))
        return state, sum_q, jnp.zeros_like(b).at[items.ravel()].add(change_b.ravel())

    lengths = np.diff(bounds)
    steps = -(-lengths // size)
    capacity = 1 << np.maximum(np.ceil(np.log2(np.maximum(steps, 1))).astype(int), 2)
    buckets = []
    for length in np.unique(capacity):
        users = np.flatnonzero(capacity == length)
        arrays = [np.zeros((len(users), length * size), kind) for kind in (int, "f4", "f4")]
        for row, user in enumerate(users):
            part = slice(bounds[user], bounds[user + 1])
            for array, values in zip(
                arrays, (data["items"][part], data["stars"][part], 1), strict=True
            ):
                array[row, : lengths[user]] = values
        arrays = [array.reshape(len(users), length, size) for array in arrays]
        buckets.append((*arrays, data["p"][users], data["a"][users], lengths[users].astype("f4")))
    buckets = jax.device_put(buckets)

    def run():
        sums = [bucket(q, b, *arrays)[1] for arrays in buckets]
        return np.asarray(q + sum(sums) / np.float32(bounds[-1]))

    return run


def pfl_round(data):
    """Returns a function that runs the round in pfl-research, with a client in NumPy."""
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm.base import FederatedAlgorithm
    from pfl.common_types import Population
    from pfl.context import CentralContext
    from pfl.data.dataset import Dataset
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.hyperparam import AlgorithmHyperParams, ModelHyperParams
    from pfl.internal.ops import selector
    from pfl.metrics import Metrics
    from pfl.stats import MappedVectorStatistics

    selector.set_framework_module(__import__("pfl.internal.ops.numpy_ops", fromlist=["x"]))
    bounds, q, b = data["bounds"], data["q"], data["b"]
    p, a = data["p"], data["a"]
    rates = [np.float32(data[n]) for n in ("client_rate", "local_rate", "l2")]
    states = {}

    class Stateful(FederatedAlgorithm):
        """Federated averaging in which the algorithm keeps the users' states."""

        def process_aggregated_statistics(self, context, metrics, model, statistics):
            return model, Metrics()

        def get_next_central_contexts(self, *args, **kwargs):
            return None

        def simulate_one_user(self, model, user_dataset, central_context):
            items, stars = user_dataset.raw_data
            user, weight = int(user_dataset.user_id), np.float32(len(items))
            delta_q, delta_b, mine, bias = one_client(
                items, stars, q, b, p[user], a[user],
                np.float32(data["mean"]), int(data["size"]), *rates,
            )  # fmt: skip
            states[user] = mine, bias
            dense_q, dense_b = np.zeros_like(q), np.zeros_like(b)
            dense_q[items], dense_b[items] = weight * delta_q, weight * delta_b
            return MappedVectorStatistics({"q": dense_q, "b": dense_b}, weight=weight), Metrics()

    users = [
        Dataset((data["items"][s:e], data["stars"][s:e]), user_id=str(u))
        for u, (s, e) in enumerate(zip(bounds[:-1], bounds[1:], strict=True))
    ]

    def run():
        turn = iter(range(len(users)))
        federated = FederatedDataset(lambda user: users[user], lambda: next(turn))
        backend = SimulatedBackend(federated, federated)
        context = CentralContext(
            current_central_iteration=0,
            do_evaluation=False,
            cohort_size=len(users),
            population=Population.TRAIN,
            model_train_params=ModelHyperParams(),
            model_eval_params=ModelHyperParams(),
            algorithm_params=AlgorithmHyperParams(),
            seed=0,
        )
        statistics, _ = backend.gather_results(None, Stateful(), central_context=context)
        return q + statistics["q"] / np.float32(bounds[-1])

    return run


def fedjax_round(data):
    """Returns a function that runs the image network's round in FedJAX; heads are client input."""
    import fedjax
    import jax
    import jax.numpy as jnp

    rate, own_rate, server_rate = (
        np.float32(data[n]) for n in ("client_rate", "local_rate", "server_rate")
    )
    weights = [data[f"w{i}"] for i in range(6)]
    body, head = weights[:4], weights[4:]

    def loss(body, head, batch):
        image = batch["x"].reshape(-1, 8, 8)
        shifted = [image[:, i : i + 6, j : j + 6] for i in range(3) for j in range(3)]
        values = jax.nn.relu(jnp.stack(shifted, axis=-1) @ body[0] + body[1])
        values = values.reshape(-1, 3, 2, 3, 2, values.shape[-1]).mean(axis=(2, 4))
        values = jax.nn.relu(values.reshape(len(image), -1) @ body[2] + body[3])
        logits = values @ head[0] + head[1]
        labels = batch["y"].astype(int)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)
        return -chosen.mean()

    def init(shared, own):
        return {"body": shared, "head": own, "examples": jnp.zeros(())}

    def step(state, batch):
        body, head = jax.grad(loss, (0, 1))(state["body"], state["head"], batch)
        return {
            "body": [w - rate * g for w, g in zip(state["body"], body, strict=True)],
            "head": [w - own_rate * g for w, g in zip(state["head"], head, strict=True)],
            "examples": state["examples"] + len(batch["y"]),
        }

    def final(shared, state):
        changes = [state["examples"] * (n - o) for n, o in zip(state["body"], shared, strict=True)]
        return changes, state["head"], state["examples"]

    steps, ends = iter(data["steps"]), np.cumsum(data["sizes"])
    batches = [
        {"x": data["x"][end - size : end], "y": data["y"][end - size : end]}
        for end, size in zip(ends, data["sizes"], strict=True)
    ]
    turn = iter(batches)
    clients = [(i, [next(turn) for _ in range(n)], head) for i, n in enumerate(steps)]
    for_each_client = fedjax.for_each_client(init, step, final)

    @jax.jit
    def add(total, changes):
        return [a + b for a, b in zip(total, changes, strict=True)]

    def run():
        heads, total, examples = {}, [jnp.zeros_like(w) for w in body], 0.0
        for client, (changes, own, weight) in for_each_client(body, clients):
            heads[client] = own
            total, examples = add(total, changes), examples + weight
        return np.asarray(body[0] + server_rate * total[0] / examples)

    return run


def torch_round(data):
    """Returns a function that runs a round of PFedRec in PyTorch, one client after the other."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits

    first, vector, bias = (torch.tensor(data[name]) for name in ("table", "vector", "bias"))
    item_rate, score_rate = float(data["item_rate"]), float(data["score_rate"])
    ends = np.cumsum(data["sizes"])
    batches = [
        (torch.tensor(data["x"][end - size : end]), torch.tensor(data["y"][end - size : end]))
        for end, size in zip(ends, data["sizes"], strict=True)
    ]

    def step(x, y, weights, moved, rate):
        loss = binary_cross_entropy_with_logits(weights[0][x] @ weights[1] + weights[2], y)
        for weight, gradient in zip(moved, torch.autograd.grad(loss, moved), strict=True):
            weight.data -= rate * gradient

    def run():
        total, turn = torch.zeros_like(first), iter(batches)
        for steps in data["steps"]:
            own = [weight.clone().requires_grad_() for weight in (first, vector, bias)]
            for _ in range(steps):
                x, y = next(turn)
                step(x, y, own, own[1:], score_rate)
                step(x, y, own, own[:1], item_rate)
            total += own[0].detach() - first
        return (first + total / len(data["steps"])).numpy()

    return run


def main() -> None:
    """Runs the round and prints what it took."""
    kind, path, repeats = sys.argv[1], sys.argv[2], int(sys.argv[3])
    data = dict(np.load(path))
    rounds = dict(
        numba=numba_round,
        numba_epochs=numba_epochs_round,
        jax=jax_round,
        pfl=pfl_round,
        fedjax=fedjax_round,
        torch=torch_round,
    )
    run = rounds[kind](data)
    if kind not in ("pfl", "torch"):
        run()  # compiles
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        table = run()
        best = min(best, time.perf_counter() - start)
    np.save(path + ".out.npy", table)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": best, "peak_rss_mb": round(peak)}))


if __name__ == "__main__":
    main()
