// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// errUsage: the command line cannot be understood well enough to know whether
// a container would be created. Nothing is done.
var errUsage = errors.New("cannot understand the arguments")

// command is runc's command line as far as the wrapper has to understand it.
type command struct {
	// globals are the arguments before the verb, rest those after it, as given.
	globals []string
	verb    string
	rest    []string
	// root is the directory of runc's state.
	root string
	// log is the log file, logFormat "text" or "json".
	log, logFormat string
	// systemdCgroup says how linux.cgroupsPath is to be read.
	systemdCgroup bool
}

// Flags that take a value; the others of runc are switches. "criu" is accepted
// by runc although it means nothing any more.
var (
	globalValues = []string{"log", "log-format", "root", "rootless", "criu"}
	globalBools  = []string{"debug", "systemd-cgroup", "help", "h", "version", "v"}
	createValues = []string{"bundle", "b", "console-socket", "pidfd-socket", "pid-file", "preserve-fds"}
	createBools  = []string{"no-pivot", "no-new-keyring"}
)

// defaultRoot is where runc keeps its state unless told otherwise.
const defaultRoot = "/run/runc"

// splitFlag splits "-name", "--name" and "--name=value".
func splitFlag(arg string) (name, value string, hasValue, isFlag bool) {
	if len(arg) < 2 || arg[0] != '-' {
		return "", "", false, false
	}
	name = strings.TrimPrefix(arg[1:], "-")
	name, value, hasValue = strings.Cut(name, "=")
	return name, value, hasValue, true
}

// parseCommand finds the verb. A flag before the verb that is not known makes
// it impossible to say which word the verb is: that is refused if it could be
// one of those that the wrapper must not let pass.
func parseCommand(args []string) (command, error) {
	c := command{root: defaultRoot, logFormat: "text"}
	for i := 0; i < len(args); i++ {
		name, value, hasValue, isFlag := splitFlag(args[i])
		if !isFlag || name == "" {
			if isFlag { // "--" ends the flags
				i++
			}
			c.globals = args[:i:i]
			if i < len(args) {
				c.verb, c.rest = args[i], args[i+1:]
			}
			return c, nil
		}
		switch {
		case slices.Contains(globalValues, name):
			if !hasValue {
				if i++; i == len(args) {
					c.globals = args
					return c, nil // runc will complain
				}
				value = args[i]
			}
		case !slices.Contains(globalBools, name) && !hasValue:
			if slices.ContainsFunc(args[i:], intercepted) {
				return c, fmt.Errorf("%w: unknown flag %q", errUsage, args[i])
			}
			c.globals = args
			return c, nil
		}
		switch name {
		case "root":
			c.root = value
		case "log":
			c.log = value
		case "log-format":
			c.logFormat = value
		case "systemd-cgroup":
			c.systemdCgroup = !hasValue || value == "true" || value == "1" || value == "t" || value == "T" || value == "TRUE" || value == "True"
		}
	}
	c.globals = args
	return c, nil
}

// intercepted says whether a verb is one the wrapper looks at.
func intercepted(verb string) bool {
	return verb == "create" || verb == "start" || verb == "delete"
}

// createArgs are the arguments of create.
type createArgs struct {
	id, bundle, pidFile, consoleSocket string
	noPivot                            bool
	// unknown flags: harmless for a container that is passed on, but one that
	// is to be restored cannot do what they ask for.
	unknown []string
}

// parseCreate understands the arguments after "create".
func parseCreate(rest []string) (createArgs, error) {
	a := createArgs{bundle: "."}
	ids := []string{}
	for i := 0; i < len(rest); i++ {
		name, value, hasValue, isFlag := splitFlag(rest[i])
		if !isFlag {
			ids = append(ids, rest[i])
			continue
		}
		if name == "" {
			ids = append(ids, rest[i+1:]...)
			break
		}
		switch {
		case slices.Contains(createValues, name) && !hasValue:
			if i++; i == len(rest) {
				return a, fmt.Errorf("%w: flag %q needs a value", errUsage, rest[i-1])
			}
			value = rest[i]
		case slices.Contains(createValues, name), slices.Contains(createBools, name):
		default:
			a.unknown = append(a.unknown, rest[i])
			continue
		}
		switch name {
		case "bundle", "b":
			a.bundle = value
		case "pid-file":
			a.pidFile = value
		case "console-socket":
			a.consoleSocket = value
		case "no-pivot":
			a.noPivot = !hasValue || value == "true"
		}
	}
	// With an unknown flag its value may stand among the ids; the id comes last.
	if len(ids) == 0 || (len(ids) > 1 && len(a.unknown) == 0) {
		return a, fmt.Errorf("%w: create needs exactly one container id", errUsage)
	}
	a.id = ids[len(ids)-1]
	if err := checkID(a.id); err != nil {
		return a, err
	}
	var err error
	if a.bundle, err = filepath.Abs(a.bundle); err != nil {
		return a, fmt.Errorf("%w: bundle: %w", errUsage, err)
	}
	if a.pidFile != "" {
		if a.pidFile, err = filepath.Abs(a.pidFile); err != nil {
			return a, fmt.Errorf("%w: pid file: %w", errUsage, err)
		}
	}
	return a, nil
}

// checkID accepts what runc accepts as a container id, so that it can be part
// of a path.
func checkID(id string) error {
	for _, c := range []byte(id) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("_+-.", rune(c)) {
			return fmt.Errorf("%w: container id %q", errUsage, id)
		}
	}
	if id == "" || id == "." || id == ".." {
		return fmt.Errorf("%w: container id %q", errUsage, id)
	}
	return nil
}

// onlyID is the container id of a verb whose only positional argument it is,
// "" when it cannot be told: runc will complain.
func onlyID(rest []string) string {
	id := ""
	for _, a := range rest {
		if _, _, _, isFlag := splitFlag(a); isFlag {
			continue
		}
		if id != "" {
			return ""
		}
		id = a
	}
	if checkID(id) != nil {
		return ""
	}
	return id
}

// restoreArgs are the arguments for runc that restore the container which
// create was to make. Not passed on: --no-new-keyring, --preserve-fds and
// --pidfd-socket, which restore does not have. The three permissions must match
// those of the dump; they change nothing when the images do not need them.
func (c command) restoreArgs(a createArgs, imageDir, workDir string) []string {
	args := slices.Clone(c.globals)
	args = append(args, "restore", "--detach", "--no-subreaper",
		"--tcp-established", "--ext-unix-sk", "--file-locks",
		"--bundle", a.bundle, "--image-path", imageDir, "--work-path", workDir)
	if a.pidFile != "" {
		args = append(args, "--pid-file", a.pidFile)
	}
	if a.noPivot {
		args = append(args, "--no-pivot")
	}
	return append(args, a.id)
}
