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
	"strings"
	"time"

	"github.com/checkpoint-restore/go-criu/v7"
	"github.com/checkpoint-restore/go-criu/v7/phaul"
	criurpc "github.com/checkpoint-restore/go-criu/v7/rpc"
	"google.golang.org/protobuf/proto"
)

// The other side is started at the same time: how long it is waited for, and how
// often looked for.
const (
	dialLimit    = 30 * time.Second
	dialInterval = 50 * time.Millisecond
)

// migrate moves the process.
func migrate(address string, pid int32, dir string) error {
	calls, err := dial(address)
	if err != nil {
		return err
	}
	client := rpc.NewClient(calls)
	defer func() { _ = client.Close() }()
	conn, err := dial(address)
	if err != nil {
		return err
	}
	pages, err := inherited(conn.(*net.TCPConn))
	if err != nil {
		return err
	}
	defer func() { _ = pages.Close() }()
	final := filepath.Join(dir, "final")
	if err := os.Mkdir(final, 0o700); err != nil {
		return err
	}
	c, err := phaul.MakePhaulClient(&local{client: client, final: final}, remote{client},
		phaul.Config{Pid: pid, Memfd: int(pages.Fd()), Wdir: dir})
	if err != nil {
		return err
	}
	return c.Migrate()
}

func dial(address string) (net.Conn, error) {
	limit := time.Now().Add(dialLimit)
	for {
		conn, err := net.DialTimeout("tcp", address, dialLimit)
		if err == nil || time.Now().After(limit) {
			return conn, err
		}
		time.Sleep(dialInterval)
	}
}

// remote passes phaul's calls on.
type remote struct{ client *rpc.Client }

func (r remote) StartIter() error { return r.client.Call("Remote.StartIter", Nothing{}, &Nothing{}) }
func (r remote) StopIter() error  { return r.client.Call("Remote.StopIter", Nothing{}, &Nothing{}) }

// local makes the last dump. CRIU tells it, while it still holds the process, when the
// images are there.
type local struct {
	criu.NoNotify
	client *rpc.Client
	final  string
}

// DumpCopyRestore makes the last dump; see phaul.Local.
func (l *local) DumpCopyRestore(c *criu.Criu, cfg phaul.Config, last string) error {
	d, err := os.Open(l.final)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	return c.Dump(&criurpc.CriuOpts{
		Pid: proto.Int32(cfg.Pid), LogLevel: proto.Int32(4), LogFile: proto.String("dump.log"),
		ImagesDirFd: proto.Int32(int32(d.Fd())), TrackMem: proto.Bool(true), ParentImg: proto.String(last),
		Ps: &criurpc.CriuPageServerInfo{Fd: proto.Int32(int32(cfg.Memfd))},
	}, l)
}

// PostDump has the process restored on the other side.
func (l *local) PostDump() error {
	names, err := filepath.Glob(filepath.Join(l.final, "*.img"))
	if err != nil {
		return err
	}
	images := Images{Files: map[string][]byte{}}
	for _, name := range names {
		content, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		images.Files[strings.TrimPrefix(name, l.final+"/")] = content
	}
	if len(images.Files) == 0 {
		return errors.New("the dump has left no images")
	}
	if err := l.client.Call("Remote.Restore", images, &Nothing{}); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	return nil
}
