"""Replies of ``submit`` are those of ``act``, whenever and in whatever order they are asked for.

Nothing here depends on the clock: tests act from within the forward passes of the model, or hold
the engine while they ask.
"""

import gc
import random
import threading
import weakref
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import NamedTuple

import pytest
import torch

from algorithms.engine import continuous, decoding
from algorithms.engine.hf_policy import HFPolicy
from swe_gym_env.errors import PolicyError, SetupError
from swe_gym_env.policies.base import CONTEXT_FULL
from swe_gym_env.types import Turn
from tests.algorithms.conftest import make_state, tiny_model
from tests.algorithms.test_hf_policy import check_against_plain_forward
from tests.algorithms.test_supported import accepted

EPISODES, TURNS = 6, 3


@pytest.fixture
def make(tiny, tokenizer):
    made = []

    def policy(model=tiny, **options):
        wanted = {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 12, **options}
        made.append(HFPolicy(model, tokenizer, **wanted))
        return made[-1]

    yield policy
    for one in made:
        one.close()


@pytest.fixture(scope="module")
def wanted(tokenizer):
    """By episode and turn, and with them the policy that gave them."""
    policy = HFPolicy(
        tiny_model(len(tokenizer)), tokenizer, temperature=1.0, top_p=1.0, max_new_tokens=12
    )
    return Wanted(policy, all_at_once(policy))


class Wanted(NamedTuple):
    policy: HFPolicy
    all: dict

    @property
    def first(self):
        return {name: reply for name, reply in self.all.items() if name[1] == 0}


def first(number):
    """Observations of two episodes differ in their first letter, so all share one beginning."""
    return make_state(number, (), "abcdefghijk"[number] + "x" * (4 * number * number))


def following(state, reply):
    turn = Turn(state.observation, "student", reply.text, None, reply.token_ids)
    number = int(state.task.instance_id.removeprefix("task-"))
    return make_state(number, (*state.turns, turn), f"out {len(state.turns)}" + "y" * 5 * number)


def all_at_once(policy):
    asked, found = [first(n) for n in range(EPISODES)], {}
    for turn in range(TURNS):
        replies = policy.act(asked)
        found |= {(n, turn): reply for n, reply in enumerate(replies)}
        asked = [following(*pair) for pair in zip(asked, replies, strict=True)]
    return found


def one_by_one(policy):
    found = {}
    for number in range(EPISODES):
        play(policy, number, found, lambda state: policy.act([state])[0])
    return found


def play(policy, number, found, ask):
    state = first(number)
    for turn in range(TURNS):
        found[number, turn] = reply = ask(state)
        state = following(state, reply)


def by_threads(policy):
    found = {}
    with ThreadPoolExecutor(EPISODES) as pool:
        jobs = [
            pool.submit(play, policy, n, found, lambda state: policy.submit(state).result())
            for n in range(EPISODES)
        ]
    assert [job.result() for job in jobs] == [None] * EPISODES
    return found


def in_random_order(seed):
    """Asks and waits in an order, and with numbers of open requests, that ``seed`` decides."""

    def played(policy):
        rng, found = random.Random(seed), {}
        ready, going = [first(n) for n in range(EPISODES)], []
        while ready or going:
            if ready and (not going or rng.random() < 0.6):
                state = ready.pop(rng.randrange(len(ready)))
                going.append((state, policy.submit(state)))
                continue
            state, future = going.pop(rng.randrange(len(going)))
            number, turn = int(state.task.instance_id[-1]), len(state.turns)
            found[number, turn] = future.result()
            if turn + 1 < TURNS:
                ready.append(following(state, found[number, turn]))
        return found

    return played


def same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, reply in found.items():
        assert reply.token_ids == wanted[name].token_ids, name
        assert reply.text == wanted[name].text and not reply.error
        assert reply.logprobs == pytest.approx(wanted[name].logprobs, abs=1e-5), name


class Passes:
    """The forward passes of a model: shapes, and what a test does before one of them."""

    def __init__(self, policy, before=lambda number, ids: None):
        self.shapes = []

        def hook(_module, _args, options):
            self.shapes.append(tuple(options["input_ids"].shape))
            before(len(self.shapes), options["input_ids"])

        policy.model.base_model.register_forward_pre_hook(hook, with_kwargs=True)

    @property
    def decoding(self):
        return [rows for rows, width in self.shapes if width == 1]


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "how",
    [one_by_one, by_threads, *map(in_random_order, range(4))],
    ids=["act one by one", "threads", *(f"order {seed}" for seed in range(4))],
)
@pytest.mark.parametrize("options", [{}, {"batch_size": 2}], ids=["all", "two places"])
def test_replies_do_not_depend_on_how_they_are_asked_for(make, wanted, how, options):
    same(how(make(**options)), wanted.all)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["Mistral-window", "Gemma3-window", "Mixtral-window"])
def test_sliding_windows_and_experts(make, tokenizer, case):
    model = accepted(tokenizer, case)
    same(by_threads(make(model, batch_size=4)), all_at_once(make(model)))


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "batch_size"), [(10, 2), (11, 32)])
def test_as_many_tokens_are_computed_as_by_act(make, wanted, seed, batch_size):
    """So nothing is computed again in a later turn."""
    policy = make(batch_size=batch_size)
    same(in_random_order(seed)(policy), wanted.all)
    assert policy.prefilled_tokens == wanted.policy.prefilled_tokens
    assert policy.sampled_tokens == wanted.policy.sampled_tokens > 0


def test_forward_passes_are_shared(make):
    policy = make()
    passes = Passes(policy)
    with policy._engine.paused():
        futures = [policy.submit(first(n)) for n in range(EPISODES)]
    lengths = [len(future.result().token_ids) for future in futures]
    pieces = len(passes.shapes) - len(passes.decoding)
    assert pieces == 2  # the first prompt, which shows how others begin; all others
    assert passes.decoding[0] == 1 and max(passes.decoding) == EPISODES
    assert max(lengths) - 1 <= len(passes.decoding) <= max(lengths)
    assert sum(passes.decoding) == sum(lengths) - EPISODES


def test_late_short_reply_overtakes_long_one(make):
    """It joins while the other one decodes, and is complete first."""
    policy = make(max_new_tokens=40, max_context=200)
    policy.stop_ids = set()
    prompt = policy.renderer.prompt("You fix bugs.", (), "b")
    short = make_state(1, (), "b" + "x" * (200 - len(prompt) - 3))
    order, late = [], []

    def ask(number, _ids):
        if number == 10:
            late.append(policy.submit(short))
            late[0].add_done_callback(lambda _: order.append("short"))

    passes = Passes(policy, ask)
    long = policy.submit(first(0))
    long.add_done_callback(lambda _: order.append("long"))
    assert len(long.result().token_ids) == 40 and len(late[0].result().token_ids) == 3
    assert order == ["short", "long"]
    assert len(passes.shapes) == 1 + 39 + 1  # prompt, decoding, prompt
    assert passes.decoding.count(2) == 2
    check_against_plain_forward(policy, policy.model, [short], [late[0].result()])


@pytest.mark.slow
def test_long_prompt_does_not_stop_others(make, monkeypatch):
    monkeypatch.setattr(decoding, "PREFILL_TOKENS", 32)
    policy = make(max_new_tokens=40)
    policy.stop_ids = set()
    late, long = [], make_state(1, (), "b" * 300)
    passes = Passes(policy, lambda n, _: late.append(policy.submit(long)) if n == 8 else None)
    early = policy.submit(first(0)).result()
    reply = late[0].result()
    assert all(rows * width <= 32 for rows, width in passes.shapes)
    pieces = [n for n, (_, width) in enumerate(passes.shapes) if width > 1 and n > 5]
    assert len(pieces) > 8
    assert all(passes.shapes[n - 1] == (1, 1) for n in pieces)  # a step of the other row
    check_against_plain_forward(policy, policy.model, [first(0), long], [early, reply])


def test_row_that_ends_while_prompt_enters(make, monkeypatch):
    """The entering row, half computed, moves into the place of the finished one."""
    monkeypatch.setattr(decoding, "PREFILL_TOKENS", 32)
    policy, late, long = make(max_new_tokens=10), [], make_state(1, (), "b" * 300)
    policy.stop_ids = set()
    passes = Passes(policy, lambda n, _: late.append(policy.submit(long)) if n == 9 else None)
    states = [first(0), first(2)]
    with policy._engine.paused():
        futures = [policy.submit(state) for state in states]
    replies = [future.result() for future in futures]
    replies.append(late[0].result())
    entering = [n for n, (_, width) in enumerate(passes.shapes) if width > 1]
    assert [rows for rows, _ in passes.shapes[entering[3] : entering[-1]]].count(2) > 0
    check_against_plain_forward(policy, policy.model, [*states, long], replies)


def test_batch_size_is_respected(make, wanted):
    policy = make(batch_size=2)
    passes = Passes(policy)
    with policy._engine.paused():
        futures = [policy.submit(first(n)) for n in range(EPISODES)]
    found = {(n, 0): future.result() for n, future in enumerate(futures)}
    same(found, wanted.first)
    assert max(rows for rows, _ in passes.shapes) == 2


@pytest.mark.slow
@pytest.mark.parametrize("limit", [10, 60_000])
def test_store_keeps_to_its_limit_while_rows_decode(make, wanted, limit):
    policy, used = make(cache_bytes=limit, batch_size=3), []
    Passes(policy, lambda *_: used.append(policy.store.bytes))
    same(by_threads(policy), wanted.all)
    assert max(used) <= limit and policy.store.bytes <= limit
    assert limit == 10 or max(used) > 0


def test_full_context_is_answered_at_once(make):
    policy = make(max_context=200)
    with policy._engine.paused():
        future = policy.submit(make_state(1, (), "y" * 300))
        assert future.result(0).error.startswith(CONTEXT_FULL)
    assert policy._engine._thread is None


def test_close_fails_open_requests(make, wanted):
    policy = make(batch_size=1)
    Passes(policy, lambda number, _: policy.close() if number == 3 else None)
    with policy._engine.paused():
        futures = [policy.submit(first(n)) for n in range(3)]
        thread = policy._engine._thread
    for future in futures:
        with pytest.raises(PolicyError, match="closed before"):
            future.result()
    thread.join()
    same({(0, 0): policy.submit(first(0)).result()}, {(0, 0): wanted.all[0, 0]})
    policy.close()
    policy.close()
    assert policy._engine._thread is None


@pytest.mark.slow
def test_thread_ends_when_idle_and_keeps_no_policy_in_memory(make, monkeypatch):
    monkeypatch.setattr(continuous, "LINGER_SECONDS", 0.01)
    tokenizer = make().renderer.tokenizer
    policy = HFPolicy(tiny_model(len(tokenizer)), tokenizer)
    with policy._engine.paused():
        future = policy.submit(first(0))
        thread = policy._engine._thread
    future.result()
    thread.join()
    gone = weakref.ref(policy)
    del policy
    gc.collect()
    assert gone() is None


def test_canceled_request_is_not_computed(make):
    policy = make(batch_size=1)
    passes = Passes(policy)
    with policy._engine.paused():
        futures = [policy.submit(first(n)) for n in range(3)]
        assert futures[1].cancel()
    lengths = [len(futures[n].result().token_ids) for n in (0, 2)]
    with pytest.raises(CancelledError):
        futures[1].result()
    assert len(passes.decoding) == sum(lengths) - 2 and policy.sampled_tokens == sum(lengths)


def test_exception_of_renderer_fails_one_request(make):
    policy = make()
    prompt = policy.renderer.prompt

    def fails(system, turns, observation):
        if observation == "bad":
            raise ZeroDivisionError("no prompt")
        return prompt(system, turns, observation)

    policy.renderer.prompt = fails
    good, bad = policy.submit(first(0)), policy.submit(make_state(1, (), "bad"))
    with pytest.raises(ZeroDivisionError):
        bad.result()
    assert good.result().text is not None


@pytest.mark.parametrize("together", [True, False])
def test_exception_of_model_fails_only_its_cause(make, wanted, together):
    """Whether it enters with others, or while others decode."""
    policy, futures = make(), {}
    mark, bad = policy.renderer.encode("~")[0], make_state(7, (), "h~")

    def before(number, ids):
        if number == 6 and not together:
            futures[7] = policy.submit(bad)
        if (ids == mark).any():
            raise ZeroDivisionError("this state")

    Passes(policy, before)
    with policy._engine.paused():
        for n in range(EPISODES):
            futures[n] = policy.submit(first(n))
            if together and n == 2:
                futures[7] = policy.submit(bad)
    same({(n, 0): futures[n].result() for n in range(EPISODES)}, wanted.first)
    with pytest.raises(ZeroDivisionError, match="this state"):
        futures[7].result()


@pytest.mark.parametrize("number", [1, 2, 4, 5, 9])
def test_exception_that_does_not_come_again_fails_nothing(make, wanted, number):
    def before(at, _ids):
        if at == number:
            raise ZeroDivisionError("once")

    policy = make()
    Passes(policy, before)
    with policy._engine.paused():
        futures = [policy.submit(first(n)) for n in range(EPISODES)]
    found = {(n, 0): future.result() for n, future in enumerate(futures)}
    same(found, wanted.first)


def test_exception_outside_of_model_fails_rows_in_work(make, monkeypatch):
    policy, sample = make(batch_size=2), decoding.sample
    calls = []

    def fails(*args):
        calls.append(1)
        if len(calls) == 3:
            raise ZeroDivisionError("sampling")
        return sample(*args)

    monkeypatch.setattr(decoding, "sample", fails)
    with policy._engine.paused():
        futures = [policy.submit(first(n)) for n in range(4)]
    outcomes = [future.exception() for future in futures]
    assert [type(error) for error in outcomes[:2]] == [ZeroDivisionError] * 2
    assert outcomes[2:] == [None, None]
    check_against_plain_forward(
        policy, policy.model, [first(2), first(3)], [f.result() for f in futures[2:]]
    )


def test_setup_error_comes_through_and_stays(make):
    def before(number, _ids):
        if number == 3:
            raise SetupError("no such model")

    policy = make(batch_size=1)
    Passes(policy, before)
    with policy._engine.paused():
        futures = [policy.submit(first(n)) for n in range(3)]
    for future in futures:
        with pytest.raises(SetupError, match="no such model"):
            future.result()
    with pytest.raises(SetupError, match="no such model"):
        policy.submit(first(4))


@pytest.mark.slow
def test_act_beside_submit(make, wanted):
    policy, found, started = make(), {}, threading.Event()
    Passes(policy, lambda number, _: started.set())

    def later():
        started.wait()
        return [policy.act([make_state(n + 20, (), f"{n} later")])[0] for n in range(8)]

    with ThreadPoolExecutor(1) as pool:
        others = pool.submit(later)
        found = by_threads(policy)
    same(found, wanted.all)
    states = [make_state(n + 20, (), f"{n} later") for n in range(8)]
    check_against_plain_forward(policy, policy.model, states, others.result())


@pytest.mark.slow
def test_seconds_are_shares_of_the_time_computed(make):
    policy = make()
    replies = all_at_once(policy) | by_threads(policy)
    assert all(reply.seconds > 0 for reply in replies.values())


@pytest.mark.slow
def test_lower_precision_decodes_too(make, tiny):
    policy = make(tiny.to(torch.bfloat16))
    assert all(reply.token_ids for reply in by_threads(policy).values())
