"""The files of `deploy/`, each by a tool of its own kind; and what no tool asks for: no secret inside, no port for all, limits, probes."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from compose_spec import ComposeSpecification

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
BIN = Path(sys.executable).parent
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
KUBERNETES = DEPLOY / "kubernetes"
RESOURCES = [
    resource
    for name in yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text(encoding="utf-8"))["resources"]
    for resource in yaml.safe_load_all((KUBERNETES / name).read_text(encoding="utf-8"))
]
ONE_SHOT = {"databases", "migrate", "register", "backup"}


def label(resource: dict[str, Any]) -> str:
    """Kind and name."""
    return f"{resource['kind']}/{resource['metadata']['name']}"


def pod_of(resource: dict[str, Any]) -> dict[str, Any] | None:
    """The pod that a resource makes, if it makes one."""
    spec = resource.get("spec", {})
    spec = spec.get("jobTemplate", {}).get("spec", spec)
    pod: dict[str, Any] | None = spec.get("template", {}).get("spec")
    return pod


def containers() -> list[tuple[str, dict[str, Any]]]:
    """Every container of every pod."""
    pods = [(label(resource), pod) for resource in RESOURCES if (pod := pod_of(resource))]
    return [(name, one) for name, pod in pods for one in pod.get("initContainers", []) + pod["containers"]]


def test_compose_is_of_its_specification() -> None:
    ComposeSpecification.model_validate(COMPOSE)
    with pytest.raises(ValueError):
        ComposeSpecification.model_validate({"services": {"a": {"image": "x", "ports": 5}}})


def test_compose_itself_reads_it(tmp_path: Path) -> None:
    """Debian's is of the first generation, which knows all of it but the project's name."""
    if (program := shutil.which("docker-compose")) is None:
        pytest.skip("no docker-compose on this machine (Debian: apt install docker-compose)")
    copy = tmp_path / "compose.yaml"
    copy.write_text(yaml.safe_dump({key: value for key, value in COMPOSE.items() if key != "name"}))
    variables = re.sub("=$", "=x", (DEPLOY / ".env.example").read_text(), flags=re.MULTILINE)
    (tmp_path / "variables").write_text(variables)

    def config() -> "subprocess.CompletedProcess[str]":
        command = [program, "--env-file", str(tmp_path / "variables"), "--file", str(copy), "config"]
        return subprocess.run(command, capture_output=True, text=True)

    done = config()
    assert done.returncode == 0, done.stderr
    assert set(yaml.safe_load(done.stdout)["services"]) >= set(COMPOSE["services"]) - {"worker-gpu", "backup"}
    copy.write_text(copy.read_text().replace("mem_limit", "memory_limit"))
    assert "Unsupported config option" in config().stderr


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_a_service_has_no_misspelt_key(name: str) -> None:
    from compose_spec import Service

    known = {field.alias or name for name, field in Service.model_fields.items()} | set(Service.model_fields)
    assert "mem_limit" in known
    assert not set(COMPOSE["services"][name]) - known


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_a_service_is_pinned_limited_and_on_loopback(name: str) -> None:
    service = COMPOSE["services"][name]
    assert re.search(r":\d[\w.-]+$", service["image"]), "a tag of one version"
    assert service["mem_limit"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert service["restart"] == ("no" if name in ONE_SHOT else "unless-stopped")
    assert (
        name in ONE_SHOT or name.startswith("worker") or name == "sweeper" or service["healthcheck"]["test"]
    )


def test_every_secret_comes_from_the_environment_and_must_be_set() -> None:
    wanted = set(re.findall(r"\$\{(\w+):\?", (DEPLOY / "compose.yaml").read_text(encoding="utf-8")))
    example = dict(
        line.split("=", 1) for line in (DEPLOY / ".env.example").read_text().splitlines() if "=" in line
    )
    assert set(example) == wanted
    assert not any(example.values()), "an example with a value is a secret that many would keep"
    for name, service in COMPOSE["services"].items():
        for key, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|AUTH_STRING|KEY$", key):
                assert re.fullmatch(r"(brickroad:)?\$\{\w+:\?[^}]+\}", value), f"{name}: {key}"


def test_only_who_needs_it_can_reach_the_bucket_and_the_databases() -> None:
    reach = {name: set(service["networks"]) for name, service in COMPOSE["services"].items()}
    assert {name for name, networks in reach.items() if "objects" in networks} == {
        "storage",
        "migrate",
        "mlflow",
        "backup",
    }
    on_one_network = {name for name, networks in reach.items() if networks == {"front"}}
    assert on_one_network == {"worker-cpu", "worker-gpu", "sweeper", "register"}


def test_a_server_that_starts_again_knows_who_holds_the_gpu() -> None:
    """Leases are files of Prefect's home, by the settings in the folder where the image's programs start."""
    settings = tomllib.loads((DEPLOY.parent / "prefect.toml").read_text(encoding="utf-8"))
    assert settings["server"]["concurrency"]["lease_storage"].endswith(".filesystem")
    assert "WORKDIR /brickroad" in (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    service = COMPOSE["services"]["prefect"]
    assert service["volumes"] == [f"prefect:{service['environment']['PREFECT_HOME']}"]
    pod = next(pod for one in RESOURCES if label(one) == "Deployment/prefect" and (pod := pod_of(one)))
    (container,) = pod["containers"]
    home = next(one["value"] for one in container["env"] if one["name"] == "PREFECT_HOME")
    assert [(one["name"], one["mountPath"]) for one in container["volumeMounts"]] == [("home", home)]
    assert pod["volumes"] == [{"name": "home", "persistentVolumeClaim": {"claimName": "prefect"}}]


@pytest.mark.parametrize("resource", RESOURCES, ids=label)
def test_a_resource_is_of_its_schema(resource: dict[str, Any]) -> None:
    kubernetes_validate.validate(resource, "1.37", strict=True)
    assert resource["kind"] != "Secret", "secrets are referred to, never contained"


def test_the_schemas_find_a_misspelt_key() -> None:
    resource = next(one for one in RESOURCES if one["kind"] == "Deployment")
    wrong = resource | {"spec": resource["spec"] | {"replica": 1}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.37", strict=True)


@pytest.mark.parametrize(("owner", "container"), containers(), ids=lambda one: str(one)[:30])
def test_a_container_is_pinned_limited_and_without_privileges(owner: str, container: dict[str, Any]) -> None:
    assert re.search(r":\d[\w.-]+$", container["image"])
    assert container["resources"]["limits"]["memory"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    for variable in container.get("env", []):
        if re.search("PASSWORD|SECRET|AUTH_STRING|KEY$", variable["name"]):
            assert "secretKeyRef" in variable["valueFrom"], variable["name"]
    if owner.startswith(("StatefulSet", "Deployment")) and "worker" not in owner:
        assert container["readinessProbe"]
        assert container["livenessProbe"]


def test_no_pod_runs_as_root_or_may_speak_to_the_cluster() -> None:
    pods = [pod for resource in RESOURCES if (pod := pod_of(resource))]
    assert len(pods) == 8
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False


def test_kustomize_builds_it() -> None:
    if (kubectl := shutil.which("kubectl")) is None:
        pytest.skip("no kubectl on this machine")
    done = subprocess.run([kubectl, "kustomize", KUBERNETES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    built = list(yaml.safe_load_all(done.stdout))
    assert sorted(map(label, built)) == sorted(map(label, RESOURCES))
    assert {one["metadata"]["namespace"] for one in built} == {"brickroad"}


def test_the_dockerfile_passes_its_linter() -> None:
    done = subprocess.run([BIN / "hadolint", DEPLOY / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    assert "USER 10001" in (DEPLOY / "Dockerfile").read_text(encoding="utf-8")


@pytest.mark.parametrize("script", sorted(DEPLOY.glob("*.sh")), ids=lambda path: path.name)
def test_a_script_passes_its_linter(script: Path) -> None:
    done = subprocess.run([BIN / "shellcheck", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    assert os.access(script, os.X_OK)
