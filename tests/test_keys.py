"""Keys reach exactly those who need them, and nobody sees them written."""

from __future__ import annotations

import os
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm import config, keys
from swarm.errors import SwarmError
from swarm.keys import Keys, Scrubber

ANTHROPIC = "sk-" + "ant-api03-" + "Ab3dEf6hIj9lMn_pQr-tUv2xYz" * 3
OPENAI = "sk-" + "proj-" + "Zy8wXv7uTs6rQp5oNm4l" * 3
GOOGLE = "AI" + "za" + "SyA1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q"
GITHUB = "gh" + "p_" + "A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q7r8"
FACE = "h" + "f_" + "AbCdEfGhIjKlMnOpQrStUvWxYz01234567"
XAI = "xa" + "i-" + "A1b2C3d4E5" * 8

SECRETS = {
    "ANTHROPIC_API_KEY": ANTHROPIC,
    "ANTHROPIC_AUTH_TOKEN": "abc",
    "CLAUDE_CODE_OAUTH_TOKEN": "abc",
    "OPENAI_API_KEY": OPENAI,
    "OPENAI_API_KEY_2": "abc",
    "OPENAI_APIKEY": "abc",
    "GEMINI_API_KEY": GOOGLE,
    "GOOGLE_APPLICATION_CREDENTIALS": "/home/me/service.json",
    "XAI_API_KEY": XAI,
    "HF_TOKEN": FACE,
    "HUGGING_FACE_HUB_TOKEN": "abc",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "GITHUB_TOKEN": GITHUB,
    "GITHUB_PAT": "abc",
    "GH_TOKENS": "abc,def",
    "AWS_ACCESS_KEY_ID": "abc",
    "AWS_SECRET_ACCESS_KEY": "abc",
    "AWS_SESSION_TOKEN": "abc",
    "AZURE_CLIENT_SECRET": "abc",
    "AZURE_STORAGE_CONNECTION_STRING": "AccountName=me;AccountKey=abc==;Endpoint=x",
    "PGPASSWORD": "abc",
    "MYSQL_PWD": "abc",
    "DB_PASS": "abc",
    "SMTP_PASSWD": "abc",
    "GPG_PASSPHRASE": "abc",
    "REDIS_URL": "redis://:abc@host:6379/0",
    "DATABASE_URL": "postgresql://me:abc@host/db",
    "PIP_INDEX_URL": "https://me:abc@example.org/simple",
    "SENTRY_DSN": "https://abc@example.org/1",
    "SLACK_WEBHOOK_URL": "https://example.org/abc",
    "SESSION_COOKIE": "abc",
    "SERVICE_JWT": "abc",
    "BEARER": "abc",
    "NETLIFY_AUTH": "abc",
    "SSH_AUTH_SOCK": "/tmp/agent.1",
    "REGISTRY_AUTHORIZATION": "abc",
    "npm_config__authToken": "abc",
    "DEPLOY_FILE": "-----BEGIN " + "OPENSSH PRIVATE KEY-----\nabc",
    "EDITOR_ARGS": f"--key={OPENAI} --fast",
    "SOMETHING": GITHUB,
    "CUDA_HELPER": ANTHROPIC,
    "TORCH_LICENSE_KEY": "abc",
    "LC_TOKEN": "abc",
    "TRITON_REMOTE": "https://me:abc@example.org",
}
PLAIN = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/home/me",
    "PWD": "/home/me",
    "OLDPWD": "/",
    "KEYBOARD_LAYOUT": "us",
    "HOTKEY": "ctrl-b",
    "XAUTHORITY": "/home/me/.Xauthority",
    "TOKENIZERS_PARALLELISM": "false",
    "MAX_TOKENS": "4096",
    "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "32000",
    "GIT_AUTHOR_NAME": "Me",
    "GIT_ASKPASS": "/usr/bin/askpass",
    "BYPASS": "1",
    "COMPASS": "n",
    "NVIDIA_DRIVER_PASSTHROUGH": "1",
    "HTTPS_PROXY": "http://me:abc@proxy:3128",
    "npm_config_https_proxy": "http://me:abc@proxy:3128",
    "ENDPOINT": "http://localhost:8080/a@b",
    "MODEL": "risk-assessment-of-a-disk-task-list",
    "ESTIMATOR": "sk-estimator-doc-link-is-fitted",
}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path / "a user's home"), "PATH": "/usr/bin"}


def write(environment: dict[str, str], text: str | bytes, mode: int = 0o600) -> Path:
    path = config.keys_file(environment)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return path


@pytest.mark.parametrize("name", SECRETS)
def test_what_looks_secret(name: str) -> None:
    assert config.is_secret(name, SECRETS[name])


@pytest.mark.parametrize("name", PLAIN)
def test_what_only_sounds_like_it(name: str) -> None:
    assert not config.is_secret(name, PLAIN[name])


def test_no_secret_reaches_a_trial() -> None:
    prefixed = {f"{prefix}{n}": v for n, v in SECRETS.items() for prefix in ("CUDA_", "TORCH_")}
    passed = config.trial_environment(SECRETS | PLAIN | prefixed)
    assert passed == {n: PLAIN[n] for n in ("PATH", "HOME", "NVIDIA_DRIVER_PASSTHROUGH")}


def test_a_keys_file_is_read_as_a_shell_would(environment: dict[str, str]) -> None:
    text = """\ufeff# mine
    export A_KEY=one
B_KEY = "two # three"

C_KEY='fo"ur'   # said once
D_KEY=five # said twice
E_KEY=si#x=7
F_KEY=
A_KEY=eight\r
"""
    write(environment, text)
    assert Keys.load(environment).file == {
        "A_KEY": "eight", "B_KEY": "two # three", "C_KEY": 'fo"ur', "D_KEY": "five",
        "E_KEY": "si#x=7",
    }  # fmt: skip


@given(
    st.dictionaries(
        st.text(string.ascii_letters + "_", min_size=1),
        st.text(string.ascii_letters + string.digits + "-_.=+/", min_size=1),
    )
)
def test_whatever_is_written_is_read(values: dict[str, str]) -> None:
    plain = "\n".join(f"{name}={value}" for name, value in values.items())
    quoted = "\n".join(f"export {name}='{value}'" for name, value in values.items())
    assert keys._parse(plain, Path("x")) == keys._parse(quoted, Path("x")) == values


@pytest.mark.parametrize(
    "line", ["no equals", "9A=x", "A='open", "A='x' y", "A B=x", "=x", "A=x\x00y", "A=\x1b[2J"]
)
def test_a_damaged_line_is_named_and_not_shown(environment: dict[str, str], line: str) -> None:
    path = write(environment, f"GOOD=1\n{line} s3cr3t\n")
    with pytest.raises(SwarmError) as caught:
        Keys.load(environment)
    assert f"{path}, line 2" in str(caught.value)
    assert "s3cr3t" not in str(caught.value) + caught.value.hint


def test_a_missing_file_is_no_keys(environment: dict[str, str]) -> None:
    assert Keys.load(environment).found() == []
    assert keys.found(environment | {"SWARM_KEYS": "/dev/null/keys"}) == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o777])
def test_a_file_that_others_can_reach_is_refused(environment: dict[str, str], mode: int) -> None:
    path = write(environment, "A_KEY=s3cr3t", mode)
    with pytest.raises(SwarmError) as caught:
        Keys.load(environment)
    assert caught.value.hint == f"chmod 600 {path}"
    assert f"{mode:04o}" in str(caught.value)
    path.chmod(0o400)
    assert Keys.load(environment).get("A_KEY") == "s3cr3t"


def test_what_is_no_file_is_refused(environment: dict[str, str], tmp_path: Path) -> None:
    for place in (tmp_path / "folder", tmp_path / "fifo"):
        os.mkfifo(place, 0o600) if place.name == "fifo" else place.mkdir()
        with pytest.raises(SwarmError, match="no regular file"):
            Keys.load(environment | {"SWARM_KEYS": str(place)})
    write(environment, b"A=\xff")
    with pytest.raises(SwarmError, match="no text"):
        Keys.load(environment)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_somebody_else_is_refused(environment: dict[str, str]) -> None:
    os.chown(write(environment, "A_KEY=1"), 1234, -1)
    with pytest.raises(SwarmError, match="somebody else"):
        Keys.load(environment)


def test_the_environment_wins_unless_it_is_empty(environment: dict[str, str]) -> None:
    write(environment, "A_KEY=file\nB_KEY=file\nC_KEY=file\n")
    known = Keys.load(environment | {"A_KEY": "here", "B_KEY": ""})
    assert [known.get(n) for n in ("A_KEY", "B_KEY", "C_KEY", "D_KEY")] == [
        "here", "file", "file", None,
    ]  # fmt: skip


def test_the_file_can_be_elsewhere(environment: dict[str, str], tmp_path: Path) -> None:
    folder = {"XDG_CONFIG_HOME": str(tmp_path / "xdg")}
    assert config.keys_file(environment | folder) == tmp_path / "xdg" / "swarm" / "keys"
    assert config.keys_file(environment | {"XDG_CONFIG_HOME": "relative"}) == (
        Path(environment["HOME"]) / ".config" / "swarm" / "keys"
    )
    told = {"SWARM_KEYS": str(tmp_path / "mine"), "SWARM_PRICES": str(tmp_path / "prices")}
    assert config.keys_file(environment | told) == tmp_path / "mine"
    assert config.prices_file(environment | told) == tmp_path / "prices"


def test_a_foreign_agent_gets_its_own_keys_and_no_others(environment: dict[str, str]) -> None:
    write(environment, "ANTHROPIC_API_KEY=from-the-file\nDEEPSEEK_API_KEY=other\nMY_KEY=asked\n")
    given = PLAIN | environment | {k: v for k, v in SECRETS.items() if k != "ANTHROPIC_API_KEY"}
    given |= {"CLAUDECODE": "1", "TMUX_PANE": "%1", "ANTHROPIC_BASE_URL": "http://localhost:1"}
    seen = keys.agent_environment(given, ["ANTHROPIC_*"], ["MY_KEY", "HF_TOKEN", "UNSET"])
    wanted = {
        "ANTHROPIC_API_KEY": "from-the-file",
        "ANTHROPIC_AUTH_TOKEN": "abc",
        "ANTHROPIC_BASE_URL": "http://localhost:1",
        "MY_KEY": "asked",
        "HF_TOKEN": FACE,
    }
    path = seen.pop("PATH")
    assert seen == {n: v for n, v in (PLAIN | environment).items() if n != "PATH"} | wanted
    assert path.endswith(os.pathsep + environment["PATH"])


def test_a_runner_hands_on_what_it_was_handed(environment: dict[str, str], tmp_path: Path) -> None:
    given = SECRETS | environment | {"SWARM_KEYS": str(tmp_path / "keys"), "TMUX_PANE": "%1"}
    write(given, "MY_KEY=asked\n")
    runner = keys.for_runner(given, ["OPENAI_*"], ["MY_KEY"])
    assert {n for n in runner if n in SECRETS} == {
        "OPENAI_API_KEY", "OPENAI_API_KEY_2", "OPENAI_APIKEY",
    }  # fmt: skip
    assert runner["TMUX_PANE"] == "%1"
    agent = keys.agent_environment(runner, ["OPENAI_*"], ["MY_KEY"])
    assert agent == keys.agent_environment(given, ["OPENAI_*"], ["MY_KEY"])
    assert agent["MY_KEY"] == "asked"
    assert "SWARM_KEYS" not in agent
    assert keys.for_runner(given, [], []).keys().isdisjoint(SECRETS)


def test_a_built_in_agent_gets_what_it_names(environment: dict[str, str]) -> None:
    write(environment, "OPENAI_BASE_URL=http://localhost:1\nOTHER_KEY=no\n")
    network = {
        "HTTPS_PROXY": "http://me:abc@proxy:1",
        "no_proxy": "localhost",
        "SSL_CERT_FILE": "c",
    }
    own = {"SWARM_CACHE": "/cache", "NO_COLOR": "1", "XDG_CONFIG_HOME": environment["HOME"]}
    own["SWARM_KEYS"] = str(config.keys_file(environment))
    given = SECRETS | environment | network | own
    seen = keys.builtin_environment(given, ["OPENAI_API_KEY", "OPENAI_BASE_URL", "UNSET_KEY"])
    del own["SWARM_KEYS"]
    named = {"OPENAI_API_KEY": OPENAI, "OPENAI_BASE_URL": "http://localhost:1"}
    assert seen == environment | network | own | named
    assert keys.builtin_environment(given, []) == environment | network | own


def test_secrets_are_struck_out() -> None:
    scrubber = Scrubber({"MY_KEY": "plain-value", "PART": "plain-va", "SHORT": "1234567"})
    said = f"use plain-value or plain-va, not 1234567; {ANTHROPIC}\n'{OPENAI}' {GOOGLE}/{GITHUB}"
    assert scrubber.scrub(said) == (
        "use [MY_KEY] or [PART], not 1234567; [key]\n'[key]' [key]/[key]"
    )
    assert scrubber.scrub(f"token={FACE};{XAI}.") == "token=[key];[key]."


def test_ordinary_text_is_left_alone() -> None:
    text = "\n".join(PLAIN.values()) + " sk-1 hf_hub_download_and_something_else task-" + "x" * 60
    assert Scrubber({}).scrub(text) == text


def test_names_and_places_are_found_and_no_values(environment: dict[str, str]) -> None:
    path = write(environment, f"OPENAI_API_KEY={OPENAI}\nXAI_API_KEY={XAI}\nREGION=eu\n")
    known = keys.found(environment | {"OPENAI_API_KEY": "x", "EMPTY_API_KEY": "", "KEY": "y"})
    assert known == [("OPENAI_API_KEY", "environment"), ("XAI_API_KEY", str(path))]
