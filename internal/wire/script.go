// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

// ActionScriptName is the name of the action script on the node, in the wrapper's
// directory.
const ActionScriptName = "godwit-criu-script"

// StandInDir is the directory, in the wrapper's, in which the wrapper has the name of
// CRIU: the first in PATH of a runc that is to find the stand-in.
const StandInDir = "stand-in"

// What the action script and the stand-in are told by the environment of the runc that starts CRIU.
const (
	// EnvDumpReady is a pipe that gets a line when a dump is about to look at the
	// tasks, EnvDumpGo one that then gives the line "go", or ends. Without them a
	// dump is not held up.
	EnvDumpReady = "GODWIT_DUMP_READY"
	EnvDumpGo    = "GODWIT_DUMP_GO"
	// EnvDumpOnly is not empty if the stand-in for CRIU is to hold nothing back.
	EnvDumpOnly = "GODWIT_DUMP_ONLY"
	// EnvWrapper is the program for those steps of a restore that need one.
	EnvWrapper = "GODWIT_WRAPPER"
)

// ActionScript is what CRIU calls at each step of a dump and of a restore (criu(8),
// --action-script). Most steps are none of our business, and the processes stand
// still meanwhile: a shell starts and ends faster than a program in Go.
//
// At pre-dump CRIU has been started and has its options, and has not touched the
// tasks yet (cr_dump_tasks in criu/cr-dump.c): there it waits for the freeze. That
// the other end of the pipe goes away is a failure, and CRIU ends.
const ActionScript = `#!/bin/sh
# Written by Godwit's node agent. CRIU calls it at each step of a dump or restore.
case $CRTOOLS_SCRIPT_ACTION in
pre-dump)
	[ -z "$` + EnvDumpReady + `" ] && exit 0
	echo ready >"$` + EnvDumpReady + `" && read -r word <"$` + EnvDumpGo + `" && [ "$word" = go ]
	;;
post-restore | pre-resume)
	[ -z "$` + EnvWrapper + `" ] || exec "$` + EnvWrapper + `"
	;;
esac
`
