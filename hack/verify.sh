#!/bin/bash
# Copyright The Godwit Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Fails when a generated file is not what the generators make of the sources,
# or go.mod is not tidy. It works on a copy and changes nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
# What git knows or would add, as it is now.
git ls-files -z --cached --others --exclude-standard |
	while IFS= read -r -d '' f; do if [ -e "$f" ]; then printf '%s\0' "$f"; fi; done |
	tar -c --null --files-from=- | tar -x -C "$copy"

failed=0
(cd "$copy" && hack/generate.sh)
for path in api config charts docs/api.md; do
	if ! diff -r -u -N "$path" "$copy/$path"; then failed=1; fi
done
if [ $failed = 1 ]; then echo "verify: run 'make generate' and commit what it changes" >&2; fi

if ! go mod tidy -diff; then
	echo "verify: run 'go mod tidy' and commit what it changes" >&2
	failed=1
fi
unformatted=$(cd "$copy" && find . -name '*.go' -print0 | xargs -0 gofmt -l)
if [ -n "$unformatted" ]; then
	echo "verify: run 'make fmt': $unformatted" >&2
	failed=1
fi
for script in hack/*.sh .ci/run; do bash -n "$script" || failed=1; done
exit $failed
