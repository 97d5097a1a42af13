#!/bin/sh
# The container's start: one API key on the first start, printed once, and then the server in this process's place.
# Host, port, model and data folder are the SCRIBEWIRE_* variables of the image, which scribewire reads by itself.
# serve refuses an address other than loopback while no key exists, and later starts create none: whoever revokes
# the last key has closed the server on purpose.
set -eu

scribewire=$(dirname "$0")/../../.venv/bin/scribewire

if [ ! -e "$SCRIBEWIRE_DATA/keys.json" ]; then
    echo "First start. This is the API key, shown this once (scribewire keys create makes others):"
    "$scribewire" keys create container
fi
exec "$scribewire" serve
