#!/bin/sh
# Installs Chromium, redis-server and PostgreSQL with the system's package manager, if they are missing.
set -u

missing=""
command -v chromium >/dev/null || command -v chromium-browser >/dev/null \
  || command -v google-chrome >/dev/null || missing="chromium"
command -v redis-server >/dev/null || missing="$missing redis-server"
command -v postgres >/dev/null || ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 \
  || missing="$missing postgresql"
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ]; then as_root=""
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then as_root="sudo"
else
  echo "not installing$missing: that needs root; the tests that use them are skipped"
  exit 0
fi

echo "installing $missing"
if command -v apt-get >/dev/null; then
  $as_root apt-get update -qq
  DEBIAN_FRONTEND=noninteractive $as_root apt-get install -qq -y --no-install-recommends $missing
elif command -v dnf >/dev/null; then
  $as_root dnf install -q -y $(echo "$missing" | sed 's/redis-server/redis/; s/postgresql/postgresql-server/')
elif command -v pacman >/dev/null; then
  $as_root pacman -S --noconfirm --needed $(echo "$missing" | sed 's/redis-server/redis/')
elif command -v brew >/dev/null; then
  brew install $(echo "$missing" | sed 's/redis-server/redis/')
else
  echo "no known package manager: the tests that use $missing are skipped"
fi || echo "could not install $missing: the tests that use them are skipped"
exit 0
