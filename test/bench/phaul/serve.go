// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net"
	"net/rpc"
	"os"
	"path/filepath"

	"github.com/checkpoint-restore/go-criu/v7/phaul"
	criurpc "github.com/checkpoint-restore/go-criu/v7/rpc"
	"google.golang.org/protobuf/proto"
)

// Nothing is the argument and the answer of calls that have none.
type Nothing struct{}

// Images are the files of the last dump, without pages: those are there already.
type Images struct{ Files map[string][]byte }

// Remote is what the other side calls.
type Remote struct{ server *phaul.Server }

// serve takes one process in and returns when the other side has hung up.
func serve(address, dir string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }()
	calls, err := l.Accept()
	if err != nil {
		return err
	}
	conn, err := l.Accept()
	if err != nil {
		return errors.Join(err, calls.Close())
	}
	pages, err := inherited(conn.(*net.TCPConn))
	if err != nil {
		return err
	}
	defer func() { _ = pages.Close() }()
	server, err := phaul.MakePhaulServer(phaul.Config{Memfd: int(pages.Fd()), Wdir: dir})
	if err != nil {
		return err
	}
	s := rpc.NewServer()
	if err := s.Register(&Remote{server}); err != nil {
		return err
	}
	s.ServeConn(calls)
	return nil
}

// StartIter begins to take in the pages of a dump.
func (r *Remote) StartIter(Nothing, *Nothing) error { return r.server.StartIter() }

// StopIter ends that.
func (r *Remote) StopIter(Nothing, *Nothing) error { return r.server.StopIter() }

// Restore puts the images beside the pages of the last dump and restores the process.
func (r *Remote) Restore(images Images, _ *Nothing) error {
	dir := r.server.LastImagesDir()
	for name, content := range images.Files {
		if name != filepath.Base(name) {
			return fmt.Errorf("%q is no name of an image", name)
		}
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return err
		}
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	return r.server.GetCriu().Restore(&criurpc.CriuOpts{
		LogLevel: proto.Int32(4), LogFile: proto.String("restore.log"), ImagesDirFd: proto.Int32(int32(d.Fd())),
	}, nil)
}
