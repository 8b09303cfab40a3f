"""``thetaprime new``."""

import importlib.resources
import importlib.util
import keyword
import re
import shlex
import sys
import unicodedata
from pathlib import Path
from typing import Final

import click

from thetaprime.cli._command import Command, option
from thetaprime.cli._files import NewFile, force_option, require_new_file
from thetaprime.cli._output import json_option, print_json

_TEMPLATES: Final = f"{__package__}._templates"
_MODULE, _CLASS = "my_tasks", "MyTasks"
"""The names of the module and the class in the templates."""
_KINDS: Final = {
    "gymnasium": {"{}.py": "gymnasium_tasks.py"},
    "mujoco": {"{}.py": "mujoco_tasks.py"},
    "process": {"{}.py": "process_tasks.py", "{}_simulator.py": "process_tasks_simulator.py"},
}
"""The files of each kind: their names, and their templates'."""
_TEST: Final = '''"""The contract test of {class_name}: run it with pytest after each change."""

from thetaprime.training import check_task_distribution

from {module} import {class_name}


def test_the_tasks_meet_the_contract() -> None:
    """Plays episodes of three tasks: spaces, horizon, and that episodes repeat."""
    check_task_distribution({class_name}())
'''


@click.command(
    cls=Command,
    examples=(
        "thetaprime new my_tasks.py",
        "thetaprime new my_robot.py --kind mujoco",
        "thetaprime new my_simulator.py --kind process --force",
    ),
)
@click.argument("file", type=NewFile(("py",)))
@option(
    "--kind",
    type=click.Choice(list(_KINDS)),
    default="gymnasium",
    show_default=True,
    help="gymnasium: an environment that make makes and set_task gives another task. mujoco: bodies of one MuJoCo "
    "model, stepped side by side. process: a simulator in another process, with an example of one in a file beside it.",
)
@force_option
@json_option
def command(file: Path, kind: str, force: bool, as_json: bool) -> None:
    """Write FILE, a class of tasks to change into yours, and its test, test_FILE.

    FILE is a Python module, such as my_tasks.py; its class is then MyTasks. Both files run as they are: the test
    passes, and the class can be trained. The comments say what to replace.

    `thetaprime build` then leads from the class to a policy to serve.
    """
    name = file.stem
    if problem := _problem_of_name(name, file.parent):
        raise click.BadParameter(problem, param_hint="FILE")
    texts = {file.with_name(made.format(name)): _read(template) for made, template in _KINDS[kind].items()}
    class_name = _class_name(name, taken="\n".join(texts.values()))
    module = ".".join((*_packages(file.parent), name))
    written = {path: _renamed(text, name, class_name) for path, text in texts.items()}
    test = file.with_name(f"test_{file.name}")
    written[test] = _TEST.format(module=module, class_name=class_name)
    for path in written:
        require_new_file(path, "FILE", force=force, parents=False)
    for path, text in written.items():
        path.write_text(text, encoding="utf-8")

    tasks = f"{module}:{class_name}"
    lines = [
        f"wrote {', '.join(str(path) for path in written)}",
        f"test the class with: python -m pytest {shlex.quote(str(test))}",
        f"train it with: thetaprime build {tasks} --minutes 60 --name {_artifact_name(name)}",
    ]
    click.echo("\n".join(lines), err=as_json)
    if as_json:
        print_json({"files": [str(path) for path in written], "tasks": tasks, "kind": kind})


def _problem_of_name(name: str, folder: Path) -> str:
    """Says why a module cannot have a name; empty where it can."""
    if not name.isidentifier() or keyword.iskeyword(name):
        proposed = re.sub(r"\W", "_", name)
        proposed = f"tasks_{proposed}" if keyword.iskeyword(proposed) or not proposed.isidentifier() else proposed
        return f"{name!r} is not the name of a Python module; expected letters, digits and _, such as {proposed}.py"
    if not _camel(name).isidentifier():
        return f"{name!r} gives no name of a class; expected a word, such as my_tasks.py"
    if name in sys.stdlib_module_names or (not _packages(folder) and _installed(name)):
        return f"{name!r} is the name of a module that Python finds elsewhere; choose another, such as {name}_tasks.py"
    return ""


def _installed(name: str) -> bool:
    """Whether an installed package has the name."""
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    if found is None:
        return False
    places = [found.origin] if found.origin else list(found.submodule_search_locations or ())
    return any({"site-packages", "dist-packages"} & set(Path(each).parts) for each in places) or name == "thetaprime"


def _packages(folder: Path) -> list[str]:
    """The packages that a folder lies in, outermost first; empty outside of packages."""
    found: list[str] = []
    while (folder / "__init__.py").is_file():
        folder = folder.absolute()
        found.insert(0, folder.name)
        folder = folder.parent
    return found


def _camel(name: str) -> str:
    return "".join(word[:1].upper() + word[1:] for word in name.split("_"))


def _class_name(name: str, taken: str) -> str:
    """The class of a module, ``MyTasks`` of ``my_tasks``. A name that the file uses otherwise gets an ending."""
    words = set(re.findall(r"\w+", taken)) - {_CLASS}
    found = _camel(name)
    while found in words or keyword.iskeyword(found):
        found += "Family"
    return found


def _artifact_name(module: str) -> str:
    """A name for a meta-policy, ``my-tasks`` of ``my_tasks``."""
    plain = unicodedata.normalize("NFKD", module.lower()).encode("ascii", "ignore").decode()
    return "-".join(re.findall(r"[a-z0-9]+", plain)) or "my-robot"


def _read(template: str) -> str:
    return (importlib.resources.files(_TEMPLATES) / template).read_text(encoding="utf-8")


def _renamed(text: str, module: str, class_name: str) -> str:
    return re.sub(rf"\b{_MODULE}(?=\b|_simulator)", module, re.sub(rf"\b{_CLASS}\b", class_name, text))
