// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// godwit-guard is a plugin of the container runtime's Node Resource Interface,
// which the runtime starts itself. It keeps the containers of pods that were
// frozen for a migration, or handed over to another node, from being started from
// their image, also before the node agent is there. The node agent installs it.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/go-logr/logr/funcr"

	"godwit.dev/godwit/node-agent/runtime/nri"
)

// version is set when the binary is linked.
var version = "dev"

func main() {
	// The runtime's log is where its plugins write.
	log := funcr.New(func(_, args string) { fmt.Fprintln(os.Stderr, "godwit-guard:", args) }, funcr.Options{})
	log.V(1).Info("starting", "version", version)
	if err := nri.Launched(context.Background(), nri.DefaultRecords, log); err != nil {
		fmt.Fprintln(os.Stderr, "godwit-guard:", err)
		os.Exit(1)
	}
}
