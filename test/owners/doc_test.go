// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package owners holds the tests of pods of workload controllers that need no
// nodes: a real API server and the real controllers of kube-controller-manager,
// the manager's reconciler and its admission webhooks as they are installed. The
// tests play the scheduler, the kubelets and both agents. What happens to the pods
// of a namespace is watched from before a test's Migration until after it.
package owners
