"""Runs the code blocks of a page from top to bottom, in a temporary folder."""

import ast
import asyncio
import contextlib
import inspect
import io
import json
import os
import re
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.docs.blocks import Block
from tests.docs.output import check_output
from tests.docs.shell import Shell

# Addresses of servers in the pages; the server of the tests listens on another.
_ADDRESSES: Final = re.compile(r"(?:localhost|theta\.example\.org|policies\.example\.org):(?:50051|443)")


class Reader:
    """Runs code blocks in order. Each block sees the names and files of the blocks before it.

    Args:
        folder: the working directory.
        address: returns the address of a server with the shipped meta-policies, for pages that do not start one.
        names: returns the names that the page assumes. Called for each Python block, because a block may use them up.
        toml: functions that read the page's TOML blocks, in order.
        monkeypatch: sets environment variables for the page.
    """

    def __init__(
        self,
        folder: Path,
        address: Callable[[], str],
        names: Callable[[Callable[[], str]], Mapping[str, Any]],
        toml: list[Callable[[Path], object]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        self._folder = folder
        self._shell = Shell(folder, address, monkeypatch)
        self._names, self._toml = names, list(toml)
        self._namespace: dict[str, Any] = {"__name__": "page"}
        self._output = ""
        self._given = contextlib.ExitStack()

    def close(self) -> None:
        """Stops the page's server, and closes the names that it assumed."""
        self._given.close()
        self._shell.close()

    def do(self, block: Block) -> None:
        """Does what one block says.

        Raises:
            Exception: the block fails.
        """
        if block.file_name is not None:
            (self._folder / block.file_name).write_text(block.code, encoding="utf-8")
        output, self._output = self._output, ""
        match block.language:
            case "python":
                self._output = self._python(block)
            case "console":
                self._output = self._shell.run(block)
            case "toml":
                self._read_toml(block)
            case "json":
                json.loads(block.code)
            case "yaml":
                yaml.safe_load(block.code)
            case "text":
                check_output(block.code, output, block.where)
            case language:
                pytest.fail(f"{block.where}: no rule to run {language or 'a block without language'}")

    def _python(self, block: Block) -> str:
        names = self._names(self._shell.address)
        for given in names.values():
            if hasattr(given, "close"):
                self._given.callback(given.close)
        self._namespace.update(names)
        known = {name for name in self._namespace if name.startswith("test_")}
        code = _ADDRESSES.sub(self._shell.address() if _ADDRESSES.search(block.code) else "", block.code)
        # A traceback then shows the line in the page.
        padded = "\n" * (block.line - 1) + code
        compiled = compile(padded, block.page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            if compiled.co_flags & inspect.CO_COROUTINE:
                asyncio.run(eval(compiled, self._namespace))  # noqa: S307 - the page's own code
            else:
                exec(compiled, self._namespace)  # noqa: S102 - as above
            for name, value in list(self._namespace.items()):
                if name.startswith("test_") and name not in known:
                    value()
        return printed.getvalue()

    def _read_toml(self, block: Block) -> None:
        tomllib.loads(block.code)
        if not self._toml:
            pytest.fail(f"{block.where}: name the reader of this file in tests/docs/scenes.py")
        path = self._folder / (block.file_name or "block.toml")
        path.write_text(block.code, encoding="utf-8")
        # Settings may name files, which must exist.
        for named in re.findall(r'"([\w-]+)"$', block.code, flags=re.MULTILINE):
            (self._folder / named).touch()
        self._toml.pop(0)(path)


@contextlib.contextmanager
def own_modules(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the modules of a folder importable, and removes them afterwards."""
    monkeypatch.syspath_prepend(str(folder))
    try:
        yield
    finally:
        for name, module in list(sys.modules.items()):
            if os.fspath(getattr(module, "__file__", None) or "").startswith(str(folder)):
                del sys.modules[name]
