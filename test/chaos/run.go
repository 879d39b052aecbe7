// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
	"godwit.dev/godwit/test/chaos/continuity"
	clusterclient "godwit.dev/godwit/test/cluster/client"
	"godwit.dev/godwit/test/harness"
)

// Limits of the parts of a run on emulated nodes.
const (
	runLimit     = 12 * time.Minute
	endLimit     = 5 * time.Minute
	hearLimit    = 90 * time.Second
	cleanLimit   = 2 * time.Minute
	switchover   = 40 * time.Second
	targetedDown = 10 * time.Second
)

// run is one migration with one fault.
type run struct {
	*campaign
	plan
	from, to  string
	source    *corev1.Pod
	migration *v1alpha1.Migration
	watcher   *watcher
	held      held
	// resolved: a person had to decide.
	resolved bool
}

// play does one run and judges it.
func (c *campaign) play(ctx context.Context, p plan) result {
	ctx, cancel := context.WithTimeoutCause(ctx, runLimit, fmt.Errorf("the run took more than %s", runLimit))
	defer cancel()
	res := result{Run: p.name(), Workload: string(p.of), Fault: p.fault, Step: p.step.name, Seed: p.seed}
	r := &run{campaign: c, plan: p}
	if err := r.prepare(ctx); err != nil {
		judge(&res, p, observed{reached: true, errs: []error{fmt.Errorf("before the run: %w", err)}})
		return res
	}
	res.From, res.To = r.from, r.to
	c.log.Begin()
	r.watcher = newWatcher(ctx)
	for _, n := range c.Nodes.Nodes() {
		r.watcher.follow(n)
	}
	o := observed{reached: true}
	ended, err := r.breakIt(ctx)
	if errors.Is(err, errNotReached) {
		o.reached = false
	}
	o.errs = append(o.errs, err)
	if ended.IsZero() {
		ended = time.Now()
	}
	pod, err := r.settle(ctx)
	o.errs = append(o.errs, err)
	o.settled, o.resolved = err == nil, r.resolved
	res.RecoverMS = time.Since(ended).Milliseconds()
	res.Phase = string(r.migration.Status.Phase)
	if o.settled {
		o.movedOn = pod.UID != r.source.UID
		if p.of != bare {
			o.errs = append(o.errs, r.owns(pod))
		}
		o.errs = append(o.errs, r.finish(ctx))
		o.leftovers, err = r.leftovers(ctx)
		o.errs = append(o.errs, err)
	}
	o.log = c.log.Verdict()
	var looks int
	o.onNodes, looks = r.watcher.stop()
	if looks == 0 {
		o.errs = append(o.errs, errors.New("nobody looked at the nodes"))
	}
	o.errs = withoutNil(o.errs)
	judge(&res, p, o)
	return res
}

func withoutNil(errs []error) []error {
	var some []error
	for _, err := range errs {
		if err != nil {
			some = append(some, err)
		}
	}
	return some
}

// prepare makes sure that the run begins with everything in order.
func (r *run) prepare(ctx context.Context) error {
	if err := r.clearPoints(ctx); err != nil {
		return err
	}
	if err := r.freshen(ctx); err != nil {
		return err
	}
	pod, err := r.onlyPod(ctx)
	if err != nil {
		return err
	}
	r.source, r.from, r.to = pod, pod.Spec.NodeName, "n1"
	if r.from == r.to {
		r.to = "n2"
	}
	return r.hear(ctx, pod)
}

// breakIt starts the migration and injects the fault. It returns when the fault
// was over.
func (r *run) breakIt(ctx context.Context) (over time.Time, err error) {
	r.number++
	name := fmt.Sprintf("move-%d", r.number)
	r.migration = harness.Migration(r.namespace, name, r.source.Name, func(s *v1alpha1.MigrationSpec) {
		if r.of == bare {
			s.TargetPodName = fmt.Sprintf("sequence-%d", r.number)
		}
		s.TargetNode = r.to
		s.PreCopy.MaxRounds = ptr.To(r.rounds)
		s.PreCopy.TargetDowntime = &metav1.Duration{Duration: targetedDown}
		s.SwitchoverTimeout = &metav1.Duration{Duration: switchover}
	})
	lead, last := r.step.lead, r.step.point
	if last != "" {
		if err := r.armPoint(ctx, last); err != nil {
			return over, err
		}
	}
	if lead != nil {
		if err := r.armPoint(ctx, lead.point); err != nil {
			return over, err
		}
	}
	if err := r.Create(ctx, r.migration.DeepCopy()); err != nil {
		return over, err
	}
	if lead != nil {
		if err := r.at(ctx, lead.fault, lead.point, lead.process, lead.where); err != nil {
			return over, fmt.Errorf("lead to the step: %w", err)
		}
	}
	if last == "" {
		return over, nil
	}
	if err := r.at(ctx, r.fault, last, r.step.process, r.step.where); err != nil {
		return time.Now(), err
	}
	f := faults[r.fault]
	if f.heal == nil {
		return time.Now(), nil
	}
	// The length of the fault is part of the run: nothing is waited for.
	sleep(ctx, r.lasting)
	err = f.heal(ctx, r)
	return time.Now(), err
}

// at waits until the migration is held at the point, injects the fault and lets
// the migration go on a moment later.
func (r *run) at(ctx context.Context, fault, point string, process program, where side) error {
	h, err := r.awaitHeld(ctx, point)
	if err != nil {
		return errors.Join(err, r.whereItIs(ctx))
	}
	r.held = h
	r.say("  %s: held at %s on %s", r.name(), point, h.node.Name)
	err = r.strike(ctx, fault, point, process, where)
	if err != nil {
		err = fmt.Errorf("inject %s: %w", fault, err)
	} else {
		sleep(ctx, r.hold)
	}
	return errors.Join(err, r.release(ctx, point))
}

// whereItIs is what the migration says of itself, as part of an error.
func (r *run) whereItIs(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, cleanLimit) // the API may be paused
	defer cancel()
	m := r.migration.DeepCopy()
	if err := r.Get(ctx, client.ObjectKeyFromObject(m), m); err != nil {
		return err
	}
	return errors.New(harness.Summary(m))
}

// whenSeen runs a line of shell on a node the moment a program is seen there.
// ready is called once that is looked for.
func (r *run) whenSeen(ctx context.Context, node *clusterclient.Node, p program, then string, ready func() error) error {
	ctx, cancel := context.WithTimeout(ctx, pointLimit)
	defer cancel()
	out, in := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		code, err := node.Stream(ctx, "exec bash -c '"+p.script(then)+"'", nil, in, nil)
		if err == nil && code != 0 {
			err = fmt.Errorf("exit code %d", code)
		}
		_ = in.CloseWithError(err)
		ended <- err
	}()
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		return fmt.Errorf("wait for %s on %s: %w", p, node.Name, <-ended)
	}
	if err := ready(); err != nil {
		return err
	}
	for lines.Scan() {
	}
	if err := <-ended; err != nil {
		return fmt.Errorf("%w: %s was not seen on %s: %w", errNotReached, p, node.Name, err)
	}
	return nil
}

// settle returns the pod that has the process once the migration is over and
// the log hears from it. Where the migration says that a person must choose, it
// lets the source go on, or, when that was given up, the pod start afresh.
func (r *run) settle(ctx context.Context) (*corev1.Pod, error) {
	over := func(exists bool) bool { return !exists || migration.Finished(r.migration.Status.Phase) }
	err := r.AwaitFor(ctx, endLimit, r.migration, "the migration to end", func(exists bool) (bool, error) {
		return over(exists) || needsPerson(r.migration), nil
	})
	if err == nil && needsPerson(r.migration) {
		r.resolved = true
		request := v1alpha1.ResolveSource
		if r.migration.Status.Phase == v1alpha1.PhaseReplacing {
			request = v1alpha1.ResolveForceTarget
		}
		r.say("  %s: a person decides: %s", r.name(), request)
		if err = r.Resolve(ctx, r.migration, request); err == nil {
			err = r.AwaitFor(ctx, endLimit, r.migration, "the resolved migration to end", func(exists bool) (bool, error) { return over(exists), nil })
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, harness.Summary(r.migration))
	}
	pod, err := r.onlyPod(ctx)
	if err != nil {
		return nil, err
	}
	if err := r.hear(ctx, pod); err != nil {
		return nil, err
	}
	switch phase := r.migration.Status.Phase; {
	case phase == v1alpha1.PhaseSucceeded && pod.UID == r.source.UID,
		phase == v1alpha1.PhaseFailed && pod.UID != r.source.UID:
		return nil, fmt.Errorf("the migration is %s, and the process is in pod %s", phase, pod.Name)
	}
	return pod, nil
}

// needsPerson: the target may have run, nothing is left of it, and nothing but a
// person can say that the source goes on from before that.
func needsPerson(m *v1alpha1.Migration) bool {
	t := m.Status.Target
	return !migration.Finished(m.Status.Phase) && t != nil && t.TreeGoneAt != nil &&
		meta.IsStatusConditionTrue(m.Status.Conditions, v1alpha1.ConditionTargetLost)
}

// hear returns when the log has received a number from the pod.
func (c *campaign) hear(ctx context.Context, pod *corev1.Pod) error {
	ctx, cancel := context.WithTimeoutCause(ctx, hearLimit, fmt.Errorf("nothing from pod %s on %s within %s", pod.Name, pod.Spec.NodeName, hearLimit))
	defer cancel()
	return c.log.Await(ctx, func(r continuity.Record) bool { return r.Pod == string(pod.UID) })
}

// finish removes the Migration.
func (r *run) finish(ctx context.Context) error {
	m := r.migration.DeepCopy()
	if err := r.Delete(ctx, m); err != nil {
		return notFoundIsFine(err)
	}
	return r.AwaitFor(ctx, endLimit, m, "the Migration to be gone", func(exists bool) (bool, error) { return !exists, nil })
}

// sleep is for what has a length, not for waiting.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
