#!/usr/bin/env bash
# Builds the images of the Dockerfile without a container engine, from binaries built outside, and
# writes them as archives: node.tar, operator.tar, e2e.tar.
#
#   images.sh BINARIES OUTPUT [TARGET...]     default targets: node operator e2e
#
# BINARIES holds holdfast-node, holdfast-operator, holdfast-e2e and etcdctl, as far as the targets
# need them; they are stripped. The base image is made from this machine's Debian packages (libc,
# certificates), so binaries built on this machine fit it. Needs root.
# Tags: docker.io/holdfast/TARGET:${HOLDFAST_E2E_TAG:-dev}.
set -euo pipefail
[[ $# -ge 2 ]] || { sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2; }
binaries=$(cd "$1" && pwd)
mkdir -p "$2"
output=$(cd "$2" && pwd)
shift 2
targets=("$@")
[[ ${#targets[@]} -gt 0 ]] || targets=(node operator e2e)
tag=${HOLDFAST_E2E_TAG:-dev}
cd "$(dirname "$0")/.."

cache="${HOLDFAST_BUILD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/holdfast}/base"
base=gcr.io/distroless/cc-debian12:nonroot
work=$(mktemp -d)
# buildah's own storage goes with it: nothing stays mounted or in the machine's image store.
trap 'rm -rf "$work"' EXIT

# What a base image without a shell holds, from packages of this machine's release: no maintainer
# script runs, files are only unpacked. Kept in the cache, keyed by the libc that binaries need.
packages=(base-files libc6 libgcc-s1 ca-certificates)
archive=$cache/base-libc6-$(dpkg-query -W -f '${Version}' libc6).tar
if [[ ! -f $archive ]]; then
  echo "making the base image from ${packages[*]}" >&2
  mkdir -p "$cache" "$work/packages" "$work/root"
  # Signed by Debian: apt checks what it fetches. The sandbox user could not write to our folder.
  (cd "$work/packages" && apt-get -qq -o APT::Sandbox::User=root download "${packages[@]}" >&2)
  for package in "$work"/packages/*.deb; do
    dpkg-deb --fsys-tarfile "$package" | tar -C "$work/root" -x --exclude='./usr/share/doc/*' \
      --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*' --exclude='./usr/share/lintian/*'
  done
  (cd "$work/root"
    mkdir -p etc/ssl/certs home/nonroot
    cat usr/share/ca-certificates/mozilla/*.crt >etc/ssl/certs/ca-certificates.crt
    echo 'root:x:0:0:root:/root:/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin
nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin' >etc/passwd
    echo 'root:x:0:
nobody:x:65534:
nonroot:x:65532:' >etc/group
    echo 'hosts: files dns' >etc/nsswitch.conf
    chmod 1777 tmp
    chown 65532:65532 home/nonroot)
  tar -C "$work/root" --sort=name --mtime=@0 --numeric-owner -cf "$archive.part" .
  mv "$archive.part" "$archive"
fi

export STORAGE_DRIVER=overlay
# Neither the machine's registries nor its credentials are consulted.
buildah() { command buildah --root "$work/storage" --runroot "$work/run" "$@"; }

container=$(buildah from scratch)
buildah add --quiet "$container" "$archive" / >/dev/null
buildah commit --quiet --rm --timestamp 0 "$container" $base >/dev/null

mkdir -p "$work/build/out" "$work/etcdctl/out"
for target in "${targets[@]}"; do
  strip --strip-all -o "$work/build/out/holdfast-$target" "$binaries/holdfast-$target"
  [[ $target != e2e ]] || cp "$binaries/etcdctl" "$work/etcdctl/out/"
done
chmod 755 "$work"/*/out/*

for target in "${targets[@]}"; do
  image=docker.io/holdfast/$target:$tag
  buildah bud --quiet --isolation chroot --pull-never --layers=false --timestamp 0 \
    --build-context build="$work/build" --build-context etcdctl="$work/etcdctl" \
    --target "$target" --tag "$image" . >/dev/null
  rm -f "$output/$target.tar"
  buildah push --quiet "$image" "docker-archive:$output/$target.tar:$image" >/dev/null
  echo "$image $(($(stat -c %s "$output/$target.tar") / 1000000)) MB" >&2
done
