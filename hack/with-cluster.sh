#!/bin/bash
# Copyright The Godwit Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Runs a command inside a cluster of that name, with everything it needs in the
# environment, and removes the cluster afterwards unless KEEP=1. When the
# command fails, the logs of the cluster are left in artifacts/NAME (or LOGS). IMAGES
# names the images to build, if not all. With SHARED=1 a cluster whose command succeeded
# stays for the next one; who sets it removes the cluster in the end.
#
#   hack/with-cluster.sh NAME COMMAND...
set -euo pipefail
cd "$(dirname "$0")/.."

name=$1
shift
root=$PWD
cluster=$root/bin/cluster
artifacts=$root/artifacts/${LOGS:-$name}
rm -rf "$artifacts"
mkdir -p "$artifacts"

go build -o bin/cluster ./test/cluster
helm=$(hack/tool.sh helm)

finish() {
	local status=$?
	trap - EXIT INT TERM
	if [ -n "${building:-}" ]; then kill "$building" 2>/dev/null || true; fi
	if [ $status != 0 ]; then
		echo "with-cluster: exit status $status; collecting logs" >&2
		"$cluster" --name "$name" logs --output "$artifacts/cluster" >/dev/null 2>"$artifacts/collect.log" || true
		"$cluster" kubectl --name "$name" get nodes,pods,migrations,events -A -o wide >"$artifacts/objects.txt" 2>&1 || true
		for component in manager agent; do
			"$cluster" kubectl --name "$name" -n godwit-system logs -l "app.kubernetes.io/component=$component" \
				--all-containers --prefix --tail=-1 >"$artifacts/$component.log" 2>&1 || true
			if [ -s "$artifacts/$component.log" ]; then
				echo "--- the end of $artifacts/$component.log" >&2
				tail -n 25 "$artifacts/$component.log" >&2
			fi
		done
		echo "with-cluster: logs are in $artifacts" >&2
	fi
	if [ "${SHARED:-}" = 1 ] && [ $status = 0 ]; then
		exit 0
	fi
	if [ "${KEEP:-}" = 1 ]; then
		cat >&2 <<-END
			The cluster $name stays up:
			  make cluster-kubectl CLUSTER=$name ARGS='get pods -A -o wide'
			  make cluster-ssh CLUSTER=$name NODE=n1
			  make cluster-down CLUSTER=$name
		END
	else
		"$cluster" --name "$name" down --force >&2 || status=1
	fi
	exit $status
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Compiling our image and booting the nodes take about as long: side by side.
# shellcheck disable=SC2086
hack/images.sh build ${IMAGES:-} >"$artifacts/images.txt" 2>"$artifacts/images.log" &
building=$!
"$cluster" --name "$name" up
if ! wait "$building"; then
	building=
	tail -n 40 "$artifacts/images.log" >&2
	exit 1
fi
building=
mapfile -t archives < <(awk '{ print $3 }' "$artifacts/images.txt")
"$cluster" --name "$name" load-image "${archives[@]}"

environment=(
	"CLUSTER=$name" "HELM=$helm" "CHART=$root/charts/godwit" "ARTIFACTS=$artifacts"
	"GODWIT_CLUSTER_CLI=$cluster" "KEEP=${KEEP:-}" "COMPARE=${COMPARE:-}" "RUN=${RUN:-}"
)
while read -r image reference _; do
	environment+=("${image^^}_IMAGE=$reference")
done <"$artifacts/images.txt"
# The cluster's own kubectl comes first in PATH there, not here.
# shellcheck disable=SC2016
"$cluster" --name "$name" exec -- sh -c 'KUBECTL=$(command -v kubectl) exec env "$@"' sh "${environment[@]}" "$@"
