"""Rounds of matrix factorization with a whole part of the cohort in one computation.

It runs methods made of phases with plain SGD and refuses the others. Knows nothing of stores.
"""

from __future__ import annotations

from collections import OrderedDict

import attrs
import tensorflow as tf
import tensorflow_federated as tff

from ..checks import cohort_ids
from ..methods.fed_avg import UsersAtServer
from ..methods.implicit_sum import ImplicitSum
from ..methods.method import Method, client_update
from ..methods.optimizers import Optimizers, plain_rate
from ..methods.phases import InPhases, Phase
from ..methods.private import privacy_message, refuse_other_tables, without_privacy
from ..methods.touched_rows import TouchedRows
from ..methods.trainers import BOTH, GLOBAL, LOCAL, FunctionalTrainer, checked_solve
from ..methods.weighting import taken_apart
from ..models import MatrixFactorization, ModelFn, functional_matrix_factorization
from .packed_clip import Limits
from .packed_own_items import OwnItems
from .packed_steps import batches_of, local_steps, separate, user_rows
from .packing import BLOCK, LARGEST_PART, PackedRatings, shard_type, shards
from .round import FederatedProcess, trace_round
from .types import first_state_fn


def build_packed_process(
    method: Method, model: MatrixFactorization | ModelFn, optimizers: Optimizers
) -> FederatedProcess:
    """Builds the process of a method for matrix factorization, many clients at a time.

    Args:
        method: made of phases of which only the last one moves the items.
        model: the specification, or what `build_model_fn` returns.
        optimizers: any at the server; plain SGD, `build_sgdm(rate)`, at the clients.

    Returns:
        A process with `next(server_state, data, client_states) -> (server_state, metrics,
        client_states)`: lists over parts of the cohort, as its `inputs` makes them, with
        stacked states.

    Raises:
        TypeError: if the model is of another kind.
        ValueError: if method or optimizers are not supported.
    """
    spec = getattr(model, "spec", model)
    if not isinstance(spec, MatrixFactorization):
        raise TypeError(
            f"The packed engine runs MatrixFactorization only, not {type(model).__name__}; use "
            "the per-client or the vectorized engine."
        )
    plain, privacy = without_privacy(method)
    plain, weigh = taken_apart(plain)
    if privacy is not None and isinstance(plain.client_update, ImplicitSum | TouchedRows):
        raise ValueError(
            f"The packed engine does not clip all that {plain.name!r} sends; use the per-client or "
            "the vectorized engine."
        )
    phases = _phases(plain, spec)
    functional = functional_matrix_factorization(spec)  # its weights are the first ones
    rates = [
        plain_rate(name, optimizer)
        for name, optimizer in (
            ("client_optimizer", optimizers.client),
            ("local_optimizer", optimizers.local),
        )
    ]
    with tf.Graph().as_default():
        finalizers = ModelFn(spec)().metric_finalizers()

    def trainer_fn():
        return FunctionalTrainer(functional, optimizers)

    client_state_fn = first_state_fn(method, trainer_fn)
    memory = tf.nest.flatten(client_state_fn().optimizer_state)
    if memory and (privacy is None or privacy.budget is None):
        raise ValueError(
            "The client states keep an optimizer's state, which plain SGD has no use for; use a "
            "method that keeps local weights only."
        )

    def work(trainer, data, client_state, message):
        model = plain, phases, spec, rates, weigh
        return part_work(*model, trainer, data, client_state, message, privacy)

    kept = {}

    def packed_of(part):
        if id(part) not in kept:
            kept[id(part)] = part, PackedRatings(part)
        return kept[id(part)][1]

    def inputs(clients, cohort, round_num):
        cohort = cohort_ids(cohort, clients.num_clients)
        packed = [packed_of(clients.part(phase.data)) for phase in phases]
        own_rows = phases[-1].epochs > 1 and phases[-1].moves != LOCAL
        num_parts = 1 + (len(cohort) > 500)
        if own_rows:
            num_parts = max(num_parts, 2 * -(-packed[-1].counts[cohort].sum() // LARGEST_PART))
        parts = shards(packed, phases, cohort, round_num, int(num_parts))
        return parts, [part[0].index for part in parts]

    kinds = [shard_type()] * len(phases)
    functions = trace_round(
        method,
        trainer_fn,
        optimizers.server,
        finalizers,
        tff.StructWithPythonType(kinds, list),
        work,
        stacked=True,
    )
    return FederatedProcess(functions, inputs, client_state_fn)


def _phases(method: Method, spec: MatrixFactorization) -> tuple[Phase, ...]:
    """Returns the phases of a method, and refuses those that the packed steps do not know."""
    update = method.client_update
    phases = update.phases if isinstance(update, InPhases) else (Phase(),)
    if update is not client_update and not isinstance(
        update, ImplicitSum | InPhases | TouchedRows | UsersAtServer
    ):
        raise ValueError(
            f"The packed engine runs methods made of phases, and {method.name!r} is not; use the "
            "per-client or the vectorized engine."
        )
    if any(phase.moves != LOCAL for phase in phases[:-1]):
        raise ValueError(
            f"The packed engine lets the items move in the last phase only, and {method.name!r} "
            "moves them before; use the per-client or the vectorized engine."
        )
    if isinstance(update, ImplicitSum) and update.l2 != spec.l2:
        raise ValueError(
            f"The method pulls with the penalty {update.l2:g} and the model has {spec.l2:g}; give "
            "both the same."
        )
    solving = [checked_solve(phase.moves) for phase in phases if phase.solve]
    if solving and not spec.l2 > 0:
        raise ValueError(
            f"{method.name!r} solves for the users, which has one solution only where the model "
            "has a penalty; give it an l2 above zero."
        )
    return phases


def part_work(
    method, phases, spec, rates, weigh, trainer, data, client_state, message, privacy=None
) -> tuple:
    """Does for all clients of a part what a method's `client_update` does for one.

    Args:
        method: the method.
        phases: its phases.
        spec: the model.
        rates: the rates of the items and of the users.
        weigh: from the clients' numbers of examples to their weights.
        trainer: holds the model's first weights.
        data: a `Shard` for each phase.
        client_state: the clients' states, stacked in the order of `Shard.index`.
        message: the server's `BroadcastMessage`.
        privacy: bounds what each client sends; a `Privacy` or `None`.

    Returns:
        What the part sends to the server, and the new states, stacked as they came.
    """
    tf.debugging.assert_equal(
        data[0].index, client_state.index, "The states are not in the order of the shard's clients."
    )
    at_server = isinstance(method.client_update, UsersAtServer)
    limits = None
    if privacy is not None:
        message, norm = privacy_message(message, privacy)
        spent = None if privacy.budget is None else client_state.optimizer_state[0]
        limits = Limits(privacy, norm, spent, at_server)
        if privacy.row_norm is not None:
            refuse_other_tables(message.model_weights)
    items = list(message.model_weights[: 1 + spec.biases])
    tables = message.model_weights[len(items) :]
    kept, count = client_state.local_weights, tf.size(client_state.index)
    if at_server:
        own = [tf.gather(table, client_state.index)[:, 0] for table in tables]
    elif len(kept):
        own = [part[:, 0] for part in kept]
    else:
        own = [tf.repeat(first, count, axis=0) for first in trainer.local_weights]
    start = users = user_rows(own)
    toward = None
    if isinstance(method.client_update, ImplicitSum):
        own_items = OwnItems.of(batches_of(data[-1]))
        toward = tf.pad(own_items.told(tables[0]), [[0, 0], [0, int(spec.biases)]])
    for phase, shard in zip(phases, data, strict=True):
        item_rate = rates[0] if phase.moves in (GLOBAL, BOTH) else None
        own_rate = rates[1] if phase.rate is None else phase.rate
        user_rate = own_rate if phase.moves in (LOCAL, BOTH) and not phase.solve else None
        how = dict(epochs=phase.epochs, weigh=weigh, solve=phase.solve, toward=toward)
        how |= dict(limits=limits if phase is phases[-1] else None)
        done = local_steps(shard, items, users, spec, item_rate, user_rate, **how)
        if phase.when is None:
            users = done.users
        else:
            users = tf.where(phase.when(client_state)[:, None], done.users, users)
    delta = done.weighted_delta or [tf.zeros_like(part) for part in items]
    if at_server:
        ids = client_state.index[:, None]
        delta += [
            tf.scatter_nd(ids, change[:, None], tf.shape(table))
            for change, table in zip(
                separate(done.weights[:, None] * (users - start), spec), tables, strict=True
            )
        ]
    if isinstance(method.client_update, ImplicitSum):
        p = separate(users, spec)[0]
        delta.append(own_items.change(method.client_update, done.weights, p, spec.num_items))
    if isinstance(method.client_update, TouchedRows):
        delta.append(_touched(data[-1], done, spec.num_items))
    weight, memory = tf.reduce_sum(done.weights), client_state.optimizer_state
    if privacy is not None:
        weight = tf.cast(count, tf.float32)
        delta += [] if privacy.quantile is None else [tf.reduce_sum(done.limited.within)]
        memory = memory if privacy.budget is None else [done.limited.spent]
    sums = OrderedDict(weighted_delta=delta, client_weight=weight, metrics=done.metrics)
    local_weights = [part[:, None] for part in separate(users, spec)] if len(kept) else []
    return sums, attrs.evolve(client_state, local_weights=local_weights, optimizer_state=memory)


def _touched(shard, done, num_items: int):
    """Returns per item the summed weight of the clients that have data of it."""
    weights = tf.reshape(tf.gather(done.weights, shard.member), [-1, BLOCK])
    weight = tf.gather(weights, shard.block)[:, :, None] * done.batches.valid
    return tf.math.unsorted_segment_sum(weight, shard.items[0], num_items)[:, None]
