#!/usr/bin/env bash
# Builds the parts of a real Kubernetes that the end-to-end tests assemble: the five Kubernetes
# daemons, CoreDNS, helm and, where it is missing, kubectl, from the versions that the go.mod files
# under tools/ pin. Debian packages for the rest (container runtime, network plugins, image builder,
# the API server's etcd) are installed when missing.
#
# Results go to a cache outside the checkout, keyed by version: the second run takes seconds.
# Prints the folder of each part as `NAME=PATH` lines that a shell can eval.
#
#   build.sh            everything
#   build.sh packages   only the Debian packages
set -euo pipefail
cd "$(dirname "$0")"

cache="${HOLDFAST_BUILD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/holdfast}/bin"

# command it brings -> Debian package
packages=(
  etcd:etcd-server containerd:containerd runc:runc iptables:iptables conntrack:conntrack
  socat:socat buildah:buildah strip:binutils pgrep:procps busybox:busybox-static ip:iproute2
  nsenter:util-linux openssl:openssl
)

install_packages() {
  local entry missing=()
  for entry in "${packages[@]}"; do
    command -v "${entry%%:*}" >/dev/null 2>&1 || missing+=("${entry#*:}")
  done
  [[ -x /usr/lib/cni/bridge ]] || missing+=(containernetworking-plugins)
  [[ ${#missing[@]} -eq 0 ]] && return
  echo "installing ${missing[*]}" >&2
  # RUNLEVEL=1: the packages' own daemons must not start, the harness runs its own.
  {
    apt-get update -qq
    RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
      apt-get install -y -qq --no-install-recommends "${missing[@]}"
  } >&2
}

# The version of a module as its go.mod pins it: `version_of tools/helm MODULE`.
version_of() {
  awk -v module="$2" '{sub(/^require /, "")} $1 == module && $2 ~ /^v[0-9]/ {print $2; exit}' "$1/go.mod"
}

# Builds packages of a tool module into a folder unless it is there: `build DIR TARGET LDFLAGS PACKAGE...`.
# The build goes to a temporary name first, so that a cut-off build is never mistaken for a whole one.
build() {
  local dir=$1 target=$2 flags=$3
  shift 3
  if [[ -d $target ]]; then
    return
  fi
  mkdir -p "$(dirname "$target")"
  echo "building $* into $target" >&2
  rm -rf "$target.part"
  mkdir "$target.part"
  (cd "$dir" && CGO_ENABLED=0 nice -n 10 go build -trimpath -ldflags="-s -w $flags" -o "$target.part/" "$@")
  mv "$target.part" "$target"
}

# One at a time: another would build the same into the same folders.
mkdir -p "$cache"
exec 9>"$cache/kubernetes.lock"
flock 9

install_packages
[[ ${1:-} == packages ]] && exit

kubernetes_version=$(version_of tools/kubernetes k8s.io/kubernetes)
coredns_version=$(version_of tools/coredns github.com/coredns/coredns)
helm_version=$(version_of tools/helm helm.sh/helm/v4)
if [[ -z $kubernetes_version || -z $coredns_version || -z $helm_version ]]; then
  echo "build.sh: a go.mod under tools/ no longer pins kubernetes, coredns or helm" >&2
  exit 1
fi

kubernetes="$cache/kubernetes-$kubernetes_version"
coredns="$cache/coredns-$coredns_version"
helm="$cache/helm-$helm_version"

k=k8s.io/kubernetes/cmd
build tools/kubernetes "$kubernetes" "-X k8s.io/component-base/version.gitVersion=$kubernetes_version" \
  $k/kube-apiserver $k/kube-controller-manager $k/kube-scheduler $k/kubelet $k/kube-proxy
kubectl=$(command -v kubectl || true)
if [[ -z $kubectl ]]; then
  build tools/kubernetes "$cache/kubectl-$kubernetes_version" "" $k/kubectl
  kubectl=$cache/kubectl-$kubernetes_version/kubectl
fi
build tools/coredns "$coredns" "" github.com/coredns/coredns
build tools/helm "$helm" "" helm.sh/helm/v4/cmd/helm

echo "KUBERNETES=$kubernetes"
echo "KUBECTL=$kubectl"
echo "COREDNS=$coredns/coredns"
echo "HELM=$helm/helm"
