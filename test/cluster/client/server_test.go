// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"

	"golang.org/x/crypto/ssh"

	"godwit.dev/godwit/test/cluster/internal/topology"
)

// fakeNode is an SSH server that runs the lines it is given in a local shell.
type fakeNode struct {
	config      *ssh.ServerConfig
	connections atomic.Int32
	last        atomic.Pointer[ssh.ServerConn]
}

// newFakeCluster returns a cluster whose nodes are one fake node.
func newFakeCluster(t *testing.T) (*Cluster, *fakeNode) {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	login, loginPEM := newKey(t)
	hostKey, _ := newKey(t)
	known := ""
	for _, n := range topology.Nodes() {
		known += n.IP + " " + string(ssh.MarshalAuthorizedKey(hostKey.PublicKey()))
	}
	for name, content := range map[string][]byte{IdentityFile: loginPEM, KnownHostsFile: []byte(known)} {
		if err := os.WriteFile(filepath.Join(dir, "ssh", name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f := &fakeNode{config: &ssh.ServerConfig{
		PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if string(key.Marshal()) != string(login.PublicKey().Marshal()) {
				return nil, errors.New("unknown key")
			}
			return nil, nil
		},
	}}
	f.config.AddHostKey(hostKey)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go f.accept(listener)
	dial := func(ctx context.Context, _, address string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", listener.Addr().String())
		return renamedConn{conn, address}, err
	}
	c, err := Open(dir, WithDialer(dial))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, f
}

// renamedConn says that its peer has the address that was asked for, which is
// what host keys are looked up by.
type renamedConn struct {
	net.Conn
	address string
}

func (c renamedConn) RemoteAddr() net.Addr {
	address, err := net.ResolveTCPAddr("tcp", c.address)
	if err != nil {
		panic(err)
	}
	return address
}

func newKey(t *testing.T) (ssh.Signer, []byte) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer, pem.EncodeToMemory(block)
}

func (f *fakeNode) accept(l net.Listener) {
	for {
		raw, err := l.Accept()
		if err != nil {
			return
		}
		go f.serve(raw)
	}
}

func (f *fakeNode) serve(raw net.Conn) {
	conn, channels, requests, err := ssh.NewServerConn(raw, f.config)
	if err != nil {
		return
	}
	f.connections.Add(1)
	f.last.Store(conn)
	go ssh.DiscardRequests(requests)
	for c := range channels {
		channel, requests, err := c.Accept()
		if err != nil {
			return
		}
		go session(channel, requests)
	}
}

// session runs the line of an "exec" request.
func session(channel ssh.Channel, requests <-chan *ssh.Request) {
	defer channel.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for r := range requests {
		switch r.Type {
		case "exec":
			var line struct{ Command string }
			if err := ssh.Unmarshal(r.Payload, &line); err != nil {
				return
			}
			_ = r.Reply(true, nil)
			go func() {
				cmd := exec.CommandContext(ctx, "sh", "-c", line.Command)
				cmd.Stdin, cmd.Stdout, cmd.Stderr = channel, channel, channel.Stderr()
				code := uint32(0)
				var exit *exec.ExitError
				if err := cmd.Run(); errors.As(err, &exit) {
					code = uint32(exit.ExitCode())
				}
				_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Code uint32 }{code}))
				channel.Close()
			}()
		default:
			if r.WantReply {
				_ = r.Reply(false, nil)
			}
		}
	}
}
