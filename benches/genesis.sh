#!/bin/bash
# Measures how five blank nodes become a cloud (tests/fixtures/cluster), and prints where the time goes, step by step.
#
#   time      from switching on to every step done               at most 1200 s on two cores
#   memory    of the three controllers' processes                at most 14336 MiB
#
# Usage:   benches/genesis.sh
#
# Exit status 1: a limit was missed. Environment: OSTACK_IMAGE, the program (default: the release build of this working
# copy). Needs root, and 20 GiB of memory.
set -euo pipefail
export LC_ALL=C.UTF-8

cd "$(dirname "$0")/.."
program=${OSTACK_IMAGE:-target/x86_64-unknown-linux-gnu/release/ostack-image}
[ -x "$program" ] || { echo "bench: $program is missing; run: cargo build --release" >&2; exit 2; }

mkdir -p out
work=$(mktemp -d "$PWD/out/bench.XXXXXX")
site=(--site tests/fixtures/cluster/site.toml)
lab() { "$program" lab "${site[@]}" --lab "$work/lab" "$@"; }
trap 'lab down --wipe; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
"$program" build --all --relock "${site[@]}" --out "$work/out" >/dev/null 2>"$work/log"
rm -rf "$work/out"

begin=$(date +%s)
lab up --disk storage01:/dev/disk/by-id/virtio-osd:8G --timeout 900 >/dev/null 2>>"$work/log"
python3 - "$begin" "$program" "${site[@]}" --lab "$work/lab" <<'END'
import json, subprocess, sys, time

begin, program, where = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
while True:
    said = subprocess.run([program, "lab", *where, "status", "--json"], stdout=subprocess.PIPE, check=True).stdout
    steps = [(node["node"], name, step) for node in json.loads(said) for name, step in (node["steps"] or {"": {"state": ""}}).items()]
    if all(step["state"] == "done" for _, _, step in steps):
        break
    if time.time() - begin > 3600:
        sys.exit("bench: not done within an hour: %s" % [step for step in steps if step[2]["state"] != "done"][:3])
    time.sleep(5)
times = {}
for _, name, step in steps:
    times[name] = max(times.get(name, 0), step["since"] - begin)
print("seconds until a step was done on the last of its nodes")
for name, seconds in sorted(times.items(), key=lambda one: one[1]):
    print("%6d  %s" % (seconds, name))
memory = {}
for pid in subprocess.run(["ls", "/proc"], stdout=subprocess.PIPE, universal_newlines=True).stdout.split():
    try:
        groups = open("/proc/%s/cgroup" % pid).read()
        share = next(int(line.split()[1]) for line in open("/proc/%s/smaps_rollup" % pid) if line.startswith("Pss:"))
    except (OSError, StopIteration):
        continue
    for node in set(node for node, _, _ in steps):
        if any("/ostack-lab-" in line and "/%s" % node in line for line in groups.splitlines()):
            memory[node] = memory.get(node, 0) + share // 1024
print("memory, MiB: %s" % ", ".join("%s %d" % one for one in sorted(memory.items())))
last = max(times.values())
controllers = sum(size for node, size in memory.items() if node.startswith("controller"))
print("blank to ready %d s (limit 1200), controllers %d MiB (limit 14336)" % (last, controllers))
sys.exit(last > 1200 or controllers > 14336)
END
