#!/usr/bin/env bash
# Writes deploy/operator.yaml, the operator as plain manifests, from charts/holdfast; and the chart's
# copy of the CRD from crds/. With --check it writes nothing and fails if a file is not up to date.
# Needs helm (HELM names another binary).
set -euo pipefail
cd "$(dirname "$0")/.."
helm=${HELM:-helm}
command -v "$helm" >/dev/null 2>&1 || { echo "missing: helm. HELM=/path/to/helm names one."; exit 2; }
new=$(mktemp -d)
trap 'rm -rf "$new"' EXIT

cp crds/*.yaml "$new/"
{
  echo "# The Holdfast operator for all namespaces. Made from charts/holdfast by deploy/render.sh."
  echo "---"
  echo "apiVersion: v1"
  echo "kind: Namespace"
  echo "metadata:"
  echo "  name: holdfast-system"
  echo "  labels: {pod-security.kubernetes.io/enforce: restricted}"
  cat crds/*.yaml
  "$helm" template holdfast-operator charts/holdfast --namespace holdfast-system --set crds.enabled=false |
    grep -v -E '^# Source:|helm.sh/|managed-by: Helm'
} > "$new/operator.yaml"

stale=
place() {
  if [ "${check:-}" ]; then
    cmp -s "$1" "$2" || { echo "$2 is not up to date: run deploy/render.sh"; stale=yes; }
  else
    cp "$1" "$2"
  fi
}
[ "${1:-}" = --check ] && check=yes
for crd in crds/*.yaml; do place "$new/$(basename "$crd")" "charts/holdfast/files/$(basename "$crd")"; done
if [ -z "$stale" ]; then place "$new/operator.yaml" deploy/operator.yaml; fi
[ -z "$stale" ]
