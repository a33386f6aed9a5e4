"""The manifests under deploy/kubernetes, against the schemas of Kubernetes and of KEDA, and against the code."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from api.metrics import StoreCollector
from jobs.settings import Settings
from jobs.store import JobStore
from tests.jobs.making import add_job, claim

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
KUBERNETES = "1.34"
OUR_PODS = {"api", "gpu-worker", "webhook-worker"}

# What KEDA 2 takes, as far as we use it; anything else is a slip.
SCALED_OBJECT = {
    "type": "object",
    "required": ["scaleTargetRef", "triggers"],
    "additionalProperties": False,
    "properties": {
        "scaleTargetRef": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}},
        "minReplicaCount": {"type": "integer", "minimum": 0},
        "maxReplicaCount": {"type": "integer", "minimum": 1},
        "pollingInterval": {"type": "integer"},
        "cooldownPeriod": {"type": "integer"},
        "fallback": {"type": "object", "required": ["failureThreshold", "replicas"]},
        "advanced": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"horizontalPodAutoscalerConfig": {"type": "object", "required": ["behavior"]}},
        },
        "triggers": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["type", "metadata"],
                "properties": {
                    "type": {"const": "metrics-api"},
                    "metadata": {
                        "type": "object",
                        "required": ["url", "valueLocation", "targetValue"],
                        "additionalProperties": {"type": "string"},
                    },
                },
            },
        },
    },
}


def documents() -> list[dict[str, Any]]:
    listed = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    assert {path.name for path in FOLDER.glob("*.yaml")} == {*listed, "kustomization.yaml"}
    return [document for name in listed for document in yaml.safe_load_all((FOLDER / name).read_text())]


def named(document: dict[str, Any]) -> str:
    return f"{document['kind']}-{document['metadata']['name']}"


def of_kind(*kinds: str) -> list[dict[str, Any]]:
    return [document for document in documents() if document["kind"] in kinds]


def pod_of(document: dict[str, Any]) -> dict[str, Any]:
    return document["spec"]["template"]["spec"]


WORKLOADS = of_kind("Deployment", "StatefulSet")


@pytest.mark.parametrize("document", documents(), ids=named)
def test_the_schema_knows_every_field(document: dict[str, Any]) -> None:
    if document["kind"] == "ScaledObject":
        assert document["apiVersion"] == "keda.sh/v1alpha1"
        jsonschema.validate(document["spec"], SCALED_OBJECT)
        # The part that KEDA hands to the autoscaler is Kubernetes' own
        autoscaler = {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "x"},
            "spec": {
                "maxReplicas": document["spec"]["maxReplicaCount"],
                "scaleTargetRef": {"kind": "Deployment", "name": "x"},
                **document["spec"]["advanced"]["horizontalPodAutoscalerConfig"],
            },
        }
        kubernetes_validate.validate(autoscaler, KUBERNETES, strict=True)
    else:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_a_slip_would_be_found() -> None:
    broken = next(iter(of_kind("Deployment")))
    pod_of(broken)["containers"][0]["livenessprobe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES, strict=True)


@pytest.mark.parametrize("workload", WORKLOADS, ids=named)
def test_each_pod_is_confined(workload: dict[str, Any]) -> None:
    pod = pod_of(workload)
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "readinessProbe" in container or "livenessProbe" in container
        assert container["resources"]["requests"]
        assert container["resources"]["limits"]["memory"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        claimed = {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])}
        assert mounted == {volume["name"] for volume in pod["volumes"]} | claimed


def test_budgets_and_policies_meet_their_pods() -> None:
    labels = {
        workload["metadata"]["name"]: workload["spec"]["template"]["metadata"]["labels"] for workload in WORKLOADS
    }
    for workload in WORKLOADS:
        assert workload["spec"]["selector"]["matchLabels"] == labels[workload["metadata"]["name"]]
    budgets = {
        budget["metadata"]["name"]: budget["spec"]["selector"]["matchLabels"]["app"]
        for budget in of_kind("PodDisruptionBudget")
    }
    assert budgets == {name: name for name in OUR_PODS}
    policies = {policy["metadata"]["name"]: policy["spec"] for policy in of_kind("NetworkPolicy")}
    assert policies["deny-all"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    sources = policies["redis"]["ingress"][0]["from"][0]["podSelector"]["matchExpressions"][0]["values"]
    assert set(sources) == OUR_PODS
    for service in of_kind("Service"):
        ports = {
            port["containerPort"]
            for workload in WORKLOADS
            if workload["metadata"]["name"] == service["metadata"]["name"]
            for port in pod_of(workload)["containers"][0]["ports"]
        }
        assert {port["port"] for port in service["spec"]["ports"]} == ports


def test_workers_scale_on_a_number_that_the_api_serves(job_store: JobStore) -> None:
    waiting, running, over = (add_job(job_store).id for _ in range(3))
    claim(job_store, running)
    job_store.jobs.request_cancel(over, retention_s=60)
    (scaled,) = of_kind("ScaledObject")
    (trigger,) = scaled["spec"]["triggers"]
    families = {family.name: family for family in StoreCollector(job_store).collect()}
    (sample,) = families[trigger["metadata"]["valueLocation"]].samples
    assert (sample.value, sample.labels) == (2, {}), f"{waiting} and {running}"
    targets = {workload["metadata"]["name"]: workload for workload in WORKLOADS}
    target = targets[scaled["spec"]["scaleTargetRef"]["name"]]
    assert "replicas" not in target["spec"], "a number here would fight with the autoscaler at every apply"
    assert pod_of(target)["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert trigger["metadata"]["url"].startswith("http://api.retalking.svc.")


def test_settings_are_known_and_complete() -> None:
    known = {f"RETALKING_{name.upper()}" for name in Settings.model_fields}
    given = dict(
        line.split("=", 1)
        for name in ("settings.env", "secrets.env.example")
        for line in (FOLDER / name).read_text().splitlines()
        if line and not line.startswith("#")
    )
    assert {name for name in given if name.startswith("RETALKING_")} <= known
    secrets = [name for name in given if not given[name]]
    assert {"REDIS_PASSWORD", "RETALKING_LINK_SECRET", "RETALKING_WEBHOOK_SECRET"} <= set(secrets)
    for workload in WORKLOADS:
        container = pod_of(workload)["containers"][0]
        own = [entry["name"] for entry in container["env"]]
        assert {name for name in own if name.startswith("RETALKING_")} <= known
        grace_s = pod_of(workload)["terminationGracePeriodSeconds"]
        if workload["metadata"]["name"] == "gpu-worker":
            assert grace_s > float(given["RETALKING_SHUTDOWN_GRACE_S"])
        if workload["metadata"]["name"] in OUR_PODS:
            assert own.index("REDIS_PASSWORD") < own.index("RETALKING_REDIS_URL")


def test_kustomize_builds_it(tmp_path: Path) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed here: `kubectl kustomize` was not tried")
    folder = shutil.copytree(FOLDER, tmp_path / "kubernetes")
    shutil.copyfile(folder / "secrets.env.example", folder / "secrets.env")
    done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    built = list(yaml.safe_load_all(done.stdout))
    assert {document["metadata"].get("namespace", "retalking") for document in built} == {"retalking"}
    (secret,) = [document for document in built if document["kind"] == "Secret"]
    users = [
        document for document in built if document["metadata"]["name"] in OUR_PODS and document["kind"] == "Deployment"
    ]
    assert len(users) == 3
    for workload in users:
        container = pod_of(workload)["containers"][0]
        assert {"secretRef": {"name": secret["metadata"]["name"]}} in container["envFrom"]
        assert container["image"].startswith("registry.example/retalking-")
