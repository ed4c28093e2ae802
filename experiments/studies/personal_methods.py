"""Which way to be personal? All methods on clients that differ in several ways.

    python -m experiments.studies.personal_methods

Said before the runs. Primary endpoint: the mean error rate over the 40 clients that train, each
on its own test examples, after 40 rounds of 10 clients. Each method is compared with training
alone and with FedAvg whose clients fine-tune; the smallest effect of interest is one point.
Expected: where the names of the classes differ (concept shift), one shared model fails and
private parts win; where inputs are turned, private heads help little; fine-tuned FedAvg is hard to
beat. Secondary: median, worst tenth, share harmed, clients that never trained, rounds and bytes
until a method is as good as training alone, and a map over skew and examples a client.

Five populations are of images, vectors and sequences. Two have ids for inputs: "ratings", by matrix
factorization, where a rating is wrong that is predicted nearer to another number of stars; and
"choices", by the network of the chapter on ranking, where an item is wrong that is taken for chosen
or for not chosen. Their private part is the user's vector. With a network,
`--data FEMNIST` runs the same on handwriting by writer.

Every method gets the same number of trials of random search, and is tuned on a population of its
own (seed 1000): rates from .03 to .6 and the strengths of `WAYS`, evenly in the logarithm, and 1, 3
or 10 passes of fine-tuning. Ten seeds, each with its own clients.
"""

import argparse
import hashlib
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, as_completed

from experiments import personal_arms as arms
from experiments.personal_arms import OFFLINE, POPULATIONS, WAYS, Population, Run

# isort: split
import attrs
import numpy as np

from experiments.record import Recorder
from stateful_tff.evaluation.clients import paired_errors, share_harmed, worst_tenth

NAME, PROTOCOL = "personal_methods", "each client's own test examples"
CURVE = (5, 10, 20, 30, arms.ROUNDS)
MAPPED = ("local only", "FedAvg", "FedAvg, fine-tuned", "FedPer", "Ditto")
SKEWS, SIZES = (0.0, 0.3, 0.6, 0.9), (8, 16, 35)


def checksum(population: Population) -> str:
    """Returns 12 hex digits that name the clients' examples of seed 0."""
    digest = hashlib.sha256()
    for pair in population.draw(0):
        for array in pair:
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:12]


def ways_for(population: Population) -> list[str]:
    """Returns the ways that there are for a population."""
    images = population.network.endswith("image")
    ways = {name: way for name, way in WAYS.items() if not way.momentum}
    return [name for name, way in ways.items() if images or not way.normalized]


def study(name: str, network: str, chosen: list[str], seeds, trials: int) -> list[dict]:
    """Tunes and runs one way on the populations of a network, with one trace."""
    found = []
    for title, population in POPULATIONS.items():
        if population.network != network or title not in chosen:
            continue
        start = time.perf_counter()
        trial = arms.tuned(name, population, trials)
        errors, new, curves, spent = [], [], [], {}
        for seed in seeds:
            run, curve = Run(name, population, seed, trial), []
            for until in CURVE if seed < 3 else CURVE[-1:]:
                curve.append(run.train(until).errors())
            errors.append(curve[-1])
            new.append(run.errors_of_new())
            if seed < 3:
                curves.append([float(one.mean()) for one in curve])
            spent = run.bytes()
        found.append(
            dict(
                data=title, method=name, trial=attrs.asdict(trial), errors=errors, new=new,
                curve=np.mean(curves, axis=0), bytes=spent, seconds=time.perf_counter() - start,
            )
        )  # fmt: skip
    return found


def cell(name: str, seeds, trial) -> list[tuple]:
    """Runs one way over the map of label skew and examples a client."""
    found = []
    for skew in SKEWS:
        for size in SIZES:
            population = Population("image", arms.digits("labels", skew, size))
            runs = [Run(name, population, seed, trial).train() for seed in seeds]
            found.append((skew, size, [run.errors() for run in runs]))
    return found


def write(recorder: Recorder, rows: list[dict], seeds) -> None:
    """Records what was found on one population."""
    by_method = {row["method"]: row for row in rows}
    level = float(np.mean(by_method["local only"]["errors"]))
    for name, row in by_method.items():
        errors, spent = row["errors"], row["bytes"]
        digits = checksum(POPULATIONS[row["data"]])
        fields = dict(data=row["data"], protocol=PROTOCOL, method=name, data_checksum=digits)
        values = {
            "error": float(np.mean(errors)),
            "median error": float(np.mean([np.median(one) for one in errors])),
            "worst tenth": float(np.mean([worst_tenth(one) for one in errors])),
            "error of new clients": float(np.mean(row["new"])),
            "bytes down": spent["down"], "bytes up": spent["up"], "bytes of state": spent["state"],
            "seconds": row["seconds"],
        }  # fmt: skip
        reached = [at for at, error in zip(CURVE, row["curve"], strict=True) if error <= level]
        if reached and name != "local only":
            values["rounds to level"] = reached[0]
            sent = (spent["down"] + spent["up"]) * arms.COHORT * reached[0]
            values["megabytes to level"] = sent / 1e6
        for metric, value in values.items():
            recorder.write(**fields, metric=metric, value=value)
        by_seed = [round(float(one.mean()), 5) for one in errors]
        recorder.write(**fields, metric="error by seed", value=by_seed, **row["trial"])
        for other in ("local only", "FedAvg, fine-tuned", "FedAvg, normalized"):
            normalized = WAYS[name].normalized
            if other == name or other not in by_method:
                continue
            if other == "FedAvg, normalized" and not normalized:
                continue
            pair = paired_errors(errors, by_method[other]["errors"])
            harmed = [
                share_harmed(a, b) for a, b in zip(errors, by_method[other]["errors"], strict=True)
            ]
            recorder.write(
                **fields, minus=other, metric="error difference", value=pair.value,
                low=pair.low, high=pair.high, by_seed=[round(v, 5) for v in pair.by_seed],
                verdict=pair.verdict, harmed=float(np.mean(harmed)),
            )  # fmt: skip


def main() -> None:
    """Runs the populations that are asked for, and records them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--data", nargs="+", default=[*OFFLINE, "map"])
    parser.add_argument("--methods", nargs="+", default=[*WAYS])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", default=NAME)
    options = parser.parse_args()
    start, seeds = time.perf_counter(), range(options.seeds)
    titles = {*options.data, *(["map of label skew"] if "map" in options.data else [])}
    recorder = Recorder(options.out, keep=lambda row: row["data"] not in titles)
    chosen = [title for title in POPULATIONS if title in options.data]
    networks = list(dict.fromkeys(POPULATIONS[title].network for title in chosen))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, mp_context=context) as pool:
        calls, rows = [], {title: [] for title in chosen}
        for network in networks:
            ways = ways_for(next(p for p in POPULATIONS.values() if p.network == network))
            for name in [name for name in ways if name in options.methods]:
                calls.append(pool.submit(study, name, network, chosen, seeds, options.trials))
        for call in as_completed(calls):
            for row in call.result():
                mean = np.mean(row["errors"])
                print(f"{row['data']}, {row['method']}: {mean:.4f}", flush=True)
                rows[row["data"]].append(row)
        for found in rows.values():
            order = list(WAYS)
            write(recorder, sorted(found, key=lambda row: order.index(row["method"])), seeds)
        if "map" in options.data:
            setting = {name: arms.Trial(0.15, 0.3, 10) for name in MAPPED}
            for row in rows.get("digits, label skew", []):
                if row["method"] in setting:
                    setting[row["method"]] = arms.Trial(**row["trial"])
            three = range(min(3, options.seeds))
            maps = {name: pool.submit(cell, name, three, setting[name]) for name in MAPPED}
            alone = maps["local only"].result()
            for name, call in maps.items():
                for (skew, size, errors), (_, _, others) in zip(call.result(), alone, strict=True):
                    pair = paired_errors(errors, others)
                    recorder.write(
                        data="map of label skew", protocol=PROTOCOL, method=name, skew=skew,
                        examples=size, metric="error", value=float(np.mean(errors)),
                        minus_alone=pair.value,
                        low=pair.low, high=pair.high,
                    )  # fmt: skip
    recorder.write(
        data=", ".join(options.data), protocol=PROTOCOL, method="all",
        metric="seconds of the study", value=time.perf_counter() - start,
        workers=options.workers, seeds=options.seeds,
        trials=options.trials,
    )  # fmt: skip
    recorder.finish()


if __name__ == "__main__":
    main()
