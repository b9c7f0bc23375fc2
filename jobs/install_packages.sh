#!/bin/bash
# Installs those of jobs/packages.txt that are missing, with sudo if not root. Where there is no apt it says what is needed.
#
#   jobs/install_packages.sh [build|test]...      default: build test
set -euo pipefail

list=$(dirname "$0")/packages.txt
[ $# -gt 0 ] || set -- build test

names() { # USE: its packages, alternatives as in the list
    awk -v use="$1" '$1 == use { print $2 }' "$list"
}

if ! type -P apt-get >/dev/null; then
    {
        echo "install_packages.sh: no apt-get here. Install, or load as modules, what these Debian packages are:"
        for use; do names "$use" | tr '|\n' '/ ' | fold -s -w 100 | sed 's/^/    /'; done
        echo
    } >&2
    exit 69
fi

installed() {
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

missing=() # a list of alternatives each
for use; do
    while read -r alternatives; do
        for package in ${alternatives//|/ }; do
            if installed "$package"; then continue 2; fi
        done
        missing+=("$alternatives")
    done < <(names "$use")
done
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" != 0 ]; then
    type -P sudo >/dev/null || {
        echo "install_packages.sh: not root and no sudo; as root: apt-get install ${missing[*]%%|*}" >&2
        exit 69
    }
    as_root=(sudo)
fi
"${as_root[@]}" apt-get update -q
packages=()
for alternatives in "${missing[@]}"; do
    chosen=${alternatives%%|*}
    for package in ${alternatives//|/ }; do
        # apt-cache show fails for names that a release does not have.
        if apt-cache show "$package" >/dev/null 2>&1; then
            chosen=$package
            break
        fi
    done
    packages+=("$chosen")
done
echo "installing ${packages[*]}"
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${packages[@]}"
