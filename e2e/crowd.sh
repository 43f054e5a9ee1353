#!/usr/bin/env bash
# Measures one operator that looks after many clusters: a real API server with its etcd, on loopback,
# without Kubernetes nodes or controllers; pods and what the nodes say are played by the operator's
# example `crowd`. Prints reconciles and writes a second, processor time and memory of the operator.
#
#   crowd.sh [CLUSTERS [FORMED [SECONDS [SILENT]]]]     200 clusters, all formed, measured for 60 s, none silent
#
# HOLDFAST_OPERATOR and HOLDFAST_CROWD are the programs if they are built already; otherwise both are
# built with the release profile. Needs root's right to nothing, and what cluster/build.sh needs.
set -euo pipefail
cd "$(dirname "$0")"
clusters=${1:-200} formed=${2:-${1:-200}} seconds=${3:-60} silent=${4:-0}

parts=$(cluster/build.sh)
eval "$parts"
target=${CARGO_TARGET_DIR:-../target}/release
if [[ -z ${HOLDFAST_OPERATOR:-} || -z ${HOLDFAST_CROWD:-} ]]; then
  cargo build --locked --release -p holdfast-operator --bins --example crowd
fi
operator=${HOLDFAST_OPERATOR:-$target/holdfast-operator} crowd=${HOLDFAST_CROWD:-$target/examples/crowd}

work=$(mktemp -d)
pids=()
end() {
  for pid in "${pids[@]}"; do
    kill "$pid" 2>/dev/null || continue
    wait "$pid" 2>/dev/null || true
  done
  rm -rf "$work"
}
trap end EXIT
trap 'exit 130' INT TERM
start() {
  local name=$1
  shift
  timeout 1200 "$@" >"$work/$name.log" 2>&1 </dev/null &
  pids=($! "${pids[@]}")
}
await() {
  local what=$1 until=$((SECONDS + 120))
  shift
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < until)) || { echo "gave up waiting for $what" >&2; tail -n 5 "$work"/*.log >&2; exit 1; }
    sleep 0.3
  done
}

api=127.0.0.1:26443
start etcd etcd --data-dir "$work/etcd" --listen-client-urls http://127.0.0.1:22379 \
  --advertise-client-urls http://127.0.0.1:22379 --listen-peer-urls http://127.0.0.1:22380 \
  --initial-advertise-peer-urls http://127.0.0.1:22380 --initial-cluster default=http://127.0.0.1:22380 \
  --unsafe-no-fsync
openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$work/accounts.key" 2>/dev/null
openssl pkey -in "$work/accounts.key" -pubout -out "$work/accounts.pub"
echo 'crowd,admin,admin,system:masters' >"$work/tokens"
start apiserver "$KUBERNETES/kube-apiserver" --etcd-servers http://127.0.0.1:22379 \
  --advertise-address 127.0.0.1 --bind-address 127.0.0.1 --secure-port 26443 --cert-dir "$work/certs" \
  --service-cluster-ip-range 10.96.0.0/16 --token-auth-file "$work/tokens" \
  --service-account-issuer https://kubernetes.default.svc --service-account-key-file "$work/accounts.pub" \
  --service-account-signing-key-file "$work/accounts.key" --disable-admission-plugins ServiceAccount \
  --authorization-mode RBAC --profiling=false
export KUBECONFIG=$work/kubeconfig
cat >"$KUBECONFIG" <<END
apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: c, user: c}}]
clusters: [{name: c, cluster: {server: "https://$api", insecure-skip-tls-verify: true}}]
users: [{name: c, user: {token: crowd}}]
END
await "the API server" "$KUBECTL" get --raw /readyz
"$KUBECTL" apply --server-side -f ../crds >/dev/null
"$KUBECTL" wait --for=condition=Established crd/holdfastclusters.holdfast.dev --timeout=60s >/dev/null
await "namespace default" "$KUBECTL" get namespace default

timeout 1200 "$operator" run --leader-elect=false --metrics-listen 127.0.0.1:28080 --log-level warn \
  >"$work/operator.log" 2>&1 </dev/null &
pids=($! "${pids[@]}")
start crowd "$crowd" --clusters "$clusters" --formed "$formed" --silent "$silent"
await "the clusters' pods" grep -q "of them have pods" "$work/crowd.log"
ready() { [[ $("$KUBECTL" get hf -o 'jsonpath={.items[*].status.readyNodes}' | tr ' ' '\n' | grep -c 3) == "$formed" ]]; }
await "all formed clusters to have ready nodes" ready
# What was written last is looked at once more, and then nothing changes.
sleep 40
[[ $silent == 0 ]] || sleep 60

pid=$(pgrep -P "${pids[1]}")
now() {
  local line
  line=$(curl -s http://127.0.0.1:28080/metrics | awk '
    /^holdfast_operator_reconcile_runs_total / { runs = $2 }
    /^holdfast_operator_api_writes_total / { writes = $2 }
    /^holdfast_operator_reconcile_duration_seconds_sum/ { sum = $2 }
    END { print runs + 0, writes + 0, sum + 0 }')
  echo "$line $(awk '{ print $14 + $15 }' "/proc/$pid/stat") $(date +%s.%N)"
}
before=$(now)
sleep "$seconds"
after=$(now)
memory=$(awk '/VmHWM/ { high = $2 } /VmRSS/ { now = $2 } END { printf "%d MB now, %d MB at most", now / 1024, high / 1024 }' "/proc/$pid/status")
echo "$before $after $(getconf CLK_TCK)" | awk -v clusters="$clusters" -v formed="$formed" -v silent="$silent" -v memory="$memory" '{
  time = $10 - $5; runs = $6 - $1
  printf "%d clusters, %d formed, %d silent: %.1f reconciles/s (%.1f s between two of a cluster), %d writes in %.0f s,\n",
    clusters, formed, silent, runs / time, clusters * time / runs, $7 - $2, time
  printf "%.1f ms a reconcile, waiting included; processor %.3f cores, %.2f ms a reconcile; %s\n",
    1000 * ($8 - $3) / runs, ($9 - $4) / $11 / time, 1000 * ($9 - $4) / $11 / runs, memory
}'
