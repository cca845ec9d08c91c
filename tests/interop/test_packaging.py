"""What is shipped beside the package: every relay.toml is one that relay takes, the units say what
relay does, the completions complete."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from configparser import RawConfigParser
from pathlib import Path

import pytest

from relay.config import load, loads
from relay.config.values import Timeouts
from relay.processes.supervisor import EXIT_GRACE
from relay.terminators import SOCKET, Wanted
from relay.terminators import terminator as terminator_file
from tests.interop.processes import ROOT, Server, free_port, require, start
from tests.interop.test_terminators import relays_half

CONFIGS = sorted(
    path
    for folder in ("packaging", "examples", "relay/demo")
    for path in (ROOT / folder).rglob("relay*.toml")
)
# What the files take from the environment.
ENVIRONMENT = {
    "LISTEN": "127.0.0.1:0",
    "SHARED_LISTEN": "127.0.0.1:8002",
    "APP_ORIGIN": "https://app.example",
    "BUFFERING_PORT": "8001",
}
UNITS = ROOT / "packaging" / "systemd"


def environment_of(path: Path) -> dict[str, str]:
    names = re.findall(r"\$\{(\w+)\}", path.read_text())
    urls = {name: "http://127.0.0.1:9000" for name in names if name.endswith("_URL")}
    return dict.fromkeys(names, "x") | urls | ENVIRONMENT


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "relay", *arguments]
    return subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=30, env=environment, cwd=ROOT
    )


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relay_check_takes_every_file(path: Path) -> None:
    done = run("check", str(path), **environment_of(path))
    assert done.returncode == 0, done.stderr
    assert "METHODS" in done.stdout
    assert done.stderr == ""


def test_there_are_some() -> None:
    assert len(CONFIGS) >= 9


def unit(name: str) -> RawConfigParser:
    parser = RawConfigParser(strict=False, comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNITS / name)
    return parser


def test_the_units_agree_with_the_file() -> None:
    service, sockets = unit("relay.service"), unit("relay.socket")
    config = load(UNITS / "relay.toml", {})
    assert [str(each) for each in config.server.listen] == [
        f"fd:{sockets['Socket']['FileDescriptorName']}"
    ]
    assert service["Service"]["Type"] == "notify"
    assert service["Service"]["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert int(service["Service"]["TimeoutStopSec"]) > config.timeouts.drain + EXIT_GRACE
    assert service["Unit"]["Requires"] == "relay.socket"


def test_the_default_drain_fits_the_customary_wait() -> None:
    """Kubernetes, podman and systemd wait 10 to 90 s by default; the files say 45."""
    assert Timeouts().drain + EXIT_GRACE < 45


@pytest.mark.parametrize("name", ["relay.service", "relay.socket"])
def test_systemd_finds_nothing_wrong(name: str, tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    for path in UNITS.glob("relay.s*"):
        (tmp_path / path.name).write_text(
            path.read_text().replace("/opt/relay/bin/relay", "/bin/true")
        )
    done = subprocess.run(
        [program, "verify", "--man=no", str(tmp_path / name)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""


# -- the unix socket between a terminator and the service ---------------------------------------------


def with_unix_socket(text: str) -> str:
    """relay.socket as its comment says for a terminator on the machine."""
    text = text.replace("\nListenStream=127.0.0.1:8000\n", "\n")
    changed = re.sub(r"^#(?=ListenStream=|SocketGroup=|SocketMode=)", "", text, flags=re.MULTILINE)
    assert changed.count("\nListenStream=") == 1
    return changed


def test_systemd_takes_the_unix_socket_too(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    service = (UNITS / "relay.service").read_text().replace("/opt/relay/bin/relay", "/bin/true")
    (tmp_path / "relay.service").write_text(service)
    sockets = with_unix_socket((UNITS / "relay.socket").read_text())
    (tmp_path / "relay.socket").write_text(sockets)
    command = [program, "verify", "--man=no", str(tmp_path / "relay.socket")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.stderr == ""


def test_the_service_does_not_remove_the_sockets_folder() -> None:
    """A RuntimeDirectory is given to the service's user and removed with it."""
    sockets = RawConfigParser(strict=False, comment_prefixes=("#",))
    sockets.optionxform = str  # type: ignore[assignment,method-assign]
    sockets.read_string(with_unix_socket((UNITS / "relay.socket").read_text()))
    folder = Path(sockets["Socket"]["ListenStream"]).parent
    service = unit("relay.service")["Service"]
    assert service["DynamicUser"] == "yes"
    for name in service["RuntimeDirectory"].split():
        assert Path("/run") / name not in (folder, *folder.parents)
    assert f"unix:{folder / 'relay.sock'}" == SOCKET


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a socket for another group")
@pytest.mark.parametrize("half", ["of the terminator", "of the service"])
def test_the_terminators_group_reaches_a_service_without_a_group(half: str) -> None:
    """1. systemd makes the socket with SocketGroup and SocketMode of relay.socket. 2. The service is a
    user of no group that the terminator knows, and may not touch the file. 3. The terminator's user,
    of that group, is served; others are not let in. 4. When the service has ended the socket is
    still there for its successor."""
    text = with_unix_socket((UNITS / "relay.socket").read_text())
    mode = int(re.search(r"^SocketMode=(\d+)$", text, re.MULTILINE)[1], 8)  # type: ignore[index]
    group, owner, terminator, stranger = 33, 61_184, 33, 65_534  # www-data; nobody
    with tempfile.TemporaryDirectory(prefix="relay-unit-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        path = folder / "relay.sock"
        if half == "of the terminator":
            config = relays_half(terminator_file("nginx", Wanted(("app.example",))))
        else:
            config = (UNITS / "relay.toml").read_text()
        config = config.replace("/run/relay/relay.sock", str(path)).replace("127.0.0.1:9900", "off")
        config = re.sub(r"# (trusted_proxies = ).*", r'\1["unix"]', config)
        config += '\n[[routes]]\npath = "/here"\nsource = "local"\n[routes.local]\nbody = "x"\n'
        (folder / "relay.toml").write_text(config)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
            os.chown(path, owner, group)
            os.chown(folder, owner, owner)
            path.chmod(mode)
            listening.listen(64)
            start = f"exec env LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=web {sys.executable}"
            start += f" -m relay serve {folder}/relay.toml 3<&{listening.fileno()}"
            # Root without capabilities is a stranger to the file, and still reaches this Python.
            command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--clear-groups"]
            server = Server([*command, "bash", "-c", start], pass_fds=(listening.fileno(),))
            try:
                server.wait_for_line(f"relay: listening on unix:{path}")
                assert asked(path, terminator, group) == "x"
                assert "Permission denied" in asked(path, stranger, stranger)
                assert asked(path, stranger, group) == "x"
            finally:
                code = server.stop()
            assert code == 0, server.stderr.text
            assert stat.S_IMODE(path.stat().st_mode) == mode
            assert path.stat().st_gid == group


def asked(path: Path, user: int, group: int) -> str:
    """What a process of this user and group gets through the socket."""
    command = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"]
    command += [require("curl"), "-sS", "--unix-socket", str(path), "http://a/here"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout or os.strerror(errno.EACCES) * ("(7)" in done.stderr)


# -- the image -------------------------------------------------------------------------------------

CONTAINERFILE = ROOT / "packaging" / "container" / "Containerfile"


def steps() -> Iterator[tuple[str, str]]:
    """The instructions of the Containerfile and what they say."""
    text = re.sub(r"^#.*\n", "", CONTAINERFILE.read_text(), flags=re.MULTILINE)
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip():
            instruction, _, rest = line.partition(" ")
            yield instruction, rest


@pytest.mark.slow
def test_the_steps_of_the_image(tmp_path: Path) -> None:
    """Each is done in a folder in place of `/`: what is copied is all that the build has."""
    root, here, told = tmp_path / "root", Path("/"), {}
    context = tmp_path / "context"  # the checkout, without what is not of it
    ignored = shutil.ignore_patterns(".*", "__pycache__", "node_modules", "*.egg-info")
    shutil.copytree(ROOT, context, ignore=ignored)

    def inside(path: str) -> Path:
        return root / (here / path).relative_to("/")

    for instruction, rest in steps():
        if instruction == "FROM":
            assert re.fullmatch(r"docker\.io/library/python:3\.\d+-slim(?: AS build)?", rest)
        elif instruction == "WORKDIR":
            here = here / rest
            inside(".").mkdir(parents=True)
        elif instruction == "COPY" and rest.startswith("--from=build "):
            _, source, target = rest.split()
            assert source == target  # stages share the folder
        elif instruction == "COPY":
            *sources, target = rest.split()
            for source in sources:
                copy(context / source, inside(target), into=target.endswith("/"))
        elif instruction == "RUN":
            line = rest.replace("python -m venv", f"{sys.executable} -m venv")
            line = line.replace("/opt/relay", str(inside("/opt/relay")))
            subprocess.run(["sh", "-ec", line], cwd=inside("."), check=True, timeout=600)
        else:
            told[instruction] = rest
    assert set(told) == {"ENV", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
    command = [*json.loads(told["ENTRYPOINT"]), *json.loads(told["CMD"])]
    config = inside(command[-1])
    port, admin = free_port(), free_port()
    text = config.read_text()
    assert f":{told['EXPOSE']}" in text
    text = text.replace(told["EXPOSE"], str(port)).replace("0.0.0.0", "127.0.0.1")
    config.write_text(text.replace("9900", str(admin)))
    binary = inside("/opt/relay/bin")
    assert f"PATH={'/opt/relay/bin'}:$PATH" in told["ENV"]
    command = [str(binary / command[0]), *command[1:-1], str(config)]
    probe = json.loads(told["HEALTHCHECK"].partition("CMD ")[2])
    probe = [str(binary / probe[0]), *(part.replace("9900", str(admin)) for part in probe[1:])]
    with start(command, cwd=tmp_path, says="relay: listening on ") as server:
        subprocess.run(probe, check=True, timeout=30, capture_output=True)
        found = subprocess.run(
            [binary / "python", "-c", "import relay.demo; print(relay.demo.__file__)"],
            cwd=tmp_path, check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        assert found.startswith(str(root))
        assert (Path(found).parent / "systems" / "ask" / "backend.py").exists()
        server.signal(getattr(signal, told["STOPSIGNAL"]))
        assert server.process.wait(30) == 0


def copy(source: Path, target: Path, *, into: bool) -> None:
    """As COPY does: the content of a folder, or a file."""
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
        return
    (target if into else target.parent).mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


# -- completion ------------------------------------------------------------------------------------

COMPLETE = """
source /dev/stdin <<'SCRIPT'
{script}
SCRIPT
COMP_WORDS=({words}); COMP_CWORD={at}; _relay; printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["relay", "ser"], {"serve"}),
        (
            ["relay", ""],
            {
                "forward",
                "serve",
                "check",
                "demo",
                "terminator",
                "completion",
                "--version",
                "--help",
            },
        ),
        (["relay", "forward", "--l"], {"--listen"}),
        (
            ["relay", "check", ""],
            {"--help", "--listen", "--admin", "--set", "a.toml", "folder"},
        ),
        (["relay", "completion", ""], {"bash", "zsh", "fish", "--help"}),
        (["relay", "terminator", "ha"], {"haproxy", "haproxy-tcp"}),
        (["relay", "nonsense", ""], set()),
    ],
)
def test_bash_completes(words: list[str], offered: set[str], tmp_path: Path) -> None:
    (tmp_path / "a.toml").touch()
    (tmp_path / "b.txt").touch()
    (tmp_path / "folder").mkdir()
    script = run("completion", "bash").stdout
    quoted = " ".join(f"'{word}'" for word in words)
    text = COMPLETE.format(script=script, words=quoted, at=len(words) - 1)
    done = subprocess.run(
        ["bash", "-c", text], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stderr == ""
    assert set(done.stdout.split()) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_command_is_in_the_script_and_the_shell_takes_it(shell: str) -> None:
    done = run("completion", shell)
    assert done.returncode == 0
    for command in ("forward", "serve", "check", "demo", "completion"):
        assert command in done.stdout
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=done.stdout, check=True, text=True)


def test_another_shell_is_a_mistake() -> None:
    assert run("completion", "tcsh").returncode == 2


def test_the_harden_guide_shows_a_file_that_relay_takes() -> None:
    page = (ROOT / "docs" / "how-to" / "harden.md").read_text()
    blocks = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert blocks
    for block in blocks:
        loads(block + '\n[[routes]]\npath = "/"\nsource = "local"\n', {})
