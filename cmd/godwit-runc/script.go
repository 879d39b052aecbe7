// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"godwit.dev/godwit/internal/failpoint"
	"godwit.dev/godwit/internal/wire"
)

// CRIU calls its action script at each step of a restore. [wire.ActionScript] hands two
// of them on to this program.
//
// At post-restore the processes are complete and wait for CRIU's word, within code
// of CRIU's. That is when the hold becomes the mark: whoever looks for the mark and
// does not find it knows that nothing has run. It has to be then: from the next step
// on CRIU holds them with ptrace, and if it is killed the kernel lets them run.
//
// A container that is one of several stays frozen after its restore, and its hold
// stays a hold: at pre-resume its cgroup is frozen, see standStill.
//
// At pre-resume they are about to be let go, which is noted in the mark. A restore
// that CRIU itself gives up before has run nothing, and the mark is withdrawn.
//
// CRIU (since 3.19) does so for scripts of its configuration file also when
// runc has asked for notifications of its own; nodes with an older one are not
// eligible. The wrapper writes the mark itself if it is not there when runc has ended.
const (
	// Set by CRIU: what is about to happen, and the process id of the container's
	// init process on the node.
	envAction = "CRTOOLS_SCRIPT_ACTION"
	envInit   = "CRTOOLS_INIT_PID"
	// Set by the wrapper for the runc that restores.
	envHold   = "GODWIT_HOLD"
	envMark   = "GODWIT_MARK"
	envCgroup = "GODWIT_RESTORE_CGROUP"
	// envReadonly is not empty if the root file system is to be read-only.
	envReadonly = "GODWIT_READONLY_ROOT"
	// envHome is the cgroup that CRIU goes to when the container is to stay frozen.
	envHome = "GODWIT_HOME_CGROUP"

	postRestore = "post-restore"
	preResume   = "pre-resume"
)

// script carries out one call by CRIU and returns the exit status.
func script(action string) int {
	var err error
	home := os.Getenv(envHome)
	switch {
	case action == postRestore && home != "":
		err = completeMounts() // and it stays a hold: nothing runs yet
	case action == preResume && home != "":
		err = standStill(os.Getenv(envCgroup), home, os.Getenv(envInit))
	case action == postRestore:
		failpoint.At("wrapper-resuming")
		if err = completeMounts(); err == nil {
			err = wire.MarkRun(os.Getenv(envHold), os.Getenv(envMark))
		}
	case action == preResume:
		err = wire.NoteLetGo(os.Getenv(envMark))
		failpoint.At("wrapper-resumable")
	}
	if err == nil {
		return 0
	}
	// At pre-resume CRIU lets the processes go whatever is returned. They must not run
	// unmarked, nor those that are to stand still: everything in their cgroup is ended, CRIU and this process with it.
	fmt.Fprintln(os.Stderr, "Error (godwit):", err) // CRIU's log
	kerr := os.WriteFile(filepath.Join(os.Getenv(envCgroup), "cgroup.kill"), []byte("1"), 0)
	if pid, perr := strconv.Atoi(os.Getenv(envInit)); perr == nil && pid > 1 {
		kerr = errors.Join(kerr, syscall.Kill(pid, syscall.SIGKILL))
	}
	fmt.Fprintln(os.Stderr, "Error (godwit): ended the restore:", kerr)
	return 1
}

// completeMounts does what runc does to a container's mounts when it creates it, and
// does not when it restores it.
func completeMounts() error {
	if os.Getenv(envReadonly) == "" {
		return nil
	}
	pid, err := strconv.Atoi(os.Getenv(envInit))
	if err != nil || pid <= 1 {
		return fmt.Errorf("the container's process is %q", os.Getenv(envInit))
	}
	return closeRoot(pid)
}

// scriptEnv tells the script what it needs.
func scriptEnv(rec *restoring, self string) []string {
	env := []string{
		envHold + "=" + rec.Hold, envMark + "=" + rec.Mark, envCgroup + "=" + rec.Cgroup,
		wire.EnvWrapper + "=" + self,
	}
	if rec.ReadonlyRoot {
		env = append(env, envReadonly+"=1")
	}
	return env
}

// configPath is where CRIU's configuration for a restore is, beside its logs: the
// agent removes both.
func configPath(im *wire.Images) string { return filepath.Join(im.WorkDir, "restore.conf") }

// actionScript is what CRIU is to call: the script beside this program, or, if there is
// none, this program itself, which does the same and takes longer.
func actionScript(self string) string {
	script := filepath.Join(filepath.Dir(self), wire.ActionScriptName)
	if _, err := os.Stat(script); err != nil {
		return self
	}
	return script
}

// writeConfig writes CRIU's configuration for one restore: the agent's, and the
// action script.
func writeConfig(path, agents string) error {
	var conf []byte
	if agents != "" {
		var err error
		if conf, err = os.ReadFile(agents); err != nil {
			return fmt.Errorf("CRIU's configuration: %w", err)
		}
	}
	self, err := os.Executable()
	script := actionScript(self)
	if err == nil {
		_, err = os.Stat(script)
	}
	if err == nil && strings.ContainsAny(script, " \t\n\"'#\\") {
		err = fmt.Errorf("%q cannot be named there", script)
	}
	if err == nil {
		if n := len(conf); n > 0 && conf[n-1] != '\n' {
			conf = append(conf, '\n')
		}
		conf = append(conf, "action-script "+script+"\n"...)
		err = os.WriteFile(path, conf, modeMark)
	}
	if err != nil {
		return fmt.Errorf("CRIU's configuration: %w", err)
	}
	return nil
}
