"""What only the person who submits can say, and what stands there while nobody has said it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from filters.options import option
from filters.pool.errors import BadInput

PLACEHOLDERS = {
    *("author", "authors", "name", "names", "me", "method", "method name", "my method", "email", "user", "username", "repo", "repo name"),
    *("repository", "hf username", "hf repo name", "link", "url", "writeup", "test", "todo", "tbd", "fixme", "xxx", "foo", "bar", "none"),
    *("unknown", "untitled", "placeholder", "john doe", "jane doe"),
}
EMAIL = re.compile(r"[^@\s]+@([^@\s]+\.[^@\s.]+)")
EXAMPLES = re.compile(r"(.*\.)?example(\.(com|org|net|edu))?|(.*\.)?(test|invalid|localhost)|email\.com|domain\.com")
HUB = re.compile(r"(?!.*(--|\.\.|\.git$))[A-Za-z0-9_]([\w.-]{0,94}\w)?", re.ASCII)  # a name there, as huggingface_hub takes it
LINK = re.compile(r"https?://([^/\s:]+\.[^/\s:]+)(:\d+)?(/\S*)?")


@dataclass(frozen=True)
class Author:
    """Names, as evaluate.py --submit asks for them."""

    method_name: str | None = option("name of the method on the leaderboard: tell what it does", None)
    author: str | None = option("names of the authors, on the leaderboard", None)
    email: str | None = option("where DataComp can reach you; it is not published", None)
    hf_username: str | None = option("whose repository on the Hub takes results and uids", None)
    hf_repo_name: str | None = option("its name there, without the user's", None)
    writeup: str | None = option("link of a paper or post, on the leaderboard", None, url=True)
    eval_images: str | None = option("images of evaluation tasks that the filter used, never of a test set; none: none", None)

    def faults(self) -> Iterator[BadInput]:
        """What is missing, or still a placeholder."""
        told = {name: (value or "").strip() for name, value in vars(self).items()}
        for name, value in told.items():
            if not value and name != "writeup":
                yield BadInput("command line", f"no --{name} is given", "see --help")
            elif value and (name, value.lower()) != ("eval_images", "none") and (why := _fault(name, value)):
                yield BadInput(f"--{name}", f"{value!r} {why}", "tell the real one")


def _fault(name: str, value: str) -> str:
    """Why it cannot be meant; empty when it can."""
    plain = re.sub(r"[\W_]+", " ", value).strip().lower()
    if not plain or plain in PLACEHOLDERS or re.match(r"your\b", plain) or value[0] in "[<{$":
        return "is a placeholder"
    if name == "email":
        return _fault_of_host(EMAIL.fullmatch(value), "is no e-mail address")
    if name == "writeup":
        return _fault_of_host(LINK.fullmatch(value), "is no link")
    return "is no name on the Hub" if name.startswith("hf_") and not HUB.fullmatch(value) else ""


def _fault_of_host(found: re.Match[str] | None, otherwise: str) -> str:
    if found is None:
        return otherwise
    return "is an example's" if EXAMPLES.fullmatch(found[1].lower()) else ""
