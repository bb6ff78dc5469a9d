"""The manifests of examples/fleet against the part of their schemas that they use, and our own loaders.

The compose specification and KubeRay's custom resource are not in any package here; the subsets below are
written from their documentation and refuse every key that they do not name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from stepwell.gateway.deployment import load_deployment, plans
from stepwell.settings.file import load

FOLDER = Path(__file__).resolve().parent.parent.parent / "examples" / "fleet"
TEXT: dict[str, Any] = {"type": "string"}
TEXTS = {"type": "array", "items": TEXT}
NAMED = {"type": "object", "additionalProperties": TEXT}


def closed(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    """An object with these keys and no others."""
    return {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "required": list(required),
    }


HEALTH = closed(("test",), test=TEXTS, interval=TEXT, retries={"type": "integer"})
WAITS = {
    "oneOf": [
        TEXTS,
        {
            "type": "object",
            "additionalProperties": closed(
                ("condition",), condition={"enum": ["service_started", "service_healthy"]}
            ),
        },
    ]
}
SERVICE = closed(
    ("image",),
    image=TEXT,
    command=TEXTS,
    environment=NAMED,
    volumes=TEXTS,
    ports=TEXTS,
    depends_on=WAITS,
    healthcheck=HEALTH,
    stop_grace_period=TEXT,
    restart={"enum": ["no", "always", "on-failure", "unless-stopped"]},
)
COMPOSE = closed(
    ("services",),
    services={"type": "object", "additionalProperties": SERVICE},
    volumes={"type": "object", "additionalProperties": closed()},
)
PORT = closed(("containerPort",), containerPort={"type": "integer"}, name=TEXT)
CONTAINER = closed(
    ("name", "image"),
    name=TEXT,
    image=TEXT,
    ports={"type": "array", "items": PORT},
    resources=closed(limits=NAMED, requests=NAMED),
    volumeMounts={
        "type": "array",
        "items": closed(("name", "mountPath"), name=TEXT, mountPath=TEXT, readOnly={"type": "boolean"}),
    },
)
VOLUME = closed(("name",), name=TEXT, secret=closed(secretName=TEXT), emptyDir=closed(sizeLimit=TEXT))
POD = closed(
    ("spec",),
    spec=closed(
        ("containers",),
        containers={"type": "array", "items": CONTAINER, "minItems": 1},
        volumes={"type": "array", "items": VOLUME},
        terminationGracePeriodSeconds={"type": "integer"},
    ),
)
COUNT = {"type": "integer", "minimum": 0}
WORKERS = closed(
    ("groupName", "template"),
    groupName=TEXT,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    rayStartParams=NAMED,
    template=POD,
)
RAY_SERVICE = closed(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayService"},
    metadata=closed(("name",), name=TEXT),
    spec=closed(
        ("serveConfigV2", "rayClusterConfig"),
        serveConfigV2=TEXT,
        rayClusterConfig=closed(
            ("headGroupSpec",),
            rayVersion=TEXT,
            headGroupSpec=closed(("template",), rayStartParams=NAMED, template=POD),
            workerGroupSpecs={"type": "array", "items": WORKERS},
        ),
    ),
)


def read(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize(("name", "schema"), [("compose.yaml", COMPOSE), ("rayservice.yaml", RAY_SERVICE)])
def test_a_manifest_obeys_its_schema(name: str, schema: dict[str, Any]) -> None:
    validator, found = jsonschema.Draft202012Validator(schema), read(name)
    assert [error.message for error in validator.iter_errors(found)] == []
    assert not validator.is_valid({**found, "surplus": 1}), "a key that is not known is seen"


def test_every_mount_of_a_pod_is_one_of_its_volumes() -> None:
    config = read("rayservice.yaml")["spec"]["rayClusterConfig"]
    pods = [config["headGroupSpec"]["template"], *(group["template"] for group in config["workerGroupSpecs"])]
    for pod in pods:
        volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
        for container in pod["spec"]["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


def test_compose_names_services_and_volumes_that_are_there() -> None:
    compose = read("compose.yaml")
    for service in compose["services"].values():
        assert set(service.get("depends_on", ())) <= set(compose["services"])
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert source.startswith("./") or source in compose["volumes"]


def test_the_settings_beside_it_are_a_deployment_whose_nodes_are_its_services() -> None:
    found = load_deployment(FOLDER / "fleet.toml")
    services = read("compose.yaml")["services"]
    assert {str(plan.url) for plan in plans(found)} == {
        f"http://{name}:8000" for name in services if name.startswith("node")
    }
    settings = load(FOLDER / "stepwell.toml", env={})
    assert settings.ledger.path == found.ledger_path
    assert any(key.operator for key in settings.keys)


def test_what_serve_imports_is_there() -> None:
    config = yaml.safe_load(read("rayservice.yaml")["spec"]["serveConfigV2"])
    module, _, name = config["applications"][0]["import_path"].partition(":")
    source = FOLDER.parent.parent / "src" / Path(*module.split(".")).with_suffix(".py")
    assert f"def {name}(" in source.read_text(encoding="utf-8")
