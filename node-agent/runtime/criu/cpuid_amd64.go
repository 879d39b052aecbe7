// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package criu

// cpuid executes the instruction CPUID.
func cpuid(leaf, subleaf uint32) (eax, ebx, ecx, edx uint32)

// enabledXSaveSize asks for leaf 0xD, subleaf 0: EBX is the size that XSAVE
// needs for the features that the kernel has enabled in XCR0.
func enabledXSaveSize() uint32 {
	if highest, _, _, _ := cpuid(0, 0); highest < 0xd {
		return 0
	}
	_, ebx, _, _ := cpuid(0xd, 0)
	return ebx
}
