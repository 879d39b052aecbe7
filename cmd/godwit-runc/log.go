// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
)

// maxQuote is how much of a log goes into a message, in bytes.
const maxQuote = 2 << 10

// maxLine is how much of one line goes into a message, in bytes.
const maxLine = 300

// errNoLog: containerd named no log file.
var errNoLog = errors.New("no log file")

// logError writes to runc's log file in runc's format; containerd shows the
// last error it finds there.
func (c command) logError(msg string) error { return c.writeLog("error", msg) }

func (c command) logWarning(msg string) error { return c.writeLog("warning", msg) }

func (c command) writeLog(level, msg string) error {
	if c.log == "" {
		return errNoLog
	}
	f, err := os.OpenFile(c.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND|os.O_SYNC, 0o644)
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	now := time.Now().Format(time.RFC3339)
	msg = "godwit: " + msg
	line := "time=" + strconv.Quote(now) + " level=" + level + " msg=" + strconv.Quote(msg)
	if c.logFormat == "json" {
		b, err := json.Marshal(struct {
			Level string `json:"level"`
			Msg   string `json:"msg"`
			Time  string `json:"time"`
		}{level, msg, now})
		if err != nil {
			_ = f.Close()
			return fmt.Errorf("log: %w", err)
		}
		line = string(b)
	}
	_, err = f.WriteString(line + "\n")
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	return nil
}

// logPosition is a place in runc's log.
type logPosition struct {
	path   string
	offset int64
}

// markLog remembers the end of runc's log as it is now.
func (c command) markLog() logPosition {
	p := logPosition{path: c.log}
	if fi, err := os.Stat(c.log); err == nil {
		p.offset = fi.Size()
	}
	return p
}

// lastError is ": " and the last error that runc has logged since, or "".
func (p logPosition) lastError() string {
	f, err := os.Open(p.path)
	if err != nil {
		return ""
	}
	defer f.Close()
	const tail = 1 << 20
	data, err := io.ReadAll(io.LimitReader(io.NewSectionReader(f, p.offset, tail), tail))
	if err != nil {
		return ""
	}
	last := ""
	for line := range bytes.Lines(data) {
		var entry struct{ Level, Msg string }
		if json.Unmarshal(line, &entry) == nil && entry.Level == "error" {
			last = strings.TrimSpace(entry.Msg)
		}
	}
	if last == "" {
		return ""
	}
	return ": " + last[:min(len(last), maxQuote)]
}

// criuLogName is CRIU's log in its work directory.
const criuLogName = "restore.log"

// criuGaveUp says whether CRIU has given a restore up by itself, and so has ended
// what it had made: it says so in the end. One that was killed says nothing.
func criuGaveUp(path string) bool {
	return strings.Contains(end(path), "Restoring FAILED")
}

// criuLast quotes the last line of CRIU's log, or "".
func criuLast(path string) string {
	lines := strings.Split(end(path), "\n")
	last := strings.TrimSpace(lines[len(lines)-1])
	if last == "" {
		return ""
	}
	return " [criu was at: " + last[:min(len(last), maxLine)] + "]"
}

// end of a file, "" when it cannot be read.
func end(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return ""
	}
	const tail = 4 << 10
	data, err := io.ReadAll(io.NewSectionReader(f, max(0, fi.Size()-tail), tail))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// criuErrors quotes the errors in CRIU's log, each with the line before it, or
// "". The first is not always the cause (CRIU also calls errors what it gets
// over), nor is the last (it says that the restore failed).
func criuErrors(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	const most = 6
	var quoted []string
	errs, before := 0, ""
	s := bufio.NewScanner(io.LimitReader(f, 64<<20))
	for s.Scan() && errs < most {
		line := s.Text()
		line = strings.TrimSpace(line[:min(len(line), maxLine)])
		if strings.Contains(line, "Error (") {
			if errs++; before != "" {
				quoted = append(quoted, before)
			}
			quoted, before = append(quoted, line), ""
			continue
		}
		before = line
	}
	if errs == 0 {
		return ""
	}
	quote := strings.Join(quoted, " | ")
	return " [criu: " + quote[:min(len(quote), maxQuote)] + "]"
}
