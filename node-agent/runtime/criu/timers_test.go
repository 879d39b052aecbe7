// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package criu

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
	"unsafe"

	"github.com/checkpoint-restore/go-criu/v7/crit"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/eventfd"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fown"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/timerfd"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// owner is of every open file.
func owner() *fown.FownEntry {
	return &fown.FownEntry{Uid: new(uint32), Euid: new(uint32), Signum: new(uint32), PidType: new(uint32), Pid: new(uint32)}
}

func timer(id uint32, ticks, sec, nsec, isec, insec uint64) *fdinfo.FileEntry {
	return &fdinfo.FileEntry{Type: fdinfo.FdTypes_TIMERFD.Enum(), Id: &id, Tfd: &timerfd.TimerfdEntry{
		Id: &id, Flags: proto.Uint32(unix.O_NONBLOCK), Fown: owner(), Clockid: proto.Uint32(unix.CLOCK_MONOTONIC), Ticks: &ticks,
		SettimeFlags: new(uint32), Vsec: &sec, Vnsec: &nsec, Isec: &isec, Insec: &insec,
	}}
}

// filesImageOf writes an image as CRIU does.
func filesImageOf(t *testing.T, entries ...*fdinfo.FileEntry) (dir string) {
	t.Helper()
	b := binary.LittleEndian.AppendUint32(nil, magicCommon)
	b = binary.LittleEndian.AppendUint32(b, magicFiles)
	for _, e := range entries {
		record, err := proto.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		b = append(binary.LittleEndian.AppendUint32(b, uint32(len(record))), record...)
	}
	dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, filesImage), b, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestTimersGoOn(t *testing.T) {
	id := uint32(1)
	event := &fdinfo.FileEntry{Type: fdinfo.FdTypes_EVENTFD.Enum(), Id: &id, Efd: &eventfd.EventfdFileEntry{
		Id: &id, Flags: new(uint32), Fown: owner(), Counter: new(uint64),
	}}
	entries := []*fdinfo.FileEntry{
		event,
		timer(2, 1, 0, 0, 0, 20_000_000),     // expired
		timer(3, 1, 0, 0, 3600, 0),           // expired
		timer(4, 300, 0, 0, 0, 1),            // expired
		timer(5, 1, 0, 0, 0, 0),              // expired, once
		timer(6, 0, 0, 0, 1, 0),              // switched off
		timer(7, 1, 0, 12_345, 0, 20_000),    // read, and goes on
		timer(8, 1, 400, 0, 800, 0),          // goes on
		timer(9, 1<<40, 0, 0, 1<<33, 999999), // expired; large numbers
	}
	dir := filesImageOf(t, entries...)
	want := map[uint32]uint64{2: 1, 3: 1, 4: 1, 5: 0, 6: 0, 7: 12_345, 8: 0, 9: 1}
	// To do it again changes nothing.
	for range 2 {
		if err := rearmTimers(dir); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(filepath.Join(dir, filesImage))
		if err != nil {
			t.Fatal(err)
		}
		image, err := crit.New(f, nil, "", false, true).Decode(&fdinfo.FileEntry{})
		if err = errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		if len(image.Entries) != len(entries) {
			t.Fatalf("%d entries, want %d", len(image.Entries), len(entries))
		}
		for i, e := range image.Entries {
			expected := proto.Clone(entries[i]).(*fdinfo.FileEntry)
			if expected.Tfd != nil {
				expected.Tfd.Vnsec = proto.Uint64(want[expected.GetId()])
			}
			if !proto.Equal(e.Message, expected) {
				t.Errorf("entry %d is %v, want %v", i, e.Message, expected)
			}
		}
	}
}

func TestTimersInNoImage(t *testing.T) {
	whole, err := os.ReadFile(filepath.Join(filesImageOf(t, timer(2, 1, 0, 0, 1, 0)), filesImage))
	if err != nil {
		t.Fatal(err)
	}
	for cut := range whole {
		_, err := stoppedTimers(whole[:cut])
		// Without any file it is one, too.
		if (err == nil) != (cut == 8) {
			t.Errorf("the first %d bytes of %d: %v", cut, len(whole), err)
		}
	}
	other := append([]byte{}, whole...)
	other[4]++
	if _, err := stoppedTimers(other); !errors.Is(err, errFiles) {
		t.Errorf("another image: %v", err)
	}
}

// What CRIU does with the image: it sets the timer, and then how often it has expired.
func TestTimerThatWasSetLikeThat(t *testing.T) {
	const setTicks = 0x40085400 // TFD_IOC_SET_TICKS, linux/timerfd.h
	for name, c := range map[string]struct {
		left int64
		goOn bool
	}{"as it was written": {0, false}, "as it is changed": {1, true}} {
		fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC)
		if err != nil {
			t.Skip(err)
		}
		defer unix.Close(fd)
		spec := unix.ItimerSpec{Interval: unix.NsecToTimespec(int64(time.Millisecond)), Value: unix.NsecToTimespec(c.left)}
		if err := unix.TimerfdSettime(fd, 0, &spec, nil); err != nil {
			t.Fatal(err)
		}
		ticks := uint64(1)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), setTicks, uintptr(unsafe.Pointer(&ticks))); errno != 0 {
			t.Skipf("not on this kernel: %v", errno)
		}
		readable := func() bool {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 200)
			return err == nil && n == 1
		}
		var b [8]byte
		if !readable() {
			t.Fatalf("%s: nothing to be read", name)
		}
		if _, err := unix.Read(fd, b[:]); err != nil {
			t.Fatal(err)
		}
		if got := readable(); got != c.goOn {
			t.Errorf("%s: it expires again: %t, want %t", name, got, c.goOn)
		}
	}
}
