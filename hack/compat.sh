#!/bin/bash
# Copyright The Godwit Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Moves real software in a cluster, all of the table or what RUN matches, and keeps the
# results in artifacts/compat.json, by program. Once there are some of the whole table, be
# it from several runs, they become docs/compatibility.md.
set -euo pipefail
cd "$(dirname "$0")/.."

go build -o bin/compat ./test/compat
if [ -z "${RUN:-}" ]; then rm -f artifacts/compat.json; fi
status=0
IMAGES="godwit $(bin/compat images | tr '\n' ' ')" hack/with-cluster.sh "${CLUSTER:-godwit-compat}" bin/compat || status=$?
if [ -s artifacts/compat.json ] &&
	[ "$(grep -c '"measured":' artifacts/compat.json)" = "$(bin/compat list | wc -l)" ]; then
	bin/compat render artifacts/compat.json >docs/compatibility.md.new
	mv docs/compatibility.md.new docs/compatibility.md
fi
exit $status
