#!/bin/bash
# Copyright The Godwit Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Searches the model of the handover, with every guard and without each. RUN is a
# regular expression of the searches to make.
set -euo pipefail
cd "$(dirname "$0")/.."

hack/packages.sh spin gcc libc6-dev
exec go run ./test/model -run "${RUN:-}"
