#!/usr/bin/env bash
# A Ray cluster of two nodes on one machine: two network namespaces, a cable between them, a token. Needs root.
#
#   two_nodes.sh up DIR [alone]      make both nodes, or the first alone; what belongs to them lies in DIR
#   two_nodes.sh join DIR [HIDDEN]   start the second node, which does not see what is below the directory HIDDEN
#   two_nodes.sh lose DIR            kill the second node as a power cut would
#   two_nodes.sh run DIR COMMAND...  run a command on the first node, such as
#                                    autoprune search my.yaml --workers 2 --cluster auto
#   two_nodes.sh down DIR            end everything and take it away
#
# Both nodes share this machine's files; their host names are `first` and `second`. Variables: CPUS (1) of each node,
# RAY, the command `ray` (that beside `autoprune`, or of the PATH).
set -euo pipefail

HEAD_IP=10.77.0.1
NODE_IP=10.77.0.2
PORT=6379
CPUS=${CPUS:-1}

fail() { echo "two_nodes.sh: $*" >&2; exit 1; }

usage() { sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2; }

ray_command() {
  local beside
  beside="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/.venv/bin/ray"
  if [[ -n "${RAY:-}" ]]; then echo "$RAY"; elif [[ -x "$beside" ]]; then echo "$beside"; else command -v ray; fi
}

# Each pair of namespaces has a name of its own, so that several clusters stand side by side.
read_names() {
  [[ -f "$DIR/name" ]] || fail "$DIR holds no cluster: run \`two_nodes.sh up $DIR\` first"
  NAME="$(cat "$DIR/name")"
  FIRST="${NAME}a" SECOND="${NAME}b"
  SCRATCH="/tmp/$NAME"  # Ray's sockets allow for short paths only
}

CLUSTER=""  # where commands find it; `ray start` is told by a flag

within() {  # NAMESPACE HOSTNAME HIDDEN COMMAND...: the host's environment, the cluster's token
  local namespace=$1 host=$2 hidden=$3
  shift 3
  RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$DIR/token" RAY_TMPDIR="$SCRATCH/$host" RAY_ADDRESS="$CLUSTER" RAY_USAGE_STATS_ENABLED=0 \
    ip netns exec "$namespace" unshare --uts --mount sh -euc '
      hostname "$1"
      [ -z "$2" ] || mount -t tmpfs none "$2"
      shift 2
      exec "$@"' sh "$host" "$hidden" "$@"
}

start() {  # NAMESPACE HOSTNAME ADDRESS HIDDEN FLAGS...
  local namespace=$1 host=$2 address=$3 hidden=$4
  shift 4
  mkdir -p "$SCRATCH/$host/ray"
  within "$namespace" "$host" "$hidden" "$(ray_command)" start "$@" --node-ip-address="$address" --num-cpus="$CPUS" \
    --temp-dir="$SCRATCH/$host/ray" --object-store-memory=100000000 --disable-usage-stats > "$DIR/$host.log" 2>&1 < /dev/null ||
    { tail -n 20 "$DIR/$host.log" >&2; fail "the node $host did not start"; }
}

up() {
  ((EUID == 0)) || fail "network namespaces need root"
  command -v ip > /dev/null || fail "ip is missing; on Debian and Ubuntu: apt-get install iproute2"
  [[ ! -e "$DIR/name" ]] || fail "$DIR holds a cluster already"
  mkdir -p "$DIR"
  echo "ap$$" > "$DIR/name"
  read_names
  (umask 077 && head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$DIR/token")
  ip netns add "$FIRST"
  ip netns add "$SECOND"
  ip link add "$FIRST" netns "$FIRST" type veth peer name "$SECOND" netns "$SECOND"
  ip -n "$FIRST" address add "$HEAD_IP/24" dev "$FIRST"
  ip -n "$SECOND" address add "$NODE_IP/24" dev "$SECOND"
  local namespace
  for namespace in "$FIRST" "$SECOND"; do
    ip -n "$namespace" link set lo up
    ip -n "$namespace" link set "$namespace" up
  done
  start "$FIRST" first "$HEAD_IP" "" --head --port="$PORT" --include-dashboard=false
  [[ "${1:-}" == alone ]] || join
  echo "RAY_ADDRESS=$HEAD_IP:$PORT"
}

join() {
  start "$SECOND" second "$NODE_IP" "${1:-}" --address="$HEAD_IP:$PORT"
}

lose() {
  local pid
  for pid in $(ip netns pids "$SECOND"); do
    if [[ "$(cat "/proc/$pid/comm" 2> /dev/null)" == raylet ]]; then kill -KILL "$pid"; fi
  done
}

down() {
  local namespace pid
  for namespace in "$FIRST" "$SECOND"; do
    for pid in $(ip netns pids "$namespace" 2> /dev/null); do kill -KILL "$pid" 2> /dev/null || true; done
    ip netns delete "$namespace" 2> /dev/null || true
  done
  rm -rf "$SCRATCH" "$DIR/name" "$DIR/token"
}

(($# >= 2)) || usage
action=$1 DIR="$(realpath -m "$2")"
shift 2
case "$action" in
  up) up "$@" ;;
  join | lose | down) read_names && "$action" "$@" ;;
  run) read_names && CLUSTER="$HEAD_IP:$PORT" && within "$FIRST" first "" "$@" ;;
  *) usage ;;
esac
