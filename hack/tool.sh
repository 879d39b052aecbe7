#!/bin/bash
# Copyright The Godwit Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Prints the path of a tool of hack/tools.txt, and builds it first where the
# cache does not have that version.
set -euo pipefail

name=$1
root=$(cd "$(dirname "$0")/.." && pwd)
read -r version package < <(awk -v n="$name" '$1 == n { print $2, $3 }' "$root/hack/tools.txt") || {
	echo "tool: hack/tools.txt has no $name" >&2
	exit 1
}
dir=${GODWIT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/godwit}/tools/$name-$version
if [ ! -x "$dir/$name" ]; then
	echo "tool: building $name $version" >&2
	mkdir -p "$dir"
	scratch=$(mktemp -d "$dir/.build-XXXXXX")
	trap 'rm -rf "$scratch"' EXIT
	# Outside of the module: its go.mod says nothing about tools. The
	# compiler's output appears under its name once it is complete.
	(cd / && GOBIN=$scratch GOFLAGS="" go install -trimpath "$package@$version") >&2
	mv "$scratch/$name" "$dir/$name"
fi
echo "$dir/$name"
