"""Other people's CLIs: the table, their command lines, their settings, their screens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.agents import clis, screens
from swarm.agents.clis import Cli
from swarm.errors import SwarmError

SCREENS = Path(__file__).parent / "data" / "screens"
CLIS = clis.load()


# ---- the table ----------------------------------------------------------------------------------


def test_the_known_clis_are_there() -> None:
    assert set(CLIS) == {"claude", "codex", "gemini", "opencode", "aider"}
    for cli in CLIS.values():
        assert cli.install
        assert cli.permissions
        assert cli.keys


def test_a_table_of_the_users_is_laid_over_it_key_by_key(tmp_path: Path) -> None:
    file = tmp_path / "clis.toml"
    file.write_text(
        '[codex]\npermissions = ["--sandbox", "workspace-write"]\n'
        '[mine]\nprogram = "my-cli"\nterminal = []\nheadless = ["{prompt}"]\n'
    )
    loaded = clis.load(file)
    assert loaded["codex"].permissions == ("--sandbox", "workspace-write")
    assert loaded["codex"].busy == CLIS["codex"].busy
    assert loaded["claude"] == CLIS["claude"]
    assert loaded["mine"].program == "my-cli"
    assert loaded["mine"].is_pasted
    assert clis.load(tmp_path / "none.toml") == CLIS


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[claude", "cannot read"),
        ("claude = 1", "not a table"),
        ("[claude]\nbusy = 3", "[claude]: Expected"),
        ("[claude]\nbuzy = []", "buzy"),
        ('[claude]\nbusy = ["("]', "'(' is no pattern"),
        ("[claude]\nprompt = ['^>']", "(?P<draft>…)"),
        ('[claude]\nheadless = ["-p"]', "{prompt}"),
        ('[[claude.dialogs]]\nsign = "x"', "either `choose` or `keys`"),
        ("[mine]\nheadless = []", "[mine]: "),
    ],
)
def test_a_bad_table_is_one_clear_error(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "clis.toml"
    file.write_text(text)
    with pytest.raises(SwarmError) as caught:
        clis.load(file)
    assert str(file) in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


# ---- command lines ------------------------------------------------------------------------------

PROMPT = "read program.md; {model} 'and' --go"


@pytest.mark.parametrize("cli", CLIS.values(), ids=lambda cli: cli.name)
@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("root", [True, False])
def test_every_command_line_holds_the_prompt_and_the_model_once(
    cli: Cli, terminal: bool, root: bool, tmp_path: Path
) -> None:
    argv = cli.argv(PROMPT, "some-model", terminal, root, tmp_path)
    assert argv[0] == cli.program
    assert argv.count("some-model") == 1
    assert argv.count(PROMPT) == (0 if terminal and cli.is_pasted else 1)
    assert not any("{options}" in argument or "{worktree" in argument for argument in argv)
    assert "some-model" not in cli.argv(PROMPT, "", terminal, root, tmp_path)
    assert cli.model[0] not in cli.argv(PROMPT, "", terminal, root, tmp_path)


def test_command_lines_that_were_seen_to_work(tmp_path: Path) -> None:
    tree = tmp_path / 'a user\'s "tree" 1.5'
    tree.mkdir()
    (tmp_path / "link").symlink_to(tree)
    claude, codex, gemini = CLIS["claude"], CLIS["codex"], CLIS["gemini"]
    assert claude.argv("go", "opus", True, False, tree) == [
        "claude", "--dangerously-skip-permissions",
        "--settings", '{"skipDangerousModePermissionPrompt":true}',
        "--disallowedTools", "AskUserQuestion,EnterPlanMode", "--model", "opus", "--", "go",
    ]  # fmt: skip
    assert claude.argv("go", "", False, True, tree) == [
        "claude", "-p", "--permission-mode", "dontAsk",
        "--allowedTools", "Bash,Edit,Write,Read,Glob,Grep",
        "--disallowedTools", "AskUserQuestion,EnterPlanMode", "--", "go",
    ]  # fmt: skip
    quoted = str(tree.resolve()).replace('"', '\\"')
    assert codex.argv("go", "", False, True, tmp_path / "link") == [
        "codex", "exec", "--dangerously-bypass-approvals-and-sandbox",
        "-c", f'projects={{"{quoted}"={{trust_level="trusted"}}}}',
        "-c", "check_for_update_on_startup=false", "-c", "features.daemon_auto_start=false",
        "-c", "allow_login_shell=false",
        "--skip-git-repo-check", "--", "go",
    ]  # fmt: skip
    assert gemini.argv("go", "", True, True, tree) == [
        "gemini", "--approval-mode", "yolo", "--prompt-interactive", "go",
    ]  # fmt: skip


def test_a_model_where_none_is_taken_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "clis.toml"
    file.write_text('[mine]\nterminal = []\nheadless = ["{prompt}"]\n')
    with pytest.raises(SwarmError, match="takes no model"):
        clis.load(file)["mine"].argv("go", "gpt", False, False, tmp_path)


# ---- settings -----------------------------------------------------------------------------------


def settings(home: Path) -> dict[str, object]:
    return json.loads((home / ".claude.json").read_text())  # type: ignore[no-any-return]


def test_trust_is_noted_and_everything_else_stays(tmp_path: Path) -> None:
    home, tree = tmp_path / "home", tmp_path / "a user's tree"
    home.mkdir()
    tree.mkdir()
    (tmp_path / "link").symlink_to(tree)
    (home / "kept elsewhere.json").write_text('{"theme": "däрk", "projects": {"/x": {"n": 1}}}')
    (home / "kept elsewhere.json").chmod(0o640)
    (home / ".claude.json").symlink_to(home / "kept elsewhere.json")
    CLIS["claude"].prepare(tmp_path / "link", {"HOME": str(home)})
    noted = {"/x": {"n": 1}, str(tree.resolve()): {"hasTrustDialogAccepted": True}}
    assert settings(home) == {"theme": "däрk", "projects": noted}
    assert (home / ".claude.json").is_symlink()
    assert (home / "kept elsewhere.json").stat().st_mode & 0o777 == 0o640
    before = (home / "kept elsewhere.json").stat().st_mtime_ns
    CLIS["claude"].prepare(tree, {"HOME": str(home)})
    assert (home / "kept elsewhere.json").stat().st_mtime_ns == before, "written without need"


def test_missing_settings_are_made_for_their_owner_alone(tmp_path: Path) -> None:
    elsewhere = tmp_path / "configuration"
    elsewhere.mkdir()
    given = {"HOME": str(tmp_path), "CLAUDE_CONFIG_DIR": str(elsewhere)}
    CLIS["claude"].prepare(tmp_path / "tree", given)
    assert not (tmp_path / ".claude.json").exists()
    assert settings(elsewhere)["projects"]
    assert (elsewhere / ".claude.json").stat().st_mode & 0o777 == 0o600
    for name in ("codex", "gemini", "opencode", "aider"):
        CLIS[name].prepare(tmp_path / "tree", {"HOME": str(tmp_path / "untouched")})
    assert not (tmp_path / "untouched").exists()


@pytest.mark.parametrize("text", ['{"projects": ', "[]", '{"projects": []}', "\udcff"])
def test_damaged_settings_are_left_alone(tmp_path: Path, text: str) -> None:
    file = tmp_path / ".claude.json"
    file.write_bytes(os.fsencode(text))
    with pytest.raises(SwarmError, match=r"\.claude\.json"):
        CLIS["claude"].prepare(tmp_path / "tree", {"HOME": str(tmp_path)})
    assert file.read_bytes() == os.fsencode(text)


def test_runners_that_prepare_at_once_lose_nothing(tmp_path: Path) -> None:
    (tmp_path / ".claude.json").write_text('{"theme": "dark"}')
    program = (
        "import sys; from pathlib import Path; from swarm.agents import clis\n"
        "for i in range(10):\n"
        "    tree = Path(sys.argv[1]) / f'{sys.argv[2]}-{i}'\n"
        "    clis.load()['claude'].prepare(tree, {'HOME': sys.argv[1]})\n"
    )
    runners = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path), str(number)])
        for number in range(4)
    ]
    assert [runner.wait(60) for runner in runners] == [0, 0, 0, 0]
    assert settings(tmp_path)["theme"] == "dark"
    assert len(settings(tmp_path)["projects"]) == 40  # type: ignore[arg-type]
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {".claude.json", ".claude.json.swarm.lock"}


# ---- screens ------------------------------------------------------------------------------------

KINDS = {
    "aider-analytics": "dialog", "aider-draft": "drafted", "aider-gitignore": "dialog",
    "aider-login": "login", "aider-prompt": "prompt", "aider-retrying": "busy",
    "claude-ask": "asks", "claude-busy": "busy", "claude-bypass": "dialog",
    "claude-draft": "drafted", "claude-key": "dialog", "claude-limit": "limit",
    "claude-limit-menu": "dialog", "claude-limit-narrow": "limit", "claude-limit-over": "prompt",
    "claude-login": "login", "claude-login-401": "login", "claude-narrow": "busy",
    "claude-offline": "login", "claude-overloaded": "prompt", "claude-prompt": "prompt",
    "claude-retrying": "busy", "claude-retrying-narrow": "busy",
    "claude-suggestion": "prompt", "claude-theme": "dialog", "claude-trust": "dialog",
    "codex-busy": "busy", "codex-draft": "drafted", "codex-limit": "limit",
    "codex-limit-clock": "limit", "codex-limit-date": "limit", "codex-login": "login",
    "codex-login-401": "login",
    "codex-prompt": "prompt", "codex-rate": "prompt", "codex-starting": "starting",
    "codex-trust": "dialog", "codex-update": "dialog",
    "gemini-busy": "busy", "gemini-busy-draft": "busy", "gemini-limit": "limit",
    "gemini-login": "login", "gemini-login-401": "login", "gemini-prompt": "prompt",
    "gemini-trust": "dialog",
    "opencode-busy": "busy", "opencode-draft": "drafted", "opencode-login": "login",
    "opencode-prompt": "prompt", "opencode-retrying": "busy",
}  # fmt: skip


def screen(name: str) -> str:
    return (SCREENS / f"{name}.txt").read_text()


def sight(name: str, text: str | None = None) -> screens.Sight:
    return screens.recognise(CLIS[name.split("-")[0]], screen(name) if text is None else text)


def test_every_recorded_screen_is_listed() -> None:
    assert {path.stem for path in SCREENS.glob("*.txt")} == set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_a_recorded_screen_is_recognised(name: str) -> None:
    found = sight(name)
    assert found.kind == KINDS[name]
    assert found.line or found.kind == "prompt"
    assert bool(found.keys) == (found.kind == "dialog")
    coloured = "".join(f"\x1b[38;5;2m{line}\x1b[0m\r\n" for line in screen(name).splitlines())
    if "\x1b" not in screen(name):
        assert sight(name, coloured) == found, "escape sequences make no difference"
    assert sight(name, screen(name) + "\n" * 30) == found, "nor do blank lines below"


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("claude-trust", ("Enter",)), ("claude-bypass", ("Down",)), ("claude-key", ("Up",)),
        ("claude-limit-menu", ("Down",)), ("codex-trust", ("Enter",)), ("codex-update", ("Down",)),
        ("gemini-trust", ("Enter",)), ("aider-gitignore", ("n", "Enter")),
    ],
)  # fmt: skip
def test_the_next_key_leads_to_the_wanted_option(name: str, keys: tuple[str, ...]) -> None:
    assert sight(name).keys == keys


def test_the_wanted_option_is_confirmed_once_the_cursor_is_on_it() -> None:
    moved = screen("claude-bypass").replace("❯ 1. No", "  1. No").replace("  2. Yes", "❯ 2. Yes")
    assert sight("claude-bypass", moved).keys == ("Enter",)
    other = screen("claude-bypass").replace("Yes, I accept", "Maybe")
    assert sight("claude-bypass", other).kind == "asks"


def test_limits_say_when_they_end() -> None:
    assert sight("claude-limit").reset == "8:30pm (Asia/Tokyo)"
    assert sight("claude-limit-narrow").reset == "Oct 9 at 5am"
    assert sight("codex-limit").reset.replace("\n", " ") == "in 5 days 22 hours 11 minutes."
    assert sight("codex-limit-clock").reset == "at 6:33 PM."
    assert sight("codex-limit-date").reset == "at Oct 11th, 2026 1:36 PM."
    assert sight("gemini-limit").reset == "10:57 PM GMT-3."


def test_what_fails_at_the_server_is_told() -> None:
    assert sight("claude-overloaded").trouble.startswith("API Error: Repeated 529 Overloaded")
    assert "Retrying in 2s" in sight("claude-retrying").trouble
    assert "Retrying in 1s (6:30pm)" in sight("claude-retrying-narrow").trouble
    assert sight("codex-rate").trouble.startswith("exceeded retry limit, last status: 429")
    assert "[retrying in 31s attempt #5]" in sight("opencode-retrying").trouble
    assert "litellm.RateLimitError" in sight("aider-retrying").trouble
    assert sight("claude-prompt").trouble == sight("codex-busy").trouble == ""


def test_what_is_above_a_newer_prompt_box_is_old() -> None:
    answered = screen("claude-trust") + screen("claude-prompt")
    assert sight("claude-trust", answered).kind == "prompt"
    answered = screen("gemini-trust") + " Gemini CLI is restarting to apply the trust changes...\n"
    assert sight("gemini-trust", answered).kind == "starting"
    answered = screen("gemini-trust") + screen("gemini-prompt")
    assert sight("gemini-trust", answered).kind == "prompt"
    again = screen("claude-prompt") + screen("claude-trust")
    assert sight("claude-trust", again).kind == "dialog"


def test_what_an_agent_writes_about_limits_is_none() -> None:
    said = "\n".join(f"● line {number}" for number in range(12))
    for name in ("claude-limit", "claude-login-401", "claude-retrying"):
        line = next(line for line in screen(name).splitlines() if sight(name).line[:20] in line)
        assert sight(name, f"{line}\n{said}\n{screen('claude-prompt')}").kind == "prompt"


BAR = "─" * 60
SAID = {
    "claude": [
        '● I saw "Please run /login" in the README.\n  Please run /login first, it says.',
        "● Bash(curl x)\n  ⎿  API Error: 401 from the tracker\n\n● Going on.",
        "● The step limit reached at 300 s, resets the optimizer each cycle",
        "  ⎿  Approaching usage limit · resets at 7pm",
        "● Bash(grep)\n  ⎿  Press Enter to continue",
        "● It asks: Do you trust the files in this folder?",
    ],
    "codex": [
        "• The log says: unexpected status 401, so I retry.\n  Choose how you want to use Codex"
    ],
    "gemini": [
        "✦ You have exhausted your daily quota, it would say.\n  RESOURCE_EXHAUSTED",
        "✦ API key not valid: How would you like to authenticate?",
    ],
}


@pytest.mark.parametrize(("name", "text"), [(n, text) for n in SAID for text in SAID[n]])
def test_the_words_of_a_model_are_no_limit_no_login_and_no_question(name: str, text: str) -> None:
    echo, box = {
        "claude": ("❯ go", f"{BAR}\n❯ \n{BAR}\n"),
        "codex": ("› go", "› Ask Codex to do anything\n\n  gpt-5\n"),
        "gemini": (" > go", f"{BAR}\n YOLO Ctrl+Y\n *   Type your message or @path/to/file\n"),
    }[name]
    assert sight(name, f"{echo}\n\n{text}\n\n{box}").kind == "prompt"
    boxless = sight(name, f"{echo}\n\n{text}\n  and\n  more\n")
    assert boxless.kind not in ("limit", "login", "dialog", "asks")


def test_drafts_are_told_from_suggestions() -> None:
    assert sight("claude-draft").draft == "half a thought"
    assert sight("claude-suggestion").draft == ""
    typed = screen("claude-suggestion").replace("\x1b[2m", "\x1b[22m")
    assert sight("claude-suggestion", typed).draft == "run the tests"
    painted = screen("claude-suggestion").replace("\x1b[2m", "\x1b[38;2;1;2;2m")
    assert sight("claude-suggestion", painted).draft == "run the tests", "a colour is not faint"


def test_a_question_names_itself() -> None:
    assert sight("claude-ask").line == "Do you want to proceed?"
    assert sight("codex-login-401").line.startswith("unexpected status 401 Unauthorized")


def test_an_empty_screen_is_starting() -> None:
    for cli in CLIS.values():
        assert screens.recognise(cli, "\n" * 60).kind == "starting"


PIECES = st.sampled_from([*(line for name in KINDS for line in screen(name).splitlines()), "\x1b["])


@given(text=st.one_of(st.text(), st.lists(PIECES, max_size=40).map("\n".join)))
def test_any_screen_is_something(text: str) -> None:
    for cli in CLIS.values():
        found = screens.recognise(cli, text)
        assert len(found.line) <= 120
        assert "\n" not in found.line
        assert bool(found.keys) == (found.kind == "dialog")
        assert (found.kind == "prompt") <= (found.draft == "")
