"""Other people's coding CLIs as data: how each is started, prepared, and read on its screen."""

from __future__ import annotations

import functools
import json
import os
import re
import stat
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from swarm.disk import writing
from swarm.errors import SwarmError
from swarm.locks import waiting_lock

BUILT_IN = Path(__file__).with_name("clis.toml")
_PLACEHOLDER = re.compile(r"\{(prompt|model|worktree|worktree_quoted)\}")
_OPTIONS = "{options}"


class Dialog(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A question of a CLI, known by `sign`: answered with the option `choose`, or with `keys`."""

    sign: str
    choose: str = ""
    keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.choose) == bool(self.keys):
            raise ValueError("a dialog has either `choose` or `keys`")


class Trust(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a CLI notes, in a JSON file of its user's, that a folder is trusted.

    `file` lies in the home folder, or in the folder that the variable `folder` names if it is set.
    """

    file: str
    path: tuple[str, ...]
    value: Any
    folder: str = ""


class Cli(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One coding CLI. `keys` are patterns of the variables it may be given, `set` those it gets.

    The fields below `set` are patterns of what its screen shows; see `screens`.
    """

    name: str
    program: str
    install: str = ""
    terminal: tuple[str, ...]
    headless: tuple[str, ...]
    model: tuple[str, ...] = ()
    permissions: tuple[str, ...] = ()
    root_permissions: tuple[str, ...] | None = None
    options: tuple[str, ...] = ()
    trust: Trust | None = None
    keys: tuple[str, ...] = ()
    set: dict[str, str] = {}
    prompt: tuple[str, ...] = ()
    placeholder: tuple[str, ...] = ()
    echo: tuple[str, ...] = ()
    starting: tuple[str, ...] = ()
    busy: tuple[str, ...] = ()
    trouble: tuple[str, ...] = ()
    limit: tuple[str, ...] = ()
    login: tuple[str, ...] = ()
    dialogs: tuple[Dialog, ...] = ()

    def __post_init__(self) -> None:
        if not any("{prompt}" in argument for argument in self.headless):
            raise ValueError("`headless` must hold {prompt}")
        for text in self._patterns():
            try:
                pattern(text)
            except re.error as error:
                raise ValueError(f"'{text}' is no pattern: {error}") from None
        if any("draft" not in pattern(text).groupindex for text in self.prompt):
            raise ValueError("a pattern of `prompt` needs a group (?P<draft>…)")

    @property
    def is_pasted(self) -> bool:
        """Whether the prompt is typed into its prompt box, not handed over on the command line."""
        return not any("{prompt}" in argument for argument in self.terminal)

    def argv(
        self, prompt: str, model: str, terminal: bool, root: bool, worktree: Path
    ) -> list[str]:
        """The command that starts it on `prompt`; an empty `model` is its default one.

        Raises `SwarmError` for a model where it takes none.
        """
        if model and not self.model:
            raise SwarmError(f"{self.name} takes no model here", f"leave ':{model}' away")
        may = self.permissions
        if root and self.root_permissions is not None:
            may = self.root_permissions
        options = [*may, *self.options, *(self.model if model else ())]
        form = self.terminal if terminal else self.headless
        real = str(worktree.resolve())
        values = {
            "prompt": prompt,
            "model": model,
            "worktree": real,
            "worktree_quoted": json.dumps(real, ensure_ascii=False),
        }
        template = [a for part in form for a in (options if part == _OPTIONS else [part])]
        return [self.program, *(_filled(argument, values) for argument in template)]

    def prepare(self, worktree: Path, environment: Mapping[str, str]) -> None:
        """Note in the user's settings of this CLI that it may work in `worktree`.

        Everything else in that file stays. Raises `SwarmError`, leaving it as it is, when it is
        damaged. Several runners may do so at once.
        """
        if self.trust is None:
            return
        home = environment.get("HOME") or str(Path.home())
        folder = Path(environment.get(self.trust.folder) or home)
        # A link to where somebody keeps his settings stays one.
        file = (folder / self.trust.file).resolve()
        path = [_filled(key, {"worktree": str(worktree.resolve())}) for key in self.trust.path]
        if _noted(_settings(file), path) == self.trust.value:
            return
        # The CLI itself has a lock of the obvious name.
        with waiting_lock(file.with_name(f"{file.name}.swarm.lock")):
            settings = _settings(file)
            _note(settings, path, self.trust.value, file)
            _replace(file, settings)

    def _patterns(self) -> list[str]:
        shown = (self.prompt, self.placeholder, self.echo, self.starting, self.busy, self.limit)
        of_dialogs = [text for dialog in self.dialogs for text in (dialog.sign, dialog.choose)]
        more = (self.trouble, self.login)
        return [text for texts in (*shown, *more) for text in texts] + of_dialogs


@functools.cache
def pattern(text: str) -> re.Pattern[str]:
    """A pattern of the table, compiled: case does not matter, `^` and `$` are those of lines."""
    return re.compile(text, re.MULTILINE | re.IGNORECASE)


def load(user_file: Path | None = None) -> dict[str, Cli]:
    """The CLIs by name: the built-in table with the user's laid over it, key by key.

    A missing file of the user's is an empty one. Raises `SwarmError` naming the file that is bad.
    """
    table = _table(BUILT_IN)
    origin = dict.fromkeys(table, BUILT_IN)
    if user_file is not None and user_file.exists():
        for name, row in _table(user_file).items():
            table[name] = table.get(name, {}) | row
            origin[name] = user_file
    return {name: _cli(name, row, origin[name]) for name, row in table.items()}


def _cli(name: str, row: Mapping[str, Any], file: Path) -> Cli:
    try:
        return msgspec.convert({"name": name, "program": name, **row}, Cli)
    except msgspec.ValidationError as error:
        raise SwarmError(
            f"{file}: [{name}]: {error}", "the built-in table shows the form"
        ) from error


def _table(file: Path) -> dict[str, dict[str, Any]]:
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SwarmError(f"cannot read {file}: {error}", "correct or remove it") from error
    for name, row in table.items():
        if not isinstance(row, dict):
            raise SwarmError(f"{file}: '{name}' is not a table", f"write [{name}] above its keys")
    return table


def _filled(template: str, values: Mapping[str, str]) -> str:
    """`template` with its placeholders filled in; what is filled in is not looked at again."""
    return _PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), template)


def _settings(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
        settings = json.loads(text) if text.strip() else {}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SwarmError(
            f"cannot read the settings {file}: {error}", "repair it; it was left as it is"
        ) from error
    if not isinstance(settings, dict):
        raise SwarmError(f"{file} holds no JSON object", "repair it; it was left as it is")
    return settings


def _noted(settings: Any, path: Sequence[str]) -> Any:
    for key in path:
        settings = settings.get(key) if isinstance(settings, dict) else None
    return settings


def _note(settings: dict[str, Any], path: Sequence[str], value: Any, file: Path) -> None:
    for key in path[:-1]:
        settings = settings.setdefault(key, {})
        if not isinstance(settings, dict):
            raise SwarmError(f"{file}: '{key}' is no object", "repair it; it was left as it is")
    settings[path[-1]] = value


def _replace(file: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings at once, with the rights the file had; a new one is its owner's alone."""
    partial = file.with_name(f"{file.name}.{os.getpid()}.part")
    with writing(file):
        rights = stat.S_IMODE(file.stat().st_mode) if file.exists() else 0o600
        try:
            with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, rights), "w") as new:
                json.dump(settings, new, indent=2, ensure_ascii=False)
            partial.replace(file)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
