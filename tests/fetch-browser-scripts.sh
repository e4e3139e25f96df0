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
