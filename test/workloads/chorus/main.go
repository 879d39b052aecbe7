// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Command chorus is one voice of several in a pod, each in a container of its own.
// Every voice counts, tells its count to the others over connections that it keeps open,
// on the loopback interface and over Unix sockets, and writes it into memory that all of
// them share. Each notes whether it ever finds another missing or set back.
//
// The environment sets it up: PORT is where it listens, PEERS are the ports of the
// others ("9002,9003"), SOCKETS is a directory in which all have their sockets, named by
// their ports, and LOGS one in which each writes a line with the next number now and
// then; without them there are none. On a connection, "c" is answered with "INCARNATION COUNT", and
// "s" with everything that it has noted, as JSON.
//
// It uses the kernel's blocking calls and relative sleeps: timers of the Go runtime
// hold an absolute reading of the monotonic clock, which is another one on another node.
package main

import (
	"bufio"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Notes is what a voice has noted.
type Notes struct {
	// Incarnation is drawn at random when the process starts.
	Incarnation string `json:"incarnation"`
	Count       uint64 `json:"count"`
	// Heard is how often another has answered.
	Heard uint64 `json:"heard"`
	// Refused connections: nobody listened. Lost ones were closed by the other side.
	// Silent: no answer within patience seconds.
	Refused uint64 `json:"refused"`
	Lost    uint64 `json:"lost"`
	Silent  uint64 `json:"silent"`
	// SetBack: another has said less than before, or is another process.
	SetBack uint64 `json:"setBack"`
	// Torn: what another has written into the shared memory is not there.
	Torn uint64 `json:"torn"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "chorus:", err)
		os.Exit(1)
	}
}

func run() error {
	port, err := strconv.Atoi(os.Getenv("PORT"))
	if err != nil {
		return fmt.Errorf("PORT: %w", err)
	}
	shared, err := openShared("/dev/shm/chorus")
	if err != nil {
		return err
	}
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails; see its documentation
	v := &voice{port: port, shared: shared}
	v.notes.Incarnation = hex.EncodeToString(id[:])
	if dir := os.Getenv("LOGS"); dir != "" {
		if v.log, err = os.OpenFile(filepath.Join(dir, strconv.Itoa(port)), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644); err != nil {
			return err
		}
	}
	sockets := os.Getenv("SOCKETS")
	listener, err := listen(loopback(port))
	if err != nil {
		return err
	}
	go v.serve(listener)
	if sockets != "" {
		if listener, err = listen(named(sockets, port)); err != nil {
			return err
		}
		go v.serve(listener)
	}
	for _, text := range strings.FieldsFunc(os.Getenv("PEERS"), func(r rune) bool { return r == ',' }) {
		peer, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("PEERS: %w", err)
		}
		go v.listenTo(peer, loopback(peer))
		if sockets != "" {
			go v.listenTo(peer, named(sockets, peer))
		}
	}
	// As process 1 of a container it has no default reaction to these.
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM, unix.SIGINT)
	go v.sing()
	<-stop
	return nil
}

// slots of the shared memory, by port.
const (
	slots     = 512
	sharedLen = slots * 8
)

func openShared(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT, 0o666)
	if err != nil {
		return nil, fmt.Errorf("shared memory: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, sharedLen); err != nil {
		return nil, fmt.Errorf("shared memory: %w", err)
	}
	return unix.Mmap(fd, 0, sharedLen, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
}

type voice struct {
	port   int
	shared []byte
	log    *os.File // nil for none

	mu    sync.Mutex
	notes Notes
}

func (v *voice) slot(port int) *uint64 {
	return (*uint64)(unsafe.Pointer(&v.shared[port%slots*8]))
}

// sing counts.
func (v *voice) sing() {
	runtime.LockOSThread()
	for {
		v.mu.Lock()
		v.notes.Count++
		n := v.notes.Count
		// First into the memory: what is said over a connection is there already.
		atomic.StoreUint64(v.slot(v.port), n)
		v.mu.Unlock()
		if v.log != nil && n%logEvery == 0 {
			_, _ = fmt.Fprintln(v.log, n/logEvery)
		}
		pause(5)
	}
}

// logEvery is after how many counts there is another line in the log.
const logEvery = 20

func pause(milliseconds int64) {
	ts := unix.NsecToTimespec(milliseconds * 1e6)
	_ = unix.Nanosleep(&ts, nil)
}

func listen(at unix.Sockaddr) (int, error) {
	fd, err := socket(at)
	if err == nil {
		err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.Bind(fd, at), unix.Listen(fd, 64))
	}
	if err != nil {
		return -1, fmt.Errorf("listen on %+v: %w", at, err)
	}
	return fd, nil
}

func socket(at unix.Sockaddr) (int, error) {
	family := unix.AF_INET
	if _, ok := at.(*unix.SockaddrUnix); ok {
		family = unix.AF_UNIX
	}
	return unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
}

func named(dir string, port int) *unix.SockaddrUnix {
	return &unix.SockaddrUnix{Name: filepath.Join(dir, strconv.Itoa(port))}
}

func loopback(port int) *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}
}

func (v *voice) serve(listener int) {
	for {
		fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
		if err != nil {
			pause(5)
			continue
		}
		go func() {
			defer unix.Close(fd)
			v.answer(fd)
		}()
	}
}

func (v *voice) answer(fd int) {
	ask := make([]byte, 1)
	for {
		if n, err := unix.Read(fd, ask); n != 1 || err != nil {
			return
		}
		v.mu.Lock()
		notes := v.notes
		v.mu.Unlock()
		said := fmt.Sprintf("%s %d\n", notes.Incarnation, notes.Count)
		switch ask[0] {
		case 'c':
		case 's':
			b, err := json.Marshal(notes)
			if err != nil {
				return
			}
			said = string(b) + "\n"
		default:
			continue
		}
		if _, err := unix.Write(fd, []byte(said)); err != nil {
			return
		}
	}
}

// listenTo asks another again and again, over one connection for as long as it lasts.
func (v *voice) listenTo(peer int, at unix.Sockaddr) {
	runtime.LockOSThread()
	var last struct {
		incarnation string
		count       uint64
	}
	for {
		fd, err := connect(at)
		if err != nil {
			v.note(func(n *Notes) { n.Refused++ })
			pause(20)
			continue
		}
		in := bufio.NewReader(reader(fd))
		for err == nil {
			var incarnation string
			var count uint64
			if _, err = uninterrupted(func() (int, error) { return unix.Write(fd, []byte("c")) }); err == nil {
				_, err = fmt.Fscanf(in, "%s %d\n", &incarnation, &count)
			}
			switch {
			case errors.Is(err, unix.EAGAIN):
				v.note(func(n *Notes) { n.Silent++ })
			case err != nil:
				v.note(func(n *Notes) { n.Lost++ })
			default:
				there := atomic.LoadUint64(v.slot(peer))
				v.note(func(n *Notes) {
					n.Heard++
					if last.incarnation != "" && (incarnation != last.incarnation || count < last.count) {
						n.SetBack++
					}
					if there < count {
						n.Torn++
					}
				})
				last.incarnation, last.count = incarnation, count
				pause(10)
			}
		}
		_ = unix.Close(fd)
	}
}

func (v *voice) note(change func(*Notes)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	change(&v.notes)
}

// patience is how long, in seconds, a voice waits for an answer. Nodes may be emulated,
// and take turns on few processors.
const patience = 5

func connect(to unix.Sockaddr) (int, error) {
	fd, err := socket(to)
	if err != nil {
		return -1, err
	}
	if err := errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: patience}), unix.Connect(fd, to)); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// uninterrupted repeats a call that a signal, or a freeze, has ended: with a limit of
// time the kernel does not go on with it.
func uninterrupted(call func() (int, error)) (int, error) {
	for {
		if n, err := call(); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// reader reads with the kernel's blocking call.
type reader int

func (r reader) Read(b []byte) (int, error) {
	n, err := uninterrupted(func() (int, error) { return unix.Read(int(r), b) })
	if n == 0 && err == nil {
		return 0, unix.ECONNRESET
	}
	return max(n, 0), err
}
