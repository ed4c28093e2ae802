"""What a client keeps, lost, swapped and aged on purpose; and SCAFFOLD where few take part.

    python -m experiments.studies.kinds_of_state

Said before the runs. Primary endpoint: the mean error rate of the clients after a change of
their states minus that without it, paired over clients; less than one point of a hundred is no
difference. Three changes: *dropped*, everybody's state is a new client's again; *swapped*, each
client gets the state of the next one, as when states are found by position; *aged*, each has its
state of round 10 beside the server of round 40. Four moments: *at once*; after 1 and after 50
*own passes*, with what is shared frozen, for both sides; and *after 10 rounds* of training, where
one that diverges counts as all wrong.

A change that costs nothing says cache; one that costs says information. Expected, for each kind
one case that costs and one that does not (`EXPECTED`, counted in the results):
a linear head, a convex problem: stopped after 1 own pass, it costs; after 50, it does not;
a body, not convex: dropped, it still costs after 50 own passes; not after 10 rounds;
a whole model and a mixing weight: swapped, they cost at once; not after 10 rounds;
a control variate and the gradient at the end: swapped, they cost after 10 rounds; not at once;
moments of momentum: swapped, they cost after 10 rounds; not at once;
statistics: swapped, they cost at once where inputs differ; aged, they do not.
Second part: SCAFFOLD minus FedAvg at equal visits, with 2 to 40 of 40 clients in a round;
expected to be worse the fewer take part, since control variates are then older.

The settings are fixed, not tuned: rate 0.15, and the strengths below. Five seeds. Takes about
five minutes on two quiet cores.
"""

import argparse
import functools
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor

from experiments import personal_arms as arms
from experiments.personal_arms import POPULATIONS, Run, Trial

# isort: split
import attrs
import numpy as np
import tensorflow as tf

from experiments.record import Recorder
from stateful_tff import methods
from stateful_tff.engines.in_process import InThisProcess
from stateful_tff.engines.vectorized import build_vectorized_process
from stateful_tff.evaluation.clients import error_rates, paired_errors
from stateful_tff.stores import MemoryStore
from stateful_tff.stores.contract import as_arrays
from stateful_tff.training import DivergenceError, rounds

NAME, PROTOCOL = "kinds_of_state", "each client's own test examples"
AGED, LATER, PASSES = 10, 10, (1, 50)
# The kind of state: the way that keeps it, its data, and what of the state is meant.
KINDS = {
    "a linear head": ("FedPer", "digits, label skew", "all"),
    "a body": ("LG-FedAvg", "digits, label skew", "all"),
    "a whole model": ("Ditto", "digits, label skew", "all"),
    "a mixing weight": ("APFL", "digits, label skew", "last"),
    "a control variate": ("SCAFFOLD", "digits, label skew", "all"),
    "the gradient at the end": ("FedDyn", "digits, label skew", "all"),
    "moments": ("FedPer, momentum", "digits, label skew", "memory"),
    "statistics": ("FedBN", "digits, rotation", "all"),
}
REFITTED = ("a linear head", "a body")  # kinds that own passes can bring back
ONE, MANY = (f"after {n} own passes" for n in PASSES)
LATE = f"after {LATER} rounds"
# Said before: for each kind the change and the moment that cost, and those that do not.
EXPECTED = {
    "a linear head": (("dropped", ONE), ("dropped", MANY)),
    "a body": (("dropped", MANY), ("dropped", LATE)),
    "a whole model": (("swapped", "at once"), ("swapped", LATE)),
    "a mixing weight": (("swapped", "at once"), ("swapped", LATE)),
    "a control variate": (("swapped", LATE), ("swapped", "at once")),
    "the gradient at the end": (("swapped", LATE), ("swapped", "at once")),
    "moments": (("swapped", LATE), ("swapped", "at once")),
    "statistics": (("swapped", "at once"), ("aged", "at once")),
}
STRENGTHS = {"Ditto": 0.3, "APFL": 0.5, "FedDyn": 0.1}


def setting(name: str) -> Trial:
    """Returns the setting of a way; momentum makes its steps ten times as long."""
    return Trial(0.03 if "momentum" in name else 0.15, STRENGTHS.get(name, 0.3), 5)


def meant(states, part: str) -> list:
    """Returns which leaves of a state belong to a kind."""
    own, memory = (tf.nest.flatten(x) for x in (states.local_weights, states.optimizer_state))
    if part == "last":
        return [False] * (len(own) - 1) + [True] + [False] * len(memory)
    return [part == "all"] * len(own) + [True] * len(memory)


def mixed_states(states, others, part: str):
    """Returns states with one kind of their leaves taken from others."""
    chosen = iter(meant(states, part))

    def leaves(field):
        mine, theirs = getattr(states, field), getattr(others, field)
        return tf.nest.map_structure(lambda a, b: b if next(chosen) else a, mine, theirs)

    return attrs.evolve(
        states,
        local_weights=leaves("local_weights"),
        optimizer_state=leaves("optimizer_state"),
    )


@functools.cache
def own_passes(name: str, network: str, passes: int):
    """Returns the process that trains a client's own weights with the shared ones frozen."""
    arms.Dials.now, method = None, methods.local_only(passes)
    model = arms.model_of(name, network)
    return InThisProcess(build_vectorized_process(arms.dialed(method), model, arms.DIALED))


def refitted(name: str, run: Run, passes: int) -> np.ndarray:
    """Returns the error rates of the seen clients after passes of their own."""
    process, ids = own_passes(name, run.network_name, passes), np.arange(arms.SEEN)
    store = MemoryStore(process, arms.SEEN)
    store.server_state = run.store.server_state
    store.replace(as_arrays(run.store[ids]))
    for done in rounds(process, store, run.clients, lambda _: ids, store.round_num + 1):
        store.commit(done)
    weights = methods.predicting_weights(run.model, store[ids], run.server_weights)
    return error_rates(arms.model_of(name, run.network_name), *weights, run.test[: arms.SEEN])


def changed(kind: str, seed: int) -> dict[str, dict]:
    """Returns for each change the error rates at each moment."""
    name, title, part = KINDS[kind]
    run = Run(name, POPULATIONS[title], seed, setting(name))
    everyone = np.arange(arms.CLIENTS)
    first = run.store[everyone]
    old = run.train(AGED).store[everyone]
    store = run.train().store
    kept = store[everyone]
    ring = np.roll(np.arange(arms.SEEN), 1)
    order = np.append(ring, everyone[arms.SEEN :])
    others = {
        "kept": kept,
        "dropped": first,
        "swapped": tf.nest.map_structure(lambda leaf: leaf[order], kept),
        "aged": old,
    }
    found = {}
    for change, states in others.items():
        run.store = store.copy()
        run.store.replace(as_arrays(mixed_states(kept, states, part)))
        found[change] = {"at once": run.errors()}
        for moment, passes in zip((ONE, MANY), PASSES, strict=True):
            if kind in REFITTED:
                found[change][moment] = refitted(name, run, passes)
        try:
            found[change][LATE] = run.train(arms.ROUNDS + LATER).errors()
        except DivergenceError as error:  # wrong steering can ruin a training: all wrong
            print(f"{kind}, {change}, seed {seed}: {error}", flush=True)
            found[change][LATE] = np.ones(arms.SEEN)
    return found


def participation(name: str, cohort: int, seed: int) -> np.ndarray:
    """Returns the error rates after as many visits as usual, with a cohort of some size."""
    run = Run(name, POPULATIONS["digits, label skew"], seed, setting(name), cohort)
    return run.train(arms.VISITS * arms.SEEN // cohort).errors()


def kinds_of(name: str, kinds: list[str], seeds) -> list[tuple]:
    """Runs all kinds that a way keeps, with one trace."""
    return [(kind, [changed(kind, seed) for seed in seeds]) for kind in kinds]


def cohorts_of(name: str, cohorts, seeds) -> dict[int, list]:
    """Runs a way with cohorts of several sizes."""
    return {c: [participation(name, c, seed) for seed in seeds] for c in cohorts}


def main() -> None:
    """Measures and records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cohorts", type=int, nargs="+", default=[2, 5, 10, 20, 40])
    parser.add_argument("--kinds", nargs="+", default=[*KINDS])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", default=NAME)
    options = parser.parse_args()
    start, seeds = time.perf_counter(), range(options.seeds)
    recorder = Recorder(options.out)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, mp_context=context) as pool:
        calls = [pool.submit(kinds_of, KINDS[kind][0], [kind], seeds) for kind in options.kinds]
        pair = {
            name: pool.submit(cohorts_of, name, options.cohorts, seeds)
            for name in ("SCAFFOLD", "FedAvg")
        }
        for call in calls:
            for kind, runs in call.result():
                write_changes(recorder, kind, runs)
        scaffold, plain = (call.result() for call in pair.values())
        for cohort in options.cohorts:
            gap = paired_errors(scaffold[cohort], plain[cohort])
            recorder.write(
                data="digits, label skew", protocol=PROTOCOL, method="SCAFFOLD",
                minus="FedAvg", cohort=cohort, metric="error difference",
                value=gap.value, low=gap.low, high=gap.high, verdict=gap.verdict,
                by_seed=[round(v, 5) for v in gap.by_seed],
                error=float(np.mean(scaffold[cohort])),
            )  # fmt: skip
    recorder.write(
        data="all", protocol=PROTOCOL, method="all", metric="seconds of the study",
        value=time.perf_counter() - start, workers=options.workers, seeds=options.seeds,
    )  # fmt: skip
    recorder.finish()


def write_changes(recorder: Recorder, kind: str, runs: list[dict]) -> None:
    """Records the damage of each change at each moment, and whether it is what was said."""
    name, title, _ = KINDS[kind]
    costs, free = EXPECTED[kind]
    for moment in runs[0]["kept"]:
        kept = [run["kept"][moment] for run in runs]
        for change in ("dropped", "swapped", "aged"):
            damage = paired_errors([run[change][moment] for run in runs], kept)
            case = (change, moment)
            said = "costs" if case == costs else "costs nothing" if case == free else ""
            recorder.write(
                data=title, protocol=PROTOCOL, kind=kind, method=name, change=change, moment=moment,
                metric="error difference", value=damage.value, low=damage.low,
                high=damage.high, by_seed=[round(v, 5) for v in damage.by_seed],
                verdict=damage.verdict, kept=float(np.mean(kept)), expected=said,
            )  # fmt: skip


if __name__ == "__main__":
    main()
