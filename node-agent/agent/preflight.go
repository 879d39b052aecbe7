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
	// free bytes on the volume, and bytes of the files that travel.
	free, files int64
	// unpackable says what of the files cannot travel, nil when they can.
	unpackable error
	// maxRounds of the spec.
	maxRounds int32
	// keepsAddress: the target will have the pod's address.
	keepsAddress bool
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
	c := checked{containers: s.containers, inspections: map[string]runtime.Inspection{}, maxRounds: *m.Spec.PreCopy.MaxRounds,
		keepsAddress: migration.KeepsConnections(m)}
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
	if c.files, err = onVolume(ctx, &s.sessionBase, volumeTimeout, "look at the pod's files", func(ctx context.Context) (int64, error) {
		return s.fileSize(ctx, m, c.pod, c.containers)
	}); errors.Is(err, runtime.ErrNotPackable) {
		c.unpackable = err
	} else if err != nil {
		return c, err
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
	if f := migration.CheckProbeBudget(c.pod, c.costs.Predict(migration.Load{Containers: len(c.containers)}).Total.Duration); f != nil {
		refusals = append(refusals, *f)
	}
	var resident int64
	for _, k := range c.containers {
		i := c.inspections[k.Name]
		resident += i.ResidentBytes
		if c.keepsAddress {
			i.BoundAddresses = nil // they are the target's as well
		}
		for _, r := range processRefusals(i, c.pod) {
			r.Container = k.Name
			refusals = append(refusals, r)
		}
	}
	refusals = append(refusals, sharedRefusals(c)...)
	switch {
	case c.probe.CRIU == "":
		refusals = append(refusals, refusal(v1alpha1.ReasonCheckpointNotUsable, "the node has no criu; install it"))
	case c.probe.Runc == "":
		refusals = append(refusals, refusal(v1alpha1.ReasonCheckpointNotUsable, "the node has no runc on its PATH"))
	case c.probe.CRIUCheck != "":
		refusals = append(refusals, refusal(v1alpha1.ReasonCheckpointNotUsable, "criu check failed on the node: %s", c.probe.CRIUCheck))
	}
	if c.unpackable != nil {
		refusals = append(refusals, refusal(v1alpha1.ReasonFilesNotPortable, "%v; remove it from the container's file system or the emptyDir", c.unpackable))
	}
	// The first round writes all resident memory and all files, later ones parts of it again.
	if need := resident + resident/2 + c.files + c.files/2; c.free < need {
		refusals = append(refusals, refusal(v1alpha1.ReasonNoSpace,
			"the volume has %s free, the pod needs about %s, %s of it for files; enlarge the claim or wait for other migrations to end",
			migration.FormatBytes(c.free), migration.FormatBytes(need), migration.FormatBytes(c.files+c.files/2)))
	}
	return refusals
}

// processRefusals are the facts about processes that CRIU cannot dump, or that
// would not work on the target.
func processRefusals(i runtime.Inspection, pod *corev1.Pod) []v1alpha1.Failure {
	var out []v1alpha1.Failure
	add := func(reason, format string, args ...any) { out = append(out, refusal(reason, format, args...)) }
	if n := len(i.MultipathTCP); n > 0 {
		add(v1alpha1.ReasonMultipathTCP, "MPTCP sockets (%s) cannot be dumped; Go servers open them by default since 1.24: set GODEBUG=multipathtcp=0 in the container's environment, or label the pod %s=%s, where it is made (such as the Deployment's template), and have it made anew",
			strings.Join(i.MultipathTCP, ", "), runtime.LabelMultipathTCP, runtime.MultipathTCPOff)
	}
	if len(i.UnsupportedSockets) > 0 {
		add(v1alpha1.ReasonUnsupportedSocket, "sockets that cannot be dumped: %s", strings.Join(i.UnsupportedSockets, ", "))
	}
	if i.IOUring {
		add(v1alpha1.ReasonIOUring, "a process uses io_uring, which cannot be dumped; switch it off for the pod with securityContext.seccompProfile.type RuntimeDefault, "+
			"which leaves no io_uring with containerd 2, or in the program (of Node.js, UV_USE_IO_URING=0 leaves a ring in newer versions)")
	}
	out = append(out, surroundings(i)...)
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
	if len(i.VolumeFiles) > 0 {
		add(v1alpha1.ReasonVolumeFileOpen, "files of a ConfigMap, Secret or the like are open or mapped (%s), which have other names on the target; let the program close them after reading, copy them to an emptyDir, or mount them by subPath", strings.Join(i.VolumeFiles, ", "))
	}
	if bound := podAddresses(i.BoundAddresses, pod); len(bound) > 0 {
		add(v1alpha1.ReasonPodAddressListener, "sockets are bound to the pod's own address (%s), which the target does not have; listen on 0.0.0.0 or ::", strings.Join(bound, ", "))
	}
	return out
}

// surroundings are the facts about what processes have open, and where they are.
func surroundings(i runtime.Inspection) []v1alpha1.Failure {
	var out []v1alpha1.Failure
	list := func(reason string, found []string, format string) {
		if len(found) > 0 {
			out = append(out, refusal(reason, format, strings.Join(found, ", ")))
		}
	}
	list(v1alpha1.ReasonDescriptor, i.Descriptors, "descriptors that cannot be dumped are open or mapped: %s; switch off what uses them in the program "+
		"([userfaultfd]: snapshots of its own memory; [perf_event] and bpf: profiling and tracing)")
	list(v1alpha1.ReasonNestedNamespace, i.Namespaces, "processes have namespaces of their own (%s), which cannot be dumped; start the program without its sandbox (browsers: --no-sandbox)")
	list(v1alpha1.ReasonDeletedFile, i.DeletedFiles, "files that were removed are still in use and cannot go into the images: %s; have the program open them anew, or restart it")
	list(v1alpha1.ReasonForeignFile, i.ForeignFiles, "files are open that lie on no file system mounted in the container: %s; close them, or restart the program")
	list(v1alpha1.ReasonLostWatch, i.LostWatches, "what is watched with inotify or fanotify was not found in the container (it was removed, or its name has blanks or quotes): %s; have the program watch anew, or restart it")
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
