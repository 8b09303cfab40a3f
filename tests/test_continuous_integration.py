"""`.ci/run` installs the programs that tests need, and allows no skip."""

import shutil
import subprocess
from pathlib import Path

import pytest

_RUN = Path(__file__).parents[1] / ".ci" / "run"
_KEPT = ("bash", "cat", "chmod", "dirname", "grep", "sed")
_MAKE = 'echo "make $* with $THETAPRIME_NO_SKIPS"'
_NODE = "echo v22.1.0"
_LDCONFIG = "echo 'libEGL.so.1 (libc6,x86-64) => /lib/libEGL.so.1'"


class Machine:
    """A machine of stub programs.

    Args:
        folder: of its programs.
        user: the number of its user.
    """

    def __init__(self, folder: Path, user: int) -> None:
        self.folder = folder
        for name in _KEPT:
            program = shutil.which(name)
            assert program is not None
            (folder / name).symlink_to(program)
        self.add("id", f"echo {user}")
        self.add("make", _MAKE)
        self.add("openssl", "")
        self.add("ldconfig", _LDCONFIG)

    def add(self, name: str, body: str) -> None:
        """Adds a program that runs these lines."""
        path = self.folder / name
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)

    def run(self) -> "subprocess.CompletedProcess[str]":
        """Runs continuous integration with these programs alone."""
        return subprocess.run(
            [str(_RUN)], env={"PATH": str(self.folder)}, capture_output=True, text=True, check=False, timeout=60
        )


@pytest.fixture
def root(tmp_path: Path) -> Machine:
    return Machine(tmp_path, user=0)


def test_a_machine_that_has_everything_installs_nothing(root: Machine) -> None:
    root.add("google-chrome", "")
    root.add("node", _NODE)
    root.add("npm", "")
    root.add("apt-get", "echo apt-get was called; exit 1")
    done = root.run()
    assert (done.returncode, done.stdout) == (0, "make test with 1\n"), done.stderr


def test_root_installs_what_is_missing(root: Machine) -> None:
    programs = "".join(
        f"echo '#!/bin/bash\n{body}' > {root.folder / name}; chmod +x {root.folder / name}; "
        for name, body in {"chromium": "", "node": _NODE, "npm": ""}.items()
    )
    root.add("apt-get", f'echo "$*"; [[ "$*" != *install* ]] || {{ {programs} }}')
    done = root.run()
    assert done.returncode == 0, done.stderr
    update, install, make = done.stdout.splitlines()
    assert update.endswith("update")
    assert install.endswith("chromium nodejs npm")
    assert make == "make test with 1"


def test_a_node_of_the_distribution_that_is_too_old_is_replaced(root: Machine) -> None:
    root.add("chromium", "")
    root.add("node", "echo v18.20.4")
    root.add("npm", f"echo '#!/bin/bash\n{_NODE}' > {root.folder / 'node'}; echo npm \"$*\"")
    root.add("apt-get", ":")
    done = root.run()
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["npm install --global --no-fund --no-audit node@22", "make test with 1"]


@pytest.mark.parametrize("user", [0, 1000])
def test_programs_that_stay_missing_are_named(tmp_path: Path, user: int) -> None:
    machine = Machine(tmp_path, user)
    machine.add("node", _NODE)
    machine.add("npm", "")
    machine.add("ldconfig", "")
    machine.add("apt-get", ":")
    done = machine.run()
    assert done.returncode == 1
    assert done.stdout == ""
    assert "chromium libegl1 libegl-mesa0 libgl1-mesa-dri" in done.stderr


def test_a_failure_of_the_tests_is_one_of_the_run(root: Machine) -> None:
    for name in ("chromium", "npm"):
        root.add(name, "")
    root.add("node", _NODE)
    root.add("make", "exit 2")
    assert root.run().returncode == 2
