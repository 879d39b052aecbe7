// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"godwit.dev/godwit/internal/failpoint"
	clusterclient "godwit.dev/godwit/test/cluster/client"
)

// pointLimit bounds the wait for a point, on the node, in case nobody is left to
// end it.
const pointLimit = 3 * time.Minute

// errNotReached: the migration ended, or time was up, before the point.
var errNotReached = errors.New("the point was not reached")

// armPoint makes the next program that comes to a point hold there, whichever
// node it is on.
func (c *campaign) armPoint(ctx context.Context, name string) error {
	terms := fmt.Sprintf("return(%q)", failpoint.Hold)
	// The manager is not root. Renaming makes the file appear whole.
	return c.onNodes(ctx, fmt.Sprintf(`mkdir -p %[1]s && chmod 777 %[1]s && cd %[1]s && rm -f %[2]s.held %[2]s.pid &&
		echo '%[3]s' > %[2]s.new && mv %[2]s.new %[2]s`, failpoint.Dir, name, terms))
}

// clearPoints takes all points back and lets everybody go on.
func (c *campaign) clearPoints(ctx context.Context) error {
	return c.onNodes(ctx, fmt.Sprintf("mkdir -p %[1]s && chmod 777 %[1]s && rm -f %[1]s/*", failpoint.Dir))
}

// release lets what is held at a point go on.
func (c *campaign) release(ctx context.Context, name string) error {
	return c.onNodes(ctx, fmt.Sprintf("rm -f %[1]s/%[2]s %[1]s/%[2]s.held %[1]s/%[2]s.pid", failpoint.Dir, name))
}

// onNodes runs a line of shell on every node that is on.
func (c *campaign) onNodes(ctx context.Context, line string) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, n := range c.Nodes.Nodes() {
		if c.off[n.Name] {
			continue
		}
		g.Go(func() error { _, err := n.RunShell(ctx, line); return err })
	}
	return g.Wait()
}

// held is where a program is held.
type held struct {
	node *clusterclient.Node
	// pid in the program's own pid namespace: the node's for agents and
	// wrappers.
	pid string
}

// heldScript waits for a point with nothing but the shell's own commands.
const heldScript = `cd / && exec 9<> <(:)
for ((i = 0; i < %d; i++)); do
	if [ -e %[2]s.held ]; then read -r pid < %[2]s.pid; echo "$pid"; exit 0; fi
	read -r -t 0.05 -u 9
done
exit 3`

// awaitHeld returns when a program is held at the point, on whichever node.
func (c *campaign) awaitHeld(ctx context.Context, name string) (held, error) {
	ctx, cancel := context.WithTimeout(ctx, pointLimit)
	defer cancel()
	script := fmt.Sprintf(heldScript, pointLimit/(50*time.Millisecond), failpoint.Dir+"/"+name)
	type answer struct {
		held
		err error
	}
	nodes := c.Nodes.Nodes()
	answers := make(chan answer, len(nodes))
	for _, n := range nodes {
		go func() {
			out, err := n.Output(ctx, "exec bash -c '"+script+"'")
			answers <- answer{held{n, strings.TrimSpace(out)}, err}
		}()
	}
	var errs []error
	for range nodes {
		a := <-answers
		if a.err == nil {
			return a.held, nil
		}
		errs = append(errs, a.err)
	}
	return held{}, fmt.Errorf("%w: %s: %w", errNotReached, name, errors.Join(errs...))
}

// programScript waits for a program, says so when it begins to, and runs what is
// to be done the moment it is seen.
const programScript = `cd / && exec 9<> <(:) && echo waiting
for ((i = 0; i < 30000; i++)); do
	for d in /proc/[0-9]*; do
		comm= line=
		{ read -r comm < $d/comm; } 2>/dev/null
		case "$comm" in %[1]s) ;; *) continue;; esac
		{ mapfile -d "" args < $d/cmdline; } 2>/dev/null
		case " ${args[*]} " in *%[2]s*) pid=${d##*/}; %[3]s
		echo seen; exit 0;; esac
	done
	read -r -t 0.02 -u 9
done
exit 3`

// script returns the shell that waits for the program and then does something,
// in which $pid is the program's.
func (p program) script(then string) string {
	comm, arg := string(p), "criu"
	if p == runcRestore {
		comm, arg = "runc", `" restore "`
	}
	return fmt.Sprintf(programScript, comm, arg, then)
}
