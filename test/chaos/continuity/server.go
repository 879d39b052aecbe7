// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// patience is how long a writer may take to send its line.
const patience = 5 * time.Second

// Log receives records over TCP, one connection each, and acknowledges them
// once they are kept.
type Log struct {
	listener net.Listener
	// copyTo gets every record as a line.
	copyTo io.Writer
	wg     sync.WaitGroup

	mu      sync.Mutex
	judge   *Judge
	last    Record
	changed chan struct{}
	invalid []string
}

// Listen opens a log at an address. Every record is written to copyTo as well.
func Listen(address string, copyTo io.Writer) (*Log, error) {
	l, err := net.Listen("tcp4", address)
	if err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	log := &Log{listener: l, copyTo: copyTo, judge: NewJudge(), changed: make(chan struct{})}
	log.wg.Go(log.serve)
	return log, nil
}

// Address is where writers find it.
func (l *Log) Address() string { return l.listener.Addr().String() }

// Close ends it; open connections end by themselves.
func (l *Log) Close() error {
	err := l.listener.Close()
	l.wg.Wait()
	return err
}

func (l *Log) serve() {
	for {
		conn, err := l.listener.Accept()
		if err != nil {
			return // closed
		}
		l.wg.Go(func() {
			defer func() { _ = conn.Close() }()
			l.receive(conn)
		})
	}
}

func (l *Log) receive(conn net.Conn) {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return
	}
	line, err := bufio.NewReader(io.LimitReader(conn, 1024)).ReadString('\n')
	if err != nil {
		return // not a whole line: the write did not happen
	}
	if !l.add(line) {
		return
	}
	// A writer that does not hear this writes the number again.
	_, _ = io.WriteString(conn, "ok\n")
}

// add keeps a record; its time is the time at which it takes its place.
func (l *Log) add(line string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	r, err := ParseRecord(line, time.Now())
	if err != nil {
		l.invalid = append(l.invalid, err.Error())
		return false
	}
	l.judge.Add(r)
	l.last = r
	_, _ = fmt.Fprintln(l.copyTo, r.At.UnixMicro(), r.Incarnation, r.Number, r.Attempt, r.Pod)
	close(l.changed)
	l.changed = make(chan struct{})
	return true
}

// Begin starts a new stretch, about which Verdict will be.
func (l *Log) Begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.judge.Begin(time.Now())
	l.invalid = nil
}

// Verdict is about all since Begin.
func (l *Log) Verdict() Verdict {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := l.judge.Verdict(time.Now())
	v.Problems = append(v.Problems, l.invalid...)
	return v
}

// ErrSilent says that no such record came in time.
var ErrSilent = errors.New("the log is silent")

// Await returns once a record that arrives from now on is as cond says.
func (l *Log) Await(ctx context.Context, cond func(Record) bool) error {
	for {
		l.mu.Lock()
		changed := l.changed
		l.mu.Unlock()
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrSilent, context.Cause(ctx))
		case <-changed:
		}
		l.mu.Lock()
		r := l.last
		l.mu.Unlock()
		if cond(r) {
			return nil
		}
	}
}
