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
	"k8s.io/apimachinery/pkg/api/resource"

	"godwit.dev/godwit/api/v1alpha1"
	clusterclient "godwit.dev/godwit/test/cluster/client"
	"godwit.dev/godwit/test/harness"
	"godwit.dev/godwit/test/harness/redisload"
)

const (
	redisPort = 6379
	// redisValue is the size of the values that Redis is filled with.
	redisValue = 16 << 10
	// warmUp is how long the load runs before it counts, baseline how long it counts
	// before the migration, and afterwards how long after it.
	warmUp     = 8 * time.Second
	baseline   = 12 * time.Second
	afterwards = 12 * time.Second
)

// cost is what a migration costs besides the downtime.
type cost struct {
	// Before the first round, in a round, between the rounds and up to the freeze,
	// both of these together, and after the restore.
	Before  throughput `json:"before,omitzero"`
	InRound throughput `json:"inRound,omitzero"`
	Between throughput `json:"between,omitzero"`
	PreCopy throughput `json:"preCopy,omitzero"`
	After   throughput `json:"after,omitzero"`
	// Used by each of the meters, by its name.
	Used map[string]usage `json:"used,omitempty"`
	// Writes are requests to the API that write, by resource.
	Writes map[string]int `json:"writes,omitempty"`
}

// costing moves Redis with a Migration while its own benchmark tool asks it.
type costing struct{ *bench }

// database is a Redis whose keys are known.
type database struct {
	pod     *corev1.Pod
	service *corev1.Service
	client  *redisload.Client
	ledger  *redisload.Ledger
	process redisload.Identity
}

func (m costing) measure(ctx context.Context, c cell, r *result) error {
	if err := m.quiet(ctx); err != nil {
		return err
	}
	db, err := m.fill(ctx, c.SizeMiB)
	if err != nil {
		return err
	}
	defer func() { _ = db.client.Close() }()
	source, target := m.ends(firstNode)
	r.From, r.To = source.Name, target.Name
	load, err := m.Start(ctx, m.loadPod(db.service, source.Name))
	if err != nil {
		return err
	}
	r.Cost = &cost{}
	mig, err := m.move(ctx, db, source, target, r)
	if err != nil {
		return err
	}
	if err := wait(ctx, afterwards); err != nil {
		return err
	}
	if err := m.readLoad(ctx, load, mig, r.Cost); err != nil {
		return err
	}
	if err := m.Delete(ctx, load); err != nil {
		return fmt.Errorf("delete the load: %w", err)
	}
	if err := m.kept(ctx, db, r); err != nil {
		return err
	}
	return m.cleanUp(ctx, db, load, mig)
}

// fill starts Redis on the first node and fills it.
func (b *bench) fill(ctx context.Context, sizeMiB int) (*database, error) {
	b.number++
	name := fmt.Sprintf("redis-%d", b.number)
	db := &database{service: harness.Service(namespace, name, redisPort), pod: harness.Pod(namespace, name, b.Redis)}
	db.pod.Spec.NodeName = firstNode
	requestCPU(db.pod)
	if err := b.Create(ctx, db.service); err != nil {
		return nil, fmt.Errorf("create the service of Redis: %w", err)
	}
	if _, err := b.Start(ctx, db.pod); err != nil {
		return nil, err
	}
	db.client = redisload.Connect(net.JoinHostPort(db.service.Spec.ClusterIP, strconv.Itoa(redisPort)))
	db.ledger = redisload.NewLedger(db.client)
	err := within(ctx, settleLimit, db.client.AwaitAnswer)
	if err == nil {
		err = db.ledger.Fill(ctx, sizeMiB<<20/redisValue, redisValue, nil)
	}
	if err == nil {
		db.process, err = db.client.Identity(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("fill Redis: %w", err), db.client.Close())
	}
	return db, nil
}

// requestCPU gives a pod a share of its node, as a database has one. Without any the
// kernel gives a pod next to nothing where others are busy, whoever they are.
func requestCPU(pod *corev1.Pod) {
	pod.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m")}
}

// move migrates Redis and measures what that takes. Writes to the API are counted
// until nothing of the move is left to be done, all else until the Migration has
// finished.
func (m costing) move(ctx context.Context, db *database, source, target *clusterclient.Node, r *result) (*v1alpha1.Migration, error) {
	meters, err := m.openMeters(ctx, source, target)
	if err != nil {
		return nil, fmt.Errorf("find the cgroups of agents and manager: %w", err)
	}
	defer meters.close()
	idle, err := meters.during(ctx, func() error { return wait(ctx, warmUp+baseline) })
	if err != nil {
		return nil, err
	}
	before, err := m.apiWrites(ctx)
	if err != nil {
		return nil, err
	}
	mig := m.migration(db.pod.Name, target.Name)
	used, err := meters.during(ctx, func() error {
		begun := time.Now()
		if err := m.Create(ctx, mig); err != nil {
			return fmt.Errorf("create the migration: %w", err)
		}
		err := m.AwaitFinished(ctx, mig)
		r.TotalSeconds = time.Since(begun).Seconds()
		return err
	})
	readStatus(r, mig)
	if err == nil && mig.Status.Phase != v1alpha1.PhaseSucceeded {
		err = fmt.Errorf("the migration did not succeed\n%s", harness.Summary(mig))
	}
	if err != nil {
		return nil, err
	}
	r.Cost.Used = usages(idle, used)
	if err := m.AwaitPodGone(ctx, db.pod.DeepCopy()); err != nil {
		return nil, err
	}
	if db.pod, err = m.GetPod(ctx, namespace, mig.Status.Target.PodName); err != nil {
		return nil, err
	}
	if err := m.AwaitPodReady(ctx, db.pod); err != nil {
		return nil, err
	}
	after, err := m.apiWrites(ctx)
	r.Cost.Writes = moreThan(before, after)
	return mig, err
}

// kept checks that it is the same Redis, and compares all of its keys.
func (m costing) kept(ctx context.Context, db *database, r *result) error {
	if err := within(ctx, settleLimit, db.client.AwaitAnswer); err != nil {
		return err
	}
	now, err := db.client.Identity(ctx)
	if err != nil {
		return err
	}
	if !now.Same(db.process) {
		return fmt.Errorf("another Redis answers than before: %+v, was %+v", now, db.process)
	}
	keys, err := db.ledger.Verify(ctx)
	if err != nil {
		return err
	}
	if !keys.OK() {
		return fmt.Errorf("the keys are not what they were: %+v", keys)
	}
	r.Memory = memoryKept
	return nil
}

func (m costing) cleanUp(ctx context.Context, db *database, load *corev1.Pod, mig *v1alpha1.Migration) error {
	if err := m.forget(ctx, mig); err != nil {
		return err
	}
	if err := m.Delete(ctx, db.service); err != nil {
		return fmt.Errorf("delete the service of Redis: %w", err)
	}
	if err := m.Delete(ctx, db.pod); err != nil {
		return fmt.Errorf("delete Redis: %w", err)
	}
	return errors.Join(m.AwaitPodGone(ctx, db.pod), m.AwaitPodGone(ctx, load))
}

// wait returns after d.
func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func within(ctx context.Context, limit time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not within %s", limit))
	defer cancel()
	return f(ctx)
}
