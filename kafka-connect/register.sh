#!/bin/sh
# Creates or updates the ClickHouse sink in Kafka Connect, and waits until the connector and all its tasks run.
# Safe to repeat. Used by docker-compose.yml, and by hand:
#
#   kafka-connect/register.sh                                            Connect on this machine
#   CONNECT_URL=http://connect:8083 kafka-connect/register.sh FILE.json  another Connect, another configuration
#
# Exit codes: 0 it runs, 1 it failed or doesn't run in time (with the reason), 2 Connect doesn't answer or refuses the file.
set -eu

connect=${CONNECT_URL:-http://127.0.0.1:8083}
file=${1:-$(dirname "$0")/clickhouse-sink.json}
seconds=${WAIT_SECONDS:-120}

name=$(grep -o '"name" *: *"[^"]*"' "$file" | head -n 1 | cut -d '"' -f 4)
if [ -z "$name" ]; then
  echo "$file has no \"name\"" >&2
  exit 2
fi

# Connect answers 409 while its workers agree on who does what: worth another try.
body=$(mktemp)
trap 'rm -f "$body"' EXIT
deadline=$(($(date +%s) + seconds))
while :; do
  code=$(curl -s -o "$body" -w '%{http_code}' -X PUT -H 'Content-Type: application/json' \
    --data-binary "@$file" "$connect/connectors/$name/config" || true)
  case $code in
    200 | 201) break ;;
    409 | 000 | '' | 503) ;;
    *)
      echo "Connect refuses $file with HTTP $code:" >&2
      cat "$body" >&2
      exit 2
      ;;
  esac
  if [ "$(date +%s)" -ge "$deadline" ]; then
    echo "Connect at $connect did not take the connector within $seconds s (last answer: HTTP ${code:-none}). Is it up? docker compose logs connect" >&2
    exit 2
  fi
  sleep 2
done

restarted=no
while :; do
  status=$(curl -s "$connect/connectors/$name/status" || true)
  # One state for the connector, then one for each task.
  states=$(printf '%s' "$status" | grep -o '"state":"[A-Z_]*"' | cut -d '"' -f 4 || true)
  case $states in
    *FAILED*)
      if [ "$restarted" = yes ]; then
        echo "$name failed:" >&2
        printf '%s\n' "$status" >&2
        exit 1
      fi
      # It may have failed long ago: Connect leaves a failed task as it is when its configuration comes again.
      restarted=yes
      curl -s -o "$body" -X POST "$connect/connectors/$name/restart?includeTasks=true&onlyFailed=true" || true
      sleep 5
      continue
      ;;
  esac
  total=$(printf '%s\n' "$states" | grep -c . || true)
  running=$(printf '%s\n' "$states" | grep -c '^RUNNING$' || true)
  if [ "$total" -ge 2 ] && [ "$running" -eq "$total" ]; then
    echo "$name runs with $((total - 1)) tasks"
    exit 0
  fi
  if [ "$(date +%s)" -ge "$deadline" ]; then
    echo "$name does not run after $seconds s: ${status:-no answer}" >&2
    exit 1
  fi
  sleep 2
done
