#!/bin/bash
# Copyright The Godwit Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Runs test/images, and installs first what it needs.
set -euo pipefail
cd "$(dirname "$0")/.."

# buildah looks for netavark even when no build has a network of its own.
hack/packages.sh buildah ca-certificates debian-archive-keyring netavark
go build -o bin/images ./test/images
exec bin/images "$@"
