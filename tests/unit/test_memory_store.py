"""The store in memory: whose state is whose, copies and not views, all of a round or nothing."""

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_runs import CLIENTS, PROCESS, assert_same_states, round_of, state_of

from stateful_tff.stores import MemoryStore
from stateful_tff.stores.contract import as_arrays


def new_store():
    return MemoryStore(PROCESS, CLIENTS)


def values(store):
    return store.local_weights()[0][:, 0].tolist()


@settings(deadline=None, max_examples=50)
@given(st.permutations(range(6)), st.integers(1, 6), st.booleans())
def test_states_find_their_client_in_any_order(order, size, stacked):
    store, cohort = MemoryStore(PROCESS, 6), sorted(order[:size])
    states = [state_of(client, client + 1) for client in order[:size]]
    if stacked:
        other = MemoryStore(PROCESS, 6)
        other.commit(round_of(1, states))
        states = [other[order[:size]]]
    store.commit(round_of(1, states, cohort=cohort))
    assert values(store) == [c + 1 if c in cohort else 0 for c in range(6)]
    assert store.visited.tolist() == cohort
    assert store[list(order)].index.tolist() == list(order)
    assert [int(store[client].index) for client in order] == list(order)


@pytest.mark.parametrize(
    "ids, error",
    [
        (1.9, TypeError),
        (True, TypeError),
        ([1.0], TypeError),
        ([True, False], TypeError),
        (np.array([[1]]), TypeError),
        ([1, 1], ValueError),
        (-1, ValueError),
        ([CLIENTS], ValueError),
    ],
)
def test_an_id_is_a_whole_number_of_the_population_named_once(ids, error):
    with pytest.raises(error, match=r"^Client[^.]*\.?[^.]*.*\.$"):
        new_store()[ids]


@pytest.mark.parametrize("ids", [3, [3], [3, 5]])
def test_what_the_store_hands_out_is_a_copy(ids):
    store = new_store()
    store.commit(round_of(1, [3, 5]))
    kept = store[ids]
    kept.local_weights[0][:] = 7
    store.local_weights()[0][:] = 7
    for name in ("last_round", "num_visits"):
        getattr(store, name)[:] = 7
    assert_same_states(store[3], as_arrays(state_of(3)))
    assert store.num_visits.max() == store.last_round.max() == 1


def test_what_was_committed_is_not_what_the_caller_goes_on_changing():
    store, state = new_store(), state_of(3)
    store.commit(round_of(1, [state]))
    state.local_weights[0][:] = 7
    assert store[3].local_weights[0].max() == 1


@pytest.mark.parametrize("round_num", [1, 3])
def test_a_round_that_does_not_follow_is_refused(round_num):
    store = new_store()
    store.commit(round_of(1, [2]))
    with pytest.raises(ValueError, match=f"Round {round_num} does not follow on round 1"):
        store.commit(round_of(round_num, [4]))
    assert store.visited.tolist() == [2] and store.round_num == 1 and len(store.history) == 1


@pytest.mark.parametrize(
    "returned, odd",
    [([0, 5], 1), ([0, 1, 1], 1), ([0, 1, 5], 5), ([0], 1)],
    ids=["a stranger instead", "a double", "a stranger too", "missing"],
)
def test_a_round_is_kept_whole_or_not_at_all(returned, odd):
    store = new_store()
    store.commit(round_of(1, [state_of(0, 7), state_of(1, 8)]))
    with pytest.raises(
        ValueError, match=f"Client {odd} was asked .* nothing of the round was kept"
    ):
        store.commit(round_of(2, returned, cohort=[0, 1]))
    assert values(store)[:2] == [7, 8] and values(store)[5] == 0
    assert store.round_num == 1 and int(store.server_state.round_num) == 1


def test_a_state_of_another_model_is_refused_before_anything_is_written():
    store = new_store()
    wrong = attrs.evolve(state_of(1), local_weights=[np.ones((1, 5), np.float32)])
    with pytest.raises(ValueError, match="it is of another model"):
        store.commit(round_of(1, [wrong]))
    assert not any(values(store)) and store.round_num == 0


def test_a_new_client_starts_with_the_first_state_under_its_own_id():
    state = new_store()[4]
    assert int(state.index) == 4 and not state.local_weights[0].any()
    assert int(state.last_round) == int(state.num_visits) == 0


def test_visits_and_age_count_from_the_last_round():
    store = new_store()
    for round_num, cohort in enumerate([[1, 2], [2], [3]], start=1):
        before = store.num_visits
        store.commit(
            round_of(
                round_num,
                [state_of(client, 1.0, round_num, before[client] + 1) for client in cohort],
            )
        )
    assert store.num_visits[:4].tolist() == [0, 1, 2, 1]
    assert store.last_round[:4].tolist() == [0, 1, 2, 3]
    assert store.age[:4].tolist() == [-1, 2, 1, 0]


def test_a_replaced_state_is_found_by_its_index():
    store = new_store()
    store.commit(round_of(1, [2, 4]))
    states = store[[4, 2]]
    states.local_weights[0][:] = np.array([40, 20], np.float32)[:, None, None]
    store.replace(states)
    assert values(store)[2] == 20 and values(store)[4] == 40
    for ids in ([2.0, 4.0], [2, 2]):
        with pytest.raises((TypeError, ValueError)):
            store.replace(attrs.evolve(states, index=np.array(ids)))


def test_a_copy_is_a_run_of_its_own():
    store = new_store()
    store.keep_plan({"sampler": "one"})
    store.commit(round_of(1, [2]))
    other = store.copy()
    other.keep_plan({"sampler": "two"})
    other.commit(round_of(2, [3]))
    other.add_metrics({"rmse": 0.5})
    assert store.visited.tolist() == [2] and other.visited.tolist() == [2, 3]
    assert len(store.history) == 1 and "rmse" not in store.history
    with pytest.raises(ValueError, match="began with sampler one and cannot go on with two"):
        store.keep_plan({"sampler": "two"})


def test_local_weights_have_one_row_per_client():
    store = new_store()
    store.commit(round_of(1, [state_of(3, 5.0)]))
    (table,) = store.local_weights()
    assert table.shape == (CLIENTS, 4) and table.dtype == np.float32
    assert (table[3] == 5).all() and not np.delete(table, 3, axis=0).any()
