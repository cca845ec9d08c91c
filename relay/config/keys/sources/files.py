"""source = "files": a folder, served by relay itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from relay.config.keys.route_reading import RouteReading, SourceKind
from relay.config.reading import kinds
from relay.config.reading.schema import REQUIRED, Key, Table
from relay.config.values import Source
from relay.config.values.filled import made_of, value_of


@dataclass(frozen=True, slots=True)
class Files(Source):
    """source = "files": what is below a folder."""

    name: ClassVar = "files"

    directory: str  # `index.html` for a folder in it

    def lines(self) -> list[str]:
        return [f"files {self.directory}"]


def _read(route: RouteReading) -> Files | None:
    values = route.table("files", "files")
    if values is None:
        return None
    given = values["directory"]
    directory = route.known.base / value_of(given)
    if not directory.is_dir():
        route.mistake(("files", "directory"), "is not a folder")
        return None
    return Files(made_of(given, str(directory)))


FILES: Final = Table(
    (
        Key(
            "directory",
            kinds.STRING,
            REQUIRED,
            "Folder that is served, from beside the file; `index.html` for a folder. The rest "
            "pattern of the route names the file; without one, `index.html` is served.",
            "For a page or two: a real site belongs on a file server.",
        ),
    )
)
SOURCE: Final = SourceKind(
    Files,
    (Key("files", FILES, "", "For `files`."),),
    _read,
    brings_events=False,
    sections=(("[routes.files]", FILES, 'For `source = "files"`: files of a folder.'),),
)
