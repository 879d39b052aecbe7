// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
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
	hook         func(p point) (lives bool)
	// sized, if set, is called with each container that was started from its image.
	sized func(*fake.Container)
	// now is the clock of the agents to come; nil for the real one.
	now func() time.Time
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

// runPod is kubelet's work for one pod.
func (n *simNode) runPod(ctx context.Context, pod *corev1.Pod) {
	deleted := n.whenDeleting(ctx, pod)
	defer n.remove(pod)
	if len(pod.Spec.InitContainers) > 0 && !n.runGate(ctx, pod, deleted) {
		return
	}
	for ctx.Err() == nil {
		c := n.create(ctx, pod, deleted)
		if c == nil {
			select {
			case <-deleted:
				return
			case <-ctx.Done():
				return
			case <-time.After(50 * time.Millisecond): // kubelet's back-off
				continue
			}
		}
		n.setStatus(ctx, pod, corev1.PodRunning, "", c.Info().ID)
		for !c.IsKilled() {
			select {
			case <-deleted:
				// SIGTERM does nothing to a frozen process; SIGKILL comes after
				// the grace period.
				if c.IsFrozen() {
					time.Sleep(grace)
				}
				_ = n.fake.Signal(ctx, c.Info(), int(syscall.SIGKILL))
			case <-ctx.Done():
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
		select {
		case <-deleted:
			return
		default: // a container that ends is started again: restartPolicy Always
			n.setStatus(ctx, pod, corev1.PodRunning, "", "")
		}
	}
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
	n.setStatus(ctx, pod, corev1.PodPending, gate.Info().ID, "")
	for {
		select {
		case <-deleted:
			return false
		case <-ctx.Done():
			return false
		case <-time.After(2 * time.Millisecond):
			if gate.IsKilled() {
				n.setStatus(ctx, pod, corev1.PodPending, "", "")
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
func (n *simNode) setStatus(ctx context.Context, pod *corev1.Pod, phase corev1.PodPhase, gateID, appID string) {
	for ctx.Err() == nil {
		var p corev1.Pod
		if err := n.client.Get(ctx, client.ObjectKeyFromObject(pod), &p); err != nil {
			return
		}
		p.Status.Phase = phase
		p.Status.PodIP, p.Status.PodIPs = "10.0.0.1", []corev1.PodIP{{IP: "10.0.0.1"}}
		p.Status.InitContainerStatuses = nil
		for _, c := range p.Spec.InitContainers {
			st := corev1.ContainerStatus{Name: c.Name, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}}
			if gateID != "" {
				st.ContainerID = "containerd://" + gateID
				st.State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}
			}
			p.Status.InitContainerStatuses = append(p.Status.InitContainerStatuses, st)
		}
		var last corev1.ContainerState
		for _, had := range p.Status.ContainerStatuses {
			last = had.LastTerminationState
			if r := had.State.Running; r != nil && had.ContainerID != "containerd://"+appID {
				last.Terminated = &corev1.ContainerStateTerminated{StartedAt: r.StartedAt, FinishedAt: metav1.Now(), ContainerID: had.ContainerID}
			}
		}
		app := corev1.ContainerStatus{Name: p.Spec.Containers[0].Name, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "PodInitializing"}}}
		if appID != "" {
			app = corev1.ContainerStatus{Name: app.Name, Ready: true, Started: ptr.To(true), ContainerID: "containerd://" + appID,
				State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}}
		}
		app.LastTerminationState = last
		p.Status.ContainerStatuses = []corev1.ContainerStatus{app}
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

// remove is kubelet's final deletion.
func (n *simNode) remove(pod *corev1.Pod) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
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
