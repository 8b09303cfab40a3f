"""The options that name an environment, and the environment that they name."""

import json
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    import gymnasium

_OUR_NAMESPACE: Final = "thetaprime/"
_OUR_MODULE: Final = "thetaprime.training"


class KeyJson(click.ParamType[tuple[str, Any]]):
    """An argument of the environment, as ``KEY=JSON``."""

    name = "KEY=JSON"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        """Parses one argument of the environment."""
        key, separator, text = str(value).partition("=")
        if not separator or not key.isidentifier():
            self.fail(f"{value!r}; expected KEY=JSON, such as goal=[0.3,-0.2]", param, ctx)
        try:
            return key, json.loads(text)
        except ValueError:
            self.fail(f"{key}={text}; {text!r} is not JSON (text takes double quotes)", param, ctx)


def importing_id(env_id: str) -> str:
    """The id with which gymnasium imports the module that registers the environment, for ours: ``module:Id``."""
    return f"{_OUR_MODULE}:{env_id}" if env_id.startswith(_OUR_NAMESPACE) else env_id


def make_environment(env_id: str, arguments: dict[str, Any]) -> "gymnasium.Env[Any, Any]":
    """Makes the environment without gymnasium's checker: `check_environment` compares it with the policy's contract."""
    import gymnasium

    try:
        return gymnasium.make(importing_id(env_id), disable_env_checker=True, **arguments)
    except (gymnasium.error.Error, ImportError, TypeError, ValueError) as error:
        raise click.BadParameter(f"{env_id}: {error}", param_hint="--env") from error
