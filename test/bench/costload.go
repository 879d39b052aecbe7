// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/progress"
	"godwit.dev/godwit/test/harness"
)

// loadScript runs redis-benchmark again and again, for a fraction of a second each
// time, so that rounds can be told from what is between them. It writes to a database
// of its own, whose keys are there after the warm-up. It would wait for ever on a
// connection that the switchover has cut. The log has the time of each line.
//
// One client asks at a time, so that Redis and redis-benchmark together keep one processor
// busy: nodes that share two real ones leave the other to what the other node does, which
// on hardware has its own.
const loadScript = `while :; do
	echo begin
	timeout 5 redis-benchmark -h %s -p %d --dbnum 1 -t set -n 400 -c 1 -r 10000 -d 64 --csv || sleep 0.2
done`

// loadPod describes the pod that asks Redis, through its Service. On the node of the
// source it is disturbed by nothing but what Redis is disturbed by: from the target it
// was slowed by the target's work, and by a network of which emulated nodes have little.
func (b *bench) loadPod(service *corev1.Service, node string) *corev1.Pod {
	pod := harness.Pod(namespace, fmt.Sprintf("load-%d", b.number), b.Redis)
	pod.Spec.NodeName = node
	requestCPU(pod)
	pod.Spec.Containers[0].Command = []string{"sh", "-c", fmt.Sprintf(loadScript, service.Spec.ClusterIP, redisPort)}
	return pod
}

// window is a time between two moments.
type window struct{ from, to time.Time }

// overlap is how much of w is in o.
func (w window) overlap(o window) time.Duration {
	from, to := w.from, w.to
	if o.from.After(from) {
		from = o.from
	}
	if o.to.Before(to) {
		to = o.to
	}
	return max(0, to.Sub(from))
}

// sample is one run of redis-benchmark.
type sample struct {
	window
	// perSecond is how many requests were answered, by its own account.
	perSecond float64
}

// parseLoad reads the load's log with its timestamps. Runs that failed have no result.
func parseLoad(log string) []sample {
	var all []sample
	var begun time.Time
	for line := range strings.Lines(log) {
		stamp, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		at, err := time.Parse(time.RFC3339Nano, stamp)
		if err != nil {
			continue
		}
		if text == "begin" {
			begun = at
			continue
		}
		if rate, ok := parseRate(text); ok && !begun.IsZero() && at.After(begun) {
			all = append(all, sample{window{begun, at}, rate})
			begun = time.Time{}
		}
	}
	return all
}

// parseRate reads a line like "SET","4132.23","0.912",…
func parseRate(line string) (float64, bool) {
	record, err := csv.NewReader(strings.NewReader(line)).Read()
	if err != nil || len(record) < 2 || record[0] != "SET" {
		return 0, false
	}
	rate, err := strconv.ParseFloat(record[1], 64)
	return rate, err == nil && rate > 0
}

// course is when the parts of a migration were.
type course struct {
	rounds           []window
	frozen, restored time.Time
}

func courseOf(m *v1alpha1.Migration) (course, error) {
	var c course
	for _, r := range progress.Summarize(m).Rounds {
		c.rounds = append(c.rounds, window{r.Start.Time, r.Start.Add(r.Duration.Duration)})
	}
	src, t := m.Status.Source, m.Status.Target
	if len(c.rounds) == 0 || src == nil || src.FrozenAt == nil || t == nil || t.RestoredAt == nil {
		return c, fmt.Errorf("the status does not say when the rounds, the freeze and the restore were\n%s", harness.Summary(m))
	}
	c.frozen, c.restored = src.FrozenAt.Time, t.RestoredAt.Time
	return c, nil
}

// mostOfRound is how much of a sample may be in rounds for it to count as one between
// them.
const mostOfRound = 0.1

// when is the part of a migration that a sample belongs to.
type when int

const (
	// elsewhere: a sample that the switchover is in, or the order to migrate.
	elsewhere when = iota
	beforeRounds
	inRound
	betweenRounds
	afterRestore
)

func (c course) when(w window) when {
	first := c.rounds[0].from
	switch {
	case !w.to.After(first):
		return beforeRounds
	case !w.from.Before(c.restored):
		return afterRestore
	case w.to.After(c.frozen):
		return elsewhere
	}
	var in time.Duration
	for _, r := range c.rounds {
		in += w.overlap(r)
	}
	if in.Seconds() >= mostOfRound*w.to.Sub(w.from).Seconds() {
		return inRound
	}
	if w.from.Before(first) {
		return elsewhere
	}
	return betweenRounds
}

// throughput of some samples.
type throughput struct {
	PerSecond float64 `json:"perSecond"`
	Samples   int     `json:"samples"`
}

// throughputOf is all requests over all of the time they took. Every sample has as
// many requests.
func throughputOf(samples []sample) throughput {
	var t float64
	for _, s := range samples {
		t += 1 / s.perSecond
	}
	if t == 0 {
		return throughput{}
	}
	return throughput{float64(len(samples)) / t, len(samples)}
}

// sort puts the samples, oldest first, into the parts of the migration.
func (k *cost) sort(samples []sample, c course) error {
	if len(samples) == 0 {
		return errors.New("redis-benchmark has measured nothing")
	}
	start := samples[0].from.Add(warmUp)
	samples = slices.DeleteFunc(slices.Clone(samples), func(s sample) bool { return s.from.Before(start) })
	parts := map[when][]sample{}
	for _, s := range samples {
		w := c.when(s.window)
		parts[w] = append(parts[w], s)
	}
	k.Before, k.After = throughputOf(parts[beforeRounds]), throughputOf(parts[afterRestore])
	k.InRound, k.Between = throughputOf(parts[inRound]), throughputOf(parts[betweenRounds])
	k.PreCopy = throughputOf(slices.Concat(parts[inRound], parts[betweenRounds]))
	if k.Before.Samples == 0 || k.PreCopy.Samples == 0 || k.After.Samples == 0 {
		return fmt.Errorf("redis-benchmark has measured %d times before the rounds, %d times during pre-copy and %d times after the restore",
			k.Before.Samples, k.PreCopy.Samples, k.After.Samples)
	}
	return nil
}

// readLoad takes the throughput into k.
func (b *bench) readLoad(ctx context.Context, load *corev1.Pod, m *v1alpha1.Migration, k *cost) error {
	c, err := courseOf(m)
	if err != nil {
		return err
	}
	log, err := b.KubectlRun(ctx, "-n", namespace, "logs", load.Name, "--timestamps")
	if err != nil {
		return fmt.Errorf("the load's log: %w", err)
	}
	if err := k.sort(parseLoad(log), c); err != nil {
		return fmt.Errorf("%w; the load's log ends with\n%s", err, log[max(0, len(log)-1000):])
	}
	return nil
}
