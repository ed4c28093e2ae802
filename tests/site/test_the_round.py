"""The page that plays rounds in the browser: its numbers, its sentences, its keys."""

import numpy as np
import pytest

from stateful_tff.state import ClientState
from tests.unit import numpy_rounds

PAGE = "book/the_round.html"
RATES = dict(
    server=numpy_rounds.SERVER_RATE,
    client=numpy_rounds.CLIENT_RATE,
    local=numpy_rounds.LOCAL_RATE,
)


@pytest.fixture
def page(visit):
    return visit(PAGE)


def test_a_round_in_the_browser_is_the_round_in_numpy(page):
    """Three rounds of random cohorts, states going in and coming out, within 1e-6."""
    rng = np.random.default_rng(0)
    items = rng.normal(0, 0.3, (9, 2))
    states = rng.normal(0, 0.3, (6, 2))
    for _ in range(3):
        cohort = np.sort(rng.permutation(6)[:4])
        ratings = [
            [(int(m), int(rng.integers(1, 6))) for m in rng.integers(0, 9, rng.integers(1, 8))]
            for _ in range(6)
        ]
        found = page.evaluate(
            """([items, states, cohort, ratings, rates]) =>
            StatefulRound.round(items, states, cohort, c => ratings[c], rates)""",
            [items.tolist(), states.tolist(), cohort.tolist(), ratings, RATES],
        )
        held = [tuple(np.array(ratings[c]).T) for c in cohort]
        before = [ClientState(c, [states[c][None]]) for c in cohort]
        (items,), after = numpy_rounds.numpy_round([items], before, held)
        np.testing.assert_allclose(found["items"], items, rtol=0, atol=1e-6)
        for client, vector in zip(cohort, found["states"], strict=True):
            np.testing.assert_allclose(vector, after[client][0][0], rtol=0, atol=1e-6)
            states[client] = vector


def test_the_browser_and_the_reference_share_their_constants(page):
    constants = page.evaluate("() => [StatefulRound.MEAN, StatefulRound.L2, StatefulRound.BATCH]")
    assert constants == [numpy_rounds.MEAN, numpy_rounds.L2, numpy_rounds.BATCH]


def test_solving_in_the_browser_is_least_squares_with_a_penalty(page):
    rng = np.random.default_rng(1)
    items = rng.normal(0, 1, (5, 2))
    ratings = [(0, 5), (3, 2), (4, 4)]
    found = page.evaluate(
        "([items, ratings]) => StatefulRound.solve(items, ratings, [0.1, 0.1])",
        [items.tolist(), ratings],
    )
    movies, stars = np.array(ratings).T
    held = np.vstack([items[movies], np.sqrt(numpy_rounds.L2 * len(ratings)) * np.eye(2)])
    wanted = np.linalg.lstsq(held, np.r_[stars - numpy_rounds.MEAN, 0, 0], rcond=None)[0]
    np.testing.assert_allclose(found, wanted, atol=1e-9)


ERRORS = """([how, seeds]) => seeds.map(seed => {
  const rates = { server: 2, client: 0.3, local: 0.2 };
  const drawn = StatefulRound.world(seed);
  const people = new StatefulRound.Population({ window: 99, cohort: 4, rates, ...how }, drawn);
  for (let r = 0; r < StatefulRound.ROUNDS; r++) people.next();
  return [people.errors[0], people.errors[StatefulRound.ROUNDS]];
})"""


@pytest.mark.parametrize("seeds", [[5], list(range(5, 25))], ids=["as shown", "twenty draws"])
def test_the_page_shows_what_its_text_says(page, seeds):
    def after(**how):
        first, last = np.mean(page.evaluate(ERRORS, [how, seeds]), axis=0)
        return first, last

    first, kept = after(keeps=True)
    _, forgotten = after(keeps=False, solves=False)
    assert kept < 0.85 * first, "with state the error falls"
    assert abs(forgotten - first) < 0.05 * first, "from the first vector it stays near where it was"
    _, solved = after(keeps=False, solves=True)
    assert abs(kept - solved) < 0.1 * kept, "the two lines stay close together"
    _, kept = after(keeps=True, window=3)
    _, solved = after(keeps=False, solves=True, window=3)
    assert kept < 0.9 * solved, "the client with state is ahead"


def test_a_state_is_there_at_the_second_visit_only_where_it_is_kept(visit):
    page = visit(PAGE, reduced_motion="reduce")
    player = page.locator(".round-player")
    starts = """() => { const { arms } = document.querySelector('.round-player').player;
                        return [arms.kept.vector(0), arms.forgotten.vector(0)]; }"""
    first = page.evaluate(starts)
    assert first[0] == first[1]
    player.get_by_role("button", name="Next visit of client 1").click()
    page.wait_for_function("() => document.querySelector('.round-player').player.rounds > 0")
    kept, forgotten = page.evaluate(starts)
    assert kept != first[0] and forgotten == first[1]


def test_the_page_is_played_by_keys_alone(visit):
    page = visit(PAGE, reduced_motion="reduce")
    page.locator(".round-player button").nth(1).focus()
    page.keyboard.press("Enter")
    said = page.locator(".round-player .round-said")
    page.wait_for_function("() => document.querySelector('.round-player').player.rounds === 1")
    assert said.inner_text().startswith("Round 1: clients ")
    assert said.get_attribute("aria-live") == "polite"
    page.locator(".round-player input[type=checkbox]").focus()
    page.keyboard.press("Space")
    label = page.locator(".round-stage").get_attribute("aria-label")
    assert "without state" in label


def test_every_control_has_a_name_and_can_be_touched(visit):
    page = visit(PAGE, width=390)
    controls = page.locator(".round-player :is(button, input, select), .packing-player select")
    assert controls.count() >= 14
    for control in controls.all():
        assert control.evaluate(
            "e => e.tagName === 'BUTTON' ? e.textContent : e.labels[0].textContent"
        )
        assert control.bounding_box()["height"] >= 12


def test_nothing_moves_for_those_who_ask_for_it(visit):
    page = visit(PAGE, reduced_motion="reduce")
    page.get_by_role("button", name="One round").click()
    page.wait_for_timeout(50)
    assert page.evaluate("() => document.querySelector('.round-player').player.phase") == 4
    assert page.locator(".round-line").count() == 0


@pytest.mark.parametrize("way", ["padded", "packed", "blocks"])
def test_layouts_of_a_cohort(page, way):
    """Every batch once, in its client's order, and figures that plain counting gives, too."""
    rng = np.random.default_rng(2)
    for _ in range(5):
        batches = rng.integers(1, 9, rng.integers(1, 14))
        plan, figures = page.evaluate(
            """([batches, way]) => { const plan = CohortPacking.layout(batches, way);
                                     return [plan, CohortPacking.figures(plan)]; }""",
            [batches.tolist(), way],
        )
        real = [(p["client"], p["batch"]) for step in plan["steps"] for p in step if p["real"]]
        assert sorted(real) == [(c, b) for c, n in enumerate(batches) for b in range(n)]
        ordered = np.sort(batches)[::-1]
        parts = {
            "padded": [ordered],
            "packed": [ordered[:, None]],
            "blocks": np.split(ordered, range(4, len(ordered), 4)),
        }[way]
        if way == "packed":
            places, steps = int(ordered.sum()), int(ordered.max())
        else:
            places = sum(len(part) * part.max() for part in parts)
            steps = sum(part.max() for part in parts)
        assert (figures["places"], figures["steps"]) == (places, steps)
        assert figures["empty"] == pytest.approx(1 - ordered.sum() / places)
