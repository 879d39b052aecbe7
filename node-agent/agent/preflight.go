// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
	"godwit.dev/godwit/node-agent/runtime"
)

// checked is everything the preflight looks at.
type checked struct {
	pod        *corev1.Pod
	containers []runtime.Container
	// inspections by container name.
	inspections map[string]runtime.Inspection
	probe       runtime.Probe
	// free bytes on the volume.
	free int64
	// maxRounds of the spec.
	maxRounds int32
	// costs of switchovers of this node, as far as they are known.
	costs migration.Costs
}

// preflight checks the pod and the node before anything is touched.
func (s *sourceSession) preflight(ctx context.Context, m *v1alpha1.Migration) error {
	c, err := s.gather(ctx, m)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		reason := v1alpha1.ReasonPreflightError
		if errors.Is(err, errNoAnswer) || errors.Is(err, errStuck) {
			reason = v1alpha1.ReasonVolumeError
		}
		return s.fail(ctx, m, reason, "", err)
	}
	refusals := evaluate(c)
	s.report.Refusals = refusals
	s.report.State = v1alpha1.SourceChecked
	if len(refusals) > 0 {
		s.report.State = v1alpha1.SourceRefused
	}
	s.report.ProbeBudget = migration.ProbeBudget(c.pod)
	s.report.DirtyTracking = &c.probe.DirtyTracking
	s.report.ResidentBytes, s.sharedBytes = 0, 0
	for _, i := range c.inspections {
		s.report.ResidentBytes += i.ResidentBytes
		s.sharedBytes += i.SharedBytes
	}
	for _, r := range refusals {
		failures.WithLabelValues("preflight", r.Reason).Inc()
		s.event(m, evRefused, r.Reason, r.Message)
	}
	return s.publish(ctx)
}

func (s *sourceSession) gather(ctx context.Context, m *v1alpha1.Migration) (checked, error) {
	c := checked{containers: s.containers, inspections: map[string]runtime.Inspection{}, maxRounds: *m.Spec.PreCopy.MaxRounds}
	c.costs = s.costs.estimate()
	var err error
	if c.pod, err = s.pod(ctx, m.Status.Source.PodRef); err != nil {
		return c, err
	}
	if c.pod == nil || len(c.containers) == 0 {
		return c, fmt.Errorf("the pod has no running container on this node: %w", runtime.ErrNotFound)
	}
	if c.probe, err = s.Node.Prober.Probe(ctx); err != nil {
		return c, fmt.Errorf("probe the node: %w", err)
	}
	for _, k := range c.containers {
		i, err := s.inspect(ctx, k)
		if err != nil {
			return c, fmt.Errorf("inspect %s: %w", k.Name, err)
		}
		c.inspections[k.Name] = i
	}
	if c.free, err = onVolume(ctx, &s.sessionBase, volumeTimeout, "look at the volume", func(context.Context) (int64, error) {
		return s.Store.Free()
	}); err != nil {
		return c, err
	}
	return c, nil
}

// execPatience is how long a process that has entered the container may take to
// end before it counts as a session, execInterval how often it is looked for:
// nothing tells of the end of a process that is nobody's child here.
const (
	execPatience = 10 * time.Second
	execInterval = 250 * time.Millisecond
)

// inspect looks at a container. An exec probe enters it every few seconds for a
// moment; that is no session of a person, and its end is waited for.
func (s *sourceSession) inspect(ctx context.Context, k runtime.Container) (runtime.Inspection, error) {
	var i runtime.Inspection
	err := wait.PollUntilContextTimeout(ctx, execInterval, execPatience, true, func(ctx context.Context) (bool, error) {
		var err error
		i, err = s.Node.Inspector.Inspect(ctx, k)
		return err == nil && i.ExecSessions == 0, err
	})
	if wait.Interrupted(err) && ctx.Err() == nil {
		err = nil // it stays: evaluate says so
	}
	return i, err
}

// evaluate turns what was gathered into refusals. Pure.
func evaluate(c checked) []v1alpha1.Failure {
	refusals := migration.CheckPod(c.pod)
	if f := migration.CheckProbeBudget(c.pod, c.costs.Predict(migration.Load{}).Total.Duration); f != nil {
		refusals = append(refusals, *f)
	}
	var resident int64
	for _, k := range c.containers {
		i := c.inspections[k.Name]
		resident += i.ResidentBytes
		for _, r := range processRefusals(i, c.pod) {
			r.Container = k.Name
			refusals = append(refusals, r)
		}
	}
	switch {
	case c.probe.CRIU == "":
		refusals = append(refusals, refusal(v1alpha1.ReasonCheckpointNotUsable, "the node has no criu; install it"))
	case c.probe.Runc == "":
		refusals = append(refusals, refusal(v1alpha1.ReasonCheckpointNotUsable, "the node has no runc on its PATH"))
	case c.probe.CRIUCheck != "":
		refusals = append(refusals, refusal(v1alpha1.ReasonCheckpointNotUsable, "criu check failed on the node: %s", c.probe.CRIUCheck))
	}
	// The first round writes all resident memory, later ones parts of it again.
	if need := resident + resident/2; c.free < need {
		refusals = append(refusals, refusal(v1alpha1.ReasonNoSpace,
			"the volume has %s free, the pod needs about %s; enlarge the claim or wait for other migrations to end",
			migration.FormatBytes(c.free), migration.FormatBytes(need)))
	}
	return refusals
}

// processRefusals are the facts about processes that CRIU cannot dump, or that
// would not work on the target.
func processRefusals(i runtime.Inspection, pod *corev1.Pod) []v1alpha1.Failure {
	var out []v1alpha1.Failure
	add := func(reason, format string, args ...any) { out = append(out, refusal(reason, format, args...)) }
	if n := len(i.MultipathTCP); n > 0 {
		add(v1alpha1.ReasonMultipathTCP, "MPTCP sockets (%s) cannot be dumped; Go servers open them by default since 1.24: set GODEBUG=multipathtcp=0 in the container's environment and restart it",
			strings.Join(i.MultipathTCP, ", "))
	}
	if len(i.UnsupportedSockets) > 0 {
		add(v1alpha1.ReasonUnsupportedSocket, "sockets that cannot be dumped: %s", strings.Join(i.UnsupportedSockets, ", "))
	}
	if i.IOUring {
		add(v1alpha1.ReasonIOUring, "a process uses io_uring, which cannot be dumped; switch it off in the program (Node.js: UV_USE_IO_URING=0)")
	}
	if i.MessageQueues {
		add(v1alpha1.ReasonMessageQueue, "a process has a POSIX message queue open, which cannot be dumped")
	}
	if i.Traced {
		add(v1alpha1.ReasonProcessTraced, "a process is being traced (debugger, strace); detach it")
	}
	if i.HugePages {
		add(v1alpha1.ReasonHugePages, "a process has explicit huge pages mapped, which cannot be tracked")
	}
	if i.Terminal {
		add(v1alpha1.ReasonTerminal, "a process has a terminal; close interactive sessions (kubectl exec -t, attach)")
	}
	if i.ExecSessions > 0 {
		add(v1alpha1.ReasonExecSession, "%d processes entered the container from outside (kubectl exec); end them", i.ExecSessions)
	}
	if len(i.Devices) > 0 {
		add(v1alpha1.ReasonDevices, "device files are in use: %s", strings.Join(i.Devices, ", "))
	}
	if bound := podAddresses(i.BoundAddresses, pod); len(bound) > 0 {
		add(v1alpha1.ReasonPodAddressListener, "sockets are bound to the pod's own address (%s), which the target does not have; listen on 0.0.0.0 or ::", strings.Join(bound, ", "))
	}
	return out
}

// podAddresses keeps the addresses that are the pod's own.
func podAddresses(bound []string, pod *corev1.Pod) []string {
	var out []string
	for _, b := range bound {
		for _, ip := range pod.Status.PodIPs {
			if strings.HasPrefix(b, ip.IP+":") || strings.HasPrefix(b, "["+ip.IP+"]:") {
				out = append(out, b)
			}
		}
	}
	return out
}

func refusal(reason, format string, args ...any) v1alpha1.Failure {
	return v1alpha1.Failure{Reason: reason, Message: fmt.Sprintf(format, args...)}
}
