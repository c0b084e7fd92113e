"""The bash tool: commands seem to share one shell session, though a sandbox has no sessions.

Each call is a new ``bash -c``. When that shell ends, the working folder and the exported variables
and functions are printed after a random marker, stored here, and restored before the next command.
So there is no file in the sandbox and no process to watch. If a command is killed, only its changes
of the state are lost.
"""

from __future__ import annotations

import re
import secrets
import shlex
from dataclasses import replace

from swe_gym_env import prompts
from swe_gym_env.sandbox.base import ExecResult, Sandbox

# Bytes. Linux allows 128 KiB in one argument, of which the wrapper and the state are a part.
MAX_COMMAND = 64_000
MAX_STATE = 32_000

# The wrapper around a command. It writes the state to a copy of stdout, so that the state does not
# go into a file to which the command redirects its own output. The groups with redirections hide
# the wrapper from `set -x` and from traps of the command. The state is printed when the command has
# ended, or by the trap if the command ends the shell. `pwd` prints the folder even if the variable
# PWD was changed. The parts of the state: _b exports, _d folder, _o old folder, _f exported
# functions, _e end.
_WRAPPER = """{restore}
exec {{__swe_out}}>&1
__swe_bye= __swe_done=
__swe_save() {{
  [[ -n $__swe_done ]] || {{
    builtin printf '%s\\n' {mark}_b
    builtin export -p
    builtin printf '%s\\n' {mark}_d
    builtin pwd
    builtin printf '%s\\n' {mark}_o "${{OLDPWD-}}" {mark}_f
    builtin export -pf
    builtin printf '%s\\n' {mark}_e
  }} >&$__swe_out
  return "${{1-0}}"
}}
{hooks}builtin trap '{trap}' EXIT
eval {command}; {{ __swe_code=$?; builtin set +exv; builtin trap - DEBUG ERR RETURN; \
builtin enable export printf pwd; __swe_save; __swe_done=1; __swe_save "$__swe_code"; \
}} >/dev/null 2>&1"""
_TRAP = (
    '{ __swe_code=$?; builtin set +exv; __swe_save "$__swe_code"; } >/dev/null 2>&1; '
    'eval "$__swe_bye"'
)
# A trap that the command sets for the end of the shell would replace ours, so both are kept: `trap`
# is replaced by a function that stores the command's trap in a variable, which ours runs at the end
_TRAPS = re.compile(r"\btrap\b.*?\b(?:EXIT|0)\b", re.DOTALL | re.IGNORECASE)
_KEEP_TRAP = """trap() {{
  if [[ $BASH_SUBSHELL != 0 ]]; then builtin trap "$@"; return; fi
  if [[ $# == 0 || $1 == -[lpP]* ]]; then
    builtin trap -- "$__swe_bye" EXIT
    builtin trap "$@"
    builtin trap '{trap}' EXIT
    return
  fi
  local what=- signal others=()
  if [[ $1 == -- ]]; then shift; fi
  if [[ $# != 1 ]]; then what=$1; shift; fi
  for signal; do
    case $signal in
      [eE][xX][iI][tT] | 0) if [[ $what == - ]]; then __swe_bye=; else __swe_bye=$what; fi ;;
      *) others+=("$signal") ;;
    esac
  done
  if [[ ${{#others[@]}} != 0 ]]; then builtin trap -- "$what" "${{others[@]}}"; fi
}}
"""
# These end the shell without running its trap, so the state is printed before them
_ENDS = re.compile(r"\b(?:exec|noexec|kill)\b|\bset\s+-\w*n")
_SAVE_BEFORE = """builtin trap 'case $BASH_COMMAND in *exec\\ * | kill\\ * | set\\ *n*) \
{{ __swe_save "$?"; }} >/dev/null 2>&1 ;; esac' DEBUG
"""
# Run before the first command: the names of all variables that the sandbox exports. A command may
# unset them later, and then they must be unset again before the next command.
_NAMES = "builtin compgen -e; builtin printf '%s\\n' {names}"
# `export -p` prints "declare -x", with a letter for each other attribute; "export" in posix mode
_EXPORTED = re.compile(r"^(?:declare -\w*x\w*|export(?: -\w+)?) (\w+)", re.MULTILINE)
# Variables that the shell sets and that cannot be assigned: only their export is restored
_READONLY = re.compile(
    r"^(?:declare -\w+|export(?: -\w+)?) (UID|EUID|PPID|BASHOPTS|SHELLOPTS|BASH_VERSINFO)=.*$",
    re.MULTILINE,
)
_FOLDERS = re.compile(r"^declare -\w*r\w* (PWD|OLDPWD)\b", re.MULTILINE)  # cd must set them
_OURS = re.compile(r"^(?:declare -\w+|export) __swe_\w+(?:=.*)?\n", re.MULTILINE)

_LINE = re.compile(r"^bash: (?:eval: )?line (\d+):", re.MULTILINE)
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class BashTool:
    """The tool ``bash`` of one episode.

    Args:
        sandbox: Where commands run.
        timeout: Seconds that one command may take.
        output_limit: Characters of an observation.
    """

    def __init__(self, sandbox: Sandbox, timeout: float = 30.0, output_limit: int = 4000) -> None:
        self.sandbox = sandbox
        self.timeout = timeout
        self.output_limit = output_limit
        self._state = ""
        self._names: frozenset[str] | None = None

    def run(self, command: str, time_left: float = float("inf")) -> str:
        """Run a command; returns the observation. Raises SandboxError if the sandbox has ended."""
        command = command.encode("utf-8", "replace").decode().replace("\0", "")
        command = plain_command(command)
        if len(command.encode()) > MAX_COMMAND:
            return f"(not run: the command is longer than {MAX_COMMAND} bytes)"
        timeout = max(0.1, min(self.timeout, time_left))
        mark = f"__swe_{secrets.token_hex(8)}"
        hooks = _KEEP_TRAP if _TRAPS.search(command) else ""
        hooks += _SAVE_BEFORE if _ENDS.search(command) else ""
        script = _WRAPPER.format(
            restore=self._state if self._names is not None else _NAMES.format(names=f"{mark}_n"),
            mark=mark,
            hooks=hooks.format(trap=_TRAP),
            trap=_TRAP,
            command=shlex.quote(command),
        )
        result = self._without_names(self.sandbox.exec(script, timeout=timeout), mark)
        head, tail, note = self._keep_state(result, mark.encode())
        above = script.count("\n")  # bash counts from the last line of the quoted command
        output = clip(
            _own_lines(readable(head), above),
            _own_lines(readable(tail), above),
            result.dropped,
            self.output_limit,
        )
        timed_out = timeout if result.timed_out else None
        return prompts.command_result(output + note, result.exit_code, timed_out)

    def _without_names(self, result: ExecResult, mark: str) -> ExecResult:
        names, found, rest = result.output.partition(f"{mark}_n\n".encode())
        if self._names is not None or not found:
            return result
        self._names = frozenset(names.decode().split())
        cut = len(result.output) - len(rest)
        return replace(result, output=rest, head=max(0, result.head - cut))

    def _keep_state(self, result: ExecResult, mark: bytes) -> tuple[bytes, bytes, str]:
        """Take the state out of the output and store it.

        Returns:
            The output before and after the cut that the sandbox made, and a remark for the agent.
        """
        head = result.output[: result.head] if result.dropped else b""
        tail = result.output[result.head :] if result.dropped else result.output
        block = re.compile(mark + b"_b\n(.*?)" + mark + b"_e\n", re.DOTALL)
        states = block.findall(head) + block.findall(tail)
        head, tail = block.sub(b"", head), block.sub(b"", tail)
        parts = re.split(mark.decode() + r"_[dof]\n", _decoded(states[-1])) if states else []
        if len(parts) != 4:  # it was killed
            return head, tail, ""
        if sum(map(len, parts)) > MAX_STATE:
            return head, tail, "\n(too many exported variables: changes to them are not kept)"
        variables, folder, before, functions = parts
        gone = sorted((self._names or frozenset()) - {*_EXPORTED.findall(variables)})
        variables = _READONLY.sub(r"export \1", _OURS.sub("", variables))
        variables = _FOLDERS.sub(r"declare -x \1", variables)
        lines = [f"unset {' '.join(gone)}"] if gone else []
        lines += [variables.rstrip("\n"), functions.rstrip("\n")]
        lines += [f"cd -- {shlex.quote(folder[:-1])}", f"OLDPWD={shlex.quote(before[:-1])}"]
        self._state = "{ " + "\n".join(line for line in lines if line) + "\n} 2>/dev/null"
        return head, tail, ""


def plain_command(command: str) -> str:
    """``command`` with LF at the end of each line: for bash a carriage return is a letter."""
    return command.replace("\r\n", "\n").rstrip("\r")


def _decoded(state: bytes) -> str:
    """The state as text, in which bytes that are not UTF-8 become surrogate escapes."""
    return state.decode("utf-8", "surrogateescape")


def _own_lines(text: str, above: int) -> str:
    """Error messages of bash with the line numbers of the command instead of the wrapper's."""

    def renumbered(match: re.Match[str]) -> str:
        line = int(match[1]) - above
        return f"bash: line {line}:" if line > 0 else match[0]

    return _LINE.sub(renumbered, text)


def readable(data: bytes) -> str:
    """Any bytes as text: invalid UTF-8 and control characters escaped, terminal codes removed."""
    text = data.decode("utf-8", "backslashreplace").replace("\r\n", "\n").replace("\r", "\n")
    return escape_controls(_ESCAPES.sub("", text))


def escape_controls(text: str) -> str:
    """``text`` with every control character but newline and tab as an escape."""
    return _CONTROLS.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def clip(head: str, tail: str, dropped: int, limit: int) -> str:
    """Shorten an output to ``limit`` characters, half from its beginning and half from its end.

    Args:
        head: Its beginning.
        tail: Its end.
        dropped: Bytes that are missing between the two.
        limit: Characters that are kept.
    """
    text = (head + tail).rstrip("\n") if not dropped else ""
    if not dropped and len(text) <= limit:
        return text
    if not dropped:
        head = tail = text
        total = len(text)
    else:
        tail = tail.rstrip("\n")
        total = len(head) + len(tail) + dropped
    head, tail = head[: limit // 2], tail[-(limit - limit // 2) :]
    return head + prompts.cut(total - len(head) - len(tail)) + tail
