"""A pool's files as the Hub has them in one version, and what has to be fetched for them to be here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from filters.pool import store
from filters.pool.archive import Archive, Member
from filters.pool.errors import BadInput
from filters.pool.place import Remote
from filters.pool.pool import ENDS
from tools.metadata import npz
from tools.metadata.draft import Draft
from tools.metadata.ledger import Ledger
from tools.metadata.npz import Part, Pulse

ALL, NONE = "all", "none"  # in place of members' names


def repository(scale: str) -> Remote:
    return Remote(f"hf://datasets/mlfoundations/datacomp_{scale}")


def listed(scale: str, commit: str, embeddings: bool) -> list[Remote]:
    """The pool's files, in the order of their names: whatever folders of the repository they are in, here they are in one."""
    tree = store.tree(Remote(f"{repository(scale)}@{commit}"))
    found: dict[str, Remote] = {}
    for file in tree.values():
        if not file.name.endswith(ENDS if embeddings else ENDS[:1]):
            continue
        if file.name in found:
            raise BadInput(file, f"has the same name as {found[file.name]}", "download them to two folders by another tool")
        found[file.name] = file
    _check_pairs(scale, set(found), embeddings)
    return [found[name] for name in sorted(found)]


def _check_pairs(scale: str, names: set[str], embeddings: bool) -> None:
    if not any(name.endswith(".parquet") for name in names):
        raise BadInput(repository(scale), "has no parquet files", "check the scale")
    tables, arrays = ({name.removesuffix(end) for name in names if name.endswith(end)} for end in ENDS)
    lone = sorted(tables ^ arrays) if embeddings else []
    if lone:
        raise BadInput(repository(scale), f"has one half alone of {len(lone):,} pairs, the first of {lone[0]}", "give --features none")


@dataclass(frozen=True)
class Here:
    """The folder that the pool comes to."""

    folder: Path
    ledger: Ledger
    features: tuple[str, ...] | None  # members of an npz; None: all

    def missing(self, source: Remote, pulse: Pulse) -> Draft | None:
        """What a file will be; None when it is here and good, which is noted."""
        known = self.ledger.entries.get(source.name)
        known = known if known and known.version == _version(source) else None
        here = known is not None and known.is_here(self.folder)
        members = self.features if source.name.endswith(".npz") else None
        if known and here and known.covers(members):
            return None
        whole = Draft(self.folder / source.name, source, (Part(source.size, source=source),), _version(source))
        drafts = [whole]
        if members is not None:
            drafts = [self._of_members(source, {*members, *(known.members if known else ())}, here), whole]
        return drafts[0] if here or not self._found(drafts, source, pulse) else None

    def _found(self, drafts: list[Draft], source: Remote, pulse: Pulse) -> bool:
        """Whether the file is there already, from a call that was killed or another tool; raises BadInput for one of somebody else's."""
        target = drafts[0].target
        if not target.exists():
            return False
        for draft in drafts:
            if draft.is_at(target, pulse):
                self.note(draft)
                return True
        if source.name not in self.ledger.entries:
            raise BadInput(target, "is there, and is not what the Hub has", "move it away, or name another --metadata_dir")
        return False

    def _of_members(self, source: Remote, members: set[str], here: bool) -> Draft:
        """An npz of some members; those that are here are taken from here."""
        there, ours = Archive.open(source), Archive.open(self.folder / source.name) if here else None
        for name in sorted(members):
            if name not in there.entries:
                raise BadInput(source, f"has no member '{name}', only {', '.join(there.entries)}", "ask for one that is there")
        parts = npz.parts([_nearest(name, there, ours) for name in there.entries if name in members])
        return Draft(self.folder / source.name, source, tuple(parts))

    def note(self, draft: Draft) -> None:
        """It is here, and good."""
        source = draft.source
        assert isinstance(source, Remote), "drafts are made of the Hub's files"
        held = list(Archive.open(draft.target).entries) if draft.target.suffix == ".npz" else []
        self.ledger.add(draft.target, _version(source), held, bool(draft.digest))


def _version(file: Remote) -> str:
    """Its digest, as the Hub tells it."""
    assert file.stamp is not None, "the list of the repository told it"
    return str(file.stamp[1])


def _nearest(name: str, there: Archive, here: Archive | None) -> Member:
    """The member here, if it is the same."""
    entry, ours = there.entries[name], here.entries.get(name) if here else None
    return here.member(name) if here and ours and (ours.crc, ours.size) == (entry.crc, entry.size) else there.member(name)
