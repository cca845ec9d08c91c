"""Users who still have trio-typing installed must be able to type-check code that imports relay.

`python3 tests/downstream/check.py`: mypy --strict on user.py, in environments of their own.

trio-typing 0.10 brings `trio-stubs`, which shadow Trio's own types wherever it is installed, and a
mypy plugin that crashes on mypy 1.11 and later. So it must never be in the environment relay is
developed in, and what its users see is checked beside it: once with the plugin and the last mypy
that takes it, once with the stubs alone and a current mypy.

The environments are made in build/downstream and kept until pyproject.toml or this file changes;
relay's own files are copied afresh each time, as a wheel would install them. Exit code: 0 where all
is well, 1 where mypy complains.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tomllib
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "downstream"

USERS = {  # name: what is installed beside relay, and the plugins in mypy's configuration
    "plugin": (["trio-typing==0.10.0", "mypy==1.10.1"], "trio_typing.plugin"),
    "stubs": (["trio-typing==0.10.0", "mypy>=1.18"], ""),
}


def main() -> int:
    pyproject = (ROOT / "pyproject.toml").read_bytes()
    dependencies = tomllib.loads(pyproject.decode())["project"]["dependencies"]
    stamp = hashlib.sha256(pyproject + Path(__file__).read_bytes() + sys.version.encode())

    def check(name: str) -> bool:
        packages, plugins = USERS[name]
        return passes(name, [*dependencies, *packages], plugins, stamp.hexdigest())

    with ThreadPoolExecutor() as pool:  # most of it is the waiting for packages
        failed = [
            name for name, well in zip(USERS, pool.map(check, USERS), strict=True) if not well
        ]
    for name in failed:
        print(f"downstream check failed: {name}", file=sys.stderr)
    return 1 if failed else 0


def passes(name: str, packages: list[str], plugins: str, stamp: str) -> bool:
    """Whether mypy has nothing to say about user.py in this environment."""
    folder = BUILD / name
    python = environment(folder, packages, stamp)
    library = next((folder / "lib").glob("python3.*")) / "site-packages"
    shutil.rmtree(library / "relay", ignore_errors=True)
    without = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "relay", library / "relay", ignore=without)
    (folder / "mypy.ini").write_text(f"[mypy]\nstrict = true\nplugins = {plugins}\n")
    shutil.copy(HERE / "user.py", folder / "user.py")
    command = [str(python), "-m", "mypy", "--config-file", "mypy.ini", "user.py"]
    return subprocess.run(command, cwd=folder, check=False).returncode == 0


def environment(folder: Path, packages: list[str], stamp: str) -> Path:
    """The interpreter of an environment with these packages, made only where it is not there."""
    python = folder / "bin" / "python"
    made = folder / "stamp"
    if not made.exists() or made.read_text() != stamp:
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        install = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        subprocess.run([*install, *packages], check=True)
        made.write_text(stamp)
    return python


if __name__ == "__main__":
    sys.exit(main())
