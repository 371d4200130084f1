"""Which record of one image is which of another, and in what two records differ.

Objrefs are numbers of one image: the same file may be object 3 in one and 5 in the other. Objects
are paired by how they are reached from processes that are paired: through the same descriptor, the
same field. Then every record has its counterpart, or is new, or gone. Complete and generic: a kind
of record that this module knows nothing about is compared field by field.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ckpt.debug.render import to_plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckpt.objects.base import Record, Records

_REF_FIELDS: Final = {
    "process": ("mm", "files", "fs", "sighand"),
    "locks": ("files",),
    "file.pipe": ("pipe",),
    "file.socketpair": ("peer",),
    "file.regular": ("inode",),
    "file.memfd": ("inode",),
}
"""Fields that are objrefs, by tag; those inside of lists are `_listed_refs`'."""
_ITEMS_WITH_FILES: Final = {"files": "descriptors", "file.epoll": "watches"}
"""Lists whose items have an objref `file`, by tag."""
_SAME_FILE: Final = ("path", "name", "dev", "ino", "rdev", "what", "clockid", "kind")
"""In what two files on one descriptor must agree to be taken for the same open file."""
_ITEM_KEYS: Final = ("fd", "signo", "tid", "start", "number")
"""Fields that tell the items of a list apart."""
_ELSEWHERE: Final = {"areas": ("areas", "files", "guards")}
"""Fields that `ckpt.debug.diff_areas` compares, by tag."""

Key = tuple[Any, ...]


class Change(NamedTuple):
    """One value that differs; None stands for absent as well."""

    field: str
    """`regs.rip`, `dispositions[signo 10].handler`."""
    before: Any
    after: Any


class RecordChange(NamedTuple):
    """One record that is `new`, `gone` or `changed`."""

    what: str
    type: str
    """The record's tag."""
    tgid: int
    tid: int
    """0 where it is about no single thread; otherwise as in the image that has it."""
    ref: int
    """Objref in the second image, in the first if it is gone there; 0: none."""
    title: str
    """`creds thread 412`; made of our own words and numbers."""
    changes: list[Change]
    """Of a record that is new or gone: all its fields."""


class Side:
    """The records of one image, by objref."""

    def __init__(self, records: Records) -> None:
        self.records = records
        self.by_ref: dict[int, list[Record]] = {}
        for record in records:
            ref = getattr(record, "ref", 0)
            if ref:
                self.by_ref.setdefault(ref, []).append(record)

    def tags(self, ref: int) -> list[str]:
        """Return the types of the records of an object."""
        return sorted(tag_of(record) for record in self.by_ref.get(ref, ()))


class Matching:
    """Objects and tasks of two images, in pairs."""

    def __init__(self, before: Records, after: Records) -> None:
        """Pair everything that can be reached from the processes."""
        self.before, self.after = Side(before), Side(after)
        self.refs: dict[int, int] = {}
        """Objref in the first image -> in the second."""
        self._back: dict[int, int] = {}
        self.tids: dict[int, int] = {}
        """tid (or tgid) in the second image -> in the first, of those that both have."""
        self.processes = _pair_processes(before, after)
        for one, other in self.processes:
            self.tids.update(_pair_threads(one, other))
        self._pair_objects()

    def _pair_objects(self) -> None:
        queue: deque[tuple[Record, Record]] = deque(self.processes)
        queue.extend(self._pair_by_thread())
        while queue:
            one, other = queue.popleft()
            targets = dict(references(other))
            for slot, ref in references(one):
                if self._pair(ref, targets.get(slot, 0)):
                    found = self.after.by_ref.get(self.refs[ref], ())
                    for record in self.before.by_ref.get(ref, ()):
                        queue.extend((record, same) for same in found if tags_equal(record, same))

    def _pair_by_thread(self) -> Iterator[tuple[Record, Record]]:
        """Yield records that refer to objects and belong to tasks rather than objects."""
        known = {self.key(record, False): record for record in self.after.records}
        for record in self.before.records:
            if not hasattr(record, "ref") and tag_of(record) != "process":
                other = known.get(self.key(record, True))
                if other is not None:
                    yield record, other

    def _pair(self, ref: int, other: int) -> bool:
        if not ref or not other or ref in self.refs or other in self._back:
            return False
        tags = self.before.tags(ref)
        if not tags or tags != self.after.tags(other):
            return False
        mine, its = self.before.by_ref[ref][0], self.after.by_ref[other][0]
        if tag_of(mine).startswith("file.") and not is_same_file(mine, its):
            return False
        self.refs[ref] = other
        self._back[other] = ref
        return True

    def label(self, ref: int, is_before: bool) -> int | str:
        """Return the same for both objrefs of a pair: the first image's; else text."""
        if not ref:
            return 0
        if is_before:
            return ref if ref in self.refs else f"object {ref} of the first image"
        return self._back.get(ref, f"object {ref} of the second image")

    def key(self, record: Record, is_before: bool, tid: int = 0) -> Key:
        """Return what a record and its counterpart have in common, and no other record."""
        tag = tag_of(record)
        own = (getattr(record, name, 0) for name in ("tid", "tgid"))
        tids = [found if is_before else self.tids.get(found, -found) for found in (*own, tid)]
        ref = self.label(getattr(record, "ref", 0), is_before)
        return (tag, *tids, ref, getattr(record, "timer_id", 0))


def compare_records(matching: Matching) -> Iterator[RecordChange]:
    """Yield every record that is new, gone or changed, in the order of the images."""
    after = dict(_keyed(matching, False))
    for key, (record, tid) in _keyed(matching, True):
        other = after.pop(key, None)
        old = _fields(record, matching, True)
        if other is None:
            yield _made("gone", record, tid, [Change(name, old[name], None) for name in old])
            continue
        new = _fields(other[0], matching, False)
        changes = list(differences(old, new))
        if changes:
            yield _made("changed", other[0], other[1], changes)
    for record, tid in after.values():
        new = _fields(record, matching, False)
        yield _made("new", record, tid, [Change(name, None, new[name]) for name in new])


def _keyed(matching: Matching, is_before: bool) -> Iterator[tuple[Key, tuple[Record, int]]]:
    """Yield each record with its key; one about several threads once for each of them."""
    side = matching.before if is_before else matching.after
    for record in side.records:
        tids = getattr(record, "tids", None)
        if tids is None or tag_of(record) == "process":
            yield matching.key(record, is_before), (record, getattr(record, "tid", 0))
        else:
            for tid in tids:
                yield matching.key(record, is_before, tid), (record, tid)


def _made(what: str, record: Record, tid: int, changes: list[Change]) -> RecordChange:
    tag = tag_of(record)
    tgid, ref = getattr(record, "tgid", 0), getattr(record, "ref", 0)
    words = [("thread", tid), ("process", 0 if tid else tgid), ("object", ref)]
    which = [f"{word} {number}" for word, number in words if number]
    if hasattr(record, "timer_id"):
        which.append(f"id {record.timer_id}")
    # A thread's own record is `thread 412`, not `thread thread 412`.
    names = which if tag in ("thread", "process") else [tag.replace("_", " "), *which]
    return RecordChange(what, tag, tgid, tid, ref, " ".join(names), changes)


def _fields(record: Record, matching: Matching, is_before: bool) -> dict[str, Any]:
    """Return the fields to compare, with objrefs as labels."""
    tag = tag_of(record)
    left_out = {"ref", "tid", "timer_id", *_ELSEWHERE.get(tag, ())}
    # Which threads are alike is no fact about any of them.
    left_out |= {"tgid"} | ({"tids"} if tag != "process" else set())
    fields = {
        name: to_plain(getattr(record, name))
        for name in record.__struct_fields__
        if name not in left_out
    }
    for name in _REF_FIELDS.get(tag, ()):
        fields[name] = matching.label(fields[name], is_before)
    _relabel_items(tag, fields, matching, is_before)
    if tag == "process" and not is_before:
        fields["tids"] = [matching.tids.get(tid, tid) for tid in fields["tids"]]
    return fields


def _relabel_items(tag: str, fields: dict[str, Any], matching: Matching, is_before: bool) -> None:
    for item in fields.get(_ITEMS_WITH_FILES.get(tag, ""), ()):
        item["file"] = matching.label(item["file"], is_before)
    if tag == "seccomp":
        fields["filters"] = [matching.label(ref, is_before) for ref in fields["filters"]]
    if tag == "mm":
        fields["exe"]["content"] = matching.label(fields["exe"]["content"], is_before)


def references(record: Record) -> Iterator[tuple[Key, int]]:
    """Yield (slot, objref) for each object that a record leads to."""
    tag = tag_of(record)
    for name in _REF_FIELDS.get(tag, ()):
        yield (name,), getattr(record, name)
    listed: Any = record
    if tag == "files":
        yield from ((("fd", one.fd), one.file) for one in listed.descriptors)
    elif tag == "file.epoll":
        yield from ((("watch", one.fd), one.file) for one in listed.watches)
    elif tag == "seccomp":
        yield from ((("filter", index), ref) for index, ref in enumerate(listed.filters))
    elif tag == "areas":
        yield from ((("mapped", one.path), one.content) for one in listed.files)
    elif tag == "mm":
        yield ("exe",), listed.exe.content


def is_same_file(one: Record, other: Record) -> bool:
    """Tell whether two open files can be the same one: same kind, same inode."""
    if not tags_equal(one, other):
        return False
    names = {name for name in _SAME_FILE if getattr(one, name, None) != getattr(other, name, None)}
    # A file without a name of its own comes back from a restore as another inode.
    is_kept = tag_of(one) == "file.memfd" or bool(getattr(one, "inode", 0))
    return not names or (is_kept and names <= {"dev", "ino"})


def tag_of(record: Record) -> str:
    """Return the type of a record."""
    return str(record.__struct_config__.tag)


def tags_equal(one: Record, other: Record) -> bool:
    """Tell whether two records are of one type."""
    return type(one) is type(other)


def _pair_processes(before: Records, after: Records) -> list[tuple[Any, Any]]:
    known = {record.tgid: record for record in after.processes}
    pairs: list[tuple[Any, Any]] = [
        (record, known[record.tgid]) for record in before.processes if record.tgid in known
    ]
    if not pairs and before.processes and after.processes:
        # Different processes: what was asked for is to compare them all the same.
        pairs.append((before.processes[0], after.processes[0]))
    return pairs


def _pair_threads(one: Any, other: Any) -> Iterator[tuple[int, int]]:
    """Yield (tid in the second image, tid in the first)."""
    yield other.tgid, one.tgid
    if one.tgid == other.tgid:
        mine = set(one.tids)
        yield from ((tid, tid) for tid in other.tids if tid in mine)
    else:
        rest = [tid for tid in one.tids if tid != one.tgid]
        yield from zip((tid for tid in other.tids if tid != other.tgid), rest, strict=False)


def differences(before: Any, after: Any, field: str = "") -> Iterator[Change]:
    """Yield every value that differs between two trees of plain values."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in dict.fromkeys((*before, *after)):
            inner = f"{field}.{name}" if field else str(name)
            yield from differences(before.get(name), after.get(name), inner)
    elif isinstance(before, list) and isinstance(after, list):
        yield from _list_differences(before, after, field)
    elif before != after:
        yield Change(field, before, after)


def _list_differences(before: list[Any], after: list[Any], field: str) -> Iterator[Change]:
    old, new = _by_key(before), _by_key(after)
    if old is not None and new is not None:
        for key in dict.fromkeys((*old, *new)):
            inner = f"{field}[{key}]"
            yield from differences(old.get(key), new.get(key), inner)
        return
    if len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from differences(one, other, f"{field}[{index}]")
        return
    start = _common(before, after)
    end = _common(before[start:][::-1], after[start:][::-1])
    stops = len(before) - end, len(after) - end
    yield Change(f"{field}[{start}:]", before[start : stops[0]], after[start : stops[1]])


def _common(one: list[Any], other: list[Any]) -> int:
    """Return how many items at the start are equal."""
    for index, pair in enumerate(zip(one, other, strict=False)):
        if pair[0] != pair[1]:
            return index
    return min(len(one), len(other))


def _by_key(items: list[Any]) -> Mapping[str, Any] | None:
    """Return the items by what tells them apart; None when nothing does."""
    found: dict[str, Any] = {}
    for item in items:
        name = next((name for name in _ITEM_KEYS if isinstance(item, dict) and name in item), None)
        if name is None:
            return None
        found[f"{name} {item[name]}"] = item
    return found if len(found) == len(items) else None
