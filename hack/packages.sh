#!/bin/bash
# Copyright The Godwit Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Installs the given Debian packages unless they are there.
set -euo pipefail

missing=()
for package; do
	status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
	if [ "$status" != installed ]; then missing+=("$package"); fi
done
if [ ${#missing[@]} = 0 ]; then exit 0; fi
if [ "$(id -u)" != 0 ]; then
	echo "packages: install these first, as root: apt-get install ${missing[*]}" >&2
	exit 1
fi
echo "packages: installing ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
# apt does not wait for the lock of the package lists, only for dpkg's. Other parts
# of a build that install packages (test/cluster does) take this one first. It is not
# inherited by services that a package starts.
exec flock --close /run/lock/godwit-apt.lock sh -c '
	apt-get -q update >&2 &&
	exec apt-get -o DPkg::Lock::Timeout=600 install -q -y --no-install-recommends "$@" >&2' sh "${missing[@]}"
