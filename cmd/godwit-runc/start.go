// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// errStopped uses runc's words for a container that ended before its start.
var errStopped = errors.New("cannot start a container that has stopped")

// start does nothing for a container that was restored: it runs already. The
// mark is taken away, so that a second start fails as runc lets it fail.
func (w *wrapper) start(c command) (forward bool, err error) {
	id := onlyID(c.rest)
	if id == "" {
		return true, nil
	}
	path := filepath.Join(c.root, id, restoredMark)
	var p initProcess
	found, err := readMark(path, &p)
	if err != nil {
		return false, err
	}
	if !found {
		return true, nil
	}
	if !p.alive() {
		return false, errStopped
	}
	// The container runs, and an error would make its owner kill it: a mark
	// that stays only lets another start succeed.
	_ = os.Remove(path)
	return false, nil
}

// alive says whether the process exists and has not ended.
func (p initProcess) alive() bool {
	st, err := readStat(p.PID)
	return err == nil && p.StartTime != 0 && st.start == p.StartTime && st.state != 'Z' && st.state != 'X'
}

type procStat struct {
	state byte
	start uint64
}

// readStat reads /proc/PID/stat. The name of the program may contain anything,
// the fields are counted from the last parenthesis.
func readStat(pid int) (procStat, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return procStat{}, err
	}
	_, after, ok := strings.Cut(string(data[max(bytes.LastIndexByte(data, ')'), 0):]), " ")
	fields := strings.Fields(after)
	const startField = 22 - 3 // the first field here is the third
	if !ok || len(fields) <= startField || len(fields[0]) != 1 {
		return procStat{}, fmt.Errorf("process %d: cannot read its state", pid)
	}
	start, err := strconv.ParseUint(fields[startField], 10, 64)
	if err != nil {
		return procStat{}, fmt.Errorf("process %d: %w", pid, err)
	}
	return procStat{state: fields[0][0], start: start}, nil
}
