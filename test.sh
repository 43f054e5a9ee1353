#!/usr/bin/env bash
# Runs every test of Holdfast: formatting, lints, documentation, unit and property tests, the
# protocol model, the simulation, processes killed for real, the comparison with etcd, and the
# promises on a real Kubernetes.
#
#   ./test.sh            everything
#   ./test.sh --quick    without the comparison with etcd and without Kubernetes
#
# Needs Rust and Go on Debian or Ubuntu; a missing C compiler is installed with apt. Builds are
# cached under ${HOLDFAST_BUILD_CACHE:-~/.cache/holdfast}. The last line is
# "N passed, N failed, N skipped"; exits 0 only if nothing failed.
set -u -o pipefail
cd "$(dirname "$0")" || exit 2

quick=
case "${1:-}" in
  "") ;;
  --quick) quick=yes ;;
  *) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac

export HOLDFAST_BUILD_CACHE="${HOLDFAST_BUILD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/holdfast}"
mkdir -p "$HOLDFAST_BUILD_CACHE"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOLDFAST_BUILD_CACHE/target}"
export CARGO_TERM_COLOR=never
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
passed=0
failed=0
skipped=0

say() { printf '\n== %s (%s)\n' "$*" "$(date +%H:%M:%S)"; }

need() {
  command -v "$1" >/dev/null 2>&1 && return 0
  [ "$(id -u)" = 0 ] || { echo "missing: $1. Install it with: sudo apt-get install -y $2"; exit 2; }
  say "installing $2"
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$2" || exit 2
}

# One check that passes or fails as a whole.
check() {
  local name=$1
  shift
  say "$name"
  if "$@"; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "FAILED: $name"
  fi
}

# Tests that cargo counts.
cargo_tests() {
  local name=$1 log="$logs/cargo.$RANDOM" before=$failed status
  shift
  say "$name"
  cargo test --locked --no-fail-fast "$@" 2>&1 | tee "$log"
  status=${PIPESTATUS[0]}
  read -r p f s < <(awk '/^test result:/ { p += $4; f += $6; s += $8 } END { print p+0, f+0, s+0 }' "$log")
  passed=$((passed + p))
  failed=$((failed + f))
  skipped=$((skipped + s))
  # A crate that does not build, or a test process that dies, counts as a failure too.
  if [ "$status" != 0 ] && [ "$failed" = "$before" ]; then failed=$((failed + 1)); fi
}

# Tests that go counts.
go_tests() {
  local name=$1 dir=$2 log="$logs/go.$RANDOM" before=$failed status
  shift 2
  say "$name"
  (cd "$dir" && go test -v "$@") 2>&1 | tee "$log" | grep -v -E '^\s*(=== |--- PASS)'
  status=${PIPESTATUS[0]}
  passed=$((passed + $(grep -c -E '^\s*--- PASS' "$log")))
  failed=$((failed + $(grep -c -E '^\s*--- FAIL' "$log")))
  skipped=$((skipped + $(grep -c -E '^\s*--- SKIP' "$log")))
  if [ "$status" != 0 ] && [ "$failed" = "$before" ]; then failed=$((failed + 1)); fi
}

# Tests on Kubernetes; their script counts, and says why it skips them where there can be none.
e2e_tests() {
  local name=$1 log="$logs/e2e.$RANDOM" status p f s
  say "$name"
  e2e/run.sh 2>&1 | tee "$log"
  status=${PIPESTATUS[0]}
  read -r p f s < <(awk '/^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$/ { p = $1; f = $3; s = $5 } END { print p+0, f+0, s+0 }' "$log")
  if [ "$status" != 0 ] && [ "$f" = 0 ]; then f=1; fi
  passed=$((passed + p))
  failed=$((failed + f))
  skipped=$((skipped + s))
}

need cc build-essential
command -v cargo >/dev/null 2>&1 || { echo "missing: cargo. Install Rust: see rust-toolchain.toml"; exit 2; }

check "formatting" cargo fmt --all --check
check "lints" cargo clippy --locked --workspace --all-targets -- -D warnings
check "documentation" env RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps
cargo_tests "tests" --workspace

if [ -n "$quick" ]; then
  echo "skipped: comparison with etcd, tests on Kubernetes (--quick)"
  skipped=$((skipped + 2))
elif ! command -v go >/dev/null 2>&1; then
  echo "skipped: comparison with etcd (no Go on this machine)"
  skipped=$((skipped + 1))
else
  check "etcd for comparison" bench/build.sh
  export HOLDFAST_NODE="$CARGO_TARGET_DIR/debug/holdfast-node"
  go_tests "the tools of the comparison" bench -count=1 ./cmd/... ./internal/...
  go_tests "the etcd API, answer by answer beside etcd" bench -count=1 -timeout 30m ./conformance -target=holdfast
  go_tests "the same with ranges cut between the keys" bench -count=1 -timeout 30m ./conformance -target=holdfast -ranges=many -run TestConformance
fi
if [ -z "$quick" ]; then
  e2e_tests "the promises on Kubernetes"
  # Built with the parts of Kubernetes.
  helm=$(ls "$HOLDFAST_BUILD_CACHE"/bin/helm-*/helm 2>/dev/null | tail -1)
  if [ -n "$helm" ]; then
    check "charts" "$helm" lint --quiet charts/holdfast charts/holdfast-cluster
    check "manifests and the charts they come from" env HELM="$helm" deploy/render.sh --check
  else
    echo "skipped: charts (no helm here)"
    skipped=$((skipped + 1))
  fi
fi

echo
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
