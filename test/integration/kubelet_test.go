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
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/wire"
	"godwit.dev/godwit/node-agent/runtime"
	"godwit.dev/godwit/node-agent/runtime/fake"
)

// grace is the simulated kubelet's shortest grace period.
const grace = 50 * time.Millisecond

// simNode is a node in memory: kubelet, containerd, the wrapper and the kernel.
type simNode struct {
	*cluster
	name   string
	runDir string
	fake   *fake.Runtime

	// failRestores makes the next restores fail after having begun.
	mu           sync.Mutex
	failRestores int
	// beforeRestore is called when a wrapper was told to restore.
	beforeRestore func()
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
		}
	}
}

// whenDeleting closes its channel when the pod gets its deletion timestamp.
func (n *simNode) whenDeleting(ctx context.Context, pod *corev1.Pod) <-chan struct{} {
	ch := make(chan struct{})
	n.wg.Go(func() {
		defer close(ch)
		for ctx.Err() == nil {
			var p corev1.Pod
			err := n.client.Get(ctx, client.ObjectKeyFromObject(pod), &p)
			if apierrors.IsNotFound(err) || err == nil && (p.UID != pod.UID || p.DeletionTimestamp != nil) {
				return
			}
			time.Sleep(pollInterval)
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

// create is containerd's create of the application container: through the
// wrapper for pods of the runtime class, else plainly.
func (n *simNode) create(ctx context.Context, pod *corev1.Pod, deleted <-chan struct{}) *fake.Container {
	name := pod.Spec.Containers[0].Name
	// The runtime asks its plugins first.
	if n.fake.Create(string(pod.UID)) != nil {
		n.mu.Lock()
		n.refused++
		n.mu.Unlock()
		return nil
	}
	if ptr.Deref(pod.Spec.RuntimeClassName, "") != v1alpha1.RuntimeClassName {
		return n.start(ctx, pod, name)
	}
	conn, err := wire.Dial(ctx, n.runDir)
	if err != nil {
		return nil // fails closed: the pod carries the annotation
	}
	defer conn.Close()
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-deleted: // kubelet cancels the create of a pod it deletes
			_ = conn.Close()
		case <-done:
		}
	}()
	id := n.newID(pod, name)
	bundle := filepath.Join(n.runDir, "bundles", id)
	if err := os.MkdirAll(filepath.Join(bundle, "rootfs"), 0o755); err != nil {
		n.t.Error(err)
		return nil
	}
	req := wire.Request{Version: wire.Version, PodUID: string(pod.UID), ContainerName: name, SandboxID: "sandbox-" + pod.Name, ContainerID: id, Bundle: bundle}
	if err := wire.Write(conn, req); err != nil {
		return nil
	}
	r := wire.NewReader(conn)
	for {
		var reply wire.Reply
		if err := r.Read(&reply); err != nil {
			return nil
		}
		n.mu.Lock()
		n.creates = append(n.creates, string(reply.Verdict))
		n.mu.Unlock()
		switch reply.Verdict {
		case wire.Park:
			continue
		case wire.Pass:
			return n.start(ctx, pod, name)
		case wire.Restore:
			return n.restore(ctx, pod, conn, req, *reply.Images)
		default:
			return nil
		}
	}
}

// restore is the wrapper's part after the verdict.
func (n *simNode) restore(ctx context.Context, pod *corev1.Pod, conn interface{ Write([]byte) (int, error) }, req wire.Request, img wire.Images) *fake.Container {
	res := wire.Result{Version: wire.Version, Start: time.Now()}
	n.mu.Lock()
	fail := n.failRestores > 0
	if fail {
		n.failRestores--
	}
	hold := n.beforeRestore
	n.mu.Unlock()
	if hold != nil {
		hold()
	}
	info := runtime.Container{ID: req.ContainerID, Name: req.ContainerName, PodUID: req.PodUID, SandboxID: req.SandboxID, Bundle: req.Bundle}
	if fail {
		res.Error = "criu: broken on purpose"
		_ = wire.Write(conn, res)
		return nil
	}
	c, err := n.fake.Restore(img.Dir, info)
	if err != nil {
		res.Error = err.Error()
		_ = wire.Write(conn, res)
		return nil
	}
	mark := filepath.Join(n.runDir, "restored", req.PodUID)
	if err := os.MkdirAll(mark, 0o700); err == nil {
		err = os.WriteFile(filepath.Join(mark, req.ContainerName), nil, 0o600)
		if err != nil {
			n.t.Error(err)
		}
	}
	n.wg.Go(func() { n.ledger.run(ctx, c) })
	res.PID, res.Duration = c.Info().PID, time.Since(res.Start)
	_ = wire.Write(conn, res)
	return c
}

// start starts a container from its image.
func (n *simNode) start(ctx context.Context, pod *corev1.Pod, name string) *fake.Container {
	c := n.add(pod, name, []int64{64 << 10, 16 << 10, 4 << 10})
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
		app := corev1.ContainerStatus{Name: p.Spec.Containers[0].Name, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "PodInitializing"}}}
		if appID != "" {
			app = corev1.ContainerStatus{Name: app.Name, Ready: true, Started: ptr.To(true), ContainerID: "containerd://" + appID,
				State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}}
		}
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
