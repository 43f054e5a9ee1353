#!/usr/bin/env bash
# Installs the operator into the Kubernetes of KUBECONFIG by its chart, as a user would, and waits
# until it runs. HOLDFAST_E2E_TAG is the tag of its image.
set -euo pipefail
cd "$(dirname "$0")"
kubectl() { command "${KUBECTL:-kubectl}" "$@"; }
helm=${HELM:-helm}
if ! command -v "$helm" >/dev/null 2>&1; then
  parts=$(cluster/build.sh)
  eval "$parts"
  helm=$HELM
fi
watched=${HOLDFAST_E2E_NAMESPACES:-holdfast-e2e-0,holdfast-e2e-1,holdfast-e2e-2}
for each in ${watched//,/ }; do
  kubectl create namespace "$each" --dry-run=client -o yaml | kubectl apply -f - >/dev/null
done
"$helm" upgrade --install holdfast-operator ../charts/holdfast --namespace holdfast-system --create-namespace \
  --set image.tag="${HOLDFAST_E2E_TAG:-dev}" --set "watchNamespaces={$watched}" \
  --wait --timeout 180s >/dev/null
kubectl wait --for=condition=Established crd/holdfastclusters.holdfast.dev --timeout=60s
kubectl -n holdfast-system rollout status deployment/holdfast-operator --timeout=120s
