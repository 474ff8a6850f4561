"""What may be shown or kept of a URL: never a user, a password, a query, or a token of the environment. Decided here alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

HIDDEN = "***"
_URL = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*://|https?:/)\S*")
_SECRET = re.compile(r"SECRET|TOKEN|PASSW|CREDENTIAL|SIGNATURE|_KEY|_SAS", re.IGNORECASE)  # in names of variables of the environment
_LONG = 6  # characters of a value that is hidden: a shorter one would be found in any text


def shown(url: str) -> str:
    """The URL without user, password, query and fragment: it still names the same place."""
    head, slashes, rest = re.split(r"(:/+)", url, maxsplit=1)
    authority, path = re.fullmatch(r"([^/?#]*)(.*)", rest, re.DOTALL).groups()  # type: ignore[union-attr] # it matches any text
    user, _, host = authority.rpartition("@")
    if not user and re.search(r":(?!\d*$)", re.sub(r"^\[[^]]*\]", "", host)):
        return head + slashes + HIDDEN  # a password with a slash in it, so that the host cannot be told from it
    return head + slashes + host + re.split(r"[?#]" if head.lower().startswith("http") else r"\?", path, maxsplit=1)[0]


def redacted(text: str) -> str:
    """A text in which every URL is as it may be shown."""
    return _URL.sub(lambda found: shown(found[0]), text)


def scrubbed(text: str, known: Iterable[str] = ()) -> str:
    """A text of somebody else's, an error of a library say: without secrets that are known, or in the environment, either."""
    text = redacted(text)
    for secret in [*known, *(value for name, value in os.environ.items() if _SECRET.search(name))]:
        if len(secret) >= _LONG:
            text = text.replace(secret, HIDDEN)
    return text
