"""The methods of personalization in plain NumPy, float64, written from their papers.

The model is the small network of `engine_rounds`: a shared layer, a private head. Gradients are
written by hand. Nothing here is taken from the package but the data.
"""

import numpy as np

SERVER, CLIENT, LOCAL = 0.7, 0.1, 0.05
RATE = [CLIENT, CLIENT, LOCAL, LOCAL]


def gradient(w, x, y):
    """Of the mean of (tanh(x W + b) h + c - y)^2 + 0.1 |h|^2."""
    hidden = np.tanh(x @ w[0] + w[1])
    slope = 2 * (hidden @ w[2] + w[3] - y) / len(y)
    inner = slope[:, None] * w[2] * (1 - hidden**2)
    return [x.T @ inner, inner.sum(0), hidden.T @ slope + 0.2 * w[2], slope.sum()]


def plus(a, b, times=1.0):
    return [p + times * q for p, q in zip(a, b, strict=True)]


def minus(a, b):
    return plus(a, b, -1.0)


def descend(w, batches, term=None, moves=range(4), rate=RATE):
    """One step of SGD for each batch."""
    for x, y in batches:
        g = gradient(w, x, y)
        if term is not None:
            g = plus(g, term(w))
        w = [
            p - r * q if i in moves else p
            for i, (p, q, r) in enumerate(zip(w, g, rate, strict=True))
        ]
    return w


def mean(deltas, weights):
    weights = np.array(weights) / sum(weights)
    return [np.tensordot(weights, np.array(parts), 1) for parts in zip(*deltas, strict=True)]


class Reference:
    """A method; `server` is the server's list of arrays, `states` one dict for each client."""

    epochs, first_part, passes = 1, "all", None

    def __init__(self, start, num_clients):
        self.start, self.num_clients = start, num_clients
        self.server, self.states = self.first_server(), [self.first() for _ in range(num_clients)]

    def first_server(self):
        return list(self.start)

    def first(self):
        return {}

    def round(self, clients, cohort, number):
        parts = [clients.part(p).for_round(cohort, number, e) for p, e in self.passes_of_data()]
        deltas, weights = [], []
        for position, client in enumerate(cohort):
            data = [
                [(np.asarray(b["x"], float), np.asarray(b["y"], float)) for b in part[position]]
                for part in parts
            ]
            delta, weight = self.client(self.states[client], *data)
            deltas.append(delta)
            weights.append(weight)
        self.move(mean(deltas, weights), sum(weights))

    def passes_of_data(self):
        return [("all", self.epochs)]

    def move(self, delta, total):
        self.server = plus(self.server, delta, SERVER)


def count(batches):
    return sum(len(y) for _, y in batches)


class FedAvg(Reference):
    epochs = 2

    def client(self, state, data):
        return minus(descend(self.server, data), self.server), count(data)


class Reptile(FedAvg):
    def client(self, state, data):
        return super().client(state, data)[0], float(count(data) > 0)


class FedProx(Reference):
    def client(self, state, data):
        w = descend(self.server, data, lambda w: [0.3 * p for p in minus(w, self.server)])
        return minus(w, self.server), count(data)


class Alone(Reference):
    def first_server(self):
        return []

    def first(self):
        return {"local": list(self.start)}

    def client(self, state, data):
        state["local"] = descend(state["local"], data)
        return [], count(data)


class FedPer(Reference):
    epochs = 2

    def first_server(self):
        return list(self.start[:2])

    def first(self):
        return {"local": list(self.start[2:])}

    def client(self, state, data):
        w = descend(self.server + state["local"], data)
        state["local"] = w[2:]
        return minus(w[:2], self.server), count(data)


class FedRep(FedPer):
    def passes_of_data(self):
        return [("all", 2), ("all", 1)]

    def client(self, state, heads, body):
        w = descend(self.server + state["local"], heads, moves=(2, 3))
        state["local"] = w[2:]
        return minus(descend(w, body, moves=(0, 1))[:2], self.server), count(body)


class LGFedAvg(Reference):
    """The head is shared, at the clients' rate; the body is the client's own."""

    def first_server(self):
        return list(self.start[2:])

    def first(self):
        return {"local": list(self.start[:2])}

    def client(self, state, data):
        rate = [LOCAL, LOCAL, CLIENT, CLIENT]
        w = descend(state["local"] + self.server, data, rate=rate)
        state["local"] = w[:2]
        return minus(w[2:], self.server), count(data)


class Ditto(Reference):
    def first(self):
        return {"local": list(self.start)}

    def client(self, state, data):
        received = self.server
        w = descend(received, data)
        pull = lambda v: [0.4 * p for p in minus(v, received)]  # noqa: E731
        state["local"] = descend(state["local"], data, pull)
        return minus(w, received), count(data)


class PFedMe(Reference):
    first = Ditto.first
    strength, eta = 0.5, 0.8

    def passes_of_data(self):
        return [("all", 1), ("all", 1)]

    def client(self, state, *rounds):
        w = theta = self.server
        for data in rounds:
            center = w
            theta = descend(
                theta, data, lambda v, c=center: [self.strength * p for p in minus(v, c)]
            )
            w = plus(w, minus(w, theta), -self.eta * self.strength)
        state["local"] = theta
        return minus(w, self.server), float(count(rounds[0]) > 0)


class APFL(Reference):
    """Both models move at each batch; all of w at the clients' rate, v and alpha at the local."""

    def first(self):
        return {"local": [*self.start, 0.4]}

    def client(self, state, data):
        w, (*v, free) = self.server, state["local"]
        for x, y in data:
            alpha = np.clip(free, 0, 1)
            mixture = [alpha * a + (1 - alpha) * b for a, b in zip(v, w, strict=True)]
            at_mixture = gradient(mixture, x, y)
            slope = sum(np.sum((a - b) * g) for a, b, g in zip(v, w, at_mixture, strict=True))
            w, v = (
                plus(w, gradient(w, x, y), -CLIENT),
                [p - LOCAL * alpha * g for p, g in zip(v, at_mixture, strict=True)],
            )
            free -= LOCAL * slope
        state["local"] = [*v, free]
        return minus(w, self.server), count(data)


class Scaffold(Reference):
    """The server's list is the model and c."""

    epochs = 2

    def first_server(self):
        return [*self.start, *[np.zeros_like(w) for w in self.start]]

    def first(self):
        return {"memory": [np.zeros_like(w) for w in self.start]}

    def client(self, state, data):
        x, c, mine, steps = self.server[:4], self.server[4:], state["memory"], len(data)
        y = descend(x, data, lambda _: minus(c, mine))
        new = mine
        if steps:
            new = [
                m - s + (a - b) / (steps * r)
                for m, s, a, b, r in zip(mine, c, x, y, RATE, strict=True)
            ]
        state["memory"] = new
        return minus(y, x) + minus(new, mine), float(steps > 0)

    def move(self, delta, total):
        w = plus(self.server[:4], delta[:4], SERVER)
        self.server = w + plus(self.server[4:], delta[4:], total / self.num_clients)


class FedDyn(Reference):
    """The server's list is the model and h."""

    alpha = 0.3
    first_server, first = Scaffold.first_server, Scaffold.first

    def client(self, state, data):
        theta, memory = self.server[:4], state["memory"]
        w = descend(theta, data, lambda w: plus([-m for m in memory], minus(w, theta), self.alpha))
        state["memory"] = plus(memory, minus(w, theta), -self.alpha)
        return minus(w, theta), float(len(data) > 0)

    def move(self, delta, total):
        h = plus(self.server[4:], delta, -self.alpha * total / self.num_clients)
        step = plus(delta, h, -1 / self.alpha)
        self.server = plus(self.server[:4], step, SERVER) + h


class PerFedAvg(Reference):
    def passes_of_data(self):
        return [("support", 1), ("query", 1)]

    def client(self, state, support, query):
        adapted = descend(self.server, support)
        return minus(descend(adapted, query), adapted), float(count(query) > 0)


# With one epoch and by examples, what FedBN does to any two groups is what FedPer does.
class FedBN(FedPer):
    epochs = 1
