/* The round of chapter 4 on a population small enough to look at. Knows nothing of the page.

   Factors only, no biases: a client predicts MEAN + p . q. All numbers are float64. */
(function (root) {
  "use strict";

  const MEAN = 3.5;
  const L2 = 0.05;
  const BATCH = 3;
  const FACTORS = 2;
  const ROUNDS = 60;
  const AT_FIRST = 3; // ratings that a client has before the first round
  const ONE_MORE = 4; // rounds until it rates the next movie

  /* A generator of uniform numbers from 0 to 1 with 32 bits of state (mulberry32). */
  function uniform(seed) {
    let state = seed >>> 0;
    return function () {
      state = (state + 0x6d2b79f5) >>> 0;
      let t = state;
      t = Math.imul(t ^ (t >>> 15), t | 1);
      t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
  }

  function normal(next) {
    return Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next());
  }

  function shuffled(count, next) {
    const order = Array.from({ length: count }, (_, i) => i);
    for (let i = count - 1; i > 0; i--) {
      const j = Math.floor(next() * (i + 1));
      [order[i], order[j]] = [order[j], order[i]];
    }
    return order;
  }

  const dot = (a, b) => a.reduce((sum, x, k) => sum + x * b[k], 0);
  const copy = (table) => table.map((row) => row.slice());

  /* Draws ratings from a known taste: for each client `train` in the order in which they arrive,
     and `test`; each rating is [movie, stars]. */
  function world(seed = 11, numClients = 12, numMovies = 26, numTest = 6) {
    const next = uniform(seed);
    const draw = (rows, scale) =>
      Array.from({ length: rows }, () =>
        Array.from({ length: FACTORS }, () => scale * normal(next)));
    const movies = draw(numMovies, 1);
    const tastes = draw(numClients, 0.75);
    const numTrain = AT_FIRST + Math.floor(ROUNDS / ONE_MORE);
    const clients = tastes.map((taste) => {
      const rated = shuffled(numMovies, next).slice(0, numTrain + numTest).map((movie) => {
        const stars = MEAN + dot(taste, movies[movie]) + 0.35 * normal(next);
        return [movie, Math.min(5, Math.max(1, Math.round(stars)))];
      });
      return { train: rated.slice(0, numTrain), test: rated.slice(numTrain) };
    });
    const items = draw(numMovies, 0.3);
    return { clients, items, first: [0.1, 0.1] };
  }

  /* What a device holds of a client's ratings before a round, counted from 0. */
  function held(client, round, window) {
    const arrived = client.train.slice(0, AT_FIRST + Math.floor(round / ONE_MORE));
    return arrived.slice(-window);
  }

  /* One client: a pass over its ratings in batches, both sides by plain SGD. */
  function clientUpdate(items, user, ratings, rates) {
    const q = copy(items);
    let p = user.slice();
    for (let start = 0; start < ratings.length; start += BATCH) {
      const batch = ratings.slice(start, start + BATCH);
      const stepQ = new Map();
      const stepP = p.map(() => 0);
      for (const [movie, stars] of batch) {
        const error = MEAN + dot(q[movie], p) - stars;
        const row = stepQ.get(movie) || p.map(() => 0);
        for (let k = 0; k < p.length; k++) {
          row[k] += (2 * (error * p[k] + L2 * q[movie][k])) / batch.length;
          stepP[k] += (2 * (error * q[movie][k] + L2 * p[k])) / batch.length;
        }
        stepQ.set(movie, row);
      }
      for (const [movie, row] of stepQ) {
        q[movie] = q[movie].map((x, k) => x - rates.client * row[k]);
      }
      p = p.map((x, k) => x - rates.local * stepP[k]);
    }
    const delta = q.map((row, movie) => row.map((x, k) => x - items[movie][k]));
    return { delta, user: p, weight: ratings.length };
  }

  /* The vector that fits a client's ratings best for frozen items, with the penalty of training:
     two equations with two unknowns. */
  function solve(items, ratings, first) {
    if (!ratings.length) return first.slice();
    let [a, b, d, u, v] = [0, 0, 0, 0, 0];
    for (const [movie, stars] of ratings) {
      const [x, y] = items[movie];
      a += x * x + L2;
      b += x * y;
      d += y * y + L2;
      u += (stars - MEAN) * x;
      v += (stars - MEAN) * y;
    }
    const determinant = a * d - b * b;
    return [(d * u - b * v) / determinant, (a * v - b * u) / determinant];
  }

  /* One round: every client of the cohort trains, the server adds the mean of the changes,
     weighted by numbers of ratings. Returns the new items and the new state of each member. */
  function round(items, states, cohort, ratingsOf, rates) {
    const mean = items.map((row) => row.map(() => 0));
    const outputs = cohort.map((c) => clientUpdate(items, states[c], ratingsOf(c), rates));
    const total = outputs.reduce((sum, output) => sum + output.weight, 0);
    for (const { delta, weight } of outputs) {
      delta.forEach((row, m) => row.forEach((x, k) => { mean[m][k] += (weight * x) / total; }));
    }
    const after = items.map((row, m) => row.map((x, k) => x + rates.server * mean[m][k]));
    return { items: after, states: outputs.map((output) => output.user) };
  }

  /* Who takes part in a round: the same for all arms. */
  function cohortOf(roundNum, numClients, size) {
    return shuffled(numClients, uniform(1000 + roundNum)).slice(0, size).sort((a, b) => a - b);
  }

  /* The root mean squared error over all test ratings, clipped to 1 to 5 stars. */
  function error(items, vectors, clients) {
    let [sum, count] = [0, 0];
    clients.forEach((client, c) => {
      for (const [movie, stars] of client.test) {
        const guess = Math.min(5, Math.max(1, MEAN + dot(items[movie], vectors[c])));
        sum += (guess - stars) ** 2;
        count += 1;
      }
    });
    return Math.sqrt(sum / count);
  }

  /* A population that trains round after round.

     how: keeps (whether a client's vector survives the round), solves (whether a client without
     one solves for it when it trains and when it is asked, in place of the first vector), window
     (newest ratings that a device holds), cohort (clients a round), rates {server, client, local}. */
  class Population {
    constructor(how, drawn = world()) {
      this.how = how;
      this.clients = drawn.clients;
      this.first = drawn.first;
      this.items = copy(drawn.items);
      this.states = drawn.clients.map(() => null); // nothing is kept yet
      this.lastRound = drawn.clients.map(() => null);
      this.rounds = 0;
      this.cohort = [];
      this.errors = [this.error()];
    }

    held(c) {
      return held(this.clients[c], this.rounds, this.how.window);
    }

    /* The vector with which a client begins a visit, or answers. */
    vector(c) {
      if (this.states[c]) return this.states[c];
      return !this.how.keeps && this.how.solves
        ? solve(this.items, this.held(c), this.first) : this.first;
    }

    error() {
      return error(this.items, this.clients.map((_, c) => this.vector(c)), this.clients);
    }

    /* Rounds since a client's last visit; null before its first. */
    age(c) {
      return this.lastRound[c] === null ? null : this.rounds - this.lastRound[c];
    }

    next() {
      this.cohort = cohortOf(this.rounds, this.clients.length, this.how.cohort);
      const starts = this.clients.map((_, c) => this.vector(c));
      const done = round(this.items, starts, this.cohort, (c) => this.held(c), this.how.rates);
      this.items = done.items;
      this.rounds += 1;
      this.cohort.forEach((c, i) => {
        if (this.how.keeps) this.states[c] = done.states[i];
        this.lastRound[c] = this.rounds;
      });
      this.errors.push(this.error());
      return this.errors[this.rounds];
    }
  }

  root.StatefulRound = {
    MEAN, L2, BATCH, ROUNDS, world, held, clientUpdate, solve, round, cohortOf, error, Population,
  };
})(typeof window === "undefined" ? globalThis : window);
