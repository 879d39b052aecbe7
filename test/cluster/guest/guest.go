// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package guest carries the sources of the small programs that run inside the
// nodes, so that they can be compiled (and their artifacts be keyed) wherever
// the cluster tool runs, without the checkout.
package guest

import _ "embed"

// InitSource is the source of process 1 of the nodes' initial RAM file system.
//
//go:embed init/main.go
var InitSource []byte

// PauseSource is the source of the sandbox image's only program.
//
//go:embed pause/main.go
var PauseSource []byte

// SteadySource is the source of the program that keeps the kernel's code as it
// is.
//
//go:embed steady/main.go
var SteadySource []byte

// ProbeLine is what InitSource prints on the console when the kernel was booted
// with ProbeArgument.
const ProbeLine = "godwit-probe-ok"

// ProbeArgument on the kernel command line makes InitSource print ProbeLine and
// power off.
const ProbeArgument = "godwit.probe"
