"""Who may read the page: nobody but its user, from no other page, and nothing may be written."""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import socket
from collections.abc import Iterable, Mapping
from typing import NamedTuple

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_OWN_SITES = ("same-origin", "none")  # https://www.w3.org/TR/fetch-metadata: none is a person

POLICY = "; ".join(
    (
        "default-src 'none'",
        *(f"{kind}-src 'self'" for kind in ("script", "style", "img", "connect")),
        *(f"{what} 'none'" for what in ("base-uri", "form-action", "frame-ancestors")),
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


class Refusal(NamedTuple):
    """A status of HTTP, and a line that says why."""

    status: int
    why: str


class Guard:
    """Decides on requests by their headers. Without a `token`, whoever reaches us may read."""

    def __init__(self, host: str, port: int, token: str | None) -> None:
        self.token = token
        self.cookie = f"swarm_{port}"  # cookies are shared by all ports of a host
        self._port = port
        self._any_address = is_wildcard(host)
        names = [*_LOOPBACK, bracketed(host)]
        names += [socket.gethostname(), socket.getfqdn()] if self._any_address else []
        self._authorities = {f"{name.lower()}:{port}" for name in names}
        self._authorities |= {name.lower() for name in names} if port == 80 else set()

    def refusal(self, method: str, path: str, headers: Mapping[str, str]) -> Refusal | None:
        """Why a request is refused, or `None`. `headers` have lower-case names."""
        if method not in ("GET", "HEAD"):
            return Refusal(405, "this page is read-only")
        host = headers.get("host", "").lower()
        if not self._is_ours(host):
            return Refusal(403, f"not the host of this page; forward its own port, {self._port}")
        is_own = headers.get("origin", f"http://{host}") == f"http://{host}"
        site = headers.get("sec-fetch-site", "none")
        if not is_own or not (site in _OWN_SITES or _follows_link(method, path, headers)):
            return Refusal(403, "another page may not read this one; type its address instead")
        return None

    def knows(self, token: str | None) -> bool:
        """Whether this is the token, found out in a time that does not tell how much of it is."""
        if self.token is None:
            return True
        return hmac.compare_digest((token or "").encode(), self.token.encode())

    def _is_ours(self, authority: str) -> bool:
        if authority in self._authorities:
            return True
        # A name may be made to point anywhere (DNS rebinding); an address points at itself.
        host, _, port = authority.rpartition(":")
        return self._any_address and port == str(self._port) and is_address(host.strip("[]"))


def _follows_link(method: str, path: str, headers: Mapping[str, str]) -> bool:
    """Whether a person clicked a link to the page itself: it has no data, and no site reads it."""
    fetch = headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")
    return (method, path, *fetch) == ("GET", "/", "navigate", "document")


def new_token() -> str:
    return secrets.token_urlsafe(24)


def is_loopback(host: str) -> bool:
    return host == "localhost" or (is_address(host) and ipaddress.ip_address(host).is_loopback)


def is_wildcard(host: str) -> bool:
    """Whether a server bound to this is reached by every address of the machine."""
    return is_address(host) and ipaddress.ip_address(host).is_unspecified


def is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def bracketed(host: str) -> str:
    """As it stands in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def header_map(pairs: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers as ASGI has them; of one that is sent twice, the values are joined."""
    found: dict[str, str] = {}
    for raw_name, raw_value in pairs:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found
