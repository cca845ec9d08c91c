"""curl as a client: one call, and what it says it got."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.interop.processes import require

LIMIT = 60  # seconds for one curl: two busy cores and 50 MB
FACTS = "%{http_code} %{http_version} %{num_connects} %{size_upload} %{exitcode}\n"
FROM_STDIN = "."  # `-T .`: stdin, sent while the answer is read


@dataclass(frozen=True, slots=True)
class Answer:
    """What one transfer of curl brought."""

    status: int  # of the last head
    version: str  # "1.1", "1", or "0" where there was no answer
    connections: int  # opened for this transfer; 0: an earlier one was used
    uploaded: int  # bytes of the body that curl sent
    exit: int  # 0: whole; 18: a body cut short; 52: no answer; 28: too late
    heads: tuple[str, ...]  # every head, 1xx ones too
    body: bytes
    talk: str  # `-v`: what went over the wire besides bodies

    def field(self, name: str) -> list[str]:
        """Every value of a field of the last head."""
        pairs = [line.partition(":") for line in self.heads[-1].splitlines()[1:]]
        return [value.strip() for field, _, value in pairs if field.lower() == name.lower()]

    def asked(self, name: str) -> list[str]:
        """Every value of a field that curl sent."""
        pairs = [line[2:].partition(":") for line in self.talk.splitlines() if line[:2] == "> "]
        return [value.strip() for field, _, value in pairs if field.lower() == name.lower()]


def curl(folder: Path, url: str, *options: str, stdin: bytes = b"") -> Answer:
    """One transfer, with any options; files for its heads and body are made in `folder`."""
    [answer] = curl_several(folder, [url], *options, stdin=stdin)
    return answer


def curl_several(
    folder: Path, urls: Sequence[str], *options: str, stdin: bytes = b""
) -> list[Answer]:
    """Several transfers by one curl, one after the other, so that it may keep its connection."""
    command = [require("curl"), "--no-progress-meter", "--verbose", "--max-time", str(LIMIT)]
    for number, url in enumerate(urls):
        if number:
            command.append("--next")
        for kind in ("heads", "body"):
            (folder / f"{kind}-{number}").write_bytes(b"")
        heads, body = (str(folder / f"{kind}-{number}") for kind in ("heads", "body"))
        command += ["-D", heads, "-o", body, "-w", FACTS, *options, url]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=LIMIT + 5, check=False)
    talk = done.stderr.decode("utf-8", "replace")
    facts = done.stdout.decode().splitlines()
    assert len(facts) == len(urls), talk
    answers = []
    for number, line in enumerate(facts):
        status, version, connections, uploaded, code = line.split()
        told = (folder / f"heads-{number}").read_bytes().decode("latin-1")
        answers.append(
            Answer(
                int(status),
                version,
                int(connections),
                int(uploaded),
                int(code),
                tuple(head for head in told.split("\r\n\r\n") if head),
                (folder / f"body-{number}").read_bytes(),
                talk,
            )
        )
    return answers
