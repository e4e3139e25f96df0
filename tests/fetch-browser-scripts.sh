#!/bin/sh
# Puts the scripts that the example pages load from a CDN into .cache/npm, from the npm registry.
# Without npm the browser loads them from the CDN.
set -u

command -v npm >/dev/null || exit 0
mkdir -p .cache/npm
cd .cache/npm || exit 1
for package in htmx.org@2.0.11 htmx-ext-sse@2.2.4; do
  [ -d "$package" ] && continue
  archive=$(npm pack --silent "$package" 2>/dev/null | tail -n 1)
  [ -f "$archive" ] || { echo "npm has no $package: browsers load it from the CDN"; continue; }
  mkdir "$package" && tar -xzf "$archive" -C "$package" --strip-components 1
  rm -f "$archive"
done

# Clients of the protocol that the hub is tested with.
mkdir -p ../node && cd ../node || exit 1
[ -d node_modules/eventsource ] && [ -d node_modules/@microsoft/fetch-event-source ] && exit 0
npm install --silent --no-audit --no-fund --no-save --prefix . \
  eventsource@4 @microsoft/fetch-event-source@2.0.1 >/dev/null 2>&1 \
  || echo "npm has no clients: the tests that use them are skipped"
exit 0
