#!/usr/bin/env bash
# Installs the operator into the Kubernetes of KUBECONFIG, as a user would, and waits until it runs.
set -euo pipefail
cd "$(dirname "$0")"
kubectl() { command "${KUBECTL:-kubectl}" "$@"; }
namespace=holdfast-system
watched=${HOLDFAST_E2E_NAMESPACES:-holdfast-e2e-0,holdfast-e2e-1,holdfast-e2e-2}
tag=${HOLDFAST_E2E_TAG:-dev}
for each in $namespace ${watched//,/ }; do
  kubectl create namespace "$each" --dry-run=client -o yaml | kubectl apply -f - >/dev/null
done
"${HOLDFAST_OPERATOR:?is set by run.sh}" crds | kubectl apply --server-side -f -
sed "s/@NAMESPACES@/$watched/; s/@TAG@/$tag/" operator.yaml | kubectl apply -f -
kubectl wait --for=condition=Established crd/holdfastclusters.holdfast.dev --timeout=60s
kubectl -n $namespace rollout status deployment/holdfast-operator --timeout=120s
