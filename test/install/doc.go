// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package install tests the two ways to install Godwit, the Helm chart and the
// kustomization, as far as that needs no nodes: what they render to, and
// whether a real API server takes it.
//
// The environment names the programs: HELM, KUBECTL, and for the API server
// what envtest reads. “make unit” sets them; without, tests are skipped.
package install
