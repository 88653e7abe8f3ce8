#!/bin/bash
# Measures what node variants cost: `seed --all` of sites of 1,000, 3,000 and 9,000 nodes (3 controllers, 8 computes for
# each storage node), on two cores.
#
#   time      9,000 seeds                                        at most 30 s
#   memory    its peak                                           at most 500 MiB
#   growth    processor time per node, 9,000 against 3,000       at most 2: linear would be 1, quadratic 3
#
# Usage:   benches/seeds.sh
#
# Exit status 1: a limit was missed. Environment: OSTACK_IMAGE, the program (default: the release build of this working
# copy); BENCH_LOGS, a folder to keep the program's output in.
set -euo pipefail
export LC_ALL=C.UTF-8

cd "$(dirname "$0")/.."
program=${OSTACK_IMAGE:-target/x86_64-unknown-linux-gnu/release/ostack-image}

fail() { echo "bench: $*" >&2; exit 2; }
[ -x "$program" ] || fail "$program is missing; run: cargo build --release"

mkdir -p out
work=$(mktemp -d "$PWD/out/bench.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
logs=${BENCH_LOGS:-$work/logs}
mkdir -p "$logs"
# shellcheck source=benches/measure.sh
. benches/measure.sh

# The shipped site with other nodes. Its networks have room for 65,000.
site() {
    sed '/^\[\[node\]\]/,$d' site.toml
    awk -v nodes="$1" 'BEGIN {
        for (i = 0; i < nodes; i++) {
            role = i < 3 ? "controller" : i < 3 + int(nodes * 8 / 9) ? "compute" : "storage"
            host = int(i / 250) "." i % 250 + 1
            end = sprintf("%02x:%02x", int(i / 256), i % 256)
            printf "[[node]]\nname = \"%s%04d\"\nrole = \"%s\"\n", role, ++count[role], role
            printf "management = \"172.16.%s\"\nexternal = \"10.181.%s\"\n", host, host
            printf "mac = \"52:54:00:b5:%s\"\nexternal_mac = \"52:54:00:b6:%s\"\n", end, end
            if (role == "compute") printf "provider_mac = \"52:54:00:b7:%s\"\n", end
            print ""
        }
    }'
}

# Whoever has more cores is measured on the first two that it may use.
cores=()
[ "$(nproc)" -le 2 ] || cores=(taskset -c "$(taskset -cp $$ | sed 's/.*: //; s/-/,/' | cut -d, -f 1,2)")

export OSTACK_PASSPHRASE="a passphrase of the bench"
declare -A seconds busy memory drawing
for nodes in 1000 3000 9000; do
    echo "bench: $nodes nodes" >&2
    site "$nodes" > "$work/site.toml"
    # Each node has certificates of its own; drawing them is not what is measured against the limit.
    rm -f "$work/secrets.age"
    measure "secrets-$nodes" "${cores[@]}" "$program" --site "$work/site.toml" secrets init
    [ "$status" = 0 ] || fail "drawing secrets failed: $(tail -n 5 "$logs/secrets-$nodes")"
    drawing[$nodes]=$wall
    measure "seeds-$nodes" "${cores[@]}" "$program" --site "$work/site.toml" --out "$work/seeds" seed --all
    [ "$status" = 0 ] || fail "it failed; its last words: $(tail -n 5 "$logs/seeds-$nodes")"
    [ "$(find "$work/seeds" -name '*.seed.img' | wc -l)" = "$nodes" ] || fail "not every node has a seed"
    seconds[$nodes]=$wall busy[$nodes]=$cpu memory[$nodes]=$peak
    size=$(du -sm "$work/seeds" | cut -f 1)
    rm -rf "$work/seeds"
done

per_node() { awk -v total="$1" -v nodes="$2" 'BEGIN { printf "%.3f", total * 1000 / nodes }'; }
echo "$(nproc) cores, load $(cut -d' ' -f1 /proc/loadavg); the largest site's seeds occupy $size MiB"
for nodes in 1000 3000 9000; do
    printf '%5s nodes (secrets drawn in %s s) %8s s %8s ms per node, user+sys %6s s %8s ms per node, peak %4s MiB\n' "$nodes" "${drawing[$nodes]}" "${seconds[$nodes]}" \
        "$(per_node "${seconds[$nodes]}" "$nodes")" "${busy[$nodes]}" "$(per_node "${busy[$nodes]}" "$nodes")" \
        "$(mib "${memory[$nodes]}")"
done
heading
row "seeds of 9,000 nodes" "${seconds[9000]}" s 30 ""
row "peak memory" "$(mib "${memory[9000]}")" MiB 500 ""
row "growth, 3,000 to 9,000 nodes" "$(ratio "$(per_node "${busy[9000]}" 9000)" "$(per_node "${busy[3000]}" 3000)")" "" 2 \
    "processor time per node"
[ "$missed" = 0 ] || { echo "bench: a limit was missed" >&2; exit 1; }
