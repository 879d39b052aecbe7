// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	"godwit.dev/godwit/internal/progress"
	"godwit.dev/godwit/test/harness"
	"godwit.dev/godwit/test/harness/redisload"
)

// What is moved.
const (
	namespace = "godwit-demo"
	redisName = "redis"
	redisPort = 6379

	// 256 MiB of values that nothing can compress, besides what Redis needs
	// for itself.
	keys      = 16384
	valueSize = 16 << 10
)

// settled is how many operations of the client show that it works normally.
const settled = 200

// demo is one demonstration.
type demo struct {
	*harness.Harness
	screen    *screen
	installed bool

	pod     *corev1.Pod
	client  *redisload.Client
	ledger  *redisload.Ledger
	process redisload.Identity
	report  Report
}

// play does everything, in order, and writes the report.
func (d *demo) play(ctx context.Context, compare bool) error {
	begun := time.Now()
	if err := d.prepare(ctx); err != nil {
		return err
	}
	defer func() { _ = d.client.Close() }()
	moves := []move{liveMigration}
	if compare {
		moves = append(moves, stopAndCopy)
	}
	for _, m := range moves {
		result, err := d.move(ctx, m)
		d.report.Moves = append(d.report.Moves, result)
		if err != nil {
			return errors.Join(err, d.report.save(reportFile))
		}
	}
	if compare {
		d.report.Comparison = newComparison(d.report.Moves[0], d.report.Moves[1])
	}
	d.report.Seconds = time.Since(begun).Seconds()
	d.report.conclude()
	if err := errors.Join(d.report.print(d.screen.out), d.report.save(reportFile)); err != nil {
		return err
	}
	if d.Keep {
		d.sayHowToGoOn()
	} else if err := d.RemoveNamespace(ctx, namespace); err != nil {
		return err
	}
	if !d.report.OK {
		return errors.New("the demonstration failed; see the report")
	}
	return nil
}

// prepare installs Godwit and fills a database.
func (d *demo) prepare(ctx context.Context) error {
	if err := d.screen.step("Installing Godwit with its chart", func() error { return d.Install(ctx) }); err != nil {
		return err
	}
	d.installed = true
	err := d.screen.step("Starting Redis", func() error {
		if err := d.FreshNamespace(ctx, namespace); err != nil {
			return err
		}
		service := harness.Service(namespace, redisName, redisPort)
		if err := d.Create(ctx, service); err != nil {
			return err
		}
		pod, err := d.Start(ctx, harness.Pod(namespace, redisName, d.Redis))
		d.pod = pod
		if err != nil {
			return err
		}
		// The Service's address stays; what is behind it changes.
		d.client = redisload.Connect(net.JoinHostPort(service.Spec.ClusterIP, strconv.Itoa(redisPort)))
		return await(ctx, time.Minute, d.client.AwaitAnswer)
	})
	if err != nil {
		return err
	}
	d.ledger = redisload.NewLedger(d.client)
	total := int64(keys) * valueSize
	err = d.screen.progress("Filling it with "+progress.Bytes(total), func(show func(float64)) error {
		return d.ledger.Fill(ctx, keys, valueSize, func(done int64) { show(float64(done) / float64(total)) })
	})
	if err != nil {
		return err
	}
	d.report.DataBytes = d.ledger.Bytes()
	if err := d.screen.step("Checking every key before the move", func() (err error) {
		d.report.Before, err = d.ledger.Verify(ctx)
		return err
	}); err != nil {
		return err
	}
	if !d.report.Before.OK() {
		return fmt.Errorf("keys are wrong before anything was moved: %+v", d.report.Before)
	}
	d.process, err = d.client.Identity(ctx)
	d.report.Process = d.process
	return err
}

func (d *demo) sayHowToGoOn() {
	d.screen.line(`
The database stays. Its pod is %[2]s on %[3]s, in namespace %[1]s. Move it on:

  make cluster-kubectl ARGS='-n %[1]s get migrations,pods -o wide' CLUSTER=$CLUSTER
  printf 'apiVersion: godwit.dev/v1alpha1\nkind: Migration\nmetadata: {generateName: again-, namespace: %[1]s}\nspec: {podName: %[2]s}\n' |
    make cluster-kubectl ARGS='create -f -' CLUSTER=$CLUSTER
  make cluster-kubectl ARGS='-n %[1]s get migrations --watch' CLUSTER=$CLUSTER
`, namespace, d.pod.Name, d.pod.Spec.NodeName)
}
