import copy
import io
import random
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from algorithms.base import Target, TrainingExample
from algorithms.engine import losses
from algorithms.engine.checkpoint import load_model, load_tokenizer, save_checkpoint
from algorithms.engine.examples import example_tree
from algorithms.engine.hf_policy import HFPolicy
from algorithms.engine.learner import Learner, TrainingConfig
from algorithms.engine.losses import denominator
from algorithms.engine.optimizer import MasterAdamW
from algorithms.engine.rendering import Renderer
from algorithms.engine.tree import TokenTree
from swe_gym_env.errors import SetupError
from swe_gym_env.types import Turn
from tests.algorithms.conftest import make_episode, make_state, tiny_model
from tests.algorithms.test_tree import random_tree


def weights_after(trees, **options):
    model = tiny_model(50)
    Learner(model, None, TrainingConfig(warmup_steps=0, **options)).train(trees)
    return model.state_dict()


def test_accumulation_keeps_step():
    rng = random.Random(2)
    trees = [random_tree(rng, rng.randint(5, 40), 50) for _ in range(8)]
    whole = weights_after(trees, batch_size=8, micro_batch_tokens=10_000)
    for pieces in (weights_after(trees, batch_size=8, micro_batch_tokens=n) for n in (1, 60)):
        for name, weight in whole.items():
            assert torch.allclose(pieces[name], weight, atol=2e-6), name


def test_chain_equals_cross_entropy(monkeypatch):
    monkeypatch.setattr(losses, "CHUNK", 7)  # several chunks, so recomputed in the backward
    model, ids = tiny_model(50), torch.randint(0, 50, (1, 30))
    chain = TokenTree(
        ids[0].numpy(), np.arange(-1, 29), np.ones(30, dtype=np.float32), np.zeros(30, dtype=int)
    )
    logits = model(ids).logits[0, :-1]
    expected = F.cross_entropy(logits, ids[0, 1:])
    expected.backward()
    wanted = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    sums = Learner(model, None, TrainingConfig()).loss([chain])
    loss, right = sums.loss, sums.correct
    (loss / denominator([chain])).backward()
    assert denominator([chain]) == 29 and right == (logits.argmax(-1) == ids[0, 1:]).sum()
    assert abs(loss.item() / 29 - expected.item()) < 1e-5
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad, wanted[name], atol=1e-5), name


def test_master_weights_keep_small_updates():
    ours = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    optimizer = MasterAdamW([ours], lr=1e-4)
    reference = torch.nn.Parameter(torch.ones(4))
    adam = torch.optim.AdamW([reference], lr=1e-4, betas=(0.9, 0.95), weight_decay=0.0)
    for _ in range(100):
        ours.grad = torch.ones(4, dtype=torch.bfloat16)
        optimizer.accumulate()
        optimizer.step()
        reference.grad = torch.full((4,), 0.5)  # the norm 2 is clipped to 1
        adam.step()
    assert torch.allclose(optimizer.masters[0], reference, atol=1e-6)
    assert ours[0].item() == torch.tensor(reference[0].item()).bfloat16().item() < 1


@pytest.mark.parametrize("lr_end", [1.0, 0.1, 0.0])
def test_learning_rate_equals_torch_schedulers(lr_end):
    weight = torch.nn.Parameter(torch.ones(1))
    ours = MasterAdamW([weight], lr=0.01, warmup_steps=4, total_steps=20, lr_end=lr_end)
    other = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.01)
    up = torch.optim.lr_scheduler.LinearLR(other, 0.2, 1.0, total_iters=4)
    down = torch.optim.lr_scheduler.LinearLR(other, 1.0, lr_end, total_iters=15)
    both = torch.optim.lr_scheduler.SequentialLR(other, [up, down], milestones=[4])
    for _ in range(20):
        weight.grad = torch.ones(1)
        ours.accumulate()
        ours.step()
        assert ours.learning_rate() == pytest.approx(other.param_groups[0]["lr"], abs=1e-12)
        assert ours.adam.param_groups[0]["lr"] == ours.learning_rate()
        other.step()
        both.step()
    assert ours.learning_rate() == pytest.approx(0.01 * lr_end)


def examples(count=4):
    made = []
    for n in range(count):
        episode = make_episode([Turn(f"task {n}", "student", "dunno")], f"e{n}")
        made.append(TrainingExample(episode, (Target(0, f"```bash\nsed -n {n}{n}p f{n}.py\n```"),)))
    return made


def overfit(model, tokenizer, folder, **options):
    """Train on four labels, save, load, and compare greedy replies with the labels."""
    renderer = Renderer(tokenizer)
    trees = [example_tree(example, renderer) for example in examples()]
    learner = Learner(model, tokenizer, TrainingConfig(batch_size=4, **options))
    calls = []
    report = learner.train(trees, lambda *call: calls.append(call))
    assert report.loss[-1] < report.loss[0] and report.trees == 4
    assert calls[-1][0] == calls[-1][1] == report.tokens and "tokens/s" in calls[-1][2]
    learner.save(folder)
    policy = HFPolicy.from_folder(folder, model.dtype, temperature=0.0, max_new_tokens=40)
    replies = policy.act([make_state(n, (), f"task {n}") for n in range(4)])
    for example, reply in zip(examples(), replies, strict=True):
        assert reply.text == example.targets[0].text
        assert reply.token_ids[-1] == policy.renderer.end_id
    assert not [p for p in folder.parent.iterdir() if p.name.startswith(".")]


def test_tokens_and_forward_passes_of_a_training(tiny, tokenizer):
    trees = [example_tree(example, Renderer(tokenizer)) for example in examples()]
    shapes = []

    def note(_module, _args, options):
        shapes.append(tuple(options["input_ids"].shape))

    learner = Learner(tiny, tokenizer, TrainingConfig(batch_size=2, epochs=3, lr=1e-3))
    tiny.base_model.register_forward_pre_hook(note, with_kwargs=True)
    report = learner.train(trees)
    once = sum(len(tree.token_ids) for tree in trees)
    assert report.tokens == 3 * once == 924
    # less, since what the trees of a batch have in common is computed once for both
    assert sum(rows * width for rows, width in shapes) <= 720
    assert len(shapes) <= 6  # one for each batch and epoch


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"lora_rank": 8}], ids=["full", "lora"])
def test_tiny_model_learns_labels_and_reloads(tiny, tokenizer, tmp_path, options):
    overfit(
        tiny, tokenizer, tmp_path / "checkpoint", lr=2e-2 if options else 1e-2, epochs=80, **options
    )


def test_smollm2_learns_labels(smollm2, auto_dtype, tmp_path):
    model, tokenizer = load_model(smollm2, auto_dtype), load_tokenizer(smollm2)
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    overfit(model, tokenizer, tmp_path / "checkpoint", lr=2e-4, epochs=14)


def test_nothing_to_train_on_is_an_error():
    learner = Learner(tiny_model(50), None, TrainingConfig(max_tree_tokens=10))
    with pytest.raises(ValueError, match="Nothing to train on"):
        learner.train([])
    with pytest.raises(ValueError, match="of 1 trees"):
        learner.train([random_tree(random.Random(0), 30, 50)])
    with pytest.raises(ValueError, match="batch_size"):
        TrainingConfig(batch_size=0)


class Screen(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.isatty = lambda: terminal  # type: ignore[method-assign]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_training_of_a_script_shows_a_bar_on_a_terminal(monkeypatch, terminal):
    monkeypatch.setattr(sys, "stderr", screen := Screen(terminal))
    trees = [random_tree(random.Random(n), 20, 50) for n in range(4)]
    report = Learner(tiny_model(50), None, TrainingConfig(epochs=1, batch_size=2)).train(trees)
    if not terminal:
        assert screen.getvalue() == ""
        return
    last = screen.getvalue().splitlines()[-1]
    assert "100%" in last and f"{report.tokens}" in last and f"loss {report.loss[-1]:.3f}" in last
    assert "tokens/s, loss" in last and last.count("tokens/s") == 1


def test_group_stays_in_one_step():
    trees = [random_tree(random.Random(n), 20, 50) for n in range(6)]
    named = [replace(tree, group=name) for tree, name in zip(trees, "aabccc", strict=True)]
    report = Learner(tiny_model(50), None, TrainingConfig(batch_size=1)).train(named)
    assert len(report.loss) == 3 and report.trees == 6


def test_same_seed_gives_same_weights():
    trees = [random_tree(random.Random(n), 20, 50) for n in range(6)]
    one, two, other = (weights_after(trees, batch_size=2, epochs=2, seed=s) for s in (1, 1, 2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_checkpoint_replaces_older_one(tiny, tokenizer, tmp_path):
    folder = save_checkpoint(tiny, tokenizer, tmp_path / "c")
    (folder / "leftover").touch()
    changed = copy.deepcopy(tiny)
    with torch.no_grad():
        changed.lm_head.weight += 1
    save_checkpoint(changed, tokenizer, folder)
    assert not (folder / "leftover").exists()
    loaded = load_model(folder, torch.float32)
    assert torch.equal(loaded.lm_head.weight, changed.lm_head.weight)
    assert load_tokenizer(folder).get_vocab() == tokenizer.get_vocab()
    with pytest.raises(SetupError, match=r"config\.json"):
        load_model(tmp_path)
    (folder / "model.safetensors").write_bytes(b"half a file")
    with pytest.raises(SetupError, match=r"cannot be read .* train\.done"):
        load_model(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(SetupError, match=r"are gone .* train\.done"):
        load_model(folder)


@pytest.mark.slow
def test_adapter_is_saved_alone_and_trained_further(tiny, tokenizer, tmp_path):
    base = save_checkpoint(tiny, tokenizer, tmp_path / "base")
    trees = [random_tree(random.Random(n), 20, 50) for n in range(6)]
    config = TrainingConfig(lr=1e-2, lora_rank=4)
    first = Learner(load_model(base, torch.float32), tokenizer, config)
    first.train(trees)
    one = first.save(tmp_path / "one")
    assert {f.name for f in one.iterdir() if f.suffix == ".safetensors"} == {
        "adapter_model.safetensors"
    }
    second = Learner(load_model(one, torch.float32), tokenizer, config)
    for name, weight in first.model.named_parameters():
        assert torch.equal(weight, dict(second.model.named_parameters())[name]), name
        assert weight.requires_grad == ("lora" in name)
    second.train(trees)
    two = load_model(second.save(tmp_path / "two"), torch.float32)
    loaded, trained = two.state_dict(), second.model.state_dict()
    assert all(torch.equal(loaded[name], trained[name]) for name in trained)
    moved = [n for n, w in first.model.state_dict().items() if not torch.equal(w, loaded[n])]
    assert moved and all("lora" in name for name in moved)

    with pytest.raises(SetupError, match="lora_rank=8, but the adapter"):
        Learner(load_model(tmp_path / "two"), tokenizer, TrainingConfig(lora_rank=8))
    whole = Learner(load_model(tmp_path / "two", torch.float32), tokenizer, TrainingConfig())
    ids = torch.arange(9)[None]
    merged = load_model(whole.save(tmp_path / "whole"), torch.float32)
    assert (tmp_path / "whole" / "model.safetensors").exists()
    torch.testing.assert_close(merged(ids).logits, two(ids).logits, atol=1e-4, rtol=1e-4)
    weights = (base / "model.safetensors").rename(tmp_path / "aside")
    with pytest.raises(SetupError, match=r"the weights in .*base are gone"):
        load_model(one)
    weights.rename(base / "model.safetensors")
    (base / "config.json").unlink()
    with pytest.raises(SetupError, match="is an adapter of the model in"):
        load_model(one)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_equal_torch_adamw(dtype):
    torch.manual_seed(0)
    start = [torch.randn(4, 3).to(dtype), torch.randn(5).to(dtype), torch.ones(2).to(dtype)]
    ours = [torch.nn.Parameter(weight.clone()) for weight in start]
    theirs = [torch.nn.Parameter(weight.float()) for weight in start]
    optimizer = MasterAdamW(ours, 0.1, weight_decay=0.3, max_grad_norm=1.0)
    adam = torch.optim.AdamW(theirs, lr=0.1, betas=(0.9, 0.95), weight_decay=0.3)
    for _ in range(3):
        wanted = [torch.zeros_like(weight) for weight in theirs]
        for _ in range(2):  # micro-batches; the third weight is used by none
            parts = [torch.randn(4, 3).to(dtype), torch.randn(5).to(dtype)]
            sum((part * weight).sum() for part, weight in zip(parts, ours, strict=False)).backward()
            optimizer.accumulate()
            for total, part in zip(wanted, parts, strict=False):
                total += part.float()
        for weight, total in zip(theirs, wanted, strict=True):
            weight.grad = total
        norm = torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        assert optimizer.step() == pytest.approx(float(norm), rel=1e-5)
        adam.step()
        for mine, master, weight in zip(ours, optimizer.masters, theirs, strict=True):
            assert torch.allclose(master, weight, atol=1e-6)
            assert torch.equal(mine, master.to(dtype))
