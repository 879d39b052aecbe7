// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package runtime

// LabelMultipathTCP on a pod, with the value MultipathTCPOff, has the node switch
// Multipath TCP off in the pod's network before its first container is created. A socket
// of Multipath TCP cannot be dumped, one of TCP can.
const (
	LabelMultipathTCP = "godwit.dev/mptcp"
	MultipathTCPOff   = "off"
)
