#!/bin/sh
# Answers an HTTP request on standard input: 200 when this node may have clients, 503 when not. haproxy asks, because port
# 3306 answers on a node that is not synced, too.
set -u

answer() {
    printf 'HTTP/1.1 %s\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n%s\n' "$1" "$2"
    exit 0
}

# The request is read to its empty line: what is left unread would make the kernel cut the connection before the answer
# has arrived.
carriage_return=$(printf '\r')
while read -r line; do
    [ "${line%"$carriage_return"}" ] || break
done

# One row per variable: name, tab, value.
status=$(mysql --defaults-file=/etc/mysql/clustercheck.cnf --batch --skip-column-names --execute "
    SHOW GLOBAL STATUS WHERE Variable_name IN ('wsrep_cluster_status', 'wsrep_local_state_comment', 'wsrep_ready')" 2>&1) \
    || answer '503 Service Unavailable' "no answer from the database: $status"

value() {
    printf '%s\n' "$status" | sed -n "s/^$1	//p"
}

# A donor is synced as soon as it is done; until then it lags behind.
[ "$(value wsrep_cluster_status)" = Primary ] || answer '503 Service Unavailable' 'not in the primary component'
[ "$(value wsrep_ready)" = ON ] || answer '503 Service Unavailable' 'not ready'
[ "$(value wsrep_local_state_comment)" = Synced ] \
    || answer '503 Service Unavailable' "not synced: $(value wsrep_local_state_comment)"
answer '200 OK' 'synced'
