#!/usr/bin/env bash
# Runs the end-to-end tests: builds binaries and images, brings a Kubernetes, installs the
# operator, runs the tests, and takes everything away again. See README.md beside this file.
#
#   run.sh                 all tests
#   run.sh NAME            those whose names contain NAME
#   run.sh --keep [...]    leaves the cluster for looking at; remove it with cluster/down
#
# The cluster is the one of KUBECONFIG if that is set (it must have the images), else kind if that
# and a container engine are here, else one assembled on this machine (HOLDFAST_E2E_ON=assembled or
# kind decides). Where none can be had, all tests are skipped and the reason is said.
# The last line is "N passed, N failed, N skipped"; exits 0 only if nothing failed.
set -u -o pipefail
cd "$(dirname "$0")" || exit 2
keep=
if [[ ${1:-} == --keep ]]; then
  keep=yes
  shift
fi

export HOLDFAST_BUILD_CACHE="${HOLDFAST_BUILD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/holdfast}"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOLDFAST_BUILD_CACHE/target}"
profile=${HOLDFAST_E2E_PROFILE:-dev}
binaries=${HOLDFAST_E2E_BINARIES:-$CARGO_TARGET_DIR/$([[ $profile == dev ]] && echo debug || echo "$profile")}
passed=0 failed=0 skipped=0
times=()

finish() {
  [[ ${#times[@]} -eq 0 ]] || printf '%s\n' "${times[@]}"
  echo "$passed passed, $failed failed, $skipped skipped"
  [[ $failed == 0 ]]
  exit
}
# The number of tests, for when none can run.
number_of_tests() { grep -c -E '^ +(plain|faults|helm): [a-z_]+::' tests/promises/main.rs; }
# One step that everything after needs: `step NAME COMMAND...`.
step() {
  local what=$1 begun=$SECONDS
  shift
  printf '\n-- %s (%s)\n' "$what" "$(date +%H:%M:%S)"
  if ! "$@"; then
    echo "FAILED: $what"
    failed=$((failed + 1))
    finish
  fi
  times+=("$(printf '%5d s  %s' $((SECONDS - begun)) "$what")")
}

# --- which cluster ----------------------------------------------------------------------------
on=${HOLDFAST_E2E_ON:-}
if [[ -n ${KUBECONFIG:-} ]]; then
  on=existing
elif [[ -z $on ]]; then
  on=assembled
  if command -v kind >/dev/null 2>&1 && docker info >/dev/null 2>&1; then on=kind; fi
fi
if [[ $on == assembled ]] && ! reason=$(cluster/up --check 2>&1); then
  echo "skipped: end-to-end tests ($reason)"
  skipped=$(number_of_tests)
  finish
fi

work=$(mktemp -d)
kind_name=holdfast-e2e
end() {
  rm -rf "$work"
  [[ -z $keep ]] || return
  case $on in
    assembled) cluster/down ;;
    kind) kind delete cluster --name $kind_name ;;
  esac
}
trap end EXIT
trap 'exit 130' INT TERM

# --- binaries and images ----------------------------------------------------------------------
# Everything is built as `cargo test --workspace` builds it, so that nothing is built twice: programs
# come with the tests of their packages that start them.
build_binaries() {
  local programs=(--test process --test crds)
  [[ -z ${HOLDFAST_E2E_BINARIES:-} && $profile == dev ]] || programs=()
  cargo test --locked --workspace --no-run --test promises "${programs[@]}" || return
  [[ -n ${HOLDFAST_E2E_BINARIES:-} || $profile == dev ]] ||
    cargo build --locked --profile "$profile" -p holdfast-server -p holdfast-operator -p holdfast-e2e
}
gather() {
  local tools
  tools=$(../bench/build.sh) || return
  eval "$tools"
  mkdir -p "$work/bin"
  ln -s "$binaries"/holdfast-{node,operator,e2e} "$ETCDCTL" "$work/bin/"
}
images_with_docker() {
  local target
  mkdir -p "$work/build/out" "$work/etcdctl/out"
  for target in node operator e2e; do
    strip -o "$work/build/out/holdfast-$target" "$work/bin/holdfast-$target" || return
  done
  cp -L "$work/bin/etcdctl" "$work/etcdctl/out/"
  for target in node operator e2e; do
    docker buildx build --load --build-context "build=$work/build" \
      --build-context "etcdctl=$work/etcdctl" --target $target \
      -t "docker.io/holdfast/$target:dev" .. || return
    kind load docker-image --name $kind_name "docker.io/holdfast/$target:dev" || return
  done
}
step "binaries ($profile)" build_binaries
case $on in
  assembled)
    step "parts of Kubernetes" eval 'parts=$(cluster/build.sh)'
    eval "$parts"
    export KUBECTL HELM
    step "etcdctl" gather
    step "images" ./images.sh "$work/bin" "$work/images"
    step "cluster" eval 'KUBECONFIG=$(cluster/up | tail -1)'
    export KUBECONFIG
    step "images into the cluster" cluster/load "$work"/images/*.tar
    export HOLDFAST_E2E_FAULT=$PWD/cluster/fault
    ;;
  kind)
    step "etcdctl" gather
    export KUBECONFIG=$work/kubeconfig
    step "cluster" kind create cluster --name $kind_name --wait 120s --config cluster/kind.yaml
    step "images" images_with_docker
    export HOLDFAST_E2E_FAULT=$PWD/cluster/fault HOLDFAST_E2E_FAULTS_ON=kind
    ;;
  existing) ;;
esac
[[ -n ${HELM:-} ]] || ! HELM=$(command -v helm) || export HELM
export HOLDFAST_OPERATOR=$binaries/holdfast-operator
step "operator" ./operator.sh

# --- tests ------------------------------------------------------------------------------------
run_tests() {
  local log=$work/tests status
  cargo test --locked --workspace --test promises -- "$@" 2>&1 | tee "$log"
  status=${PIPESTATUS[0]}
  read -r passed failed skipped < <(
    awk '/^test result:/ { p += $4; f += $6; s += $8 } END { print p+0, f+0, s+0 }' "$log")
  # A test program that dies counts as a failure too.
  if [[ $status != 0 && $failed == 0 ]]; then failed=1; fi
}
step "tests" run_tests "$@"
finish
