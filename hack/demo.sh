#!/bin/bash
# Copyright The Godwit Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Runs the demonstration in a cluster. COMPARE=1 also measures stop-and-copy.
set -euo pipefail
cd "$(dirname "$0")/.."

go build -o bin/demo ./test/demo
IMAGES="godwit redis" exec hack/with-cluster.sh "${CLUSTER:-godwit-demo}" bin/demo
