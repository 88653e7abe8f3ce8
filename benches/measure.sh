# shellcheck shell=bash disable=SC2034,SC2154  # variables are of whoever reads this
# What benches have in common; to be read by one that has set $work (a folder of its own) and $logs (one for outputs).

now() { date +%s.%N; }
less() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a <= b) }'; }
ratio() { awk -v a="$1" -v b="$2" -v digits="${3-2}" 'BEGIN { printf "%.*f", digits, a / b }'; }
mean() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", (a + b) / 2 }'; }

# Runs a command and keeps its output as $logs/NAME; sets $status, $wall, $cpu (seconds, with all it
# started) and $peak (KiB, of the process itself and of the sandboxes that it has at one time).
measure() {
    local log=$logs/$1 begin
    shift
    # What was written before is not to be paid for by this one.
    sync
    begin=$(now)
    TIMEFORMAT='%U %S'
    { time run_watched "$log" "$@"; } 2> "$work/cpu"
    wall=$(awk -v a="$begin" -v b="$(now)" 'BEGIN { printf "%.2f", b - a }')
    cpu=$(tail -n 1 "$work/cpu" | awk '{ printf "%.2f", $1 + $2 }')
    wait "$watcher"
    peak=$(cat "$work/peak")
}
run_watched() {
    local log=$1 pid
    status=0
    shift
    "$@" > "$log" 2>&1 &
    pid=$!
    echo 0 > "$work/peak"
    watch_memory "$pid" 2> /dev/null &
    watcher=$!
    wait "$pid" || status=$?
}
# The program's sandboxes begin as the program itself and then become whatever they run: only what still is the program
# counts. VmHWM only grows, so what is seen last is the peak but for the last moments.
watch_memory() {
    local most=0 sum process word key value
    while [ -r "/proc/$1/status" ]; do
        sum=0
        for process in /proc/[0-9]*; do
            if [ "$process" != "/proc/$1" ]; then
                [ "$process/exe" -ef "/proc/$1/exe" ] || continue
                # Not a child that is about to become something else: its memory is still its parent's.
                { read -r -d '' word && read -r -d '' word; } < "$process/cmdline" || continue
                [ "$word" = __sandbox ] || continue
            fi
            while read -r key value _; do
                [ "$key" != VmHWM: ] || sum=$((sum + value))
            done < "$process/status"
        done
        if [ "$sum" -gt "$most" ]; then
            most=$sum
            echo "$most" > "$work/peak"
        fi
        sleep 0.1
    done
}

# Prints one line of the result; $missed is 1 once a limit was missed.
missed=0
heading() { printf '%-42s %14s %14s\n' what measured "at most"; }
row() { # name, value, unit, limit, note
    verdict=ok
    less "$2" "$4" || { verdict=MISSED; missed=1; }
    printf '%-42s %9s %-4s %9s %-4s %-7s %s\n' "$1" "$2" "$3" "$4" "$3" "$verdict" "${5-}"
}
# Below a row that was missed: where the time of a build with --timings went.
where() { # name
    [ "$verdict" = ok ] || sed -n 's/^ *[0-9]*\.[0-9]* s  /    &/p' "$logs/$1" | sort -rn | sed 5q
}
mib() { awk -v kib="$1" 'BEGIN { printf "%.0f", kib / 1024 }'; }
