#!/bin/sh
# Runs a function for `cargo lambda watch`, and runs it again when it dies: the emulator itself never does, and a
# function that was killed would stay away until the emulator is started anew. A function that ends by itself stays ended.
trap 'kill -TERM "$child" 2>/dev/null; exit 0' TERM INT
while :; do
    "$@" &
    child=$!
    wait "$child" && exit 0
    echo "$1 ended with $?, starting it again" >&2
    sleep 0.5
done
