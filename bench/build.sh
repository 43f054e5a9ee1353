#!/usr/bin/env bash
# Builds the programs that Holdfast is compared with, from the versions that the
# go.mod files under tools/ pin: etcd, etcdctl and etcd's load tool. The results go
# to a cache outside the checkout, keyed by version, so that a second run is instant.
# Prints the folder of each as `NAME=PATH` lines that a shell can eval.
set -euo pipefail
cd "$(dirname "$0")"

cache="${HOLDFAST_BUILD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/holdfast}/bin"

# The version of a module as its go.mod pins it: `version_of tools/etcd MODULE`.
version_of() {
  awk -v module="$2" '{sub(/^require /, "")} $1 == module && $2 ~ /^v[0-9]/ {print $2; exit}' "$1/go.mod"
}

# Builds one package of a tool module unless the cache has it: `build DIR PACKAGE TARGET`.
# The build goes to a temporary name first, so that a cut-off build is never mistaken for a whole one.
build() {
  local dir=$1 package=$2 target=$3
  if [[ -x $target ]]; then
    return
  fi
  mkdir -p "$(dirname "$target")"
  echo "building $package into $target" >&2
  (cd "$dir" && CGO_ENABLED=0 nice -n 10 go build -trimpath -ldflags='-s -w' -o "$target.part.$$" "$package")
  mv "$target.part.$$" "$target"
}

etcd_version=$(version_of tools/etcd go.etcd.io/etcd/server/v3)
load_version=$(version_of tools/load go.etcd.io/etcd/v3)
if [[ -z $etcd_version || -z $load_version ]]; then
  echo "build.sh: a go.mod under tools/ no longer pins etcd or its load tool" >&2
  exit 1
fi

etcd="$cache/etcd-$etcd_version/etcd"
etcdctl="$cache/etcd-$etcd_version/etcdctl"
load="$cache/etcd-benchmark-$load_version/benchmark"

build tools/etcd go.etcd.io/etcd/server/v3 "$etcd"
build tools/etcd go.etcd.io/etcd/etcdctl/v3 "$etcdctl"
build tools/load go.etcd.io/etcd/v3/tools/benchmark "$load"

echo "ETCD=$etcd"
echo "ETCDCTL=$etcdctl"
echo "ETCD_BENCHMARK=$load"
