#!/bin/sh
# Installs what the tests need from Debian when run as root, and says plainly what is missing when not.
missing=""
command -v gcc >/dev/null || missing="$missing gcc libc6-dev"
{ command -v prometheus && command -v promtool; } >/dev/null || missing="$missing prometheus"
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing from Debian:$missing"
    # The server is started by the tests alone: keep the package from starting one on port 9090.
    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
    apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing >/dev/null && exit 0
    echo "tools/debian.sh: apt-get could not install:$missing; install them by hand"
    exit 1
fi
echo "tools/debian.sh: not installed:$missing. Tests that need them are skipped; to run them: sudo apt-get install$missing"
