#!/bin/bash
# Installs those of jobs/packages.txt that are missing, with sudo if not root.
#
#   jobs/install_packages.sh [build|test]...      default: build test
set -euo pipefail

list=$(dirname "$0")/packages.txt
[ $# -gt 0 ] || set -- build test
missing=()
for use; do
    while read -r package; do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done < <(awk -v use="$use" '$1 == use { print $2 }' "$list")
done
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" != 0 ]; then
    type -P sudo >/dev/null || {
        echo "install_packages.sh: not root and no sudo; as root: apt-get install ${missing[*]}" >&2
        exit 69
    }
    as_root=(sudo)
fi
echo "installing ${missing[*]}"
"${as_root[@]}" apt-get update -q
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
