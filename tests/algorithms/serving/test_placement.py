"""Where episodes go, and how many requests a server is sent."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import Future

import pytest

from algorithms.serving import placement
from algorithms.serving.placement import LEAST, Admission, Placement, cache_usage
from swe_gym_env.errors import PolicyError
from swe_gym_env.policies.submit import settle


def test_an_episode_goes_to_the_least_loaded_server_and_stays() -> None:
    where = Placement(["a", "b", "c"])
    assert [where.server((n,)) for n in range(6)] == ["a", "b", "c", "a", "b", "c"]
    for episode in (1, 4):
        where.release((episode,))
    assert where.load == [2, 0, 2]
    assert [where.server((n,)) for n in (6, 7)] == ["b", "b"], "what has become free"
    assert where.server((0,)) == "a", "its keys and values are there"


def test_the_load_does_not_drift_however_episodes_end() -> None:
    where, rng = Placement(list("abcd")), random.Random(0)

    def play(first: int) -> None:
        for number in range(first, first + 200):
            for _ in range(rng.randrange(1, 4)):
                where.server((number,))
            for _ in range(rng.randrange(1, 3)):  # once by the episode, once by who cleans up
                where.release((number,))
            where.release(("never there", number))

    threads = [threading.Thread(target=play, args=(1000 * n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert where.load == [0, 0, 0, 0]


def test_requests_follow_the_room_in_the_cache() -> None:
    admission = Admission(64, lambda: None)
    held = [admission.request() for _ in range(40)]
    for one in held:
        one.__enter__()
    admission.adjust(0.8)
    assert admission.limit == 64, "neither room nor full"
    admission.adjust(0.95)
    assert admission.limit == 30, "three quarters of the 40 that are under way"
    for _ in range(99):
        admission.adjust(0.99)
    assert admission.limit == LEAST
    admission.adjust(None)
    assert admission.limit == LEAST, "no news changes nothing"
    for _ in range(99):
        admission.adjust(0.1)
    assert admission.limit == 64
    for one in held:
        one.__exit__(None, None, None)


def test_more_than_the_limit_wait_and_none_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "LOOK_SECONDS", 0.0)
    looks: list[int] = []
    admission = Admission(3, lambda: looks.append(1) or 0.8)  # type: ignore[func-returns-value]
    lock, now, most, done = threading.Lock(), 0, 0, 0
    full = threading.Barrier(3)

    def request(number: int) -> None:
        nonlocal now, most, done
        try:
            with admission.request():
                with lock:
                    now, most = now + 1, max(most, now + 1)
                full.wait(timeout=30)  # three are under way together, always
                with lock:
                    now, done = now - 1, done + 1
                if number % 2:
                    raise OSError("the server broke the connection")
        except OSError:
            pass

    threads = [threading.Thread(target=request, args=(n,)) for n in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, done) == (3, 30) and looks


# As vLLM writes it with --data-parallel-size 3; a name of a model may hold a blank
METRICS = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="my student"} 3.0
vllm:num_requests_running{engine="1",model_name="my student"} 9.0
vllm:num_requests_running{engine="2",model_name="my student"} 1.0
# HELP vllm:kv_cache_usage_perc KV-cache usage. 1 means 100 percent usage.
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="my student"} 0.3125
vllm:kv_cache_usage_perc{engine="1",model_name="my student"} 0.9374999999999999
vllm:kv_cache_usage_perc{engine="2",model_name="my student"} 6.25e-05
# HELP vllm:prefix_cache_queries_total Prefix cache queries, in terms of number of queried tokens.
# TYPE vllm:prefix_cache_queries_total counter
vllm:prefix_cache_queries_total{engine="0",model_name="my student"} 123456.0
"""


def test_of_several_engines_the_fullest_counts() -> None:
    assert cache_usage(METRICS) == 0.9374999999999999
    alone = [line for line in METRICS.splitlines() if 'engine="2"' in line or line[0] == "#"]
    assert cache_usage("\n".join(alone)) == 6.25e-05
    older = 'vllm:gpu_cache_usage_perc{model_name="student"} 0.5\n'
    assert cache_usage(older) == 0.5 and cache_usage("vllm:gpu_cache_usage_perc 0.25\n") == 0.25
    assert cache_usage("# HELP vllm:kv_cache_usage_perc KV-cache usage.\n") is None


def waiting(admission: Admission, episode: str) -> Future[None]:
    """``hold`` in a thread; it has begun to wait, or has ended, when this returns."""
    held: Future[None] = Future()
    thread = threading.Thread(target=settle, args=(held, lambda: admission.hold(episode)))
    thread.start()
    while episode not in {*admission._waiting, *admission._holding} and not held.done():
        time.sleep(0.001)
    return held


def test_an_episode_elsewhere_counts_until_it_has_ended() -> None:
    admission = Admission(2, lambda: None)
    admission.hold("a")
    admission.hold("a")  # asked for again, after an answer that did not arrive
    second, third, fourth = (waiting(admission, name) for name in "bcd")
    second.result(timeout=30)
    assert not third.done() and not fourth.done()
    admission.release("c")  # its machine was lost while it waited
    with pytest.raises(PolicyError, match="has ended"):
        third.result(timeout=30)
    for _ in range(2):
        admission.release("a")
    fourth.result(timeout=30)
    fifth = waiting(admission, "e")
    admission.close()
    with pytest.raises(PolicyError, match="being closed"):
        fifth.result(timeout=30)
    for name in "bde":
        admission.release(name)
    assert admission._under_way == 0


def test_the_limit_of_episodes_is_cut_again_when_the_last_cut_has_had_its_effect() -> None:
    admission = Admission(64, lambda: None)
    for number in range(40):
        admission.hold(number)
    for _ in range(99):
        admission.adjust(0.95)
    assert admission.limit == 30, "episodes last long: ten have to end first"
    for number in range(10):
        admission.release(number)
    admission.adjust(0.95)
    assert admission.limit == 22


def test_an_episode_that_waits_sees_that_there_is_room_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(placement, "LOOK_SECONDS", 0.05)
    usage = 0.95
    admission = Admission(8, lambda: usage)
    for number in range(4):
        admission.hold(number)
    admission.adjust(usage)
    assert admission.limit == LEAST
    held = waiting(admission, "more")
    assert not held.done()
    usage = 0.1  # none of the others has ended
    held.result(timeout=30)
