"""Why an image did not come, in few words: what img2dataset tells of each, which are another's errors in full."""

from __future__ import annotations

import re
from functools import lru_cache

from tools.images import outside

# What the error says, what it is called. The first that is found holds.
KINDS = tuple(
    (re.compile(pattern), kind)
    for pattern, kind in (
        (outside.PRIVATE, "leads to a private address"),
        (outside.TOO_LARGE, "larger than 64 MB"),
        (outside.TOO_SLOW, "slower than 2 minutes"),
        (r"X-Robots-Tag", "not allowed by its site"),
        (r"infinite loop", "redirects in a circle"),
        (r"unknown url type", "leads to neither http nor https"),
        (r"Errno -3\b", "no answer from the name server"),
        (r"Errno -\d", "no such host"),
        (r"CERTIFICATE|[Cc]ertificate", "certificate not valid"),
        (r"timed? ?out|Errno 110\b", "timed out"),
        (r"Errno 1(01|04|11|12|13)\b|[Rr]emote end closed|IncompleteRead|EOF occurred|Errno 32\b", "connection broken"),
        (r"SSL", "TLS refused"),
        (r"[Ii]mage decoding error|OpenCV|cannot identify|image too|imdecode", "no image that can be decoded"),
    )
)
MAY_PASS = {"no answer from the name server", "timed out", "connection broken"}
STATUS = re.compile(r"HTTP Error (\d{3})")


@lru_cache(1 << 16)
def kind_of(message: str | None) -> str:
    message = message or ""
    if found := STATUS.search(message):
        return f"http {found[1]}"
    return next((kind for pattern, kind in KINDS if pattern.search(message)), "another error")


def may_pass(kind: str) -> bool:
    """Whether it may go well another time."""
    return kind in MAY_PASS or re.fullmatch(r"http (408|425|429|5\d\d)", kind) is not None
