"""The MutatingWebhookConfiguration: which pods the API server asks about.

It decides by itself, before it calls, so that a webhook that is down never stands in the way of a pod that
did not ask; for one that did, the answer is awaited (failurePolicy Fail): created as it is, it would never
sleep and its probes would be no one's. A pod's own label always wins over its namespace's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from webhook.asking import LABEL, NO, RUNC, RUNSC, YES

BY_POD: Final = "/mutate"
BY_NAMESPACE: Final = "/mutate/namespace"
BY_UNCLEAR_NAMESPACE: Final = "/mutate/namespace/unclear"
TIMEOUT_SECONDS: Final = 5

_NAME: Final = "kubernetes.io/metadata.name"
_SYSTEM: Final = "kube-system"


def configuration(
    name: str, *, service: str, namespace: str, labels: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The object, for a webhook behind `service` in `namespace`; its `caBundle`s are filled in later."""
    unlabelled = [{"key": LABEL, "operator": "DoesNotExist"}]

    def webhook(
        of: str, path: str, pods: list[Any], namespaces: list[Any], conditions: list[Any] | None = None
    ) -> dict[str, Any]:
        # Where the webhook lives and what the cluster stands on are never ours to hinder.
        exempt = {"key": _NAME, "operator": "NotIn", "values": sorted({_SYSTEM, namespace})}
        found: dict[str, Any] = {
            "name": f"{of}.architect.loopholelabs.io",
            "admissionReviewVersions": ["v1"],
            "clientConfig": {"service": {"name": service, "namespace": namespace, "path": path, "port": 443}},
            "failurePolicy": "Fail",
            "matchPolicy": "Equivalent",
            "namespaceSelector": {"matchExpressions": [exempt, *namespaces]},
            "objectSelector": {"matchExpressions": pods},
            "reinvocationPolicy": "IfNeeded",
            "rules": [
                {
                    "apiGroups": [""],
                    "apiVersions": ["v1"],
                    "operations": ["CREATE"],
                    "resources": ["pods"],
                    "scope": "Namespaced",
                }
            ],
            "sideEffects": "None",
            "timeoutSeconds": TIMEOUT_SECONDS,
        }
        if conditions:
            found["matchConditions"] = conditions
        return found

    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": name, "labels": dict(labels or {})},
        "webhooks": [
            webhook(
                "pod",
                BY_POD,
                [
                    {"key": LABEL, "operator": "Exists"},
                    {"key": LABEL, "operator": "NotIn", "values": [NO]},
                ],
                [],
            ),
            webhook(
                "namespace",
                BY_NAMESPACE,
                unlabelled,
                [{"key": LABEL, "operator": "In", "values": list(YES)}],
            ),
            webhook(
                "unclear-namespace",
                BY_UNCLEAR_NAMESPACE,
                unlabelled,
                [
                    {"key": LABEL, "operator": "Exists"},
                    {"key": LABEL, "operator": "NotIn", "values": [*YES, NO]},
                ],
            ),
            webhook(
                "class",
                BY_POD,
                unlabelled,
                [],
                [
                    {
                        "name": "names-our-runtime-class",
                        "expression": "has(object.spec.runtimeClassName) && "
                        f'object.spec.runtimeClassName in ["{RUNC}", "{RUNSC}"]',
                    }
                ],
            ),
        ],
    }


def main() -> None:
    """Print the configuration as JSON, which is YAML as well."""
    import argparse
    import json
    import sys

    parser = argparse.ArgumentParser(
        "webhook.configuration", description="Prints the webhook's configuration."
    )
    parser.add_argument("--name", default="architect-webhook")
    parser.add_argument("--service", default="architect-webhook")
    parser.add_argument("--namespace", default="architect")
    given = parser.parse_args()
    json.dump(
        configuration(given.name, service=given.service, namespace=given.namespace), sys.stdout, indent=2
    )
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
