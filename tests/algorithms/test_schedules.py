import math

import pytest

from algorithms.schedules import Schedule


def values(shape: str, **options) -> list[float]:
    schedule = Schedule(shape, **{"rounds": 5, **options})
    return [round(schedule(i), 10) for i in range(schedule.rounds)]


def test_published_linear_schedules():
    assert values("linear", slope=0.2) == [1.0, 0.8, 0.6, 0.4, 0.2]
    assert values("linear", slope=0.2, floor=0.6) == [1.0, 0.8, 0.6, 0.6, 0.6]
    assert values("linear", slope=0.3, warmup=2, start=0.9) == [0.9, 0.9, 0.9, 0.6, 0.3]
    assert values("linear", floor=0.2) == [1.0, 0.8, 0.6, 0.4, 0.2]


@pytest.mark.parametrize("start,floor", [(1.0, 0.2), (0.8, 0.1)])
def test_closed_forms(start, floor):
    span = {"start": start, "floor": floor}
    p = [0, 0.25, 0.5, 0.75, 1]
    assert values("constant", **span) == [start] * 5
    assert values("linear", **span) == pytest.approx([start + (floor - start) * x for x in p])
    cosine = [floor + 0.5 * (start - floor) * (1 + math.cos(math.pi * x)) for x in p]
    assert values("cosine", **span) == pytest.approx(cosine)
    exponential = [start * (floor / start) ** x for x in p]
    assert values("exponential", **span) == pytest.approx(exponential)
    assert values("step", **span) == [start, start, floor, floor, floor]


@pytest.mark.parametrize("shape", ["linear", "cosine", "exponential", "step"])
def test_warmup_holds_the_start_and_the_last_round_has_the_floor(shape):
    found = values(shape, rounds=6, warmup=2, floor=0.1)
    assert found[:3] == [1.0, 1.0, 1.0] and found[-1] == pytest.approx(0.1)
    assert Schedule(shape, rounds=6, warmup=2, floor=0.1)(40) == pytest.approx(0.1)
    assert Schedule(shape, rounds=1, floor=0.1)(0) == 1.0


@pytest.mark.parametrize(
    "options,says",
    [
        ({"shape": "lineal"}, "one of constant, linear"),
        ({"start": 1.2}, "start"),
        ({"start": 0.2, "floor": 0.5}, "above"),
        ({"shape": "exponential"}, "floor above 0"),
        ({"rounds": 0}, "rounds"),
        ({"shape": "cosine", "slope": 0.1}, "beta=cosine give beta.slope=null"),
        ({"slope": -0.1}, "not be negative"),
    ],
)
def test_nonsense_is_refused(options, says):
    with pytest.raises(ValueError, match=says):
        Schedule(**options)
