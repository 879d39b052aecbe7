// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"

	"godwit.dev/godwit/internal/wire"
)

func main() {
	if filepath.Base(os.Args[0]) == criuName {
		os.Exit(standIn(os.Args))
	}
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	if action := os.Getenv(envAction); action != "" && len(args) == 0 {
		return script(action)
	}
	if len(args) > 0 && args[0] == "gate" {
		return gate()
	}
	cmd, err := parseCommand(args)
	if err == nil {
		var low *runc
		if low, err = findRunc(os.Getenv("GODWIT_RUNC"), os.Getenv("PATH")); err == nil {
			w := &wrapper{
				runc:       low,
				runDir:     env("GODWIT_RUN_DIR", wire.DefaultRunDir),
				cgroupRoot: env("GODWIT_CGROUP_ROOT", "/sys/fs/cgroup"),
				limits:     defaultLimits,
			}
			err = w.Exec(args)
		}
	}
	if err == nil {
		return 0
	}
	if lerr := cmd.logError(err.Error()); lerr != nil {
		// Nowhere else to go: runc itself does the same.
		fmt.Fprintln(os.Stderr, err)
	}
	return 1
}

func env(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}
