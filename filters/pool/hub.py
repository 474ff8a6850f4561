"""Where the Hugging Face Hub has the bytes of a file for now, and what it means by its answers.

Asked for a file, it gives a link to another host, which is signed and lasts an hour or so. It is asked for once a process, and again
when that host does not take the link any more. By the package huggingface_hub, whose token is where it keeps its own.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from filters.pool.errors import BadInput
from filters.pool.place import Remote, Stamp

SCHEME = "hf"
LOG_IN = "log in (hf auth login), or set HF_TOKEN"
Answers = Mapping[int, tuple[str, str]]  # by status: what it says of you or the place, what to do
READING: Answers = {
    401: ("does not know you, or has nothing of this name", f"check the name; {LOG_IN}"),
    403: ("does not let you read there", f"accept its terms on its page of the Hub, and {LOG_IN}"),
    404: ("has nothing of this name", "check the name"),
}
RUN_OUT = (400, 401, 403, 410)  # what other hosts answer to a link that was good once


@dataclass(frozen=True)
class Link:
    """Where a file's bytes are."""

    url: str = field(repr=False)  # signed: for its host alone
    headers: Mapping[str, str] = field(repr=False)  # for its host alone too
    size: int | None  # of the file, as far as the Hub tells
    version: str  # likewise

    def is_to(self, stamp: Stamp) -> bool:
        """Whether it leads to the file that was there when the stamp was taken."""
        return self.size in (None, stamp[0]) and self.version in ("", stamp[1])


class Linked:
    """A file's link, which many ask for at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._link: Link | None = None

    def get(self, system: Any, file: Remote, stale: Link | None = None) -> Link:
        """The one that is known, unless it is the stale one."""
        with self._lock:
            if self._link is None or self._link is stale:
                self._link = _asked(system, file)
            return self._link


@lru_cache(1 << 16)
def linked(url: str, stamp: Stamp | None) -> Linked:
    """One a file, and process."""
    return Linked()


def _asked(system: Any, file: Remote) -> Link:
    from huggingface_hub import get_hf_file_metadata, get_token

    address, versioned = _address(system, file)
    told = get_hf_file_metadata(address, endpoint=system.endpoint)
    own = told.location.startswith(f"{system.endpoint}/")  # it sends small files itself; no other host may know who asks
    headers = {"Authorization": f"Bearer {token}"} if own and (token := get_token()) else {}
    return Link(told.location, headers, told.size, (told.etag or "") if versioned else "")


def _address(system: Any, file: Remote) -> tuple[str, bool]:
    """The URL that gives the link, and whether the version that comes with it is that of lists."""
    from huggingface_hub import hf_hub_url

    found = system.resolve_path(file.url)
    if not hasattr(found, "repo_id"):
        return system.url(file.url), False  # of a bucket
    place = (found.repo_id, found.path_in_repo)
    return hf_hub_url(*place, repo_type=found.repo_type, revision=found.revision, endpoint=system.endpoint), True


def refusal(where: object, status: int, answers: Answers) -> BadInput | None:
    """What an answer means, where that is known."""
    if status not in answers:
        return None
    found, do = answers[status]
    return BadInput(where, f"the Hub {found} (HTTP {status})", do)


def commit(system: Any, repository: Remote) -> str:
    """What is the newest of a repository now."""
    from huggingface_hub import HfApi

    found = system.resolve_path(repository.url)
    return str(HfApi(system.endpoint).repo_info(found.repo_id, repo_type=found.repo_type).sha)


def has(system: Any, repository: Remote, commit: str) -> bool:
    """Whether a repository still has a version."""
    from huggingface_hub import HfApi

    found = system.resolve_path(repository.url)
    return bool(HfApi(system.endpoint).revision_exists(found.repo_id, commit, repo_type=found.repo_type))
