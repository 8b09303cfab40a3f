"""``thetaprime health``."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from thetaprime.cli._command import Command, option
from thetaprime.cli._connection import connection_options, open_channel
from thetaprime.cli._errors import CommandError
from thetaprime.cli._output import console_for, json_option, print_json

if TYPE_CHECKING:
    import grpc

_SERVING, _NOT_SERVING, _CANNOT = 0, 1, 2
_PAUSE_SECONDS: Final = 0.2
_DEFAULT_SECONDS: Final = 5.0


@click.command(
    cls=Command,
    examples=(
        "thetaprime health --address robots.example:50051 --tls",
        "thetaprime health --wait 60 --json",
    ),
)
@option("--service", default="", help="Full name of a service.  [default: the server as a whole]")
@option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=_DEFAULT_SECONDS,
    show_default=True,
    help="Seconds that the server may take to answer.",
)
@option(
    "--wait",
    "patience",
    type=click.FloatRange(0),
    default=0.0,
    help="Seconds to ask again, until the server is serving.  [default: ask once]",
)
@connection_options
@json_option
def command(
    service: str, timeout: float, patience: float, as_json: bool, config: Path | None, **connection: Any
) -> int:
    """Ask a server whether it is serving: whether it accepts calls, and its store accepts writes.

    Needs no token. The exit status is 0 if the server is serving, 1 if it answers otherwise, and 2 if it does not
    answer.
    """
    console = console_for(as_json)
    address, channel = open_channel(config=config, **connection)
    started = time.monotonic()
    with channel:
        while True:
            status, problem = _check(channel, service, timeout)
            seconds = time.monotonic() - started
            if status == "SERVING" or seconds + _PAUSE_SECONDS > patience:
                break
            time.sleep(_PAUSE_SECONDS)
    if problem is not None:
        raise CommandError(f"thetaprime health: {address}: {problem}", status, {"address": address}, _CANNOT)
    console.print(f"{address}: {status}", soft_wrap=True)
    if as_json:
        print_json({"address": address, "service": service, "status": status, "seconds": seconds})
    return _SERVING if status == "SERVING" else _NOT_SERVING


def _check(channel: "grpc.Channel", service: str, timeout: float) -> tuple[str, str | None]:
    """Returns the status of a service; where it did not answer, gRPC's code and the problem in words."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    stub = health_pb2_grpc.HealthStub(channel)
    try:
        reply = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        if code is grpc.StatusCode.NOT_FOUND:
            return code.name, f"the server has no service {service!r}"
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return code.name, f"no answer within {timeout:g} s"
        return code.name, " ".join(str(error.details()).split())
    return health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status), None
