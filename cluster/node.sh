#!/bin/bash
# What every machine of a cluster does before it takes part. A machine that cannot leaves a note in the folder of the studies,
# which `report.py show` reads (tune/clusters/joining.py).
#   node.sh install [cuda|cpu]       ~/venv with every package in the version, and with the hash, that the lock file names
#   node.sh head                     writes down the head's versions
#   node.sh join ray start ...       joins, if this machine has the head's versions of Ray and torch
#   VISTUNE_RUNS                     folder of the studies (/mnt/vistune/runs)
#   VISTUNE_CLUSTER                  name of the cluster, where several share that folder (default: the head's addresses)
set -u
notes=${VISTUNE_RUNS:-/mnt/vistune/runs}/.nodes
host=$(hostname)
here=$(cd "$(dirname "$0")/.." && pwd)
log=$(mktemp)
trap 'rm -f "$log"' EXIT

refuse() {
  echo "$host: $1" >&2
  if mkdir -p "$notes" 2> /dev/null; then
    printf '%s\n%s\n' "$(date +%s)" "$1" > "$notes/.$host.partial" && mv "$notes/.$host.partial" "$notes/$host.txt"
  fi
  exit 1
}

# Public versions: a head without GPU may have torch for CPUs (2.14.1+cpu).
versions() {
  python -c 'from importlib.metadata import version
for name in ("ray", "torch"): print(name, version(name).partition("+")[0])'
}

run() { "$@" 2>&1 | tee "$log"; return "${PIPESTATUS[0]}"; }
last_words() { grep -v '^ *$' "$log" | tail -n 2 | tr '\n' ' '; }

install() {
  local device=${1:-cuda} lock sum
  lock=$here/constraints-$device.txt
  [ -f "$lock" ] || refuse "there is no $lock to install from"
  test -x ~/venv/bin/python || run python3 -m venv ~/venv || refuse "no ~/venv: $(last_words)"
  sum=$(sha256sum < "$lock")
  if [ "$(cat ~/venv/vistune-lock 2> /dev/null)" != "$sum" ]; then
    rm -f ~/venv/vistune-lock
    if [ "$device" = cpu ]; then  # from PyTorch's own index, which the header of the file names
      # shellcheck disable=SC2046
      run ~/venv/bin/pip install -q --no-deps $(sed -n 's/^#  *pip install --no-deps \(--index-url .*\)/\1/p' "$lock") \
        || refuse "torch could not be installed: $(last_words)"
    fi
    run ~/venv/bin/pip install -q --no-deps --require-hashes -r "$lock" || refuse "$(basename "$lock") could not be installed: $(last_words)"
  fi
  run ~/venv/bin/pip install -q --no-deps --no-build-isolation -e "$here" || refuse "vistune could not be installed: $(last_words)"
  echo "$sum" > ~/venv/vistune-lock
}

# Names under which workers look for the head: they know one of its addresses.
names() {
  if [ -n "${VISTUNE_CLUSTER:-}" ]; then echo "$VISTUNE_CLUSTER"; return; fi
  for name in $(hostname -I 2> /dev/null) "$host" $(hostname -f 2> /dev/null); do echo "$name"; done
}

head_versions() {
  local name partial=$notes/.$host.$$.partial
  mkdir -p "$notes" || return
  for name in $(names); do
    versions > "$partial" && mv "$partial" "$notes/head-$name" || return
  done
}

# The file with the versions of the head that `ray start --address=HEAD:PORT` names.
head_file() {
  local word name=${VISTUNE_CLUSTER:-}
  for word in "$@"; do
    case $word in --address=*) word=${word#--address=}; name=${name:-${word%:*}} ;; esac
  done
  echo "$notes/head-$name"
}

join() {
  local name theirs ours head
  head=$(head_file "$@")
  if [ -f "$head" ]; then
    while read -r name theirs; do
      ours=$(versions | sed -n "s/^$name //p")
      [ "$ours" = "$theirs" ] || refuse "it has $name ${ours:-not at all}, the head $theirs"
    done < "$head"
  fi
  rm -f "$notes/$host.txt"  # of an earlier time: with --block, what follows lasts as long as the machine works
  # A worker that has joined and ends later has nothing to say.
  run "$@" || grep -q 'Ray runtime started' "$log" || refuse "it could not join: $(last_words)"
}

case ${1:-} in
  install) install "${2:-cuda}" ;;
  head) head_versions ;;
  join) shift; join "$@" ;;
  *) sed -n '2,9s/^# //p' "$0" >&2; exit 2 ;;
esac
