"""Where the user is and what the environment says: the only reader of environment variables."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from swarm.errors import Refused, SwarmError, UsageError
from swarm.locks import is_held
from swarm.paths import Paths

TRAINER, EVALUATOR, PROGRAM = "train.py", "prepare.py", "program.md"
HARNESS = "swarm/harness"  # what prepare.py imports of this package
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")
_PASSED_ON = (
    "PATH", "HOME", "USER", "LOGNAME", "TZ", "TMPDIR", "TERM", "LD_LIBRARY_PATH",
    "CC", "CPATH", "C_INCLUDE_PATH", "GC_KERNEL_PATH",
)  # fmt: skip
_PASSED_ON_PREFIXES = (
    "LC_", "LANG", "CUDA_", "NVIDIA_", "HIP_", "HSA_", "ROCM", "ROCR_", "TORCH", "PYTORCH_",
    "TRITON_", "OMP_", "MKL_", "KMP_", "OPENBLAS_", "ZE_", "ONEAPI_", "SYCL_", "UR_", "HABANA_",
    "PT_HPU_",
)  # fmt: skip
_GIT_LOCAL = (
    "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_CONFIG", "GIT_CONFIG_PARAMETERS", "GIT_CONFIG_COUNT",
    "GIT_OBJECT_DIRECTORY", "GIT_DIR", "GIT_WORK_TREE", "GIT_IMPLICIT_WORK_TREE", "GIT_GRAFT_FILE",
    "GIT_INDEX_FILE", "GIT_NO_REPLACE_OBJECTS", "GIT_REPLACE_REF_BASE", "GIT_PREFIX",
    "GIT_SHALLOW_FILE", "GIT_COMMON_DIR",
)  # fmt: skip
_SECRET_WORD = re.compile(
    r"(?<!HOT)(?<!MON)KEYS?[0-9]*$|TOKENS?[0-9]*$|SECRET|CREDENTIAL|^CREDS$|PASSW|PASSPHRASE|PWD$"
    r"|(?<!BY)(?<!ASK)(?<!COM)PASS[0-9]*$|AUTH[0-9]*$|AUTHORI[SZ]ATION|AUTHENTICATION|^JWT$|BEARER"
    r"|COOKIES?$|WEBHOOK|^DSN$|^PAT$"
)
"""What one word of a variable's name (`OPENAI_API_KEY` has three) says of its value."""
_NO_SECRET = ("PWD", "OLDPWD", "SWARM_KEYS")
_KEY_BODY = r"(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]"
KEY_SHAPES = tuple(
    re.compile(rf"{prefix}(?<![A-Za-z0-9]{prefix}){body}")
    for prefix, body in (
        ("sk-", rf"{_KEY_BODY}{{20,}}"),  # OpenAI, Anthropic (sk-ant-), OpenRouter (sk-or-), …
        ("sk_live_", r"[A-Za-z0-9]{16,}"),
        ("AIza", r"[A-Za-z0-9_-]{35}"),
        *((f"gh{kind}_", r"[A-Za-z0-9]{36,}") for kind in "pousr"),
        ("github_pat_", r"[A-Za-z0-9_]{40,}"),
        ("hf_", r"[A-Za-z0-9]{30,}"),
        ("xai-", r"[A-Za-z0-9]{40,}"),
        ("gsk_", r"[A-Za-z0-9]{40,}"),
        ("nvapi-", rf"{_KEY_BODY}{{40,}}"),
        ("glpat-", rf"{_KEY_BODY}{{20,}}"),
        ("npm_", r"[A-Za-z0-9]{36}"),
        ("pypi-", rf"{_KEY_BODY}{{50,}}"),
        ("AKIA", r"[A-Z0-9]{16}"),
        ("xox", r"[abeprs]-[A-Za-z0-9-]{20,}"),
        ("eyJ", r"[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"),  # a JWT
    )
)
"""What keys of well-known providers look like, each behind its literal prefix: that is fast."""
_SECRET_VALUE = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY|(?:AccountKey|SharedAccessKey|[Pp]assword)=[^;\s]"
    r"|://[^/\s:@]*:[^/\s@]+@"  # a URL with a password
    r"|\b(?:[Bb]earer|[Bb]asic)\s+[A-Za-z0-9._~+/=-]{8}"  # a header
    r"|\b[0-9]{8,10}:[A-Za-z0-9_-]{35}\b|/api/webhooks/"  # Telegram, Discord
)
NETWORK = (
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy",
    "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
)  # fmt: skip
"""How Python programs are told to reach the network."""


class Desk(msgspec.Struct, frozen=True):
    """`.swarm/worker.json` of a worktree: whose it is."""

    root: str
    tag: str
    worker: str


@dataclass(frozen=True)
class Place:
    """Where a command runs: the repository, and the worker when inside a worktree of a swarm."""

    root: Path
    tag: str | None = None
    worker: str | None = None
    worktree: Path | None = None


def environ() -> dict[str, str]:
    """A copy of the process's environment, to be handed down as an argument."""
    return dict(os.environ)


def tell_libraries(settings: Mapping[str, str]) -> None:
    """Put into the environment what a library reads there when it is imported."""
    os.environ.update(settings)


def forget_git() -> None:
    """Drop what a git hook or alias put there: our git commands name their own checkout.

    The names are those of `git rev-parse --local-env-vars`.
    """
    for name in _GIT_LOCAL:
        os.environ.pop(name, None)


def python() -> str:
    """The interpreter for trials and agents: the one that runs swarm."""
    return sys.executable


def own_package() -> dict[str, str]:
    """What makes a child's Python find the very package that runs here."""
    return {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}


def cache_folder(environment: Mapping[str, str]) -> Path:
    """The dataset cache: `SWARM_CACHE`, or `~/.cache/swarm`."""
    return Path(environment.get("SWARM_CACHE") or Path.home() / ".cache" / "swarm").absolute()


def settings_folder(environment: Mapping[str, str]) -> Path:
    """The user's own settings: `$XDG_CONFIG_HOME/swarm`, or `~/.config/swarm`."""
    told = Path(environment.get("XDG_CONFIG_HOME", ""))
    # https://specifications.freedesktop.org/basedir-spec: a relative path is to be ignored
    return (told if told.is_absolute() else home(environment) / ".config") / "swarm"


def home(environment: Mapping[str, str]) -> Path:
    """The user's home as `environment` says it."""
    return Path(environment.get("HOME") or Path.home())


def keys_file(environment: Mapping[str, str]) -> Path:
    """Where API keys may stand: `SWARM_KEYS`, or `keys` in the settings folder."""
    told = environment.get("SWARM_KEYS")
    return Path(told).absolute() if told else settings_folder(environment) / "keys"


def prices_file(environment: Mapping[str, str]) -> Path:
    """The user's own prices: `SWARM_PRICES`, or `prices.toml` in the settings folder."""
    told = environment.get("SWARM_PRICES")
    return Path(told).absolute() if told else settings_folder(environment) / "prices.toml"


def clis_file(environment: Mapping[str, str]) -> Path:
    """The user's own table of coding CLIs, over the built-in one: `~/.config/swarm/clis.toml`."""
    return settings_folder(environment) / "clis.toml"


def is_secret(name: str, value: str = "") -> bool:
    """Whether a variable looks like a secret, by a word of its name or by what its value is.

    `TOKENIZERS_PARALLELISM`, `KEYBOARD_LAYOUT` and `MAX_TOKENS=4096` are none; a proxy is none even
    with a password in it: who may use the network needs it whole.
    """
    if name in _NO_SECRET or name in NETWORK or name.upper().endswith("_PROXY"):
        return False
    words = re.split(r"[^A-Z0-9]+", name.upper())
    if words[-1] == "TOKENS" and value.isdigit():
        return False
    if any(_SECRET_WORD.search(word) for word in words):
        return True
    return any(shape.search(value) for shape in (*KEY_SHAPES, _SECRET_VALUE))


def trial_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What of `environment` a trial may see: an allow-list, and nothing that looks secret."""
    return {
        name: value
        for name, value in environment.items()
        if (name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIXES))
        and not is_secret(name, value)
    }


def wants_confinement(environment: Mapping[str, str]) -> bool:
    """Whether trials are confined: `SWARM_CONFINE=off` is for a driver that cannot bear it."""
    return environment.get("SWARM_CONFINE", "").lower() not in ("off", "0", "no")


def agent_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What an agent sees: everything, with this `swarm` first on PATH and no traces of a parent.

    Without TMUX, its `tmux kill-server` does not reach the server that the swarm lives in.
    """
    traces = ("CLAUDECODE", "TMUX", "TMUX_PANE")
    inherited = {k: v for k, v in environment.items() if k not in traces}
    scripts = str(Path(sys.executable).parent)
    return inherited | {"PATH": f"{scripts}{os.pathsep}{environment.get('PATH', os.defpath)}"}


def wants_colour(environment: Mapping[str, str], is_terminal: bool) -> bool:
    """https://no-color.org: any non-empty NO_COLOR switches colour off."""
    return is_terminal and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"


def find_place(start: Path) -> Place:
    """Find the repository around `start`, and the worker whose worktree it is.

    Raises `SwarmError` outside a git repository.
    """
    for folder in (start, *start.parents):
        desk = folder / ".swarm" / "worker.json"
        if desk.is_file():
            known = read_desk(desk)
            return Place(Path(known.root), known.tag, known.worker, folder)
        if (folder / ".git").exists():
            return Place(folder)
    raise SwarmError(
        f"{start} is not inside a git repository",
        "go to the folder with train.py and prepare.py (git init && git commit there if it is new)",
    )


def read_desk(path: Path) -> Desk:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Desk)
    except (msgspec.DecodeError, OSError) as error:
        raise SwarmError(f"{path} is damaged: {error}", "swarm recover writes it anew") from error


def check_tag(tag: str) -> str:
    """Return `tag` if it can name a folder, a branch and a tmux session; raise `UsageError`."""
    if not _TAG.fullmatch(tag) or tag.endswith((".", ".lock")) or ".." in tag:
        raise UsageError(
            f"'{tag}' cannot be a tag", "use up to 40 letters, digits, '-', '_', '.': --tag nov21"
        )
    return tag


def find_swarm(place: Place, tag: str | None) -> Paths:
    """The swarm meant by a command: `--tag`, else the worktree's, the one that runs, the last one.

    Raises `Refused` when there is none, `UsageError` when several run.
    """
    chosen = tag or place.tag
    if chosen:
        paths = Paths(place.root, check_tag(chosen))
        if not paths.journal.is_file():
            raise Refused(f"there is no swarm '{chosen}' in {place.root}", _known(place.root))
        return paths
    journals = list((place.root / "leaderboard").glob("*/journal.jsonl"))
    if not journals:
        raise Refused(f"there is no swarm in {place.root} yet", "start one: swarm spawn --agents 2")
    running = [path for path in journals if is_held(path.with_name("supervisor.lock"))]
    if len(running) > 1:
        names = sorted(path.parent.name for path in running)
        raise UsageError(f"several swarms run: {', '.join(names)}", f"--tag {names[0]}")
    newest = running[0] if running else max(journals, key=lambda path: path.stat().st_mtime)
    return Paths(place.root, newest.parent.name)


def _known(root: Path) -> str:
    tags = sorted(path.parent.name for path in (root / "leaderboard").glob("*/journal.jsonl"))
    return f"known tags: {', '.join(tags)}" if tags else "start one: swarm spawn --agents 2"
