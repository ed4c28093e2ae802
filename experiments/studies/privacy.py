"""What user-level privacy costs on MovieLens-1M: RMSE against epsilon, items under joint privacy.

    python -m experiments.studies.privacy

Said before the runs: the primary endpoint is the pooled RMSE of the test ratings ("seen, random",
trained on 90% of the ratings), private factors minus the best private biases at the same epsilon,
paired over users and seeds, at delta 1e-5. Settings were chosen on the validation ratings of seed
0, at each epsilon, and are not private; that choice is not charged, as in the publications beside.
Private factors start from public genres, or at random. Everybody takes part in every release, so
a run costs what one Gaussian sum costs, and epsilon follows from the multipliers recorded.
STATEFUL_TFF_DATA names the folder or the zip of MovieLens-1M; on other ratings, `--data`.
"""

import argparse
import time

from experiments.record import Recorder

# isort: split
import numpy as np

from experiments.arms import Task, ratings_of
from stateful_tff.evaluation.accounting import DELTA
from stateful_tff.evaluation.metrics import per_user
from stateful_tff.evaluation.paired import paired_difference, user_errors
from stateful_tff.evaluation.private_als import PrivateALS, Releases

NAME, PROTOCOL = "privacy", "seen, random"
EPSILONS = (1.0, 2.0, 4.0, 8.0, 16.0, np.inf)
BIASES, RANDOM, GENRES = "biases", "factors, random start", "factors from genres"
BIAS_NORMS = {1.0: 10, 2.0: 10, 4.0: 30, 8.0: 120, 16.0: 240, np.inf: 240}
NORMS = {1.0: 10, 2.0: 10, 4.0: 30, 8.0: 60, 16.0: 120, np.inf: 240}
FEW = dict(biases=(0.5, 0.2), num_factors=3, rounds=4)  # of factors, where noise is large


def genres_of(ratings) -> np.ndarray:
    """Returns a one for each genre of each movie, float64[num_items, d]: public knowledge."""
    of_movies = ratings.items["genres"].str.get_dummies("|")
    return of_movies.to_numpy(float)


def arms(epsilon: float) -> dict:
    """Returns the settings of an epsilon by the arm's name, as chosen on validation."""
    small, norm = epsilon <= 2, NORMS[epsilon]
    biases = PrivateALS(norm=BIAS_NORMS[epsilon], rounds=0, biases=(0.69, 0.3))
    return {
        BIASES: biases,
        RANDOM: PrivateALS(norm=norm, **(FEW if small else dict(rounds=10, memory=0.3))),
        GENRES: PrivateALS(norm=norm, **(FEW if small else {})),
    }


def predictions(task: Task, settings: PrivateALS, features, releases: Releases) -> np.ndarray:
    """Fits a task and returns its predictions of the judged ratings."""
    found = settings.fit(task.training, releases, features, seed=task.seed)
    return found.predict(task.judged)


def main() -> None:
    """Runs every arm for every epsilon and seed, and records the curve and its differences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="ml-1m")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epsilons", type=float, nargs="+", default=EPSILONS)
    parser.add_argument("--validation", action="store_true", help="judge on validation ratings")
    parser.add_argument("--out", default=NAME)
    options = parser.parse_args()
    ratings = ratings_of(options.data)
    features = genres_of(ratings)
    recorder = Recorder(options.out, ratings)
    tasks = [
        Task(options.data, PROTOCOL, seed, not options.validation) for seed in range(options.seeds)
    ]
    for epsilon in options.epsilons:
        shown = "none" if epsilon == np.inf else epsilon
        fields = dict(data=ratings.name, protocol=PROTOCOL, epsilon=shown, delta=DELTA)
        found = {}
        for name, settings in arms(epsilon).items():
            for task in tasks:
                start, releases = time.perf_counter(), Releases(epsilon, task.seed)
                known = features if name == GENRES else None
                predicted = predictions(task, settings, known, releases)
                errors = user_errors(predicted, task.judged)
                found.setdefault(name, []).append(errors)
                recorder.write(
                    **fields, method=name, seed=task.seed, metric="rmse", value=errors.rmse,
                    user_rmse=float(per_user(predicted, task.judged)["rmse"].mean()),
                    multipliers=[round(z, 6) for z in releases.multipliers],
                    seconds=round(time.perf_counter() - start, 1),
                )  # fmt: skip
            mean = float(np.mean([one.rmse for one in found[name]]))
            recorder.write(**fields, method=name, metric="rmse, mean", value=mean)
        for name in (RANDOM, GENRES):
            pair = paired_difference(found[name], found[BIASES])
            recorder.write(
                **fields, method=name, minus=BIASES, metric="rmse difference", value=pair.value,
                low=pair.low, high=pair.high, by_seed=[round(v, 5) for v in pair.by_seed],
                verdict=pair.verdict,
            )  # fmt: skip
    recorder.finish()


if __name__ == "__main__":
    main()
