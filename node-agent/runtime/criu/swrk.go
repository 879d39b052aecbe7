// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package criu

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"godwit.dev/godwit/node-agent/runtime/host"
)

// worker is a `criu swrk`: CRIU that takes one request over a socket.
//
// It uses go-criu's messages but not its Criu type, for that one starts the
// child in the caller's cgroup, where a restart of the agent kills it, and lets
// every other child of the process that starts at the same moment inherit the
// server's end of the socket, so that a crash of CRIU could go unseen.
type worker struct {
	proc *host.Process
	sock *os.File
}

// maxResponse is larger than any response of CRIU that we ask for.
const maxResponse = 64 << 10

func startWorker(h *host.Host, criu, group string) (*worker, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("create a socket for criu: %w", err)
	}
	client, server := os.NewFile(uintptr(fds[0]), "criu-client"), os.NewFile(uintptr(fds[1]), "criu-server")
	// Once our copy of the server's end is closed, the end of CRIU is an end of file.
	defer server.Close()
	proc, err := h.Start(host.Command{Args: []string{criu, "swrk", "3"}, Files: []*os.File{server}, Group: group})
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	return &worker{proc: proc, sock: client}, nil
}

// call sends the request and waits for the answer and the end of CRIU.
func (w *worker) call(req *rpc.CriuReq) (*rpc.CriuResp, error) {
	resp, err := w.exchange(req)
	closeErr := w.sock.Close()
	_, waitErr := w.proc.Wait()
	if err != nil {
		return resp, errors.Join(err, waitErr)
	}
	// The exit code says nothing more once there is an answer.
	return resp, closeErr
}

func (w *worker) exchange(req *rpc.CriuReq) (*rpc.CriuResp, error) {
	b, err := proto.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("encode a request to criu: %w", err)
	}
	if _, err := w.sock.Write(b); err != nil {
		return nil, fmt.Errorf("send a request to criu: %w", err)
	}
	buf := make([]byte, maxResponse)
	n, err := w.sock.Read(buf)
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("criu gave no answer: %w", err)
	}
	resp := &rpc.CriuResp{}
	if err := proto.Unmarshal(buf[:n], resp); err != nil {
		return nil, fmt.Errorf("decode criu's answer: %w", err)
	}
	if resp.GetType() != req.GetType() || !resp.GetSuccess() {
		return resp, &responseError{resp}
	}
	return resp, nil
}

// responseError is an answer of CRIU that tells of a failure.
type responseError struct{ resp *rpc.CriuResp }

func (e *responseError) Error() string {
	s := fmt.Sprintf("criu %v failed", e.resp.GetType())
	if n := e.resp.GetCrErrno(); n != 0 {
		s += fmt.Sprintf(" (%v)", unix.Errno(n))
	}
	if m := e.resp.GetCrErrmsg(); m != "" {
		s += ": " + m
	}
	return s
}
