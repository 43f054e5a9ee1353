# Names, places and small functions that up, down, machine, load and fault share.
# Sourced, never run.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# One cluster a name: everything that belongs to it carries the name or lies in its state folder.
name=${HOLDFAST_E2E_NAME:-holdfast-e2e}
state=${HOLDFAST_E2E_STATE:-${TMPDIR:-/tmp}/$name}
# Kubernetes nodes of the cluster.
nodes=${HOLDFAST_E2E_NODES:-3}
# Local volumes on each Kubernetes node.
volumes=${HOLDFAST_E2E_VOLUMES:-16}
# Seconds after which every process of the cluster ends by itself, whatever became of its starter.
lifetime=${HOLDFAST_E2E_LIFETIME:-7200}

# Addresses live in network namespaces of their own, so they cannot collide with the machine's.
api_address=172.30.0.1
service_range=10.96.0.0/16
kubernetes_service=10.96.0.1
dns_service=10.96.0.10

# The address of Kubernetes node N, and the range of its pods.
node_address() { echo "172.30.0.$((10 + $1))"; }
pod_range() { echo "10.244.$1.0/24"; }

fail() {
  echo "${0##*/}: $*" >&2
  exit 1
}

# Prints why a cluster cannot be assembled here, or nothing.
why_not() {
  local tool
  [[ $(uname -s) == Linux ]] || { echo "not Linux"; return; }
  [[ $(id -u) == 0 ]] || { echo "not root"; return; }
  [[ $(uname -m) == x86_64 || $(uname -m) == aarch64 ]] || { echo "neither x86-64 nor arm64"; return; }
  for tool in go apt-get; do
    command -v $tool >/dev/null 2>&1 || { echo "no $tool on this machine"; return; }
  done
  if ! unshare --net --pid --mount --fork --kill-child --mount-proc \
    sh -c 'mount -t tmpfs none /run && mount --make-rshared /' >/dev/null 2>&1; then
    echo "the kernel does not allow network, process and mount namespaces here"
    return
  fi
  [[ -d /sys/fs/cgroup/memory || -f /sys/fs/cgroup/cgroup.controllers ]] ||
    { echo "no control groups mounted at /sys/fs/cgroup"; return; }
  local scratch
  scratch=$(mktemp -d)
  if [[ ! -w /sys/fs/cgroup/ ]] && [[ ! -w /sys/fs/cgroup/memory ]]; then
    echo "control groups are read-only"
  elif ! mkdir "$scratch"/{lower,upper,work,merged} || ! unshare --mount mount -t overlay overlay \
    -o "lowerdir=$scratch/lower,upperdir=$scratch/upper,workdir=$scratch/work" "$scratch/merged" >/dev/null 2>&1; then
    echo "no overlay file system over ${TMPDIR:-/tmp}"
  fi
  rm -rf "$scratch"
}

# Folders of the control groups that Kubernetes node $1 keeps its pods in, one a hierarchy.
cgroups_of() {
  local hierarchy
  if [[ -f /sys/fs/cgroup/cgroup.controllers ]]; then
    echo "/sys/fs/cgroup/$name-$1"
    return
  fi
  for hierarchy in /sys/fs/cgroup/*/; do
    [[ -f $hierarchy/cgroup.procs && ! -L ${hierarchy%/} ]] && echo "$hierarchy$name-$1"
  done
}

# Host process ids of all processes that were started for this cluster: they carry its mark in
# their environment. Processes inside a machine may lose the mark, but die with the machine.
marked_processes() {
  # Processes that end meanwhile cannot be read.
  grep -lzF "HOLDFAST_E2E_MACHINE=$state/" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3 || true
}

# Host process id of the first process of a machine; its namespaces are the machine's.
machine_process() {
  local pid
  pid=$(cat "$state/$1/pid" 2>/dev/null) || fail "machine $1 was not started"
  grep -qzxF "HOLDFAST_E2E_MACHINE=$state/$1" "/proc/$pid/environ" 2>/dev/null ||
    fail "machine $1 does not run (any more)"
  echo "$pid"
}

# Runs a command inside a machine: `inside node-1 ctr ...`.
inside() {
  local pid
  pid=$(machine_process "$1")
  shift
  nsenter --target "$pid" --net --pid --mount -- "$@"
}

# The same with the network of the machine only, and this machine's files.
network_of() {
  local pid
  pid=$(machine_process "$1")
  shift
  nsenter --net="/proc/$pid/ns/net" -- "$@"
}

kubectl() { "$state/kubectl" --kubeconfig "$state/kubeconfig" "$@"; }

# Waits until a command succeeds: `await SECONDS WHAT COMMAND...`.
await() {
  local until=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < until)) || fail "gave up waiting for $what. $(cat "$state"/*/log/machine 2>/dev/null)"
    sleep 0.2
  done
}
