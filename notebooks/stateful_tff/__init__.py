"""Federated personalization with clients that keep state, in TensorFlow Federated.

Knows nothing of Colab, and importing it loads neither TensorFlow nor TFF.

What is where, each room importing only from those to its left:

    leaves <- state <- data <- models <- methods <- engines
    leaves <- state <- stores, training; models <- evaluation; everything <- experiment

- leaves: `checks` (arguments), `progress`, `plots`, `recorded` (results of long runs),
  `exercises` (answers checked in words), `session` (start and clean end of a session), `runtime`
  (TFF's own, beside proxies, threads and forks), `colab`
- `state`: the containers that travel between server and clients
- `data`: ratings, splits, one dataset per client
- `models`: matrix factorization, and models as TFF wants them
- `methods`: what a client and the server do in a round, one file a method
- `engines`: where a round runs
- `stores`: where the clients' states live between rounds
- `training`: the loop over rounds
- `evaluation`: metrics with intervals, baselines, who gains
- `experiment`: all of these put together, once

Importing the package quiets start-up messages, gives each TensorFlow operation one thread, makes
sure that no worker process of TFF outlives the Python process, and lets TFF compute behind a
proxy, in threads, and beside `!` commands.
"""

__version__ = "0.1.0"

from . import session

session.prepare()
