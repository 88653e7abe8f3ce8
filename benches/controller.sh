#!/bin/bash
# Measures what the controller's image must reach, in one run on one machine, and prints ratios:
#
#   a  a build when nothing changed                             at most 0.5 s
#   b  one line of overlays/haproxy/ changed, to a new qcow2    at most 5 s
#   c  a cold build from fetched packages                       at most mmdebstrap's time for its tarball
#   d  peak memory of the builder's own process                 below 300 MiB
#
# For b, measured on 2 cores for the same set and change: mkosi incremental 60 s, diskimage-builder 161 s,
# mmdebstrap and a disk by hand 105 s.
#
# Usage, as root:   benches/controller.sh [STORE]
#
# STORE is only read: packages that it holds are linked or copied into a store of the bench's own, beside it;
# others are fetched first. Needs mmdebstrap, and apt sources of Debian. Exit status 1: a limit was missed.
# Environment: OSTACK_IMAGE, the program (default: the release build of this working copy);
#              BENCH_LOGS, a folder to keep every tool's output in.
set -euo pipefail
export LC_ALL=C.UTF-8

project=$(cd "$(dirname "$0")/.." && pwd)
cd "$project"
program=${OSTACK_IMAGE:-$project/target/x86_64-unknown-linux-gnu/release/ostack-image}
store=${1:-${OSTACK_STORE:-${XDG_CACHE_HOME:-$HOME/.cache}/ostack-image/store}}
edited=overlays/haproxy/templates/haproxy.cfg.tera
role=controller

exec 3>&2  # for messages from where `time` has stderr
fail() { echo "bench: $*" >&3; exit 2; }
[ "$(id -u)" = 0 ] || fail "run as root"
[ -x "$program" ] || fail "$program is missing; run: cargo build --release"
command -v mmdebstrap > /dev/null || fail "mmdebstrap is missing; run: apt-get install mmdebstrap"

mkdir -p "$store"
work=$(mktemp -d "$(dirname "$(realpath "$store")")/bench.XXXXXX")
saved=
finish() {
    [ -z "$saved" ] || cp -p "$saved" "$project/$edited"
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM
logs=${BENCH_LOGS:-$work/logs}
mkdir -p "$logs" "$work/debs" "$work/store/blobs/sha256"

# The locked packages that the role's build needs: "NAME VERSION ARCH SHA256" per line.
locked() {
    grep -E "sets = .*\"($role|base|tools|kernel[a-z-]*)\"" ostack.lock |
        sed -n 's/.*name = "\([^"]*\)", version = "\([^"]*\)", arch = "\([^"]*\)", .*sha256 = "\([0-9a-f]*\)",.*/\1 \2 \3 \4/p'
}

# shellcheck source=benches/measure.sh
. benches/measure.sh
build() {
    measure "$1" "$program" build "$role" --store "$work/store" --out "$work/out" "${@:2}"
    [ "$status" = 0 ] || fail "the build failed; its last words: $(tail -n 5 "$logs/$1")"
}

echo "bench: collecting packages" >&2
while read -r _ _ _ digest; do
    blob=blobs/sha256/$digest
    if [ -e "$store/$blob" ] && [ ! -e "$work/store/$blob" ]; then
        ln "$store/$blob" "$work/store/$blob" 2> /dev/null || cp "$store/$blob" "$work/store/$blob"
    fi
done < <(locked)

missing=0
while read -r _ _ _ digest; do [ -e "$work/store/blobs/sha256/$digest" ] || missing=$((missing + 1)); done < <(locked)
if [ "$missing" != 0 ]; then
    echo "bench: $missing packages are missing: fetching them by a build that does not count" >&2
    build fetch
    rm -rf "$work/store/ostack/steps" "$work/store/ostack/last" "$work/store/ostack/tools" "$work/out"
fi
echo "bench: cold build" >&2
build cold --offline
cold=$wall cold_cpu=$cpu cold_peak=$peak
"$program" inspect "$role" --packages --store "$work/store" > "$work/packages"

echo "bench: nothing changed" >&2
same=0
for round in 1 2 3; do
    build same --offline
    less "$wall" "$same" || same=$wall
done

echo "bench: one line changed" >&2
saved=$work/saved
cp -p "$edited" "$saved"
sed -i '1i # bench: one more line' "$edited"
build changed --offline
changed=$wall changed_cpu=$cpu changed_peak=$peak
cp -p "$saved" "$edited"
saved=

echo "bench: mmdebstrap" >&2
# The packages under the names that apt gives them, so that it fetches nothing.
while read -r name version arch digest; do
    if grep -qxF "$name $version" "$work/packages"; then
        ln "$work/store/blobs/sha256/$digest" "$work/debs/${name}_${version//:/%3a}_$arch.deb"
    fi
done < <(locked)
# The archives from which this machine's own apt takes Debian, with the suites of the lock.
uri() { apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m 1 "/$1/\?\$" || fail "this machine's apt knows no archive $1"; }
sed -n 's/.*{ name = "\([^"]*\)", archive = "\([^"]*\)", date = .*/\1 \2/p' ostack.lock | sort -u > "$work/suites"
while read -r suite archive; do
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(uri "$archive") $suite main non-free-firmware"
done < "$work/suites" > "$work/sources.list"
suite=$(awk '{ print $1 }' "$work/suites" | sort | head -n 1)
# shellcheck disable=SC2016  # $1 is for the hook's shell
hook='mkdir -p "$1/var/cache/apt/archives/partial"; cp -l '"$work"'/debs/* "$1/var/cache/apt/archives/" 2> /dev/null || cp '"$work"'/debs/* "$1/var/cache/apt/archives/"'
debstrap() {
    rm -f "$work/theirs.tar"
    measure mmdebstrap mmdebstrap --mode=root --variant=essential --verbose --skip=essential/unlink \
        --include="$(paste -sd, "$work/include")" --setup-hook="$hook" "$suite" "$work/theirs.tar" "$work/sources.list"
}
awk '{ print $1 "=" $2 }' "$work/packages" > "$work/include"
debstrap
if [ "$status" != 0 ]; then
    # The archive has moved on: what it has no more in the locked version is taken as it is now.
    gone=$(sed -n "s/.*Version '\(.*\)' for '\([^':]*\).*' was not found.*/\2/p" "$logs/mmdebstrap" | sort -u)
    [ -n "$gone" ] || fail "mmdebstrap failed; its last words: $(tail -n 5 "$logs/mmdebstrap")"
    for name in $gone; do sed -i "s/^$name=.*/$name/" "$work/include"; done
    debstrap
    [ "$status" = 0 ] || fail "mmdebstrap failed; its last words: $(tail -n 5 "$logs/mmdebstrap")"
fi
theirs=$wall theirs_cpu=$cpu
fetched=$(grep -c '^Get:.* [a-z0-9].* Packages\|^Get:.*\.deb' "$logs/mmdebstrap" || true)
tar -xOf "$work/theirs.tar" ./var/lib/dpkg/status | awk '/^Package:/ { name = $2 } /^Version:/ { print name, $2 }' | sort > "$work/theirs"
different=$(sort "$work/packages" | comm -3 - "$work/theirs" | wc -l)

peak=$((cold_peak > changed_peak ? cold_peak : changed_peak))
echo "$(nproc) cores, $(awk '/^MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo) of memory, load $(cut -d' ' -f1 /proc/loadavg), $(wc -l < "$work/packages") packages"
printf '%-34s %14s %14s\n' what measured limit
row "a nothing changed" "$same" s 0.5 "slowest of 3"
row "b one line of haproxy -> qcow2" "$changed" s 5 "user+sys $changed_cpu s"
row "c cold build / mmdebstrap" "$(ratio "$cold" "$theirs")" "" 1.00 "$cold s (user+sys $cold_cpu) / $theirs s (user+sys $theirs_cpu)"
row "d peak memory, own process" "$(mib "$peak")" MiB 300 "cold $(mib "$cold_peak"), one line $(mib "$changed_peak")"
[ "$different" = 0 ] || echo "note: $different names or versions differ between the two sets; mmdebstrap's log has $fetched downloads of any kind"
[ "$missed" = 0 ] || { echo "bench: a limit was missed" >&2; exit 1; }
