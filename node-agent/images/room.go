// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// spareRoom is the part of the node's memory, or of its disk, that is left alone: kubelet
// evicts pods of a node with less than a tenth of its disk.
const spareRoom = 0.15

// errNoRoom: the node has no room to merge the rounds.
var errNoRoom = errors.New("no room")

// room says whether so many more bytes can be merged here. In memory the pod that is
// restored from them needs as much again.
func (s *Store) room(n int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(s.localDir, &st); err != nil {
		return fmt.Errorf("statfs: %w", err)
	}
	size := st.Frsize
	if int64(st.Bavail)*size < n {
		return fmt.Errorf("%w: %d bytes in %s, %d are needed", errNoRoom, int64(st.Bavail)*size, s.localDir, n)
	}
	left, all := int64(st.Bavail)*size-n, int64(st.Blocks)*size
	if st.Type == unix.TMPFS_MAGIC {
		free, total, err := memoryLeft()
		if err != nil {
			return err
		}
		left, all = free-2*n, total
	}
	if least := int64(spareRoom * float64(all)); left < least {
		return fmt.Errorf("%w: %d bytes more would leave the node %d of %d", errNoRoom, n, left, all)
	}
	return nil
}

// memoryLeft is the memory that the node has, and what of it can be used, in bytes.
func memoryLeft() (free, total int64, err error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	kib := map[string]int64{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ":")
		var n int64
		if _, err := fmt.Sscan(value, &n); err == nil {
			kib[name] = n
		}
	}
	free, total = kib["MemAvailable"], kib["MemTotal"]
	if err := lines.Err(); err != nil || free == 0 || total == 0 {
		return 0, 0, errors.Join(errors.New("cannot tell how much memory the node has"), err)
	}
	return free << 10, total << 10, nil
}
