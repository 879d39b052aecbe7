// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Command talk is a server whose connections notice when a byte is lost, comes twice, or
// comes on another connection. It listens on the port in PORT (7000). The first line of
// a connection says what it is for:
//
//	talk         each line that follows is a number, one more than the one before (from
//	             1), and is answered with the same line
//	pour N       the server writes the numbers from 1 to N, a line each, and reads nothing
//	             until it is told to on another connection; then it reads numbers
//	             from 1 to M, and "end", and answers "received M"
//	release      whatever pours reads from now on; answered with "released"
//
// What is wrong is answered with a line that begins with "wrong", and the connection closed.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// buffer is the size of a connection's buffers, so that little fills them.
const buffer = 32 << 10

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "talk:", err)
		os.Exit(1)
	}
}

func run() error {
	port := os.Getenv("PORT")
	if port == "" {
		port = "7000"
	}
	// As process 1 of a container it has no default reaction to these.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	var config net.ListenConfig
	config.SetMultipathTCP(false) // CRIU cannot dump it
	listener, err := config.Listen(ctx, "tcp", ":"+port)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = listener.Close() })
	s := &server{released: make(chan struct{})}
	for {
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		go s.serve(conn.(*net.TCPConn))
	}
}

type server struct {
	once     sync.Once
	released chan struct{}
}

func (s *server) serve(conn *net.TCPConn) {
	defer conn.Close()
	in := bufio.NewReaderSize(conn, 64)
	first, err := in.ReadString('\n')
	if err != nil {
		return
	}
	switch words := strings.Fields(first); {
	case len(words) == 1 && words[0] == "talk":
		err = talk(conn, in)
	case len(words) == 2 && words[0] == "pour":
		err = s.pour(conn, in, words[1])
	case len(words) == 1 && words[0] == "release":
		s.once.Do(func() { close(s.released) })
		_, err = io.WriteString(conn, "released\n")
	default:
		err = fmt.Errorf("what is %q", first)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		fmt.Fprintln(os.Stderr, "talk:", conn.RemoteAddr(), err)
		fmt.Fprintf(conn, "wrong: %v\n", err)
	}
}

func talk(conn net.Conn, in *bufio.Reader) error {
	for last := uint64(0); ; last++ {
		line, err := in.ReadString('\n')
		if err != nil {
			return err
		}
		if n, err := strconv.ParseUint(strings.TrimSpace(line), 10, 64); err != nil || n != last+1 {
			return fmt.Errorf("%q after %d", line, last)
		}
		if _, err := io.WriteString(conn, line); err != nil {
			return err
		}
	}
}

func (s *server) pour(conn *net.TCPConn, in *bufio.Reader, lines string) error {
	n, err := strconv.ParseUint(lines, 10, 32)
	if err != nil {
		return err
	}
	if err := errors.Join(conn.SetReadBuffer(buffer), conn.SetWriteBuffer(buffer)); err != nil {
		return err
	}
	wrote := make(chan error, 1)
	go func() {
		out := bufio.NewWriter(conn)
		for i := range n {
			fmt.Fprintln(out, i+1)
		}
		wrote <- out.Flush()
	}()
	<-s.released
	got := uint64(0)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return err
		}
		if line == "end\n" {
			break
		}
		if line != strconv.FormatUint(got+1, 10)+"\n" {
			return fmt.Errorf("%q after %d", line, got)
		}
		got++
	}
	if err := <-wrote; err != nil {
		return err
	}
	_, err = fmt.Fprintf(conn, "received %d\n", got)
	return err
}
