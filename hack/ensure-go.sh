#!/bin/bash
# Copyright The Godwit Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Prints the directory of a go command that is at least as new as go.mod asks
# for, and gets one first where there is none: Debian's, which in turn fetches
# the toolchain as a Go module.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
want=$(awk '$1 == "toolchain" { sub(/^go/, "", $2); t = $2 } $1 == "go" { g = $2 } END { print t ? t : g }' "$root/go.mod")

# new_enough GO: whether that command, run in the module, is. A go that may
# switch toolchains by itself answers with the version it switches to.
new_enough() {
	local have
	have=$(cd "$root" && "$1" version 2>/dev/null | awk '{ sub(/^go/, "", $3); print $3 }') || return 1
	[ -n "$have" ] && [ "$(printf '%s\n%s\n' "$want" "$have" | sort -V | head -n 1)" = "$want" ]
}

for go in "$(command -v go || true)" /usr/local/go/bin/go; do
	if [ -x "$go" ] && new_enough "$go"; then
		dirname "$go"
		exit 0
	fi
done

old=$(command -v go || true)
if [ -z "$old" ]; then
	if [ "$(id -u)" != 0 ]; then
		echo "ensure-go: Go $want is needed; install it, or run this as root" >&2
		exit 1
	fi
	echo "ensure-go: installing Debian's Go" >&2
	"$root/hack/packages.sh" golang-go ca-certificates
	old=$(command -v go)
fi

# A go that knows no toolchains (before 1.21) can still download the module
# that holds one. Outside of the module, whose go.mod it may not understand.
echo "ensure-go: fetching the Go $want toolchain" >&2
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
machine=$(cd "$scratch" && "$old" env GOOS GOARCH | paste -sd- -)
toolchain=golang.org/toolchain@v0.0.1-go$want.$machine
if ! (cd "$scratch" && GOTOOLCHAIN=local GO111MODULE=on GOFLAGS=-mod=mod "$old" mod download -json "$toolchain") >"$scratch/answer"; then
	cat "$scratch/answer" >&2
	exit 1
fi
dir=$(sed -n 's/^[[:space:]]*"Dir": "\(.*\)",*$/\1/p' "$scratch/answer")
# Modules carry no executable bits.
chmod +x "$dir"/bin/* "$dir"/pkg/tool/*/*
new_enough "$dir/bin/go" || {
	echo "ensure-go: the toolchain in $dir does not work" >&2
	exit 1
}
echo "$dir/bin"
