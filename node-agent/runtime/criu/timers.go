// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package criu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/encoding/protowire"
)

const filesImage = "files.img"

// The beginning of every image, and what says that it is a list of open files
// (criu/include/magic.h).
const (
	magicCommon uint32 = 0x54564319
	magicFiles  uint32 = 0x56303138
)

// Numbers of fields: of the timer in a file_entry (images/fdinfo.proto), and in a
// timerfd_entry (images/timerfd.proto).
const (
	fieldTimer = 12

	fieldTicks               = 5
	fieldSeconds             = 7
	fieldNanoseconds         = 8
	fieldIntervalSeconds     = 9
	fieldIntervalNanoseconds = 10
)

var errFiles = errors.New("list of open files")

// rearmTimers has timers go on that CRIU would restore as stopped. The kernel starts a
// timerfd with an interval anew only when its process reads that it has expired. One
// that nobody has read has no time left, and that is how it is written and set again:
// as a timer that was switched off, with one last expiration to be read (criu#3162).
// While a container is frozen nobody reads, so it happens to all short intervals. Such
// a timer is given a nanosecond: it expires at once, which it already had, and from then
// on as it did. One without an interval has nothing more to do, and stays; one that has
// not expired was switched off by its process.
func rearmTimers(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, filesImage), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	at, err := stoppedTimers(b)
	if err != nil {
		return err
	}
	for _, offset := range at {
		if _, err := f.WriteAt([]byte{1}, offset); err != nil {
			return noSpace(err)
		}
	}
	return f.Close()
}

// stoppedTimers are the places in an image where a timer that is to go on has 0 as the
// nanoseconds that are left: one byte, as 1 is.
func stoppedTimers(image []byte) ([]int64, error) {
	if len(image) < 8 || binary.LittleEndian.Uint32(image) != magicCommon || binary.LittleEndian.Uint32(image[4:]) != magicFiles {
		return nil, fmt.Errorf("%w: it does not begin as one", errFiles)
	}
	var found []int64
	for at := 8; at < len(image); {
		if len(image)-at < 4 {
			return nil, fmt.Errorf("%w: it was cut off", errFiles)
		}
		size := int(binary.LittleEndian.Uint32(image[at:]))
		at += 4
		if size > len(image)-at {
			return nil, fmt.Errorf("%w: it was cut off", errFiles)
		}
		err := fields(image[at:at+size], func(number protowire.Number, start, end int) error {
			if number != fieldTimer {
				return nil
			}
			// start is where the length stands.
			_, n := protowire.ConsumeVarint(image[at+start : at+end])
			inner := at + start + n
			place, err := stopped(image[inner : at+end])
			if place >= 0 {
				found = append(found, int64(inner+place))
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		at += size
	}
	return found, nil
}

// stopped is the place of the nanoseconds that are left in a timer that has an interval,
// has expired and has no time left, or -1.
func stopped(timer []byte) (int, error) {
	var ticks, left, interval uint64
	place := -1
	err := fields(timer, func(number protowire.Number, start, end int) error {
		switch number {
		case fieldTicks, fieldSeconds, fieldNanoseconds, fieldIntervalSeconds, fieldIntervalNanoseconds:
			v, n := protowire.ConsumeVarint(timer[start:end])
			if n != end-start {
				return fmt.Errorf("%w: a timer's field %d is no number", errFiles, number)
			}
			switch number {
			case fieldTicks:
				ticks = v
			case fieldSeconds, fieldNanoseconds:
				left |= v
			default:
				interval |= v
			}
			if number == fieldNanoseconds {
				place = start
			}
		}
		return nil
	})
	if err != nil || ticks == 0 || left != 0 || interval == 0 {
		return -1, err
	}
	if place < 0 {
		return -1, fmt.Errorf("%w: a timer without a time", errFiles)
	}
	return place, nil
}

// fields calls f for every field of a message, with where its value lies.
func fields(message []byte, f func(number protowire.Number, start, end int) error) error {
	for at := 0; at < len(message); {
		number, kind, n := protowire.ConsumeTag(message[at:])
		if n < 0 {
			return fmt.Errorf("%w: %w", errFiles, protowire.ParseError(n))
		}
		at += n
		size := protowire.ConsumeFieldValue(number, kind, message[at:])
		if size < 0 {
			return fmt.Errorf("%w: %w", errFiles, protowire.ParseError(size))
		}
		if err := f(number, at, at+size); err != nil {
			return err
		}
		at += size
	}
	return nil
}
