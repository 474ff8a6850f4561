"""Run as a file by the Python that has img2dataset: downloads a list of urls, kept from where a url may lead.

    python outside.py SETTINGS

SETTINGS  JSON: {"private": whether any address may be asked, "arguments": those of img2dataset.download}
img2dataset spawns its workers, and what is spawned runs this file first: so all of them are guarded, each time one begins.
When standard input ends, this process does, and its workers with it: none works on for somebody who is gone.
Standard library only, and nothing of this repository, which the other Python may not have.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import json
import os
import signal
import socket
import sys
import threading
import time
import urllib.request
from typing import Any

BYTES = 1 << 26  # of a response: one that never ends would fill the memory
SECONDS = 120.0  # of a response: one that trickles would hold its shard for ever
PRIVATE, TOO_LARGE, TOO_SLOW = "no public address", "more than 64 MB", "not done in 120 s"
ELSEWHERE = (  # public by their numbers: of protocols, of documents, of a cloud's own machines
    *map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "3fff::/20")),
)
NAT64 = ipaddress.ip_network("64:ff9b::/96")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def public(text: str) -> bool:
    """Whether an address is one of the internet's, and no gateway makes another of it; raises ValueError for what is no address."""
    address = _inner(ipaddress.ip_address(text.partition("%")[0]))
    if address.is_multicast or address.is_reserved or getattr(address, "is_site_local", False):
        return False
    if any(address in network for network in ELSEWHERE):
        return False
    return address.is_global


def _inner(address: Address) -> Address:
    """The IPv4 address that stands in an IPv6 one, where it goes there."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in NAT64:
        return ipaddress.IPv4Address(int(address) % 2**32)
    return address.ipv4_mapped or address.sixtofour or address


def guard() -> None:
    """Let no socket of this process connect to what is not public: whatever a name resolves to now, and wherever a redirect leads."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not public(address[0]):
            raise OSError(f"{address[0]} is {PRIVATE}")
        connect(self, address)

    socket.socket.connect = guarded  # type: ignore[method-assign, assignment]


class Limited(io.RawIOBase):
    """What a server sends, up to a size and a time."""

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw, self._left, self._end = raw, BYTES, time.monotonic() + SECONDS

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if time.monotonic() > self._end:
            raise OSError(TOO_SLOW)
        if self._left < 0:
            raise OSError(TOO_LARGE)
        size: int | None = self._raw.readinto(buffer)
        self._left -= size or 0
        return size

    def close(self) -> None:
        self._raw.close()
        super().close()


class Response(http.client.HTTPResponse):
    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.fp = io.BufferedReader(Limited(self.fp.detach()))

    def begin(self) -> None:
        super().begin()
        if (self.length or 0) > BYTES:
            raise OSError(TOO_LARGE)


def opener(private: bool) -> urllib.request.OpenerDirector:
    """Of http and https alone. Behind a proxy nobody sees which address is asked: none is used unless any may be."""
    made = urllib.request.OpenerDirector()
    proxies = [urllib.request.ProxyHandler()] if private else []
    rest = ("Unknown", "HTTP", "HTTPS", "HTTPDefaultError", "HTTPRedirect")
    for handler in [*proxies, *(getattr(urllib.request, f"{name}Handler")() for name in rest), urllib.request.HTTPErrorProcessor()]:
        made.add_handler(handler)
    return made


def prepare(private: bool) -> None:
    """What every process does before its first request."""
    http.client.HTTPConnection.response_class = Response
    urllib.request.install_opener(opener(private))
    if not private:
        guard()


def end_with_input() -> None:
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


def main(arguments: dict[str, Any]) -> None:
    threading.Thread(target=end_with_input, daemon=True).start()
    del sys.path[0]  # the folder of this file, whose names are not meant for others
    import img2dataset

    img2dataset.download(**arguments)


if __name__ in ("__main__", "__mp_main__"):  # the second is what a spawned process calls it
    settings = json.loads(sys.argv[1])
    prepare(settings["private"])
    if __name__ == "__main__":
        main(settings["arguments"])
