// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
	"godwit.dev/godwit/internal/progress"
	"godwit.dev/godwit/test/harness"
	"godwit.dev/godwit/test/harness/redisload"
)

// move is one migration of the demonstration.
type move struct {
	name, title string
	// manifest of the Migration; its parameters are the name and the pod.
	manifest string
}

var (
	liveMigration = move{"live", "Live migration", `apiVersion: godwit.dev/v1alpha1
kind: Migration
metadata:
  name: %s
  namespace: godwit-demo
spec:
  podName: %s
`}
	stopAndCopy = move{"stop-and-copy", "Stop-and-copy, for comparison", `apiVersion: godwit.dev/v1alpha1
kind: Migration
metadata:
  name: %s
  namespace: godwit-demo
spec:
  podName: %s
  preCopy:
    maxRounds: 0
  switchoverTimeout: 5m
`}
)

// finishTimeout bounds one migration, as the API's own timeout does not do
// after the commit.
const finishTimeout = 10 * time.Minute

// move applies a Migration, tells how it goes while a client works on the
// database, and returns what was measured.
func (d *demo) move(ctx context.Context, m move) (Move, error) {
	result := Move{Title: m.title}
	load := redisload.StartLoad(ctx, d.ledger, redisload.DefaultPace())
	finished, err := d.migrate(ctx, m, load)
	stats := load.Stop()
	result.Client = clientReport(stats)
	if finished != nil {
		result.Migration = progress.Summarize(finished)
	}
	if err != nil {
		return result, err
	}

	source := d.pod.Name
	if d.pod, err = d.GetPod(ctx, namespace, finished.Status.Target.PodName); err != nil {
		return result, err
	}
	result.Restarts = harness.Restarts(d.pod)
	if result.Process, err = d.client.Identity(ctx); err != nil {
		return result, err
	}
	result.SameProcess = result.Process.Same(d.process)
	err = d.screen.step(fmt.Sprintf("Checking every key after the move from %s to %s", source, d.pod.Name), func() (err error) {
		result.After, err = d.ledger.Verify(ctx)
		return err
	})
	return result, err
}

// migrate applies the Migration and returns it once it has succeeded and the
// client works normally again.
func (d *demo) migrate(ctx context.Context, m move, load *redisload.Load) (*v1alpha1.Migration, error) {
	err := d.screen.step("A client writes and reads through the Service", func() error {
		return await(ctx, time.Minute, func(ctx context.Context) error { return load.AwaitOperations(ctx, settled) })
	})
	if err != nil {
		return nil, err
	}
	manifest := fmt.Sprintf(m.manifest, m.name, d.pod.Name)
	d.screen.section(m.title)
	d.screen.line("kubectl apply -f - <<EOF\n%sEOF", manifest)
	if _, err := d.KubectlApply(ctx, manifest); err != nil {
		return nil, err
	}
	load.ResetGap()

	mig := &v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: m.name}}
	printer := progress.NewPrinter(d.screen.out, d.screen.width)
	err = d.AwaitFor(ctx, finishTimeout, mig, "the migration to finish", func(exists bool) (bool, error) {
		if !exists {
			return false, fmt.Errorf("migration %s is gone", m.name)
		}
		return migration.Finished(mig.Status.Phase), printer.Update(mig)
	})
	if err != nil {
		return mig, err
	}
	if mig.Status.Phase != v1alpha1.PhaseSucceeded {
		return mig, fmt.Errorf("the migration did not succeed\n%s", harness.Summary(mig))
	}
	return mig, d.screen.step("The client goes on", func() error {
		return await(ctx, time.Minute, func(ctx context.Context) error { return load.AwaitOperations(ctx, settled) })
	})
}

func await(ctx context.Context, limit time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not within %s", limit))
	defer cancel()
	return f(ctx)
}
