"""The files of deploy/ fit their schemas, one another, and the command that they start. No image is built here."""

import configparser
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
import jsonschema
import kubernetes_validate
import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema

from thetaprime.cli import cli
from thetaprime.server import ServerConfig

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "deploy"
KUBERNETES: Final = "1.33"
# Of the Prometheus operator, and of kustomize: not among Kubernetes' own schemas.
OTHER_KINDS: Final = ("ServiceMonitor", "Kustomization")


def documents() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            yield path.name, document


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [document for _, document in documents() if document["kind"] == kind]


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return found


def instructions(stage: str) -> list[tuple[str, str]]:
    """The instructions of a stage of the Dockerfile."""
    text = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE))
    found, current = [], ""
    for line in filter(None, map(str.strip, text.splitlines())):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            current = rest.rpartition(" AS ")[2]
        elif current == stage:
            found.append((word, rest.strip()))
    return found


def containers(document: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = document["spec"]["template"]["spec"]["containers"]
    return found


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """Every command line of `thetaprime` in the files, without its name."""
    for name, document in documents():
        if document["kind"] in ("Deployment", "Job"):
            for container in containers(document):
                yield name, container["args"]
                if "readinessProbe" in container:
                    yield name, container["readinessProbe"]["exec"]["command"][1:]
    for name, service in compose()["services"].items():
        if service.get("image") == "thetaprime-server":
            yield f"compose.yaml {name}", service["command"]
    for stage in ("server", "trainer"):
        for word, rest in instructions(stage):
            if word == "CMD":
                yield f"Dockerfile {stage}", json.loads(rest)
            if word == "HEALTHCHECK":
                yield f"Dockerfile {stage}", json.loads(rest.partition("CMD ")[2])[1:]
    yield "thetaprime.service", shlex.split(unit()["Service"]["ExecStart"])[1:]


def unit() -> configparser.ConfigParser:
    # The same key may stand several times.
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(DEPLOY / "thetaprime.service")
    return parser


@pytest.mark.parametrize(
    ("name", "document"), list(documents()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_manifest_fits_the_schema_of_its_kind(name: str, document: dict[str, Any]) -> None:
    if document["kind"] in OTHER_KINDS:
        with pytest.raises(kubernetes_validate.SchemaNotFoundError):
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
    else:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_the_validation_finds_a_misspelled_key() -> None:
    (deployment,) = of_kind("Deployment")
    containers(deployment)[0]["readinesProbe"] = {}  # codespell:ignore
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, KUBERNETES, strict=True)


def test_kustomize_names_every_manifest_but_the_job() -> None:
    (kustomization,) = of_kind("Kustomization")
    files = {path.name for path in (DEPLOY / "kubernetes").glob("*.yaml")}
    assert set(kustomization["resources"]) == files - {"kustomization.yaml", "upgrade.yaml"}
    (deployment,) = of_kind("Deployment")
    assert [each["name"] for each in kustomization["images"]] == [containers(deployment)[0]["image"]]


def test_every_command_line_is_one_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(click.Path, "convert", lambda self, value, param, ctx: Path(value))  # they do not exist here
    lines = list(command_lines())
    assert len(lines) == 9
    for where, line in lines:
        context = click.Context(cli, info_name="thetaprime")
        command: click.Command | None = cli
        while isinstance(command, click.Group):
            name, command, line = command.resolve_command(context, line)
            assert command is not None, where
            if not isinstance(command, click.Group):
                if line == ["--help"]:
                    continue
                command.make_context(name, [str(each) for each in line], parent=context)


def test_manifests_name_one_another() -> None:
    (deployment,) = of_kind("Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels
    ports = {port["name"] for port in containers(deployment)[0]["ports"]}
    services = of_kind("Service")
    for service in services:
        assert service["spec"]["selector"].items() <= labels
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    for kind, selector in (("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
        (document,) = of_kind(kind)
        assert document["spec"][selector]["matchLabels"].items() <= labels
    (policy,) = of_kind("NetworkPolicy")
    assert {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]} == ports
    (monitor,) = of_kind("ServiceMonitor")
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    (monitored,) = [each for each in services if wanted <= each["metadata"]["labels"].items()]
    assert monitor["spec"]["endpoints"][0]["port"] in {port["name"] for port in monitored["spec"]["ports"]}
    (scaler,) = of_kind("HorizontalPodAutoscaler")
    assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]


def test_the_scaler_follows_a_metric_of_the_server() -> None:
    (scaler,) = of_kind("HorizontalPodAutoscaler")
    names = {each["pods"]["metric"]["name"] for each in scaler["spec"]["metrics"] if each["type"] == "Pods"}
    described = (ROOT / "docs" / "operating.md").read_text()
    assert names and all(f"| `{name}` | gauge |" in described for name in names)


def seconds(arguments: list[str], setting: str) -> float:
    """The value of a setting of `serve` on a command line, or its default."""
    flag = f"--{setting.replace('_', '-')}="
    given = [float(each.removeprefix(flag)) for each in arguments if each.startswith(flag)]
    return given[0] if given else float(ServerConfig.model_fields[setting].default)


def test_a_server_has_time_to_drain() -> None:
    (deployment,) = of_kind("Deployment")
    server = compose()["services"]["server"]
    grace = int(server["stop_grace_period"].removesuffix("s"))
    for arguments, allowed in (
        (containers(deployment)[0]["args"], deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]),
        (server["command"], grace),
        ([], int(unit()["Service"]["TimeoutStopSec"])),
    ):
        assert allowed >= seconds(arguments, "drain_notice") + seconds(arguments, "grace") + 5


def test_containers_run_without_root_on_a_read_only_root() -> None:
    for document in (*of_kind("Deployment"), *of_kind("Job")):
        pod = document["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001
        for container in containers(document):
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]
    for name in ("server", "upgrade"):
        service = compose()["services"][name]
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
    assert ("USER", "10001:10001") in instructions("base")


def test_compose_fits_its_schema() -> None:
    found = compose()
    jsonschema.validate(found, get_builtin_schema("vendor.compose-spec"))
    for service in found["services"].values():
        assert set(service.get("depends_on", {})) <= found["services"].keys()
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert source in found["volumes"] or (DEPLOY / source).exists(), volume
    found["services"]["server"]["helthcheck"] = {}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(found, get_builtin_schema("vendor.compose-spec"))


def test_prometheus_scrapes_the_service_of_compose() -> None:
    scraped = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"][0]["dns_sd_configs"][0]
    services = compose()["services"]
    (name,) = scraped["names"]
    assert f"--metrics-address=0.0.0.0:{scraped['port']}" in services[name]["command"]
    provisioning = DEPLOY / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090" and "prometheus" in services
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "thetaprime.yml").read_text())["providers"]
    assert any(provider["options"]["path"] in volume for volume in services["grafana"]["volumes"])


def test_the_image_is_built_from_files_that_exist_and_are_sent() -> None:
    sent = [line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"]
    stages = [each for stage in ("build", "build-server") for each in instructions(stage)]
    copied = [word for word, rest in stages if word == "COPY" for word in rest.split()[:-1]]
    assert sorted(copied) == sorted(sent)
    assert all((ROOT / each).exists() for each in copied)
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {each.partition("/")[0] for each in packages["packages"]} <= set(copied)


def test_the_image_of_the_server_has_neither_training_nor_cuda() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for stage, without in (("build-server", "training"), ("build-trainer", "postgres")):
        (command,) = [rest for word, rest in instructions(stage) if word == "RUN"]
        installed = re.search(r"'\.\[([\w,]+)\]'", command)
        assert installed is not None
        assert set(installed[1].split(",")) <= extras.keys() - {without}
    (index,) = [rest for word, rest in instructions("build") if word == "ARG"]
    assert index.endswith("/cpu")
    (health,) = [rest for word, rest in instructions("server") if word == "HEALTHCHECK"]
    assert health.endswith('CMD ["thetaprime", "health"]')


def test_the_unit_is_hardened() -> None:
    service = unit()["Service"]
    for name, value in {
        "DynamicUser": "yes",
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
        "CapabilityBoundingSet": "",
        "PrivateDevices": "yes",
        "RestrictNamespaces": "yes",
        "UMask": "0077",
    }.items():
        assert service[name] == value
    # The store lies where the unit may write.
    assert service["WorkingDirectory"] == f"/var/lib/{service['StateDirectory']}"
