// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protowire"
)

// runc asks CRIU for a log with every detail (LogLevel 4 in libcontainer/criu_linux.go),
// and neither its flags nor CRIU's configuration can change that: CRIU takes the level
// from the request (setup_logging_from_req in criu/cr-service.c). From that level on each
// run of pages that is dumped has several lines, and so has each that is looked up in an
// earlier dump, every one of them a write to a file, while the pod stands still. The
// level below has what is needed to understand a failure.
const (
	kindDump      = 1 // criu_req_type
	fieldLogLevel = 9 // criu_opts
	logLevel      = 3
)

// quieten changes the level in a request for a dump or a restore that waits in a socket.
// It is taken out, and sent anew from runc's end: whoever is started in this program's
// place finds it as if runc had sent it so. Nothing depends on it: a request whose sender
// cannot be found stays as it is.
func quieten(fd int) error {
	req, request, err := peekRequest(fd)
	if err != nil {
		return err
	}
	if req.kind != kindDump && req.kind != kindRestore {
		return nil
	}
	quiet, err := withLogLevel(request, logLevel)
	if err != nil {
		return fmt.Errorf("runc's request: %w", err)
	}
	sender, err := otherEnd(fd)
	if err != nil {
		return nil // the dump is slower, no more
	}
	defer unix.Close(sender)
	if _, err := unix.Read(fd, request); err != nil {
		return fmt.Errorf("take runc's request: %w", err)
	}
	if _, err := unix.Write(sender, quiet); err != nil {
		return fmt.Errorf("put runc's request back: %w", err)
	}
	return nil
}

// withLogLevel is the request with another level of CRIU's log.
func withLogLevel(request []byte, level uint64) ([]byte, error) {
	var opts []byte
	err := eachField(request, func(n protowire.Number, _ uint64, bytes []byte) error {
		if n == fieldOpts {
			opts = append(opts, bytes...)
		}
		return nil
	})
	if err == nil {
		opts, err = without(opts, fieldLogLevel)
	}
	if err == nil {
		request, err = without(request, fieldOpts)
	}
	if err != nil {
		return nil, err
	}
	opts = protowire.AppendVarint(protowire.AppendTag(opts, fieldLogLevel, protowire.VarintType), level)
	return protowire.AppendBytes(protowire.AppendTag(request, fieldOpts, protowire.BytesType), opts), nil
}

// without is a message without one of its fields.
func without(b []byte, number protowire.Number) ([]byte, error) {
	var rest []byte
	for len(b) > 0 {
		n, _, size := protowire.ConsumeField(b)
		if size < 0 {
			return nil, protowire.ParseError(size)
		}
		if n != number {
			rest = append(rest, b[:size]...)
		}
		b = b[size:]
	}
	return rest, nil
}

// otherEnd duplicates the parent's end of a pair of sockets. The parent is runc, and has
// no other socket of that kind.
func otherEnd(fd int) (int, error) {
	var own unix.Stat_t
	if err := unix.Fstat(fd, &own); err != nil {
		return 0, err
	}
	parent := os.Getppid()
	process, err := unix.PidfdOpen(parent, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(process)
	dir := fmt.Sprintf("/proc/%d/fd", parent)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	found := map[uint64]int{}
	for _, e := range entries {
		n, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if link, err := os.Readlink(dir + "/" + e.Name()); err != nil || !strings.HasPrefix(link, "socket:") {
			continue
		}
		got, err := unix.PidfdGetfd(process, n, 0)
		if err != nil {
			continue
		}
		var st unix.Stat_t
		kind, err := unix.GetsockoptInt(got, unix.SOL_SOCKET, unix.SO_TYPE)
		err = errors.Join(err, unix.Fstat(got, &st))
		if _, twice := found[st.Ino]; err != nil || kind != unix.SOCK_SEQPACKET || st.Ino == own.Ino || twice {
			_ = unix.Close(got)
			continue
		}
		found[st.Ino] = got
	}
	end := -1
	for _, got := range found {
		if len(found) == 1 {
			end = got
			continue
		}
		_ = unix.Close(got)
	}
	if end < 0 {
		return 0, fmt.Errorf("runc has %d sockets of that kind", len(found))
	}
	return end, nil
}
