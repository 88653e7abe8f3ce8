#!/bin/bash
# Compares the installer with `curl | zstd -d > disk` at bringing the same bytes to the same disk: two QEMU machines in turns that differ
# in nothing but what is their init. The disk is in memory, the server is `ostack-image serve` for both, the network is one of a
# namespace.
#
#   time         of the installer / of curl and zstd, median of the turns        at most 1.5
#
# Usage:   benches/install.sh [TURNS]
#
# Exit status not 0: the limit was missed. Needs root, and 5 GiB of memory.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "${1-}" != --inside ]; then
    scripts/setup bench
    [ -x target/x86_64-unknown-linux-gnu/release/ostack-image ] || make program
    # Everything ends with it: the bridge, the tap, and whoever is in it.
    exec unshare --net --pid --fork --kill-child -- "$PWD/benches/install.sh" --inside "${1-3}"
fi
turns=$2
program=$PWD/target/x86_64-unknown-linux-gnu/release/ostack-image
server=172.16.181.2 address=172.16.181.21 mac=52:54:00:b5:01:15
tmp=$(mktemp -d)
memory=$(mktemp -d -p /dev/shm)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$tmp" "$memory"' EXIT

ip -batch - <<EOF
link set lo up
link add br0 type bridge stp_state 0 forward_delay 0
address add $server/16 dev br0
link set br0 up
tuntap add dev tap0 mode tap
link set tap0 master br0 up
EOF

# ---- the tree, and the same disk as one compressed file

mkdir -p "$tmp/project"
for part in recipes overlays images; do ln -s "$PWD/$part" "$tmp/project/$part"; done
cp ostack.lock "$tmp/project/"
sed "s/^\[dns\]\$/[provision]\nserver = \"$server\"\n\n[dns]/" site.toml >"$tmp/project/site.toml"
grep -q "mac = \"$mac\"" "$tmp/project/site.toml" || { echo "site.toml does not have $mac" >&2; exit 1; }
"$program" -C "$tmp/project" --offline netboot storage
"$program" -C "$tmp/project" --offline build storage --format raw
tree=$tmp/project/out/netboot
# Up to the last byte that is not a hole: what is behind it nobody has to write.
end=$(python3 - "$tmp/project/out/storage.raw" <<'EOF'
import os, sys
file = os.open(sys.argv[1], os.O_RDONLY)
end, at = 0, 0
size = os.fstat(file).st_size
while at < size:
    try:
        begin = os.lseek(file, at, os.SEEK_DATA)
    except OSError:
        break
    at = os.lseek(file, begin, os.SEEK_HOLE)
    # The table's copy at the disk's end is not the image's.
    if at < size:
        end = at
print(end)
EOF
)
head -c "$end" "$tmp/project/out/storage.raw" | zstd -q -3 -T0 -o "$tree/disk.zst"
rm "$tmp/project/out/storage.raw"
"$program" -C "$tmp/project" serve >"$tmp/serve.log" 2>&1 &
for _ in $(seq 100); do ! curl -sf -o /dev/null "http://$server:8080/v1/status" || break; sleep 0.1; done

# ---- two inits on one kernel and initrd

script=$tree/boot/mac-${mac//:/-}.ipxe
kernel=$tree/$(sed -n 's|^kernel ${base}/\([^ ]*\) .*|\1|p' "$script")
line=$(sed -n 's|^kernel [^ ]* ||p' "$script" | sed 's/initrd=[^ ]* //g; s/ BOOTIF=.*//')
# shellcheck disable=SC2016 # the script's own words
sed -n 's|^initrd .* ${base}/||p' "$script" | while read -r part; do cat "$tree/$part"; done >"$tmp/installer.img"
mkdir -p "$tmp/peer/b"
cp "$(command -v busybox)" "$(command -v curl)" "$(command -v zstd)" "$tmp/peer/b/"
ldd "$tmp/peer/b/curl" "$tmp/peer/b/zstd" | grep -o '/[^ ]*\.so[^ ]*' | sort -u | while read -r library; do
    mkdir -p "$tmp/peer${library%/*}"
    cp -L "$library" "$tmp/peer$library"
done
ln -s /init "$tmp/peer/b/modprobe"
cat >"$tmp/peer/b/peer" <<EOF
#!/b/busybox sh
b() { /b/busybox "\$@"; }
b mkdir -p /proc /sys /dev
b mount -t proc proc /proc; b mount -t sysfs sysfs /sys; b mount -t devtmpfs devtmpfs /dev
for module in virtio_pci virtio_blk virtio_net; do /b/modprobe -q -- \$module; done
until [ -b /dev/vda ] && [ -e /sys/class/net/eth0 ]; do b sleep 0.1; done
b ip link set eth0 up; b ip address add $address/16 dev eth0
until b ping -c 1 -W 1 $server >/dev/null; do :; done
read -r begin _ </proc/uptime
/b/curl -s http://$server:8080/disk.zst | /b/zstd -q -d >/dev/vda; b sync
read -r end _ </proc/uptime
b echo "peer: written in \$(b awk "BEGIN { print \$end - \$begin }") s"
b sleep 1000
EOF
chmod 755 "$tmp/peer/b/peer"
(cd "$tmp/peer" && find . | cpio --quiet -o -H newc) >"$tmp/peer.img"
# An archive begins at a multiple of four bytes.
{ cat "$tmp/installer.img"; head -c $(((4 - $(stat -c %s "$tmp/installer.img") % 4) % 4)) /dev/zero; cat "$tmp/peer.img"; } >"$tmp/both.img"

# once INITRD ARGUMENTS: the seconds that the machine says.
once() {
    rm -f "$memory/disk"
    truncate -s 20G "$memory/disk"
    rm -f "$tmp/console"
    qemu-system-x86_64 -nodefaults -display none -smp 2 -m 2048 -machine q35 -accel tcg,thread=multi -cpu max -no-reboot \
        -kernel "$kernel" -initrd "$1" -append "$line $2" -serial "file:$tmp/console" -device virtio-rng-pci \
        -drive "if=none,id=system,format=raw,cache=unsafe,file=$memory/disk" -device virtio-blk-pci,drive=system,serial=ostack-system \
        -netdev tap,id=net0,ifname=tap0,script=no,downscript=no -device "virtio-net-pci,netdev=net0,mac=$mac,romfile=" &
    local machine=$! seconds=
    for _ in $(seq 1200); do
        seconds=$(sed -n 's/.* written in \([0-9.]*\) s.*/\1/p' "$tmp/console" 2>/dev/null | head -n 1)
        [ -z "$seconds" ] || break
        kill -0 $machine 2>/dev/null || break
        sleep 0.5
    done
    kill $machine 2>/dev/null || true
    wait $machine 2>/dev/null || true
    [ -n "$seconds" ] || { tail -n 20 "$tmp/console" >&2; return 1; }
    echo "$seconds"
}

: >"$tmp/ratios"
for turn in $(seq "$turns"); do
    ours=$(once "$tmp/installer.img" "")
    theirs=$(once "$tmp/both.img" "rdinit=/b/peer")
    # What was compared is what was to be compared.
    [ "$(head -c "$end" "$memory/disk" | sha256sum)" = "$(zstd -q -d -c "$tree/disk.zst" | sha256sum)" ]
    awk -v ours="$ours" -v theirs="$theirs" -v turn="$turn" -v mib=$((end >> 20)) 'BEGIN {
        printf "turn %d: %d MiB of disk, installer %.1f s, curl and zstd %.1f s, ratio %.2f\n", turn, mib, ours, theirs, ours / theirs }'
    awk -v ours="$ours" -v theirs="$theirs" 'BEGIN { print ours / theirs }' >>"$tmp/ratios"
done
sort -n "$tmp/ratios" | awk '{ all[NR] = $1 } END { median = all[int((NR + 1) / 2)]
    printf "median ratio %.2f (at most 1.5)\n", median; exit median > 1.5 }'
