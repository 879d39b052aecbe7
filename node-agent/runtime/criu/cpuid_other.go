// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build !amd64

package criu

// enabledXSaveSize is 0: only x86 has XSAVE.
func enabledXSaveSize() uint32 { return 0 }
