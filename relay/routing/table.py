"""Which route a request takes.

Rules
* The most specific route whose path *and* method match wins, whatever the order they were given
  in: segment by segment a literal before `{name}` before `{name...}`.
* A route that matches the path but not the method is passed over, so a catch-all still serves
  `POST` beside a `GET`-only literal. Only when no route that matches the path takes the method it
  is "method not allowed".
* `HEAD` is taken where `GET` is, unless another route of the same shape names `HEAD` itself.
* Two routes of the same shape may share it when their methods are disjoint; otherwise they tie: a
  mistake.
* A path with a dot segment, plain or encoded, matches nothing (the http room refuses it before;
  this is the second lock).
* Where the table is strict, a path that a server before or behind relay would read as one of
  another route takes none (`ambiguity` lists how they read). It would carry one route's credentials
  to what another route guards.

Cost: a dictionary look-up for a literal path, else one walk down a trie. No node is visited
twice, so the work is bounded by the size of the table, whatever the path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

from relay.routing.ambiguity import Unreadable, has_other_readings, other_readings
from relay.routing.pattern import Kind, Pattern, decode

T = TypeVar("T")


class Found(NamedTuple, Generic[T]):
    """`params` are raw bytes as the client sent them; those of `{name...}` keep their slashes."""

    value: T
    params: dict[str, bytes]


class NotFound(NamedTuple):
    """No route has this path."""


class MethodNotAllowed(NamedTuple):
    """A route has this path, none takes the method. `allow` is sorted, for the `Allow` field."""

    allow: tuple[bytes, ...]


class Ambiguous(NamedTuple):
    """Read in another way, the path belongs to another route."""


NOT_FOUND: Final = NotFound()
# What a route without `methods` takes, as far as it has a name here; any other method goes on too.
STANDARD_METHODS: Final = (b"DELETE", b"GET", b"HEAD", b"OPTIONS", b"PATCH", b"POST", b"PUT")
AMBIGUOUS: Final = Ambiguous()
_DOTS: Final = (b".", b"..")


class _Entry(Generic[T]):
    __slots__ = ("places", "rest", "value")

    def __init__(self, pattern: Pattern, value: T) -> None:
        named = [(name, index) for index, name in enumerate(pattern.names) if name]
        self.rest = named.pop() if pattern.has_rest else None
        self.places = named
        self.value = value

    def found(self, segments: list[bytes]) -> Found[T]:
        params = {name: segments[index] for name, index in self.places}
        if self.rest is not None:
            name, index = self.rest
            params[name] = b"/".join(segments[index:])
        return Found(self.value, params)


class _Leaf(Generic[T]):
    """The routes of one shape, by method; `every` takes all of them."""

    __slots__ = ("by_method", "every", "first")

    def __init__(self) -> None:
        self.by_method: dict[bytes, _Entry[T]] = {}
        self.every: _Entry[T] | None = None
        self.first: _Entry[T] | None = None

    def add(self, methods: frozenset[bytes] | None, entry: _Entry[T]) -> None:
        self.first = self.first or entry
        if methods is None:
            self.every = entry
            return
        for method in methods:
            self.by_method[method] = entry

    def imply_head(self) -> None:
        if b"GET" in self.by_method:
            self.by_method.setdefault(b"HEAD", self.by_method[b"GET"])


class _Node(Generic[T]):
    __slots__ = ("end", "literals", "name", "rest")

    def __init__(self) -> None:
        self.literals: dict[bytes, _Node[T]] = {}
        self.name: _Node[T] | None = None
        self.rest: _Leaf[T] | None = None
        self.end: _Leaf[T] | None = None


Row = tuple[Pattern, frozenset[bytes] | None, T]


class RouteTable(Generic[T]):
    """Built once, then only read. Rows are (pattern, methods or None for all, value).

    Args:
        strict: refuse a path that other servers read as one of another route.
        own: tells which values relay answers by itself: no other server ever reads their paths.

    Raises: ValueError when two rows tie (`find_ties` tells which).
    """

    __slots__ = ("_depth", "_literals", "_methods", "_own", "_root", "_strict")

    def __init__(
        self,
        rows: Iterable[Row[T]],
        *,
        strict: bool = False,
        own: Callable[[T], bool] = lambda value: False,
    ) -> None:
        rows = list(rows)
        self._own = own
        self._strict = strict and len(rows) > 1  # one route has no other
        self._depth = max((len(pattern.segments) for pattern, _, _ in rows), default=0)
        for first, second in find_ties([(pattern, methods) for pattern, methods, _ in rows]):
            raise ValueError(
                f"routes {first} and {second} tie: {rows[first][0]}, {rows[second][0]}"
            )
        self._root: _Node[T] = _Node()
        self._literals: dict[bytes, _Leaf[T]] = {}
        leaves = []
        for pattern, methods, value in rows:
            leaf = self._leaf(pattern)
            leaf.add(methods, _Entry(pattern, value))
            leaves.append(leaf)
            # A literal with an escape is found by the walk alone, which compares decoded segments;
            # one that may be read in another way too, since what is found here needs no second look.
            text = pattern.text.encode()
            if not pattern.parameters and b"%" not in text and not has_other_readings(text):
                self._literals[text] = leaf
        for leaf in leaves:
            leaf.imply_head()
        takes_all = any(leaf.every is not None for leaf in leaves)
        self._methods = _methods_of(leaves, takes_all=takes_all)

    def find(
        self, method: bytes, path: bytes
    ) -> Found[T] | NotFound | MethodNotAllowed | Ambiguous:
        """The route for a request. `path` is the raw path of its target, without the query."""
        leaf = self._literals.get(path)
        if leaf is not None:
            entry = leaf.by_method.get(method) or leaf.every
            if entry is not None:
                return Found(entry.value, {})
        segments = path[1:].split(b"/")
        found = self._by_keys(method, _keys(path, segments), segments)
        if self._strict and has_other_readings(path) and self._is_ambiguous(method, path, found):
            return AMBIGUOUS
        return found

    def _by_keys(
        self, method: bytes, keys: list[bytes] | None, segments: list[bytes]
    ) -> Found[T] | NotFound | MethodNotAllowed:
        if keys is None:
            return NOT_FOUND
        passed: list[_Leaf[T]] = []
        entry = _walk(self._root, keys, method, passed)
        if entry is not None:
            return entry.found(segments)
        if not passed:
            return NOT_FOUND
        return MethodNotAllowed(_methods_of(passed, takes_all=False))

    def _is_ambiguous(
        self, method: bytes, path: bytes, found: Found[T] | NotFound | MethodNotAllowed
    ) -> bool:
        """Whether any other reading of the path finds a route that `found` has not.

        A reading that finds no route does no harm: `/files/a%2Fb` is one segment of
        `/files/{name}`, whatever else `/files/a/b` might be.
        """
        if isinstance(found, Found) and self._own(found.value):
            return False
        here = found.value if isinstance(found, Found) else type(found)
        try:
            others = other_readings(path, self._depth + 1)
        except Unreadable:
            return True
        for reading in others:
            # Behind `depth` segments it only counts that there are more.
            segments = reading.path[1:].split(b"/", self._depth)
            decoded = [decode(segment) for segment in segments]
            # As relay reads, which decodes each segment; and as it stands, where it was decoded.
            for keys in (decoded, segments) if reading.decodes else (decoded,):
                there = self._by_keys(method, keys, segments)
                if isinstance(there, NotFound):
                    continue
                if (there.value if isinstance(there, Found) else type(there)) is not here:
                    return True
        return False

    def find_path(self, path: bytes) -> Found[T] | NotFound:
        """The most specific route for a path whatever its methods: for a preflight."""
        segments = path[1:].split(b"/")
        keys = _keys(path, segments)
        entry = None if keys is None else _walk(self._root, keys, None, [])
        return NOT_FOUND if entry is None else entry.found(segments)

    def allowed(self, path: bytes) -> tuple[bytes, ...]:
        """The methods that some route of this path takes, sorted; () where it has no route."""
        segments = path[1:].split(b"/")
        keys = _keys(path, segments)
        if keys is None:
            return ()
        passed: list[_Leaf[T]] = []
        takes_all = _walk(self._root, keys, b"", passed) is not None  # b"" is no method's name
        return _methods_of(passed, takes_all=takes_all)

    def methods(self) -> tuple[bytes, ...]:
        """The methods that some route takes, sorted."""
        return self._methods

    def _leaf(self, pattern: Pattern) -> _Leaf[T]:
        node = self._root
        for segment in pattern.segments:
            if segment.kind is Kind.REST:
                node.rest = node.rest or _Leaf()
                return node.rest
            if segment.kind is Kind.NAME:
                node.name = node.name or _Node()
                node = node.name
            else:
                node = node.literals.setdefault(segment.text, _Node())
        node.end = node.end or _Leaf()
        return node.end


def _methods_of(leaves: Iterable[_Leaf[T]], *, takes_all: bool) -> tuple[bytes, ...]:
    methods = {method for leaf in leaves for method in leaf.by_method}
    if takes_all:
        methods.update(STANDARD_METHODS)
    return tuple(sorted(methods))


def find_ties(rows: Sequence[tuple[Pattern, frozenset[bytes] | None]]) -> list[tuple[int, int]]:
    """The pairs (index, later index) of rows that match the same paths with a method in common."""
    shapes: dict[object, list[int]] = {}
    ties = []
    for index, (pattern, methods) in enumerate(rows):
        same = shapes.setdefault(pattern.segments, [])
        for other in same:
            others = rows[other][1]
            if methods is None or others is None or methods & others:
                ties.append((other, index))
                break
        same.append(index)
    return ties


def _keys(path: bytes, segments: list[bytes]) -> list[bytes] | None:
    """The segments as they are compared, or None for a path that matches nothing."""
    if b"%" in path:
        segments = [decode(segment) for segment in segments]
    elif b"/." not in path:
        return segments if path.startswith(b"/") else None
    if not path.startswith(b"/") or any(segment in _DOTS for segment in segments):
        return None
    return segments


def _walk(
    root: _Node[T], keys: list[bytes], method: bytes | None, passed: list[_Leaf[T]]
) -> _Entry[T] | None:
    """Depth first, the most specific child first; a leaf that lacks the method goes to `passed`.

    A loop with the ways not yet taken on a list, because it runs once per request: half the time
    of the same thing written as a recursion.
    """
    later: list[tuple[_Node[T] | _Leaf[T], int]] = []
    node, index, count = root, 0, len(keys)
    while True:
        if index < count:
            key = keys[index]
            child = node.literals.get(key)
            name = node.name if key else None
            if child is not None or name is not None:
                if node.rest is not None:
                    later.append((node.rest, 0))
                if child is not None and name is not None:
                    later.append((name, index + 1))
                node = child or name  # type: ignore[assignment]  # one of them is a node
                index += 1
                continue
            leaf = node.rest
        else:
            leaf = node.end
        while True:
            if leaf is not None:
                entry = _take(leaf, method, passed)
                if entry is not None:
                    return entry
            if not later:
                return None
            way, index = later.pop()
            if isinstance(way, _Node):
                node = way
                break
            leaf = way


def _take(leaf: _Leaf[T], method: bytes | None, passed: list[_Leaf[T]]) -> _Entry[T] | None:
    if method is None:
        return leaf.first
    entry = leaf.by_method.get(method) or leaf.every
    if entry is None:
        passed.append(leaf)
    return entry
