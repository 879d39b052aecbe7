// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
)

// maxShown bounds how much of a command's output an error repeats.
const maxShown = 1 << 10

// ExitError is a command of the node that failed.
type ExitError struct {
	// Args are the command and its arguments.
	Args []string
	// Code is the exit code, -1 when a signal ended it.
	Code int
	// Signal that ended it, 0 if none.
	Signal syscall.Signal
	// Stdout and Stderr are what it wrote.
	Stdout, Stderr string
	// Log are the lines of its log file that tell why, where it has one.
	Log []string
	// Err is the cause when it was neither an exit code nor a signal.
	Err error
}

func newExitError(args []string, err error, stdout, stderr []byte) *ExitError {
	e := &ExitError{Args: args, Code: -1, Stdout: string(stdout), Stderr: string(stderr)}
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		e.Err = err
		return e
	}
	ws, ok := exit.Sys().(syscall.WaitStatus)
	if ok && ws.Signaled() {
		e.Signal = ws.Signal()
	} else {
		e.Code = exit.ExitCode()
	}
	return e
}

// Error names the command by its first words and ends with the reason.
func (e *ExitError) Error() string {
	var b strings.Builder
	b.WriteString(commandName(e.Args))
	switch {
	case e.Err != nil:
		fmt.Fprintf(&b, ": %v", e.Err)
	case e.Signal != 0:
		fmt.Fprintf(&b, ": ended by %v", e.Signal)
	default:
		fmt.Fprintf(&b, ": exit code %d", e.Code)
	}
	switch {
	case len(e.Log) > 0:
		fmt.Fprintf(&b, ": %s", shorten(strings.Join(e.Log, "; ")))
	case strings.TrimSpace(e.Stderr) != "":
		fmt.Fprintf(&b, ": %s", shorten(strings.TrimSpace(e.Stderr)))
	}
	return b.String()
}

// Unwrap returns the cause when the command could not be waited for.
func (e *ExitError) Unwrap() error { return e.Err }

// commandName is the program and the first argument that is not an option.
func commandName(args []string) string {
	name := args[0][strings.LastIndexByte(args[0], '/')+1:]
	for i, a := range args[1:] {
		if strings.HasPrefix(a, "-") {
			continue
		}
		// The value of an option such as --root DIR is not a verb.
		if i > 0 && strings.HasPrefix(args[i], "--") && !strings.Contains(args[i], "=") {
			continue
		}
		return name + " " + a
	}
	return name
}

// shorten keeps the end, where the reason of a failure usually is.
func shorten(s string) string {
	if len(s) <= maxShown {
		return s
	}
	return "…" + strings.ToValidUTF8(s[len(s)-maxShown:], "")
}

// LogErrors picks the lines of a CRIU log that tell why it failed: the first
// line with an error and up to after lines that follow it.
func LogErrors(log []byte, after int) []string {
	lines := strings.Split(strings.TrimRight(string(log), "\n"), "\n")
	for i, l := range lines {
		if strings.Contains(l, "Error") {
			return lines[i:min(i+1+after, len(lines))]
		}
	}
	return nil
}
