# shellcheck shell=bash
# What benches have in common; to be read by one that has set $work (a folder of its own) and $logs (one for outputs).

now() { date +%s.%N; }
less() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a <= b) }'; }
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", a / b }'; }

# Runs a command and keeps its output as $logs/NAME; sets $status, $wall, $cpu (seconds, with all it
# started) and $peak (KiB, of the process itself).
measure() {
    local log=$logs/$1 begin
    shift
    begin=$(now)
    TIMEFORMAT='%U %S'
    { time run_watched "$log" "$@"; } 2> "$work/cpu"
    wall=$(awk -v a="$begin" -v b="$(now)" 'BEGIN { printf "%.2f", b - a }')
    cpu=$(tail -n 1 "$work/cpu" | awk '{ printf "%.2f", $1 + $2 }')
    peak=$(cat "$work/peak")
}
run_watched() {
    local log=$1 pid key value
    status=0
    shift
    "$@" > "$log" 2>&1 &
    pid=$!
    # VmHWM only grows, so the last value seen before the end is the peak but for the last moments.
    echo 0 > "$work/peak"
    (
        while [ -r "/proc/$pid/status" ]; do
            while read -r key value _; do
                [ "$key" != VmHWM: ] || echo "$value" > "$work/peak"
            done < "/proc/$pid/status"
            sleep 0.1
        done
    ) 2> /dev/null &
    wait "$pid" || status=$?
}

# Prints one line of the result; $missed is 1 once a limit was missed.
missed=0
row() { # name, value, unit, limit, note
    local verdict=ok
    less "$2" "$4" || { verdict=MISSED; missed=1; }
    printf '%-34s %9s %-4s %9s %-4s %-7s %s\n' "$1" "$2" "$3" "$4" "$3" "$verdict" "$5"
}
mib() { awk -v kib="$1" 'BEGIN { printf "%.0f", kib / 1024 }'; }
