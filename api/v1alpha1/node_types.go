// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

// NodeFacts is what an agent reports about its node in AnnotationNodeFacts.
type NodeFacts struct {
	// CRIU is the version of the node's criu, "4.1.1"; empty when there is none.
	CRIU string `json:"criu,omitempty"`
	// Runc is the version of the node's runc.
	Runc string `json:"runc,omitempty"`
	// Containerd is the version of the node's containerd.
	Containerd string `json:"containerd,omitempty"`
	// Kernel is the kernel release, "6.12.1-cloud-amd64".
	Kernel string `json:"kernel,omitempty"`
	// Architecture in GOARCH terms.
	Architecture string `json:"architecture,omitempty"`
	// DirtyTracking says that a soft-dirty round trip worked on this kernel.
	DirtyTracking bool `json:"dirtyTracking"`
	// CPUFeatures are the CPU flags a process could have come to rely on, sorted.
	CPUFeatures []string `json:"cpuFeatures,omitempty"`
	// XSaveSize is the size in bytes of the extended CPU state; it must be the
	// same on both nodes.
	XSaveSize uint32 `json:"xsaveSize,omitempty"`
	// NotReady says why the node cannot take part; empty when it can.
	NotReady string `json:"notReady,omitempty"`
}
