"""What a policy gradient is of: the distribution that tokens were drawn from. The record of the
sampler, the trainer, the scorer and TRL agree on it, and its gradient is the exact one."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace

import pytest
import torch

from algorithms.engine.examples import example_trees
from algorithms.engine.hf_policy import HFPolicy
from algorithms.engine.learner import Learner, TrainingConfig
from algorithms.engine.losses import Predicted, weighted_sums
from algorithms.engine.sampling import sample
from algorithms.engine.scorer import HFScorer
from algorithms.gkd import GKD
from algorithms.grpo import GRPO
from algorithms.mixed import Mixed
from algorithms.objective import Objective
from algorithms.opd import OPD
from algorithms.schedules import Schedule
from algorithms.serving.scorer import ServedScorer
from experiments.pipeline import serving
from experiments.pipeline.build import RunContext
from swe_gym_env.errors import SetupError
from tests.algorithms.conftest import tiny_model
from tests.algorithms.sampled import taught
from tests.algorithms.test_supported import accepted, of_trainer, plain, played
from tests.experiments.test_configuration import CONF, configuration

TEMPERATURES = [0.7, 1.0, 1.6]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("case", ["Llama", "Granite-scaled", "Gemma3-capped", "Mistral-window"])
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_sampler_trainer_and_scorer_agree(tokenizer, case, temperature) -> None:
    model = accepted(tokenizer, case)
    renderer, episodes = played(model, tokenizer, 2, temperature=temperature, top_p=1.0)
    scorer = HFScorer(accepted(tokenizer, case), tokenizer, "start")
    given = scorer.score(episodes, temperature=temperature)
    wanted = [plain(model, renderer, item, temperature) for item in episodes]
    for item, expected, scores in zip(episodes, wanted, given, strict=True):
        for turn, logprobs, score in zip(item.turns, expected, scores, strict=True):
            assert turn.logprobs == pytest.approx(logprobs, abs=3e-5)
            assert score.logprobs[: len(logprobs)] == pytest.approx(logprobs, abs=3e-5)
        together = of_trainer(model, renderer, item, temperature)
        assert together == pytest.approx([value for turn in expected for value in turn], abs=3e-5)


def test_greedy_logprobs_are_at_temperature_one(tokenizer) -> None:
    model = tiny_model(len(tokenizer))
    renderer, (item, *_) = played(model, tokenizer, 1, temperature=0.0)
    assert item.turns[0].logprobs == pytest.approx(plain(model, renderer, item)[0], abs=1e-4)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("temperature", "top_p"), product(TEMPERATURES, [1.0, 0.9, 0.3, 1e-9]))
def test_recorded_logprob_is_sampling_frequency(temperature, top_p) -> None:
    torch.manual_seed(1)
    logits = torch.randn(1, 400) * 3
    count = 40_000
    uniform = [(n + 0.5) / count for n in range(count)]
    drawn, logprobs = sample(logits.expand(count, -1), uniform, temperature, top_p)
    share = torch.bincount(drawn, minlength=400) / count
    recorded = torch.zeros(400).scatter(0, drawn, logprobs.exp())
    assert torch.allclose(recorded, share, atol=1e-4)
    assert recorded.sum() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_trainer_logprobs_equal_trl(tokenizer, temperature) -> None:
    from trl.trainer.utils import add_fused_lm_head

    model, theirs = tiny_model(len(tokenizer)), tiny_model(len(tokenizer))
    add_fused_lm_head(theirs, temperature=temperature)  # as GRPOTrainer does
    renderer, episodes = played(model, tokenizer, 1, temperature=temperature, top_p=1.0)
    for item in episodes:
        turn, count = item.turns[0], len(item.turns[0].token_ids)
        prompt = renderer.prompt(item.system_prompt, (), turn.observation)
        ids = torch.tensor([[*prompt, *turn.token_ids]])
        labels = ids.clone()
        labels[:, : len(prompt)] = -100
        with torch.no_grad():
            logprobs = theirs(input_ids=ids, labels=labels, fused_lm_head=True).log_probs
        wanted = logprobs[0, -count:].tolist()
        assert turn.logprobs == pytest.approx(wanted, abs=1e-4)
        fresh = tiny_model(len(tokenizer))
        assert of_trainer(fresh, renderer, item, temperature) == pytest.approx(wanted, abs=1e-4)


def gradient_on_all_tokens(logits, rewards, objective, drawn_at: float):
    """Our gradient of every token, weighted by how often it is drawn: an expectation."""
    behavior = (logits.detach() / drawn_at).log_softmax(-1)
    theta = logits.clone().requires_grad_()
    found = (theta / objective.temperature).log_softmax(-1)
    size, none = len(logits), torch.empty(len(logits), 0)
    zeros = torch.zeros(size, dtype=logits.dtype)
    streams = {
        "ce_weight": zeros,
        "kl_weight": zeros,
        "pg_weight": behavior.exp(),
        "advantage": rewards,
        "behavior": behavior if drawn_at == objective.temperature else found.detach(),
        "score": zeros,
    }
    packed = SimpleNamespace(streams=streams, sequence=torch.arange(size))
    weighted_sums(objective, Predicted(found, zeros, none, none, none), packed).loss.backward()
    return -theta.grad


def cosine(a, b) -> float:
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


def test_gradient_is_exact_at_sampling_temperature_only() -> None:
    torch.manual_seed(0)
    worst, misled = 1.0, 1.0
    for _, temperature in product(range(50), TEMPERATURES):
        logits, rewards = torch.randn(2, 6, dtype=torch.float64)
        theta = (2 * logits).requires_grad_()
        value = ((theta / temperature).softmax(-1) * rewards).sum()
        (exact,) = torch.autograd.grad(value, theta)
        objective = Objective(clip_low=None, clip_high=None, temperature=temperature)
        ours = gradient_on_all_tokens(theta.detach(), rewards, objective, temperature)
        worst = min(worst, cosine(ours, exact))
        assert torch.allclose(ours, exact, atol=1e-12)
        if temperature != 1:
            old = Objective(clip_low=None, clip_high=None)
            former = gradient_on_all_tokens(theta.detach(), rewards, old, temperature)
            misled = min(misled, cosine(former, exact))
    assert worst > 1 - 1e-9 and misled < 0.5


def test_learner_uses_temperature_of_objective(tokenizer) -> None:
    """On the students' own tokens all ratios are 1 before the first update, so nothing is clipped
    and the truncated correction is 1."""
    for truncation in (None, 2.0):
        model = tiny_model(len(tokenizer))
        renderer, episodes = played(model, tokenizer, 2, temperature=0.7, top_p=1.0)
        examples = [taught(e, pg_weight=1.0, advantage=1.0) for e in episodes]
        trees = list(example_trees(examples, renderer))
        objective = GRPO(temperature=0.7, truncation=truncation).objective
        assert objective.temperature == 0.7
        learner = Learner(model, None, TrainingConfig(), objective)
        if truncation:
            learner._compute_old_logprobs(trees)
        weight = sum(float(tree.pg_weight.sum()) for tree in trees)
        assert learner.loss(trees).loss.item() == pytest.approx(-weight, rel=1e-4)
        off = Learner(model, None, TrainingConfig(), GRPO(truncation=None).objective)
        assert abs(off.loss(trees).loss.item() + weight) > 0.01 * weight


def test_cross_entropy_at_other_temperature_is_refused(tokenizer) -> None:
    model = tiny_model(len(tokenizer))
    renderer, (item, *_) = played(model, tokenizer, 1, top_p=1.0)
    trees = list(example_trees([taught(item, weight=1.0)], renderer))
    learner = Learner(model, None, TrainingConfig(), Objective(temperature=0.7))
    with pytest.raises(ValueError, match="needs log-probs of temperature 1"):
        learner.loss(trees)


BETA = Schedule("constant", start=0.0)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (GRPO, {"top_p": 0.9}, r"algorithm\.top_p=1"),
        (OPD, {"top_p": 0.9}, r"algorithm\.top_p=1"),
        (OPD, {"estimator": "k2", "top_p": 0.5}, r"algorithm\.top_p=1"),
        (GRPO, {"temperature": 0.0}, "must be positive"),
        (OPD, {"temperature": -1.0}, "must be positive"),
        (Mixed, {"beta": BETA, "temperature": 0.7}, "can only be 1"),
        (Mixed, {"beta": BETA, "top_p": 0.9}, r"algorithm\.top_p=1"),
    ],
)
def test_mismatched_sampling_is_refused(method, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        method(**options)


def test_full_distributions_allow_any_sampling() -> None:
    method = GKD(temperature=0.7, top_p=0.9)
    assert method.objective.temperature == 1 and method.collect(1).temperature == 0.7


@pytest.mark.parametrize("method", [GRPO(temperature=0.7), OPD(temperature=0.7)])
def test_sampling_temperature_is_training_temperature(method) -> None:
    plan = method.collect(1)
    assert (plan.temperature, plan.top_p) == (method.objective.temperature, 1.0) == (0.7, 1.0)


PRESETS = [path.stem for path in sorted((CONF / "preset").glob("*.yaml"))]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("preset", [name for name in PRESETS if not name.endswith("shared")])
def test_presets_train_at_sampling_temperature(preset) -> None:
    context = RunContext(configuration(f"preset={preset}"))
    objective, plan = context.algorithm.objective, context.algorithm.collect(1)
    sampling = context.cfg.sampling
    temperature = sampling.temperature if plan.temperature is None else plan.temperature
    top_p = sampling.top_p if plan.top_p is None else plan.top_p
    tokens_alone = context.algorithm.scoring is not None or context.cfg.algorithm.name == "grpo"
    if tokens_alone and objective.divergence != "jsd":
        assert (temperature, top_p) == (objective.temperature, 1.0)
    else:
        assert objective.temperature == 1


def test_served_teacher_refuses_other_temperature() -> None:
    scorer = ServedScorer("http://127.0.0.1:9/v1", "m", None, name="m")  # type: ignore[arg-type]
    with pytest.raises(SetupError, match=r"algorithm\.temperature=1"):
        scorer.check(0.7)
    with pytest.raises(SetupError, match=r"algorithm\.temperature=1"):
        list(scorer.score([], temperature=0.7))


@pytest.mark.model
def test_served_teacher_is_refused_before_run(monkeypatch) -> None:
    given = ("algorithm=opd", "teacher=server", "teacher.scores=true")
    context = RunContext(configuration(*given, "algorithm.temperature=0.7"))
    with pytest.raises(SetupError, match=r"algorithm\.temperature=1"):
        context.teacher.check_scores(context.algorithm)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "temperature", "refused"),
    [
        ("raw_logprobs", 0.7, True),
        ("processed_logprobs", 0.7, False),
        ("raw_logprobs", 1.0, False),
        (None, 0.7, False),
    ],
)
def test_server_with_raw_logprobs_is_refused(monkeypatch, mode, temperature, refused):
    import json
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            info = self.path.startswith("/server_info?config_format=json")
            answer = {"vllm_config": {"model_config": {"logprobs_mode": mode}}} if info else {}
            content = json.dumps(answer).encode()
            self.send_response(404 if info and mode is None else 200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        cfg = configuration(
            *("algorithm=grpo", f"algorithm.temperature={temperature}"),
            *("serving=vllm", f"serving.urls=[{url}]"),
        )
        missing = serving.missing(cfg)
        server.shutdown()
    assert bool(missing) == refused
    assert not refused or "--logprobs-mode processed_logprobs" in str(missing)


def test_policy_records_logprobs_after_top_p(tokenizer) -> None:
    """With top-p, what is recorded is larger than without, by the mass that was kept."""
    model = tiny_model(len(tokenizer))
    renderer, (item, *_) = played(model, tokenizer, 1, temperature=0.7, top_p=0.5)
    expected = plain(model, renderer, item, 0.7)[0]
    assert all(a >= b - 1e-4 for a, b in zip(item.turns[0].logprobs, expected, strict=True))
    assert sum(item.turns[0].logprobs) > sum(expected) + 0.1
    assert isinstance(HFPolicy(model, tokenizer).temperature, float)
