#!/bin/bash
# Compares `ostack-image serve` with nginx (Debian's package, as its own configuration has it: sendfile) at giving one file of
# 256 MiB to 200 clients at once over loopback, in turns in the same run.
#
#   throughput   of serve / of nginx, median of the turns        at least 1.0
#
# Usage:   benches/serve.sh [TURNS] [SECONDS]
#
# Exit status not 0: the limit was missed.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup bench
turns=${1-5} seconds=${2-8} clients=200
program=$PWD/target/x86_64-unknown-linux-gnu/release/ostack-image
[ -x "$program" ] || make program
tmp=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$tmp"' EXIT

# A tree with nothing but the file: what is measured is giving it out.
mkdir -p "$tmp/project/out/netboot/boot"
for part in recipes overlays images ostack.lock; do ln -s "$PWD/$part" "$tmp/project/$part"; done
sed 's/^\[dns\]$/[provision]\nserver = "172.16.181.2"\nport = 18080\n\n[dns]/' site.toml >"$tmp/project/site.toml"
head -c $((256 << 20)) /dev/urandom >"$tmp/project/out/netboot/file"
echo '{}' >"$tmp/project/out/netboot/boot/scripts.json"
(cd "$tmp/project/out/netboot" && sha256sum file boot/scripts.json >SHA256SUMS)

chmod 755 "$tmp" "$tmp"/project{,/out{,/netboot}}
cat >"$tmp/nginx.conf" <<EOF
worker_processes auto;
pid $tmp/nginx.pid;
error_log $tmp/nginx.log;
events { worker_connections 768; }
http {
    sendfile on;
    tcp_nopush on;
    access_log off;
    server { listen 127.0.0.1:18081; root $tmp/project/out/netboot; }
}
EOF
nginx -p "$tmp" -c "$tmp/nginx.conf" -g 'daemon off;' &
"$program" -C "$tmp/project" serve --listen 127.0.0.1 >"$tmp/serve.log" 2>&1 &
for port in 18080 18081; do
    for _ in $(seq 100); do
        ! curl -sf -o /dev/null -r 0-0 "http://127.0.0.1:$port/file" || continue 2
        sleep 0.1
    done
    echo "nobody answers at port $port" >&2
    exit 1
done

# Bytes per second, all clients together.
rate() { wrk -t 1 -c "$clients" -d "${seconds}s" --timeout 60s "http://127.0.0.1:$1/file" 2>&1 | awk '/Transfer\/sec/ {
    unit = substr($2, length($2) - 1); value = substr($2, 1, length($2) - 2)
    factor["KB"] = 1024; factor["MB"] = 1024 ^ 2; factor["GB"] = 1024 ^ 3; print value * factor[unit] }'; }
: >"$tmp/ratios"
for turn in $(seq "$turns"); do
    ours=$(rate 18080) theirs=$(rate 18081)
    awk -v ours="$ours" -v theirs="$theirs" -v turn="$turn" 'BEGIN {
        printf "turn %d: serve %.0f MiB/s, nginx %.0f MiB/s, ratio %.2f\n", turn, ours / 2 ^ 20, theirs / 2 ^ 20, ours / theirs }'
    awk -v ours="$ours" -v theirs="$theirs" 'BEGIN { print ours / theirs }' >>"$tmp/ratios"
done
sort -n "$tmp/ratios" | awk '{ all[NR] = $1 } END { median = all[int((NR + 1) / 2)]
    printf "median ratio %.2f (at least 1.0)\n", median; exit median < 1.0 }'
