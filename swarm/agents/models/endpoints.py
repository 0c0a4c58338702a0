"""Whose language model a built-in coding agent asks: `anthropic`, `openai:MODEL@URL`."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from swarm import keys
from swarm.errors import SwarmError, UsageError

if TYPE_CHECKING:
    from swarm.agents.models.chat import Provider


@dataclass(frozen=True)
class Kind:
    """A wire format with what is usual for it."""

    model: str
    key: str
    base_url: str
    package: str
    module: str


KINDS = {
    "anthropic": Kind(
        "claude-sonnet-5-5", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL",
        "anthropic", "swarm.agents.models.anthropic",
    ),
    "openai": Kind(
        "gpt-6.1-sol", "OPENAI_API_KEY", "OPENAI_BASE_URL", "openai", "swarm.agents.models.openai",
    ),
}  # fmt: skip
_KEYS_OF_HOSTS = {
    "api.anthropic.com": "ANTHROPIC_API_KEY",
    "api.openai.com": "OPENAI_API_KEY",
    "openrouter.ai": "OPENROUTER_API_KEY",
}
_KEY_OF_OTHERS = "LLM_API_KEY"
"""A provider's key is not for whatever server a spec names."""
_ADDRESS = re.compile(r"@(?=https?://)")
_LOCAL = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Endpoint:
    """A model of a provider; `url` is that of a compatible server, where the spec names one."""

    kind: str
    model: str
    url: str | None = None

    @property
    def key_name(self) -> str:
        """The variable that holds the key for this server."""
        if self.url is None:
            return KINDS[self.kind].key
        return _KEYS_OF_HOSTS.get(urlsplit(self.url).hostname or "", _KEY_OF_OTHERS)

    @property
    def variables(self) -> tuple[str, ...]:
        """What the agent needs of the environment, or of the keys file."""
        return (self.key_name,) if self.url else (self.key_name, KINDS[self.kind].base_url)

    def address(self, environment: Mapping[str, str]) -> str | None:
        """The server's base URL; `None` is the provider's own."""
        return self.url or keys.Keys.load(environment).get(KINDS[self.kind].base_url)

    def key(self, environment: Mapping[str, str]) -> str:
        """Its key; empty for a server of one's own. Raises `SwarmError` where one is missing."""
        found = keys.Keys.load(environment).get(self.key_name)
        host = urlsplit(self.address(environment) or "").hostname
        if found is None and self.key_name != _KEY_OF_OTHERS and host not in _LOCAL:
            raise SwarmError(
                f"the agent {self.kind} needs {self.key_name}, which is not set",
                f"export {self.key_name}=…, or put that line into ~/.config/swarm/keys (chmod 600)",
            )
        return found or ""

    def check(self, environment: Mapping[str, str]) -> None:
        """Raise `SwarmError` for what would keep the agent from starting."""
        package = KINDS[self.kind].package
        if importlib.util.find_spec(package) is None:
            raise SwarmError(
                f"the agent {self.kind} needs {package}, which is not installed",
                "pip install 'swarm-research[llm]'",
            )
        self.key(environment)

    def connect(self, environment: Mapping[str, str]) -> Provider:
        """The provider behind it; only now is its SDK imported."""
        key, address = self.key(environment), self.address(environment)
        module = importlib.import_module(KINDS[self.kind].module)
        provider: Provider = module.make(self.model, address, key)
        return provider


def parse(kind: str, model: str) -> Endpoint:
    """The endpoint of a spec `KIND[:MODEL[@URL]]`. Raises `UsageError`."""
    name, _, url = _ADDRESS.sub("\n", model, count=1).partition("\n")
    parts = urlsplit(url)
    if url and not parts.hostname:
        raise UsageError(
            f"'{url}' is no address of a server", f"{kind}:my-model@http://localhost:8000/v1"
        )
    if url and not name:
        raise UsageError(f"which model of {url}?", f"{kind}:my-model@{url}")
    if parts.username or parts.password or parts.query:
        raise UsageError("a key in an address would be journalled", "put it into the environment")
    return Endpoint(kind, name or KINDS[kind].model, url or None)
