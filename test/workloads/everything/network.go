// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// patience with the network within the pod.
const patience = 10 * time.Second

func listen(address string) (net.Listener, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	return lc.Listen(context.Background(), "tcp4", address)
}

// loopback is a TCP connection within the pod, with a byte on its way between the steps.
type loopback struct {
	a, b net.Conn
	n    byte
}

func newLoopback() (holder, error) {
	l, err := listen("127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	lo := &loopback{}
	if lo.a, err = net.Dial("tcp4", l.Addr().String()); err != nil {
		return nil, err
	}
	if lo.b, err = l.Accept(); err != nil {
		return nil, err
	}
	return lo, lo.send()
}

func (l *loopback) send() error {
	l.n++
	_, err := l.a.Write([]byte{l.n})
	return err
}

func (*loopback) name() string { return "loopback connection" }

func (l *loopback) step() error {
	if err := l.b.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	var b [1]byte
	if _, err := io.ReadFull(l.b, b[:]); err != nil {
		return err
	}
	if b[0] != l.n {
		return fmt.Errorf("byte %d, want %d", b[0], l.n)
	}
	return l.send()
}

// ownAddress is a listener on the pod's own address, whichever that is.
type ownAddress struct{ l *net.TCPListener }

const ownPort = "8081"

// podIP is the first address that is not of the loopback interface.
func podIP() (string, error) {
	list, err := net.InterfaceAddrs()
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() && n.IP.To4() != nil {
			return n.IP.String(), nil
		}
	}
	return "", errors.Join(errors.New("the pod has no address"), err)
}

func newOwnAddress() (holder, error) {
	ip, err := podIP()
	if err != nil {
		return nil, err
	}
	l, err := listen(net.JoinHostPort(ip, ownPort))
	if err != nil {
		return nil, err
	}
	return &ownAddress{l.(*net.TCPListener)}, nil
}

func (*ownAddress) name() string { return "listener on the pod's address" }

func (o *ownAddress) step() error {
	ip, err := podIP()
	if err != nil {
		return err
	}
	c, err := net.DialTimeout("tcp4", net.JoinHostPort(ip, ownPort), patience)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := o.l.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	accepted, err := o.l.Accept()
	if err != nil {
		return err
	}
	return accepted.Close()
}
