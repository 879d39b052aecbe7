// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"godwit.dev/godwit/internal/wire"
)

// dumpRequest is one as runc makes it.
func dumpRequest(level int32) *rpc.CriuReq {
	kind := rpc.CriuReqType_DUMP
	return &rpc.CriuReq{
		Type: &kind, NotifySuccess: proto.Bool(true),
		Opts: &rpc.CriuOpts{
			ImagesDirFd: proto.Int32(7), LogLevel: proto.Int32(level), LogFile: proto.String("dump.log"), Pid: proto.Int32(1234),
			External: []string{"net[4026532]:extRootNetNS", "mnt[/etc/hosts]:/etc/hosts"}, ParentImg: proto.String("../round-003"),
			ExtMnt: []*rpc.ExtMountMap{{Key: proto.String("/data"), Val: proto.String("/data")}}, TrackMem: proto.Bool(true),
		},
	}
}

func marshal(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	must(t, err)
	return b
}

func TestLogLevelOfARequest(t *testing.T) {
	for _, level := range []int32{0, 4} {
		b, err := withLogLevel(marshal(t, dumpRequest(level)), logLevel)
		must(t, err)
		var got rpc.CriuReq
		must(t, proto.Unmarshal(b, &got))
		if want := dumpRequest(logLevel); !proto.Equal(&got, want) {
			t.Errorf("%v, want %v", &got, want)
		}
	}
}

func TestADumpHasAShorterLog(t *testing.T) {
	for name, tc := range map[string]struct {
		others int
		level  int32
	}{
		"as runc sends it":             {level: logLevel},
		"nobody knows who has sent it": {others: 1, level: 4},
	} {
		t.Run(name, func(t *testing.T) {
			for range tc.others {
				fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
				must(t, err)
				defer unix.Close(fds[0])
				defer unix.Close(fds[1])
			}
			r := startStandInWith(t, []string{wire.EnvDumpOnly + "=1"}, "swrk", "4")
			_, err := r.runc.Write(marshal(t, dumpRequest(4)))
			must(t, err)
			r.becomesCRIU(t, func(b []byte) bool {
				var got rpc.CriuReq
				return proto.Unmarshal(b, &got) == nil && proto.Equal(&got, dumpRequest(tc.level))
			})
		})
	}
}
