// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"slices"
	"testing"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/node-agent/runtime"
)

func TestWhatContainersMustNotShare(t *testing.T) {
	type in = runtime.Inspection
	pipe, mem := "pipe:[7]", "memory /memfd:x (1:2)"
	for name, tc := range map[string]struct {
		containers []in
		want       []string
	}{
		"nothing":                        {[]in{{}, {}}, nil},
		"each its own":                   {[]in{{Nameless: []string{pipe}}, {Nameless: []string{mem}}}, nil},
		"a pipe":                         {[]in{{Nameless: []string{pipe}}, {Nameless: []string{pipe}}}, []string{v1alpha1.ReasonSharedWithContainer}},
		"memory in three":                {[]in{{Nameless: []string{mem}}, {Nameless: []string{mem}}, {Nameless: []string{mem}}}, []string{v1alpha1.ReasonSharedWithContainer, v1alpha1.ReasonSharedWithContainer}},
		"a connection with the node":     {[]in{{}, {ForeignUnixPeers: []runtime.UnixPeer{{Name: "/run/x", Stream: true}}}}, []string{v1alpha1.ReasonForeignUnixPeer}},
		"a connection in the pod":        {[]in{{}, {ForeignUnixPeers: []runtime.UnixPeer{{Name: "/run/x", Stream: true, InPod: true}}}}, nil},
		"datagrams in the pod":           {[]in{{}, {ForeignUnixPeers: []runtime.UnixPeer{{Name: "/run/x", InPod: true}}}}, []string{v1alpha1.ReasonForeignUnixPeer}},
		"System V IPC":                   {[]in{{SysVIPC: true}, {SysVIPC: true}}, []string{v1alpha1.ReasonSharedWithContainer}},
		"System V IPC in a pod with one": {[]in{{SysVIPC: true}}, nil},
		"a pipe in a pod with one":       {[]in{{Nameless: []string{pipe}}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			c := checked{inspections: map[string]runtime.Inspection{}}
			for i, inspection := range tc.containers {
				k := runtime.Container{Name: string(rune('a' + i))}
				c.containers = append(c.containers, k)
				c.inspections[k.Name] = inspection
			}
			var got []string
			for _, f := range sharedRefusals(c) {
				got = append(got, f.Reason)
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}
