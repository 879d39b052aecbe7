// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
	"godwit.dev/godwit/node-agent/runtime"
	"godwit.dev/godwit/node-agent/runtime/fake"
)

// grace is the simulated kubelet's shortest grace period.
const grace = 50 * time.Millisecond

// simNode is a node in memory: kubelet, containerd, the wrapper and the kernel.
type simNode struct {
	*cluster
	name string
	fake *fake.Runtime

	// runDir is the agent's directory, which a reboot empties. failRestores makes
	// the next restores fail after having begun; hook is called
	// at points of a restore (see point) and says whether the wrapper lives on.
	mu           sync.Mutex
	runDir       string
	failRestores int
	failOf       string // only restores of this container
	hook         func(p point) (lives bool)
	hookOf       func(container string, p point) (lives bool)
	// sized, if set, is called with each container that was started from its image.
	sized func(*fake.Container)
	// park is for how long its agent lets a create be parked, 0 for ten seconds.
	park time.Duration
	// now is the clock of the agents to come; nil for the real one.
	now func() time.Time
	// address of the node's pods; 10.0.0.1 if it is "".
	address string
	// restoredWith is CRIU's configuration of each restore, with a word in front for
	// whether the pod's address was held.
	restoredWith []string
	// refused counts the creates that a guard refused.
	refused int
	creates []string // verdicts in the order they were given
	seq     int

	pods map[types.UID]context.CancelFunc
}

// work watches the pods of this node until ctx ends.
func (n *simNode) work(ctx context.Context) {
	n.watchPods(ctx, func(pod *corev1.Pod) {
		if pod.Spec.NodeName != n.name {
			return
		}
		if n.pods[pod.UID] == nil {
			podCtx, cancel := context.WithCancel(ctx)
			n.pods[pod.UID] = cancel
			n.wg.Go(func() { n.runPod(podCtx, pod.DeepCopy()) })
		}
	})
}

// watchPods calls fn for every pod event in the namespace, from one goroutine.
func (c *cluster) watchPods(ctx context.Context, fn func(*corev1.Pod)) {
	for ctx.Err() == nil {
		w, err := c.client.Watch(ctx, &corev1.PodList{}, client.InNamespace(c.ns))
		if err != nil {
			if ctx.Err() == nil {
				c.t.Errorf("watch pods: %v", err)
			}
			return
		}
		for e := range w.ResultChan() {
			if pod, ok := e.Object.(*corev1.Pod); ok {
				fn(pod)
			}
		}
	}
}

// schedule binds pods that have no node yet to the node their affinity names.
func (c *cluster) schedule(ctx context.Context) {
	c.watchPods(ctx, func(pod *corev1.Pod) {
		if pod.Spec.NodeName != "" || pod.DeletionTimestamp != nil {
			return
		}
		node := c.affinityNode(pod)
		if node == "" {
			return
		}
		b := &corev1.Binding{Target: corev1.ObjectReference{Kind: "Node", Name: node}}
		if err := c.client.SubResource("binding").Create(ctx, pod, b); err != nil && ctx.Err() == nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			c.t.Errorf("bind %s: %v", pod.Name, err)
		}
	})
}

// affinityNode is the first of this cluster's nodes that the pod may go to. The
// API server has the nodes of other tests, too.
func (c *cluster) affinityNode(pod *corev1.Pod) string {
	a := pod.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return ""
	}
	for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		for _, e := range term.MatchExpressions {
			if e.Key != corev1.LabelHostname {
				continue
			}
			for _, name := range e.Values {
				if c.nodes[name] != nil {
					return name
				}
			}
		}
	}
	return ""
}

// runPod is kubelet's work for one pod: it creates the containers one after the other,
// sidecars first, and again those that have ended.
func (n *simNode) runPod(ctx context.Context, pod *corev1.Pod) {
	deleted := n.whenDeleting(ctx, pod)
	defer n.remove(pod)
	if gated(pod) && !n.runGate(ctx, pod, deleted) {
		return
	}
	running := map[string]*fake.Container{}
	// Whatever is left is ended with the pod.
	defer func() {
		for _, c := range running {
			c.ThawOwn() // runc does, to kill it
			_ = n.fake.Signal(context.WithoutCancel(ctx), c.Info(), int(syscall.SIGKILL))
		}
	}()
	for {
		whole := n.createMissing(ctx, pod, running, deleted)
		wait := 5 * time.Millisecond
		if !whole {
			wait = 50 * time.Millisecond // kubelet's back-off
		}
		select {
		case <-deleted:
			// SIGTERM does nothing to a frozen process; SIGKILL comes after the
			// grace period.
			for _, c := range running {
				if c.IsFrozen() {
					time.Sleep(grace)
					break
				}
			}
			return
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		for name, c := range running {
			if c.IsKilled() { // it is started again: restartPolicy Always
				delete(running, name)
				n.setStatus(ctx, pod, corev1.PodRunning, "", running)
			}
		}
	}
}

// createMissing creates what does not run, and says whether all runs then. After a
// create that has failed it goes on with the next container, but not past a sidecar.
func (n *simNode) createMissing(ctx context.Context, pod *corev1.Pod, running map[string]*fake.Container, deleted <-chan struct{}) bool {
	whole, sidecars := true, len(migration.Sidecars(pod))
	for i, spec := range migration.Containers(pod) {
		if running[spec.Name] != nil {
			continue
		}
		c := n.create(ctx, pod, spec.Name, deleted)
		if c != nil {
			running[spec.Name] = c
			n.setStatus(ctx, pod, corev1.PodRunning, "", running)
			continue
		}
		whole = false
		if i < sidecars {
			break
		}
	}
	return whole
}

func gated(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == v1alpha1.GateContainerName })
}

// whenDeleting closes its channel when the pod gets its deletion timestamp.
func (n *simNode) whenDeleting(ctx context.Context, pod *corev1.Pod) <-chan struct{} {
	ch := make(chan struct{})
	n.wg.Go(func() {
		defer close(ch)
		gone := func(p *corev1.Pod) bool { return p.UID != pod.UID || p.DeletionTimestamp != nil }
		for ctx.Err() == nil {
			w, err := n.client.Watch(ctx, &corev1.PodList{}, client.InNamespace(pod.Namespace), client.MatchingFields{"metadata.name": pod.Name})
			if err != nil {
				if ctx.Err() == nil {
					n.t.Errorf("watch pod %s: %v", pod.Name, err)
				}
				return
			}
			// The watch tells nothing of a pod that was gone before it began.
			var now corev1.Pod
			err = n.client.Get(ctx, client.ObjectKeyFromObject(pod), &now)
			done := apierrors.IsNotFound(err) || err == nil && gone(&now)
			for !done {
				e, ok := <-w.ResultChan()
				if !ok {
					break
				}
				p, ok := e.Object.(*corev1.Pod)
				done = ok && (e.Type == watch.Deleted || gone(p))
			}
			w.Stop()
			if done {
				return
			}
		}
	})
	return ch
}

// runGate runs the gate until it is told to end.
func (n *simNode) runGate(ctx context.Context, pod *corev1.Pod, deleted <-chan struct{}) bool {
	gate := n.add(pod, v1alpha1.GateContainerName, nil)
	n.setStatus(ctx, pod, corev1.PodPending, gate.Info().ID, nil)
	for {
		select {
		case <-deleted:
			return false
		case <-ctx.Done():
			return false
		case <-time.After(2 * time.Millisecond):
			if gate.IsKilled() {
				n.setStatus(ctx, pod, corev1.PodPending, "", nil)
				return true
			}
		}
	}
}

// start starts a container from its image.
func (n *simNode) start(ctx context.Context, pod *corev1.Pod, name string) *fake.Container {
	c := n.add(pod, name, []int64{64 << 10, 16 << 10, 4 << 10})
	n.mu.Lock()
	sized := n.sized
	n.mu.Unlock()
	if sized != nil {
		sized(c)
	}
	n.wg.Go(func() { n.ledger.run(ctx, c) })
	return c
}

func (n *simNode) newID(pod *corev1.Pod, name string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.seq++
	return fmt.Sprintf("%s-%s-%s-%d", n.name, pod.Name, name, n.seq)
}

func (n *simNode) add(pod *corev1.Pod, name string, dirty []int64) *fake.Container {
	podUID := string(pod.UID)
	if name == v1alpha1.GateContainerName {
		podUID += "-init" // Finder.Containers returns application containers only
	}
	return n.fake.Add(fake.ContainerOptions{
		Info:        runtime.Container{ID: n.newID(pod, name), Name: name, PodUID: podUID},
		MemoryBytes: 1 << 20, DirtyBytes: dirty, Files: map[string]string{"data/file": "written by " + pod.Name},
	})
}

// setStatus is kubelet's status update.
func (n *simNode) setStatus(ctx context.Context, pod *corev1.Pod, phase corev1.PodPhase, gateID string, running map[string]*fake.Container) {
	for ctx.Err() == nil {
		var p corev1.Pod
		if err := n.client.Get(ctx, client.ObjectKeyFromObject(pod), &p); err != nil || p.UID != pod.UID {
			return
		}
		p.Status.Phase = phase
		ip := cmp.Or(n.address, "10.0.0.1")
		p.Status.PodIP, p.Status.PodIPs = ip, []corev1.PodIP{{IP: ip}}
		var inits, apps []corev1.ContainerStatus
		for _, c := range p.Spec.InitContainers {
			st := corev1.ContainerStatus{Name: c.Name, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}}
			switch {
			case c.RestartPolicy != nil:
				st = containerStatus(&p, c.Name, running[c.Name])
			case gateID != "":
				st.ContainerID = "containerd://" + gateID
				st.State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}
			}
			inits = append(inits, st)
		}
		for _, c := range p.Spec.Containers {
			apps = append(apps, containerStatus(&p, c.Name, running[c.Name]))
		}
		p.Status.InitContainerStatuses, p.Status.ContainerStatuses = inits, apps
		err := n.client.Status().Update(ctx, &p)
		if err == nil || apierrors.IsNotFound(err) {
			return
		}
		if !apierrors.IsConflict(err) && ctx.Err() == nil {
			n.t.Errorf("status of %s: %v", pod.Name, err)
			return
		}
	}
}

// containerStatus is that of a container that runs, or waits, after what it had before.
func containerStatus(p *corev1.Pod, name string, c *fake.Container) corev1.ContainerStatus {
	st := corev1.ContainerStatus{Name: name, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "PodInitializing"}}}
	if c != nil {
		st = corev1.ContainerStatus{Name: name, Ready: true, Started: ptr.To(true), ContainerID: "containerd://" + c.Info().ID,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}}
	}
	if had := migration.ContainerStatus(p, name); had != nil {
		st.LastTerminationState = had.LastTerminationState
		if r := had.State.Running; r != nil && had.ContainerID != st.ContainerID {
			st.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{StartedAt: r.StartedAt, FinishedAt: metav1.Now(), ContainerID: had.ContainerID}
		}
	}
	return st
}

// remove is kubelet's final deletion.
func (n *simNode) remove(pod *corev1.Pod) {
	ctx, cancel := context.WithTimeout(context.Background(), patiently(5*time.Second))
	defer cancel()
	var p corev1.Pod
	if err := n.client.Get(ctx, client.ObjectKeyFromObject(pod), &p); err != nil || p.UID != pod.UID || p.DeletionTimestamp == nil {
		return
	}
	if err := n.client.Delete(ctx, &p, client.GracePeriodSeconds(0)); err != nil && !apierrors.IsNotFound(err) {
		n.t.Errorf("remove %s: %v", pod.Name, err)
	}
}

func (n *simNode) verdicts() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]string(nil), n.creates...)
}

// imagesLeft lists what is on the volume.
func (c *cluster) imagesLeft() ([]string, error) {
	entries, err := os.ReadDir(c.volume)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

// heldRecords are the agent's records of what it has frozen.
func (n *simNode) heldRecords() ([]string, error) {
	return filepath.Glob(filepath.Join(n.dir(), "held", "*"))
}

// dir is the agent's directory on the node, as of this boot.
func (n *simNode) dir() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.runDir
}
