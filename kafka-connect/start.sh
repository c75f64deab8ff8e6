#!/bin/sh
# Starts Connect's worker, after fetching the ClickHouse sink once. Runs inside the container of docker-compose.yml.
#
# SINK_VERSION  a release of github.com/ClickHouse/clickhouse-kafka-connect
# SINK_SHA256   the checksum of its zip; a file with another one isn't installed
set -eu

plugins=${PLUGINS:-/opt/connect-plugins}
worker=${WORKER_PROPERTIES:-/etc/outflow/worker.properties}
connect=${CONNECT_DISTRIBUTED:-/opt/kafka/bin/connect-distributed.sh}
name=clickhouse-kafka-connect-$SINK_VERSION
url=https://github.com/ClickHouse/clickhouse-kafka-connect/releases/download/$SINK_VERSION/$name.zip

if [ ! -d "$plugins/$name" ]; then
  new=$plugins/.new
  rm -rf "$new"
  mkdir -p "$new"
  echo "fetching $url" >&2
  # A folder put there by hand (see docs/compose.md) is the way for a machine that can't reach it.
  wget -q -O "$new/sink.zip" "$url"
  found=$(sha256sum "$new/sink.zip" | cut -d ' ' -f 1)
  if [ "$found" != "$SINK_SHA256" ]; then
    echo "$name.zip has the checksum $found, not $SINK_SHA256: not installed. If that release is the one you mean, set CLICKHOUSE_SINK_SHA256 in .env" >&2
    exit 1
  fi
  unzip -q "$new/sink.zip" -d "$new/out"
  # Renamed last: a folder under its own name is a whole one.
  mv "$new/out/$name" "$plugins/$name"
  rm -rf "$new"
fi

exec "$connect" "$worker"
