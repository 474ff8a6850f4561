"""Whether a url may be asked, as far as it tells itself. Nothing is resolved here: what a name stands for is looked at when it is asked."""

from __future__ import annotations

import ipaddress
import socket
import unicodedata
from urllib.parse import unquote, urlsplit

from tools.images.outside import public

EMPTY, MALFORMED, SCHEME, USER, PRIVATE, LOCAL = (
    "no url",
    "malformed url",
    "neither http nor https",
    "user or password in the url",
    "private address",
    "name of a local network",
)
LOCAL_ENDS = (".localhost", ".local", ".internal", ".home.arpa", ".onion")


def fault(url: str | None, private: bool = False) -> str | None:
    """Why a url is not asked; None when it may be. `private`: any address and name will do."""
    if not url:
        return EMPTY
    try:
        parts = urlsplit(url.strip())
        host, _ = unquote(parts.hostname or ""), parts.port
    except ValueError:
        return MALFORMED
    if parts.scheme not in ("http", "https"):
        return SCHEME
    if "@" in unquote(parts.netloc):
        return USER
    if not host:
        return MALFORMED
    return None if private else _host_fault(unicodedata.normalize("NFKC", host).rstrip("."))


def _host_fault(host: str) -> str | None:
    address = _address(host)
    if address is not None:
        return None if public(address) else PRIVATE
    name = host.lower()
    return LOCAL if "." not in name or name.endswith(LOCAL_ENDS) else None


def _address(host: str) -> str | None:
    """The address that a host is written as, an IPv4 one also as a C library reads it: 127.1, 2130706433, 0x7f.0.0.1, 0177.0.0.1."""
    try:
        return str(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except (OSError, UnicodeError):
        return None
