// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
	"godwit.dev/godwit/internal/progress"
	"godwit.dev/godwit/test/harness"
	"godwit.dev/godwit/test/harness/redisload"
)

const (
	namespace = "godwit-compat"
	// What the server holds before it is moved.
	keys      = 200
	valueSize = 1 << 10
	// settled is how many operations show that a client works normally.
	settled = 40
	// busySessions ask all the time, and have no patience of their own.
	busySessions = 3

	answerLimit = 3 * time.Minute
	answerPause = 500 * time.Millisecond
	// programLimit bounds one program.
	programLimit = 15 * time.Minute
)

// scene is one program in the cluster.
type scene struct {
	*harness.Harness
	program
	address string
	pod     *corev1.Pod
	client  client
	ledger  *redisload.Ledger
	self    self
	result  *Result
}

// run moves a program there and back, or sees it refused. What goes wrong is in the
// result's problems.
func run(ctx context.Context, h *harness.Harness, p program) Result {
	ctx, cancel := context.WithTimeoutCause(ctx, programLimit, fmt.Errorf("not within %s", programLimit))
	defer cancel()
	s := &scene{Harness: h, program: p, result: &Result{
		Name: p.name, Title: p.title, Has: p.has, Setting: p.setting, WantRefused: p.refused, Measured: time.Now().UTC().Truncate(time.Second),
	}}
	if err := s.play(ctx); err != nil {
		s.problem("%v", err)
	}
	return *s.result
}

func (s *scene) problem(format string, args ...any) {
	s.result.Problems = append(s.result.Problems, fmt.Sprintf(format, args...))
}

func (s *scene) play(ctx context.Context) error {
	if err := s.start(ctx); err != nil {
		return err
	}
	defer s.client.Close()
	if s.refused != "" {
		return s.seeRefused(ctx)
	}
	for _, way := range []string{"there", "back"} {
		if err := s.move(ctx, way); err != nil {
			return fmt.Errorf("%s: %w", way, err)
		}
	}
	return nil
}

// start starts the program and fills it.
func (s *scene) start(ctx context.Context) error {
	if err := s.FreshNamespace(ctx, namespace); err != nil {
		return err
	}
	service := harness.Service(namespace, s.name, s.port)
	if err := s.Create(ctx, service); err != nil {
		return err
	}
	var err error
	if s.pod, err = s.Start(ctx, s.program.pod()); err != nil {
		return err
	}
	s.address = net.JoinHostPort(service.Spec.ClusterIP, strconv.Itoa(int(s.port)))
	if s.client, err = s.connect(ctx, s.address); err != nil {
		return err
	}
	out, err := s.KubectlRun(ctx, "-n", namespace, "exec", s.pod.Name, "--", "sh", "-c", s.version)
	if err != nil {
		return err
	}
	s.result.Version = versionOf(out)
	s.ledger = redisload.NewLedger(s.client)
	// What is behind a Service is known everywhere a moment after the pod is ready.
	if err := s.eventually(ctx, "the server to take data", func() error {
		_, err := s.client.Get(ctx, "key:0")
		if err != nil && strings.Contains(err.Error(), `relation "kv" does not exist`) {
			err = nil // it answers, and Fill makes the table
		}
		return err
	}); err != nil {
		return err
	}
	if err := s.ledger.Fill(ctx, keys, valueSize, nil); err != nil {
		return err
	}
	s.self, err = s.client.Self(ctx)
	return err
}

// eventually tries until it succeeds. There is nothing to watch: it is about a server
// that does not answer yet.
func (s *scene) eventually(ctx context.Context, what string, try func() error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, answerLimit, fmt.Errorf("not within %s", answerLimit))
	defer cancel()
	tick := time.NewTicker(answerPause)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, errors.Join(context.Cause(ctx), err))
		}
	}
}

// migrate creates a Migration and returns it when it has finished.
func (s *scene) migrate(ctx context.Context, name string) (*v1alpha1.Migration, error) {
	m := harness.Migration(namespace, name, s.pod.Name)
	if err := s.Create(ctx, m); err != nil {
		return nil, err
	}
	return m, s.AwaitFinished(ctx, m)
}

// move moves the program once, under load.
func (s *scene) move(ctx context.Context, way string) error {
	open, err := openSessions(ctx, s.program, s.address, busySessions)
	if err != nil {
		return err
	}
	defer open.close()
	load := redisload.StartLoad(ctx, s.ledger, redisload.Pace{Interval: 20 * time.Millisecond, NewKeySize: valueSize, MaxNewKeys: 200})
	mig, err := s.underLoad(ctx, way, load)
	stats := load.Stop()
	if err != nil {
		return err
	}
	if mig.Status.Phase != v1alpha1.PhaseSucceeded {
		s.result.noteFailure(mig)
		return fmt.Errorf("the migration did not succeed\n%s", harness.Summary(mig))
	}
	move := Move{Way: way, Migration: progress.Summarize(mig), Writes: stats.Writes, Reads: stats.Reads, Gap: stats.Longest.Length()}
	for _, l := range stats.Losses {
		s.problem("%s: while it was moved: %s", way, l)
	}
	waited, problems := open.told(ctx)
	move.Told = waited
	for _, p := range problems {
		s.problem("%s: %s", way, p)
	}
	if s.pod, err = s.GetPod(ctx, namespace, mig.Status.Target.PodName); err != nil {
		return err
	}
	if n := harness.Restarts(s.pod); n != 0 {
		s.problem("%s: the container was restarted %d times", way, n)
	}
	report, err := s.ledger.Verify(ctx)
	if err != nil {
		return err
	}
	move.Keys, move.Lost = report.Keys, report.Lost+report.Surplus
	if !report.OK() {
		s.problem("%s: %d acknowledged writes are lost, %d keys are surplus: %s", way, report.Lost, report.Surplus, strings.Join(report.Losses, "; "))
	}
	if err := s.sameProcess(ctx, way); err != nil {
		return err
	}
	s.result.Moves = append(s.result.Moves, move)
	return nil
}

// underLoad migrates while a client works, and returns when it works normally again.
func (s *scene) underLoad(ctx context.Context, way string, load *redisload.Load) (*v1alpha1.Migration, error) {
	if err := within(ctx, answerLimit, func(ctx context.Context) error { return load.AwaitOperations(ctx, settled) }); err != nil {
		return nil, err
	}
	load.ResetGap()
	m, err := s.migrate(ctx, way)
	if err != nil || m.Status.Phase != v1alpha1.PhaseSucceeded {
		return m, err
	}
	return m, within(ctx, answerLimit, func(ctx context.Context) error { return load.AwaitOperations(ctx, settled) })
}

func within(ctx context.Context, limit time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not within %s", limit))
	defer cancel()
	return f(ctx)
}

// sameProcess checks that the process is the one from before, that it works on, and
// that it has found no problem in itself.
func (s *scene) sameProcess(ctx context.Context, way string) error {
	was := s.self
	err := s.eventually(ctx, "the process to work on", func() (err error) {
		if s.self, err = s.client.Self(ctx); err == nil && s.self.Identity == was.Identity && s.self.Progress <= was.Progress {
			err = fmt.Errorf("its progress is %d, and was %d", s.self.Progress, was.Progress)
		}
		return err
	})
	if err == nil && s.self.Identity != was.Identity {
		s.problem("%s: another process answers: %s, was %s", way, s.self.Identity, was.Identity)
	}
	for _, p := range s.self.Problems {
		s.problem("%s: the program says: %s", way, p)
	}
	return err
}

// seeRefused checks that the program is refused before anything is touched, for the
// reason of the table, with a message, and goes on.
func (s *scene) seeRefused(ctx context.Context) error {
	m, err := s.migrate(ctx, "refused")
	if err != nil {
		return err
	}
	s.result.noteFailure(m)
	switch f := m.Status.Failure; {
	case m.Status.Phase != v1alpha1.PhaseFailed || f == nil:
		s.problem("it was not refused\n%s", harness.Summary(m))
	case f.Reason != s.refused:
		s.problem("it was refused for %s, not for %s: %s", f.Reason, s.refused, f.Message)
	case !migration.EnteredAt(&m.Status, v1alpha1.PhasePreCopying).IsZero() || m.Status.Handover != nil:
		s.problem("it was refused too late\n%s", harness.Summary(m))
	}
	report, err := s.ledger.Verify(ctx)
	if err != nil {
		return err
	}
	if !report.OK() {
		s.problem("the refused server has lost something: %+v", report)
	}
	return s.sameProcess(ctx, "refused")
}

// cleanupLimit bounds what is done after a program.
const cleanupLimit = 4 * time.Minute

func removeNamespace(ctx context.Context, h *harness.Harness) error {
	if h.Keep {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupLimit)
	defer cancel()
	return h.RemoveNamespace(ctx, namespace)
}

// collect keeps what may explain a failure.
func collect(ctx context.Context, h *harness.Harness, dir string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupLimit)
	defer cancel()
	if err := h.Collect(ctx, namespace, dir); err != nil {
		fmt.Fprintln(os.Stderr, "collecting logs:", err)
	}
}
