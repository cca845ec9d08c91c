"""What is shipped beside the package: every relay.toml is one that relay takes, the units say what
relay does, the completions complete."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from configparser import RawConfigParser
from pathlib import Path

import pytest

from relay.config import load, loads
from relay.config.values import Timeouts
from tests.interop.processes import ROOT

CONFIGS = sorted(
    path
    for folder in ("packaging", "examples", "relay/demo")
    for path in (ROOT / folder).rglob("relay*.toml")
)
# What the files take from the environment.
ENVIRONMENT = {
    "LISTEN": "127.0.0.1:0",
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
    # The worker is killed `drain` + 5 s after the signal at the latest (supervisor._GRACE).
    assert int(service["Service"]["TimeoutStopSec"]) > config.timeouts.drain + 5
    assert service["Unit"]["Requires"] == "relay.socket"


def test_the_default_drain_fits_the_customary_wait() -> None:
    """Kubernetes, podman and systemd wait 30 to 90 s by default; the files say 40."""
    assert Timeouts().drain < 40


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
        (["relay", ""], {"forward", "serve", "check", "demo", "completion", "--version", "--help"}),
        (["relay", "forward", "--l"], {"--listen"}),
        (["relay", "check", ""], {"--help", "a.toml", "folder"}),
        (["relay", "completion", ""], {"bash", "zsh", "fish", "--help"}),
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
