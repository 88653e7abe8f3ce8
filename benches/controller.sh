#!/bin/bash
# Compares the build engine with its peers, in one run on one machine, with exactly the packages of the lock, and prints ratios:
#
#   cold controller image, packages fetched: ours to qcow2 / mmdebstrap to a tarball, and a disk by hand    at most 0.4
#   the same / mkosi's full build                                                                           at most 0.5
#   one line of haproxy's file changed, to qcow2 / mkosi incremental with the same change                   at most 0.03
#   the same, by the clock                                                                                  at most 1.5 s
#   one small package added, to qcow2 / mmdebstrap and the disk again, as it has no other way               at most 0.4
#   nothing changed                                                                                         at most 0.15 s
#   build --all (every role) / the controller alone, both cold                                              at most 2.0
#   size of the qcow2 / sum of the .debs in it                                                              at most 1.6
#   peak memory of our own processes: the program, and those of its sandboxes that still are the program    at most 400 MiB
#
# Below a missed row stand the longest spans of that build's --timings.
#
# Usage, as root:   benches/controller.sh [STORE]
#
# STORE is only read: packages that it holds are linked or copied into a folder of the bench's own, beside it, where
# everything happens, in copies of the project; others are fetched first. That folder needs 25 GB, 10 more where packages must
# be fetched, and is removed at the end; mkosi and its tools stay in the user's cache folder. Needs what `scripts/setup bench`
# installs, and apt sources of Debian.
# Exit status 1: a limit was missed; 2: something did not work. Takes about half an hour.
#
# Environment: OSTACK_IMAGE, the program (default: the release build of this working copy);
#              BENCH_LOGS, a folder to keep every tool's output in;
#              BENCH_PACKAGES, names of packages that peers are to install instead: for trying this script, not for results.
set -euo pipefail
export LC_ALL=C.UTF-8

source=$(cd "$(dirname "$0")/.." && pwd)
program=${OSTACK_IMAGE:-$source/target/x86_64-unknown-linux-gnu/release/ostack-image}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/ostack-image/bench
role=controller edited=overlays/haproxy/templates/haproxy.cfg.tera added=tree

exec 3>&2  # for messages from where `time` has stderr
fail() { echo "bench: $*" >&3; exit 2; }
say() { echo "bench: $*" >&2; }
cd "$source"

if [ "${1-}" != --inside ]; then
    [ "$(id -u)" = 0 ] || fail "run as root"
    [ -x "$program" ] || fail "$program is missing; run: cargo build --release"
    for command in mmdebstrap dpkg-scanpackages sfdisk mkfs.fat mcopy qemu-img python3 curl; do
        command -v "$command" > /dev/null || fail "$command is missing; run: scripts/setup bench"
    done
    store=$(realpath -m "${1:-${OSTACK_STORE:-${XDG_CACHE_HOME:-$HOME/.cache}/ostack-image/store}}")
    mkdir -p "$store"
    work=$(mktemp -d "$(dirname "$store")/bench.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    # Whatever a tool mounts or starts ends with it, before the folder is removed.
    unshare --mount --pid --mount-proc --fork --kill-child -- "$source/benches/controller.sh" --inside "$work" "$store" &
    trap 'kill -KILL $!; wait; exit 130' INT TERM
    status=0
    wait $! || status=$?
    exit "$status"
fi
work=$2 store=$3
# Many files that were deleted make new ones in the same part of an ext4 slow, for minutes: whoever runs second would pay. So
# each run has a folder of its own, each such folder a part of its own, and nothing but a few large files goes before the end.
chattr +T "$work" 2> /dev/null || true
logs=${BENCH_LOGS:-$work/logs}
mkdir -p "$logs" "$work/base/blobs/sha256" "$work/project"
cp -r site.toml ostack.lock recipes overlays images "$work/project/"
project=$work/project blobs=$work/base/blobs/sha256

# "NAME VERSION ARCH SHA256 PATH" of all that the lock in a folder has for images.
locked() {
    sed -n '/sets = \["solver"\]/d; s/.*name = "\([^"]*\)", version = "\([^"]*\)", arch = "\([^"]*\)", .*sha256 = "\([0-9a-f]*\)", path = "\([^"]*\)".*/\1 \2 \3 \4 \5/p' \
        "$1/ostack.lock"
}
suite=$(sed -n 's/.* archive = "debian", suite = "\([^"]*\)".*/\1/p' ostack.lock | sort | uniq -c | sort -rn | awk 'NR == 1 { print $2 }')

# shellcheck source=benches/measure.sh
. benches/measure.sh
# shellcheck source=benches/peers.sh
. benches/peers.sh

# build NAME PROJECT STORE ARGUMENTS: one that counts. Sets what `measure` sets, and $highest, of all of them.
highest=0
build() {
    measure "$1" "$program" -C "$2" build --offline --timings --store "$3" --out "$3/out" "${@:4}"
    succeeded "$1"
    [ "$peak" -le "$highest" ] || highest=$peak
}
# A store that holds packages and nothing else.
cold_store() {
    mkdir -p "$1/blobs/sha256"
    # Some packages of the lock are for none of these builds, such as what blank machines start by.
    while read -r _ _ _ digest _; do
        [ ! -e "$blobs/$digest" ] || ln -f "$blobs/$digest" "$1/blobs/sha256/"
    done < <(locked "$project"; locked "$work/added")
}

say "collecting packages"
missing=0
while read -r _ _ _ digest _; do
    ln -f "$store/blobs/sha256/$digest" "$blobs/" 2> /dev/null || cp "$store/blobs/sha256/$digest" "$blobs/" 2> /dev/null ||
        missing=$((missing + 1))
done < <(locked "$project")
if [ "$missing" != 0 ]; then
    say "$missing packages are missing: fetching them by a build that does not count"
    quiet fetch "$program" -C "$project" build --all --store "$work/base" --out "$work/base/out"
fi
# The same project with one package more, locked and fetched.
cp -r "$project" "$work/added"
! grep -q "name = \"$added\"" ostack.lock || fail "the lock has $added already"
sed -i "/^\[packages\]/,/^$/ s/\"haproxy\"\]/\"haproxy\", \"$added\"]/" "$work/added/overlays/haproxy/overlay.toml"
quiet lock "$program" -C "$work/added" lock --store "$work/base"
read -r _ _ _ digest path < <(locked "$work/added" | grep "^$added ") || fail "adding $added to haproxy's packages did not lock it"
curl -fsSL -o "$blobs/$digest" "$(archive)/$path"
tools_root

load=$(cut -d ' ' -f 1 /proc/loadavg)
say "cold build"
cold_store "$work/first"
build cold "$project" "$work/first" "$role"
cold=$wall cold_cpu=$cpu image=$work/first/out/$role.qcow2
bytes=$(stat -c %s "$image")
"$program" -C "$project" inspect "$role" --packages --store "$work/first" > "$work/packages"
locked "$project" | awk 'NR == FNR { wanted[$1 " " $2]; next } ($1 " " $2) in wanted { print $1, $2, $3, $4 }' "$work/packages" - > "$work/locked"
debs=$(while read -r _ _ _ digest; do stat -c %s "$blobs/$digest"; done < "$work/locked" | awk '{ sum += $1 } END { print sum }')

say "nothing changed"
same=0
for _ in 1 2 3 4 5; do
    build same "$project" "$work/first" "$role"
    less "$wall" "$same" || same=$wall
done
say "one line changed"
sed -i '1i # bench: one more line' "$project/$edited"
build changed "$project" "$work/first" "$role"
changed=$wall changed_cpu=$cpu
cp "$source/$edited" "$project/$edited"
say "one package added"
build added "$work/added" "$work/first" "$role"
more=$wall more_cpu=$cpu
rm "$image"

say "indexing packages for peers"
repository
say "mmdebstrap, and a disk by hand"
debstrap
theirs=$wall theirs_cpu=$cpu
disk
by_hand=$wall by_hand_cpu=$cpu
say "mkosi: a build that fills its caches"
mkosi_setup incremental yes
mkosi_build mkosi-caches incremental
say "mkosi: full build"
mkosi_setup full no
mkosi_build mkosi full --cache-only=metadata
full=$wall full_cpu=$cpu
say "mkosi: one line changed"
sed -i '1i # bench: one more line' "$work/mkosi-incremental/mkosi.extra/etc/haproxy/haproxy.cfg"
mkosi_build mkosi-changed incremental --force --cache-only=metadata
incremental=$wall incremental_cpu=$cpu

# Machines change their speed in the meantime: what was measured before the peers is measured after them too.
say "cold build again"
cold_store "$work/second"
build cold-again "$project" "$work/second" "$role"
first=$cold again=$wall
cold=$(mean "$first" "$again")
say "every role, cold"
cold_store "$work/all"
build all "$project" "$work/all" --all
all=$wall all_cpu=$cpu

hand=$(awk -v a="$theirs" -v b="$by_hand" 'BEGIN { printf "%.2f", a + b }')
echo "$(nproc) cores, $(awk '/^MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo) of memory, load before $load, after $(cut -d ' ' -f 1 /proc/loadavg), $(wc -l < "$work/packages") packages"
[ -z "${BENCH_PACKAGES-}" ] || echo "no result: peers installed other packages"
heading
row "cold / mmdebstrap and a disk by hand" "$(ratio "$cold" "$hand")" "" 0.4 "$first and $again s (user+sys $cold_cpu) / $theirs + $by_hand s ($theirs_cpu + $by_hand_cpu)"
where cold
row "cold / mkosi's full build" "$(ratio "$cold" "$full")" "" 0.5 "… / $full s ($full_cpu)"
where cold
row "one line / mkosi incremental" "$(ratio "$changed" "$incremental" 3)" "" 0.03 "$changed s ($changed_cpu) / $incremental s ($incremental_cpu)"
where changed
row "one line -> qcow2" "$changed" s 1.5
where changed
row "one package added / mmdebstrap and disk" "$(ratio "$more" "$hand")" "" 0.4 "$more s ($more_cpu) / …"
where added
row "nothing changed" "$same" s 0.15 "slowest of 5"
where same
row "build --all / controller, both cold" "$(ratio "$all" "$cold")" "" 2.0 "$all s ($all_cpu) / $cold s"
where all
row "qcow2 / its .debs" "$(ratio "$bytes" "$debs")" "" 1.6 "$((bytes / 1000000)) MB / $((debs / 1000000)) MB"
row "memory of our own processes" "$(mib "$highest")" MiB 400 "the highest of all these builds"
[ "$missed" = 0 ] || { say "a limit was missed"; exit 1; }
