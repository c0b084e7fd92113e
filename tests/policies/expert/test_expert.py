"""The expert, turn by turn, from states that students reach: it must end at the gold tree, and
never act on what could not have been read in the history.

The checks on its turns are written anew here, from the trees before and after each command, and
share nothing with the expert's own idea of what is visible.
"""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from swe_gym_env import prompts
from swe_gym_env.actions import FormatError, action_format
from swe_gym_env.patches import parse_patch
from swe_gym_env.policies.base import State
from swe_gym_env.policies.expert import ExpertPolicy
from swe_gym_env.sandbox import Sandbox, SandboxProvider, SandboxSpec
from swe_gym_env.tools.bash import BashTool
from swe_gym_env.types import TaskInstance, ToolCall, Turn
from tests.policies.expert.trees import (
    MODULES,
    first_change,
    function_at,
    make_task,
    mutate,
    source,
)

pytestmark = pytest.mark.sandbox

FORM = action_format("bash_block")
MAX_TURNS = 20
WRITES = re.compile(r"sed -i|<<'EOF'|git (checkout|reset|rm|clean)|^rm |&& rm ")


def contents(sandbox: Sandbox) -> dict[str, bytes]:
    """Every file of the tree outside .git and the caches."""
    skip = "--exclude=./.git --exclude=__pycache__ --exclude=.pytest_cache"
    packed = sandbox.exec(f"cd /testbed && tar -c {skip} .", timeout=60)
    assert packed.exit_code == 0 and not packed.dropped, packed.output[-300:]
    with tarfile.open(fileobj=io.BytesIO(packed.output)) as tar:
        files = {m.name.removeprefix("./"): tar.extractfile(m) for m in tar if m.isfile()}
        return {name: file.read() for name, file in files.items() if file}


@dataclass
class Game:
    """An episode in a small repository, with every expert turn checked before it is run."""

    task: TaskInstance
    gold: dict[str, bytes]
    provider: SandboxProvider
    number: int = 0
    turns: list[Turn] = field(default_factory=list)
    expert_turns: list[ToolCall] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sandbox = self.provider.create(SandboxSpec(image=self.task.image))
        self.tool = BashTool(self.sandbox, timeout=60.0)
        self.observation = prompts.task_prompt(self.task)
        self.expert = ExpertPolicy()
        self.shown_at: list[str] = []  # trees of which a git diff or status was seen

    def state(self) -> State:
        key = (self.number, 0, self.task.instance_id, 0, len(self.turns), "teacher")
        return State(key, self.task, "", tuple(self.turns), self.observation, self.sandbox)

    def say(self, text: str) -> None:
        """A turn of the student."""
        try:
            call = FORM.parse(text)
        except FormatError as error:
            self._add(text, None, prompts.format_mistake(str(error), FORM))
            return
        command = call.arguments.get("command", "")
        self._add(text, call, self.tool.run(command))
        if re.search(r"\bgit (diff|status)", command):
            self.shown_at.append(self.mark())

    def do(self, command: str) -> None:
        self.say(FORM.render(ToolCall("bash", {"command": command})))

    def _add(self, text: str, call: ToolCall | None, observation: str) -> None:
        self.turns.append(Turn(self.observation, "student", text, call))
        self.observation = observation

    def mark(self) -> str:
        return hashlib.sha256(repr(contents(self.sandbox)).encode()).hexdigest()

    def ask(self) -> ToolCall:
        (reply,) = self.expert.act([self.state()])
        assert reply.action is not None, reply.error
        assert len(reply.action.reasoning.split()) <= 12
        assert FORM.parse(FORM.render(reply.action)) == reply.action
        return reply.action

    def play(self) -> bool:
        """The expert alone from here; True if it finishes with the gold tree."""
        for _ in range(MAX_TURNS):
            call = self.ask()
            self.expert_turns.append(call)
            if call.name == "finish":
                return True
            command = call.arguments["command"]
            self.check_navigation(command)
            before, mark = contents(self.sandbox), self.mark()
            visible = self.visible_lines()
            self.do(command)
            after = contents(self.sandbox)
            if before != after:
                assert WRITES.search(command), command
                self.check_write(command, before, after, visible, mark)
        return False

    def visible_text(self) -> str:
        texts = [t.observation for t in self.turns] + [self.observation]
        return "\n".join([*texts, *(t.text for t in self.turns)])

    def visible_lines(self) -> set[str]:
        texts = [t.observation for t in self.turns] + [self.observation]
        lines = [line.rstrip() for text in texts for line in text.split("\n")]
        return {re.sub(r"^(\S+\.py:)?\s*\d+[\t:]", "", x) for x in lines} | set(lines)

    def check_write(
        self,
        command: str,
        before: dict[str, bytes],
        after: dict[str, bytes],
        visible: set[str],
        mark: str,
    ) -> None:
        if re.search(r"git (checkout|reset|rm|clean)|\brm -", command):
            assert mark in self.shown_at, f"undone without a git diff: {command}"
            return
        changed = [p for p in before if after.get(p) != before[p]]
        assert len(changed) == 1 and before.keys() == after.keys(), command
        old = before[changed[0]].decode().split("\n")
        new = after[changed[0]].decode().split("\n")
        assert after[changed[0]] == self.gold[changed[0]], command
        for n, line in enumerate(old):  # every line that goes away has been seen
            if line not in new and line.strip():
                assert line.rstrip() in visible, f"edited unseen, line {n + 1}: {command}"
        pairs = enumerate(zip(old, new, strict=False))
        first = next((i for i, (a, b) in pairs if a != b), min(len(old), len(new)) - 1)
        near = [x for x in old[max(0, first - 3) : first + 3] if x.strip()]
        assert any(x.rstrip() in visible for x in near), command

    def check_navigation(self, command: str) -> None:
        """Paths, names and line numbers come from what was visible before."""
        text = self.visible_text()
        for path in re.findall(r"[\w/.-]+\.py\b", command):
            dotted = path.removesuffix(".py").replace("/", ".")
            assert path in text or dotted in text, f"unknown path: {command}"
        for word in re.findall(r'grep -\w+ "(?:def |class |\^)?(\w+)"', command):
            assert re.search(rf"\b{word}\b", text), f"unknown word: {command}"
        view = re.search(r"sed -n '(\d+),(\d+)p'", command)
        if view:
            numbers = [1, *(int(n) for n in re.findall(r"\d+", text))]
            assert min(abs(int(view[1]) - n) for n in numbers) <= 60, command

    def transcript(self) -> str:
        lines = [f"<< {t.observation[:400]}\n>> {t.text}" for t in self.turns]
        return "\n".join(
            [*lines, f"<< {self.observation[:400]}", *map(str, self.expert_turns[-1:])]
        )

    def at_gold(self) -> bool:
        return contents(self.sandbox) == self.gold


LEVELS = ("located", "function", "symptom", "nothing")


def new_game(provider: SandboxProvider, number: int, level: str = "located") -> Game:
    """A game over a bug put into one of three real modules."""
    rng = np.random.default_rng(number)
    names = [str(n) for n in rng.choice(MODULES, 3, replace=False)]
    gold = {f"lib/{n}.py": source(n) for n in names}
    target = f"lib/{names[0]}.py"
    base = mutate(gold[target], rng, bool(rng.integers(2)))
    if rng.random() < 0.25:
        base = mutate(base, rng, False)
    if base == gold[target]:
        return new_game(provider, number + 100_000, level)
    name, start, end = function_at(base, first_change(base, gold[target]))
    statement = {
        "located": f"`{name}` goes wrong: expected 1, got 2.\nSee {target}, lines {start}-{end}.",
        "function": f"`lib.{names[0]}.{name}(3)` gave 2 where 1 was expected.",
        "symptom": f"Calling {name or names[0]} raises a TypeError.",
        "nothing": "Something is broken.",
    }[level]
    task = make_task(f"game{number}", {**gold, target: base}, {target: gold[target]}, statement)
    return Game(task, {path: text.encode() for path, text in gold.items()}, provider, number)


def student_turn(game: Game, rng: np.random.Generator) -> str:
    """Something a student might do: looks, wrong edits, wrecks, half fixes, nonsense."""
    path = str(rng.choice(sorted(game.gold)))
    git = "git -c user.name=a -c user.email=a@example.org"
    target = re.findall(r"\+\+\+ b/(\S+)", game.task.gold_patch)[0]
    n = int(rng.integers(1, 200))
    hunk = int(re.findall(r"@@ -(\d+)", game.task.gold_patch)[0]) + 3
    commands = [
        f"cat -n {path} | sed -n '{n},{n + 20}p'",
        f"cat -n {target} | sed -n '{max(1, hunk - 9)},{hunk + 12}p'",
        f"sed -n '{max(1, hunk - 9)},{hunk + 12}p' {target}",
        f"grep -n 'def ' {path}",
        f"sed -i '{n}s/a/b/' {path}",
        f"sed -i '{n}d' {path}",
        f"sed -i '{hunk}s/.*/    pass/' {target}",
        f"sed -i.bak 's/self/this/g' {target}",
        f"sed -i '{hunk}i\\    x = 1' {target}",
        f"rm {path}",
        f"rm -rf {path.split('/')[0]}",
        "rm -rf *",
        f"echo 'print(1)' > {path}",
        "echo 'import lib' > try_it.py; mkdir -p new/dir; touch new/dir/f.txt",
        "cd lib",
        "cd /tmp && ls | head -3",
        "cd ..",
        "(cd lib && ls)",
        "git add -A",
        f"{git} commit -qam wip",
        f"git add -A && {git} commit -qm wip2 && {git} commit -q --amend -m again",
        f"{git} commit -q --amend -m again",
        "git rm -q --cached lib/*.py",
        f"{git} stash",
        "git checkout -q -b other",
        "git diff",
        "git status",
        "git checkout .",
        f"chmod +x {path}",
        f"mv {path} {path}.old",
        "pytest -q 2>&1 | tail -3",
        "python -c 'print(1)'",
        "nosuchcommand --flag",
        "cat <<'EOF' | git apply\n" + half(game.task.gold_patch) + "EOF",
        "git apply <<'EOF'\n" + game.task.gold_patch + "EOF",
        f"find . -name '*.py' | xargs sed -i '{n}s/e/E/'",
        "echo lib > .gitignore",
        f"printf '\\r\\n' >> {target}",
    ]
    nonsense = ["I think that", "```bash\nls\n```\n```bash\nls\n```", "```bash\n```", "``` ```bash"]
    if rng.random() < 0.08:
        return str(rng.choice(nonsense))
    return FORM.render(ToolCall("bash", {"command": str(rng.choice(np.array(commands, object)))}))


def half(patch: str) -> str:
    """The first hunk of a patch."""
    parts = re.split(r"(?m)^(?=@@ )", patch)
    return parts[0] + parts[1]


def from_states(provider: SandboxProvider, numbers: range) -> list[str]:
    """Plays each number's game out and says which did not come to the gold tree, or cheated."""
    failed: list[str] = []
    turns: list[int] = []
    chars: list[int] = []
    for number in numbers:
        rng = np.random.default_rng([number, 1])
        game = new_game(provider, number, LEVELS[number % len(LEVELS)])
        for _ in range(int(rng.integers(0, 6))):
            game.say(student_turn(game, rng))
            if rng.random() < 0.5:  # a mixed roll-out: the teacher acts in between
                call = game.ask()
                if call.name == "finish":
                    break
                game.do(call.arguments["command"])
        try:
            assert game.play(), "no end"
            assert game.at_gold(), "not the gold tree"
        except AssertionError as error:
            failed.append(f"{number}: {str(error)[:300]}\n{game.transcript()}")
        finally:
            game.sandbox.close()
        turns.append(len(game.expert_turns))
        chars.extend(len(FORM.render(call)) for call in game.expert_turns)
    print(
        f"{len(numbers)} states, {len(failed)} failed; {np.mean(turns):.2f} turns "
        f"(max {max(turns)}), {np.mean(chars):.1f} characters a turn"
    )
    return failed


@pytest.mark.slow
def test_a_located_bug_takes_four_short_turns(local: SandboxProvider) -> None:
    counts = []
    for number in range(8):
        game = new_game(local, number)
        assert game.play() and game.at_gold()
        counts.append(len(game.expert_turns))
    assert sorted(counts)[4] <= 5


def test_the_visible_tests_can_be_left_out(local: SandboxProvider) -> None:
    game = new_game(local, 0)
    game.expert = ExpertPolicy(tests=False)
    assert game.play() and game.at_gold()
    assert not any("pytest" in str(call.arguments) for call in game.expert_turns)


@pytest.mark.slow
def test_without_a_verdict_a_wrong_edit_is_as_good_as_a_right_one(local: SandboxProvider) -> None:
    silent = ExpertPolicy(tests=False, verdict=False)
    for number in range(8):
        game = new_game(local, number)
        game.expert = silent
        assert game.play() and game.at_gold()
    for number in range(8, 16):
        game = new_game(local, number)
        path = next(iter(parse_patch(game.task.gold_patch)))
        game.do(f"sed -i 's/no such text/x/w /dev/stdout' {path}")
        game.expert = silent
        assert game.ask().name == "bash", "nothing was changed, which is seen: it goes on"
        game.do(f"sed -i '1s/^/# /w /dev/stdout' {path}")
        call = game.ask()
        assert call.name == "finish" or call.arguments["command"] == "git diff"
        game.expert = ExpertPolicy(tests=False)
        assert game.ask().name == "bash"


@pytest.mark.parametrize("level", LEVELS)
def test_each_level_of_help_leads_to_the_place(local: SandboxProvider, level: str) -> None:
    for number in range(20, 24):
        game = new_game(local, number, level)
        assert game.play() and game.at_gold()


@pytest.mark.slow
def test_forty_states_of_students(local: SandboxProvider) -> None:
    failed = from_states(local, range(1000, 1040))
    assert not failed, "\n\n".join(failed)


@pytest.mark.recorded
@pytest.mark.timeout(3000)
def test_five_hundred_states_of_students(local: SandboxProvider) -> None:
    """Seen on 2026-11-22: 500 of 500, 5.8 turns (at most 14) of 60 characters each."""
    failed = from_states(local, range(2000, 2500))
    assert len(failed) <= 2, "\n\n".join(failed)


def test_looking_leaves_no_trace(local: SandboxProvider) -> None:
    game = new_game(local, 3)
    game.do("touch lib/*.py; echo >> lib/x.py; git add -N lib/x.py")
    everything = "find . /tmp -printf '%p %T@ %s\\n'; md5sum .git/index"
    before = game.sandbox.exec(everything, timeout=60).output
    game.ask()
    assert game.sandbox.exec(everything, timeout=60).output == before
    assert len(before.splitlines()) > 30


def test_answers_depend_on_the_key_alone(local: SandboxProvider) -> None:
    games = [new_game(local, n) for n in range(4)]
    together = [r.action for r in ExpertPolicy().act([g.state() for g in games])]
    assert together == [g.ask() for g in games] == [g.ask() for g in games]


def test_a_right_edit_by_the_student_is_kept(local: SandboxProvider) -> None:
    game = new_game(local, 5)
    game.do("git apply <<'EOF'\n" + game.task.gold_patch + "EOF")
    assert "test" in game.ask().arguments["command"]
    game.do("pytest -q")
    assert game.play() and game.at_gold() and len(game.expert_turns) <= 2


@pytest.mark.slow
def test_an_edit_shows_what_it_did(local: SandboxProvider) -> None:
    """A miss prints nothing, so the next label follows from what everyone can read."""
    shown = 0
    for number in range(300, 312):
        game = new_game(local, number)
        assert game.play()
        for turn, seen in zip(game.turns, [*game.turns[1:], None], strict=True):
            if turn.action and "w /dev/stdout" in turn.action.arguments.get("command", ""):
                observation = seen.observation if seen else game.observation
                (patched,) = [x for x in game.gold.values() if observation.strip().encode() in x]
                assert patched and observation.strip() in game.task.gold_patch
                shown += 1
    assert shown >= 2
    again = new_game(local, 320)
    path = re.findall(r"\+\+\+ b/(\S+)", again.task.gold_patch)[0]
    again.do(f"sed -i 's/no such text/x/w /dev/stdout' {path}")
    assert again.observation == "(no output)"
    assert again.play() and again.at_gold()


@pytest.mark.slow
def test_wrong_edit_of_the_right_line_is_repaired_in_place(local: SandboxProvider) -> None:
    repaired = 0
    for number in range(500, 512):
        game = new_game(local, number)
        lines = re.findall(r"(?m)^[-+](?![-+]).*", game.task.gold_patch)
        if len(lines) != 2 or lines[0][0] != "-" or lines[1][0] != "+":
            continue  # more than one line becomes another
        path = re.findall(r"\+\+\+ b/(\S+)", game.task.gold_patch)[0]
        before = game.sandbox.read(f"/testbed/{path}").decode().split("\n")
        at = before.index(lines[0][1:]) + 1
        game.do(f"sed -i '{at}s/.*/    wrong = 1/w /dev/stdout' {path}")
        call = game.ask()
        assert call.arguments["command"].startswith("sed -i"), call
        assert game.play() and game.at_gold() and len(game.expert_turns) <= 4
        repaired += 1
    assert repaired >= 2


def test_without_a_sandbox_it_says_so(local: SandboxProvider) -> None:
    state = new_game(local, 6).state()
    (reply,) = ExpertPolicy().act([replace(state, sandbox=None)])
    assert reply.action is None and "sandbox" in reply.error


@pytest.mark.slow
def test_a_repository_too_large_to_be_listed_is_looked_through_folder_by_folder(
    local: SandboxProvider,
) -> None:
    gold = {f"lib/part_{n // 40}/deep/module_{n:03}.py": "x = 1\ny = 2\n" for n in range(400)}
    target = "lib/part_5/deep/module_203.py"
    base = {**gold, target: "x = 1\ny = 3\n"}
    task = make_task("large", base, {target: gold[target]}, "Something is broken.")
    game = Game(task, {path: text.encode() for path, text in gold.items()}, local)
    assert game.play() and game.at_gold()
    assert any("git ls-files 'lib/part_5/deep/*.py'" in turn.text for turn in game.turns)
