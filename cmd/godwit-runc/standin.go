// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protowire"

	"godwit.dev/godwit/internal/wire"
)

// A restore is prepared before the images are complete: runc is started, which asks for
// CRIU's version, sets the root file system and the cgroup up, and starts CRIU. Then
// there is, in the place of CRIU, this program: it looks at runc's request without
// taking it from the socket, and becomes CRIU, which finds the request there, once the
// images are complete and the target owns the pod. CRIU has seen nothing until then.
//
// It is there when the agent dumps a container as well, for the sake of CRIU's log.
const (
	// criuName is what runc starts, the first in PATH.
	criuName = "criu"
	// Set by the wrapper for the stand-in: the gate where it waits, the images, and where
	// it says why it has failed, for its standard streams are the container's.
	standInEnv     = "GODWIT_STANDIN_"
	envStandReady  = standInEnv + "READY"
	envStandGo     = standInEnv + "GO"
	envStandImages = standInEnv + "IMAGES"
	envStandLog    = standInEnv + "LOG"

	// maxRequest is larger than any request of runc's.
	maxRequest = 1 << 20
	// descriptorsName is runc's file with the first descriptors of the process that was
	// dumped (libcontainer/criu_linux.go): the only one of the images that it reads.
	descriptorsName = "descriptors.json"
)

var errStandIn = errors.New("prepared restore")

// standIn becomes CRIU; it returns only when it must not.
func standIn(args []string) int {
	err := becomeCRIU(args)
	if f, ferr := os.OpenFile(os.Getenv(envStandLog), os.O_CREATE|os.O_WRONLY|os.O_APPEND, modeMark); ferr == nil {
		fmt.Fprintf(f, "Error (godwit): %v\n", err)
		_ = f.Close()
	}
	return 1
}

func becomeCRIU(args []string) error {
	self, err := os.Stat("/proc/self/exe")
	if err != nil {
		return err
	}
	path := slices.DeleteFunc(filepath.SplitList(os.Getenv("PATH")), func(dir string) bool {
		fi, err := os.Stat(filepath.Join(dir, criuName))
		return err == nil && os.SameFile(fi, self)
	})
	program, err := lookIn(path, criuName)
	if err != nil {
		return err
	}
	// CRIU in the mode swrk gets its request from the descriptor that is named then
	// (criu/crtools.c).
	if len(args) > 2 && args[1] == "swrk" {
		fd, err := strconv.Atoi(args[2])
		if err == nil && os.Getenv(wire.EnvDumpOnly) == "" {
			err = holdRestore(fd)
		}
		if err == nil {
			err = quieten(fd)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errStandIn, err)
		}
	}
	env := slices.DeleteFunc(os.Environ(), func(e string) bool {
		return strings.HasPrefix(e, "PATH=") || strings.HasPrefix(e, standInEnv) || strings.HasPrefix(e, wire.EnvDumpOnly+"=")
	})
	err = syscall.Exec(program, args, append(env, "PATH="+strings.Join(path, ":")))
	return fmt.Errorf("exec %s: %w", program, err)
}

// lookIn finds a program in directories.
func lookIn(dirs []string, name string) (string, error) {
	for _, dir := range dirs {
		p := filepath.Join(dir, name)
		if fi, err := os.Stat(p); filepath.IsAbs(dir) && err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", fmt.Errorf("no %s in %s", name, strings.Join(dirs, ":"))
}

// holdRestore returns nil at once for a request that makes no process, and for any
// other one when it may be carried out.
func holdRestore(fd int) error {
	req, _, err := peekRequest(fd)
	if err != nil {
		return err
	}
	if req.harmless() {
		return nil
	}
	if err := wire.StandReady(os.Getenv(envStandReady), os.Getenv(envStandGo), func(goOn *os.File) error { return awaitEither(goOn, fd) }); err != nil {
		return err
	}
	// What runc has read of the images was not verified then. It is now.
	return req.inheritsFrom(filepath.Join(os.Getenv(envStandImages), descriptorsName))
}

// peekRequest reads runc's request, and leaves it there.
func peekRequest(fd int) (*request, []byte, error) {
	buf := make([]byte, maxRequest)
	n, err := peek(fd, buf)
	if err != nil {
		return nil, nil, err
	}
	req, err := parseRequest(buf[:n])
	return req, buf[:n], err
}

// peek reads the first message of a socket, and leaves it there.
func peek(fd int, buf []byte) (int, error) {
	for {
		n, _, err := unix.Recvfrom(fd, buf, unix.MSG_PEEK|unix.MSG_TRUNC)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return 0, fmt.Errorf("read runc's request: %w", err)
		case n == 0:
			return 0, errors.New("runc has ended")
		case n > len(buf):
			return 0, fmt.Errorf("a request of %d bytes", n)
		}
		return n, nil
	}
}

// awaitEither returns nil when the pipe can be read or has ended, and an error when runc,
// at the other end of the socket, has ended.
func awaitEither(goOn *os.File, socket int) error {
	fds := []unix.PollFd{{Fd: int32(goOn.Fd()), Events: unix.POLLIN}, {Fd: int32(socket)}}
	for {
		_, err := unix.Poll(fds, -1)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		case fds[0].Revents == 0:
			return errors.New("runc has ended")
		}
		return nil
	}
}

// request is a CriuReq (images/rpc.proto), as far as it matters here.
type request struct {
	kind uint64
	// pipes are the descriptors that CRIU is to give to the processes, by the names of
	// the pipes they were.
	pipes map[string]uint64
}

// Kinds of requests (criu_req_type). The last two make no process.
const (
	kindRestore      = 2
	kindFeatureCheck = 9
	kindVersion      = 10
)

func (r *request) harmless() bool { return r.kind == kindFeatureCheck || r.kind == kindVersion }

// Numbers of fields.
const (
	fieldType, fieldOpts           = 1, 2    // criu_req
	fieldInheritFD                 = 27      // criu_opts
	fieldInheritKey, fieldInherits = 1, 2    // inherit_fd
	pipePrefix                     = "pipe:" // of a key that is a pipe of the process
)

func parseRequest(b []byte) (*request, error) {
	r := &request{pipes: map[string]uint64{}}
	err := eachField(b, func(n protowire.Number, number uint64, bytes []byte) error {
		switch n {
		case fieldType:
			r.kind = number
		case fieldOpts:
			return eachField(bytes, r.option)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("runc's request: %w", err)
	}
	return r, nil
}

func (r *request) option(n protowire.Number, _ uint64, bytes []byte) error {
	if n != fieldInheritFD {
		return nil
	}
	key, fd := "", uint64(0)
	err := eachField(bytes, func(n protowire.Number, number uint64, bytes []byte) error {
		switch n {
		case fieldInheritKey:
			key = string(bytes)
		case fieldInherits:
			fd = number
		}
		return nil
	})
	if strings.Contains(key, pipePrefix) {
		r.pipes[key] = fd
	}
	return err
}

// eachField calls f for each field of a message that is a number or has a length.
func eachField(b []byte, f func(n protowire.Number, number uint64, bytes []byte) error) error {
	for len(b) > 0 {
		n, kind, size := protowire.ConsumeTag(b)
		if size < 0 {
			return protowire.ParseError(size)
		}
		b = b[size:]
		var number uint64
		var bytes []byte
		switch kind {
		case protowire.VarintType:
			number, size = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			bytes, size = protowire.ConsumeBytes(b)
		default:
			size = protowire.ConsumeFieldValue(n, kind, b)
		}
		if size < 0 {
			return protowire.ParseError(size)
		}
		if err := f(n, number, bytes); err != nil {
			return err
		}
		b = b[size:]
	}
	return nil
}

// inheritsFrom says whether the request is what runc would make of the descriptors in
// the file.
func (r *request) inheritsFrom(file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var names []string
	if err := json.Unmarshal(data, &names); err != nil {
		return fmt.Errorf("%s: %w", descriptorsName, err)
	}
	pipes := map[string]uint64{}
	for fd, name := range names {
		if strings.Contains(name, pipePrefix) {
			pipes[name] = uint64(fd)
		}
	}
	if !maps.Equal(pipes, r.pipes) {
		return fmt.Errorf("%s has changed since runc has read it", descriptorsName)
	}
	return nil
}
