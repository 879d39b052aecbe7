// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"time"

	clusterclient "godwit.dev/godwit/test/cluster/client"
	"godwit.dev/godwit/test/harness"
)

const (
	namespace = "godwit-bench"
	// app is the label of the pods, and the name of the Service before them.
	app     = "memhog"
	appPort = 8080
	// measureLimit bounds one measurement, settleLimit the wait for a service that
	// works.
	measureLimit = 10 * time.Minute
	settleLimit  = 2 * time.Minute
	// collectAtMost is after how many failures logs are collected no more.
	collectAtMost = 3
)

// bench is what all measurements of a run share.
type bench struct {
	*harness.Harness
	out io.Writer
	// run names the run.
	run string
	// address of the Service.
	address string
	// subject is the pod that is moved about; nil when there is none that could be.
	subject *subject
	// number of the last pod and Migration.
	number int
	// rounds that the last Migration took, by cell.
	rounds map[cell]int
	// hasPodman: podman is on the nodes.
	hasPodman bool
	// collected counts the failures whose logs were.
	collected int
}

func (b *bench) say(format string, args ...any) {
	_, _ = fmt.Fprintf(b.out, format+"\n", args...)
}

// open installs Godwit and what the steps need on the nodes.
func open(ctx context.Context, out io.Writer, steps []step) (*bench, error) {
	config, err := harness.ConfigFromEnvironment()
	if err != nil {
		return nil, err
	}
	h, err := harness.New(config, out)
	if err != nil {
		return nil, err
	}
	b := &bench{Harness: h, out: out, run: time.Now().UTC().Format(time.RFC3339), rounds: map[cell]int{}}
	if err := h.Install(ctx); err != nil {
		return nil, err
	}
	if err := b.begin(ctx); err != nil {
		return nil, err
	}
	for _, s := range steps {
		if m, _ := info(s.method); m.byHand {
			return b, b.equip(ctx)
		}
	}
	return b, nil
}

// begin makes the namespace anew, with the Service and nothing else in it.
func (b *bench) begin(ctx context.Context) error {
	b.subject = nil
	if err := b.FreshNamespace(ctx, namespace); err != nil {
		return err
	}
	service := harness.Service(namespace, app, appPort)
	if err := b.Create(ctx, service); err != nil {
		return fmt.Errorf("create the service: %w", err)
	}
	b.address = net.JoinHostPort(service.Spec.ClusterIP, strconv.Itoa(appPort))
	return nil
}

// method of that name.
func (b *bench) method(name string) (method, error) {
	switch name {
	case precopy:
		return migrating{bench: b}, nil
	case stopAndCopy:
		return migrating{bench: b, change: withoutRounds}, nil
	case reschedule:
		return rescheduling{b}, nil
	case floor:
		return bareCRIU{b}, nil
	case containerFloor:
		return containerCRIU{b}, nil
	case runcScript:
		return runcRecipe{b}, nil
	case phaulMethod:
		return phaulLibrary{b}, nil
	case costMethod:
		return costing{b}, nil
	case podmanMethod:
		return podmanMigrate{b}, nil
	}
	return nil, fmt.Errorf("there is no method %q", name)
}

// measure carries out a step. What goes wrong is part of the result.
func (b *bench) measure(ctx context.Context, s step) result {
	r := result{Run: b.run, Method: s.method, cell: s.cell, Rep: s.rep, At: time.Now().UTC()}
	ctx, cancel := context.WithTimeoutCause(ctx, measureLimit, fmt.Errorf("the measurement took more than %s", measureLimit))
	defer cancel()
	m, err := b.method(s.method)
	if err == nil {
		err = m.measure(ctx, s.cell, &r)
	}
	r.Seconds = time.Since(r.At).Seconds()
	if err != nil {
		r.Error = err.Error()
	}
	return r
}

// restart makes the next step possible after one has failed: logs are collected, and
// it begins with nothing. What failed by hand has said why, and cleans up itself.
func (b *bench) restart(ctx context.Context, s step) error {
	if m, _ := info(s.method); m.byHand {
		return nil
	}
	if b.collected++; b.collected <= collectAtMost {
		dir := filepath.Join(b.Artifacts, fmt.Sprintf("failure-%d-%s", b.collected, s.method))
		if err := b.Collect(ctx, namespace, dir); err != nil {
			b.say("    collect logs: %v", err)
		}
		b.say("    logs are in %s", dir)
	}
	if err := b.begin(ctx); err != nil {
		return fmt.Errorf("begin again after %s: %w", s.name(), err)
	}
	return b.AwaitReady(ctx)
}

// ends are the nodes that a move goes between.
func (b *bench) ends(from string) (source, target *clusterclient.Node) {
	for _, n := range b.Nodes.Nodes() {
		if n.Name == from {
			source = n
		} else {
			target = n
		}
	}
	return source, target
}
