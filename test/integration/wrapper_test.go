// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/wire"
	"godwit.dev/godwit/node-agent/runtime"
	"godwit.dev/godwit/node-agent/runtime/fake"
)

// point is a moment of a restore at which a test can stop the wrapper.
type point string

const (
	// told: the order has been read, and nothing done.
	told point = "told"
	// restoring: there are processes, none of which runs yet.
	restoring point = "restoring"
	// letGo: the mark is there, they have run, and runc has yet to end.
	letGo point = "let go"
	// restored: they run and the mark says so; the agent has not been told.
	restored point = "restored"
	// failed: nothing is left and the hold says so; the agent has not been told.
	failed point = "failed"
)

// simWrapper is one create by godwit-runc, done as cmd/godwit-runc does it.
type simWrapper struct {
	*simNode
	req  wire.Request
	hold *wire.Hold
	conn *net.UnixConn
	in   *wire.Reader
}

// create is containerd's create of a container: through the
// wrapper for pods of the runtime class, else plainly.
func (n *simNode) create(ctx context.Context, pod *corev1.Pod, name string, deleted <-chan struct{}) *fake.Container {
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
	waiting, cancel := context.WithTimeout(ctx, patiently(15*time.Second))
	defer cancel()
	go func() {
		select {
		case <-deleted: // kubelet cancels the create of a pod it deletes
			cancel()
		case <-waiting.Done():
		}
	}()
	id := n.newID(pod, name)
	bundle := filepath.Join(n.dir(), "bundles", id)
	if err := os.MkdirAll(filepath.Join(bundle, "rootfs"), 0o755); err != nil {
		n.t.Error(err)
		return nil
	}
	w := &simWrapper{simNode: n, req: wire.Request{
		Version: wire.Version, PodUID: string(pod.UID), ContainerName: name, SandboxID: "sandbox-" + pod.Name, ContainerID: id, Bundle: bundle,
	}}
	var err error
	if w.hold, err = wire.TakeHold(n.dir(), &w.req); err != nil {
		n.t.Error(err)
		return nil
	}
	defer func() { _ = w.hold.Release() }()
	reply, err := w.verdict(waiting)
	if err != nil {
		return nil // fails closed: the pod carries the annotation
	}
	defer w.conn.Close()
	switch {
	case reply.Verdict == wire.Pass && !w.req.Parked:
		return n.start(ctx, pod, name)
	case reply.Verdict == wire.Restore:
		return w.restore(ctx, *reply.Images)
	}
	return nil
}

// verdict asks, and asks again when the agent goes away while it is parked.
func (w *simWrapper) verdict(ctx context.Context) (*wire.Reply, error) {
	began := time.Now()
	for {
		w.req.Waited = time.Since(began)
		reply, err := w.ask(ctx, &w.req)
		for err == nil {
			w.mu.Lock()
			w.creates = append(w.creates, string(reply.Verdict))
			w.mu.Unlock()
			if reply.Verdict != wire.Park && reply.Verdict != wire.Prepare {
				return reply, nil
			}
			w.req.Parked = true
			if reply.Verdict == wire.Prepare && wire.Write(w.conn, &wire.Result{Version: wire.Version, Prepared: true}) != nil {
				break // it notices with the next read
			}
			stop := context.AfterFunc(ctx, func() { _ = w.conn.Close() })
			reply = &wire.Reply{}
			err = w.in.Read(reply)
			stop()
		}
		if !w.req.Parked {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (w *simWrapper) ask(ctx context.Context, req *wire.Request) (*wire.Reply, error) {
	conn, err := wire.Dial(ctx, w.dir())
	if err != nil {
		return nil, err
	}
	reply := &wire.Reply{}
	if err := errors.Join(conn.SetReadDeadline(time.Now().Add(patiently(5*time.Second))), wire.Write(conn, req)); err != nil {
		_ = conn.Close()
		return nil, err
	}
	in := wire.NewReader(conn)
	if err := in.Read(reply); err != nil {
		_ = conn.Close()
		return nil, err
	}
	w.conn, w.in = conn, in
	return reply, conn.SetReadDeadline(time.Time{})
}

// reaches calls the test's hook; false when the wrapper is killed there.
func (w *simWrapper) reaches(p point) bool {
	w.mu.Lock()
	hook, hookOf := w.hook, w.hookOf
	w.mu.Unlock()
	return (hook == nil || hook(p)) && (hookOf == nil || hookOf(w.req.ContainerName, p))
}

// restore is the wrapper's part after the verdict.
func (w *simWrapper) restore(ctx context.Context, img wire.Images) *fake.Container {
	res := &wire.Result{Version: wire.Version, Start: time.Now()}
	if !w.reaches(told) {
		return nil
	}
	if err := w.hold.Ordered(); err != nil {
		w.t.Error(err)
	}
	w.noteConfig(ctx, img)
	w.mu.Lock()
	fail := w.failRestores > 0 && (w.failOf == "" || w.failOf == w.req.ContainerName)
	if fail {
		w.failRestores--
	}
	w.mu.Unlock()
	if fail {
		return w.fails(res, errors.New("criu: broken on purpose"))
	}
	info := runtime.Container{ID: w.req.ContainerID, Name: w.req.ContainerName, PodUID: w.req.PodUID, SandboxID: w.req.SandboxID, Bundle: w.req.Bundle}
	c, err := w.fake.Restore(img.Dir, info)
	if err != nil {
		return w.fails(res, err)
	}
	if img.Frozen { // it has not run
		if err := w.fake.Freeze(ctx, c.Info()); err != nil {
			w.t.Error(err)
		}
	}
	if !w.reaches(restoring) {
		return nil
	}
	if !img.Frozen {
		if err := wire.MarkRun(w.hold.Path(), w.hold.MarkPath()); err != nil {
			w.t.Error(err)
		}
	}
	w.wg.Go(func() { w.ledger.run(ctx, c) })
	if !w.reaches(letGo) {
		// The create has failed: containerd ends what it finds.
		if err := w.fake.Kill(ctx, info); err != nil {
			w.t.Error(err)
		}
		return nil
	}
	res.PID, res.Duration = c.Info().PID, time.Since(res.Start)
	done := w.hold.Restored
	if img.Frozen {
		done = w.hold.Frozen
	}
	if err := done(res); err != nil {
		w.t.Error(err)
	}
	if w.reaches(restored) {
		w.tell(ctx, res)
	}
	return c
}

// noteConfig notes what the container is restored with.
func (w *simWrapper) noteConfig(ctx context.Context, img wire.Images) {
	conf, err := os.ReadFile(img.CRIUConfig)
	if err != nil {
		w.t.Error(err)
	}
	held, err := w.fake.Held(ctx)
	if err != nil {
		w.t.Error(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.restoredWith = append(w.restoredWith, fmt.Sprintf("held %d: %s", len(held), strings.Join(strings.Fields(string(conf)), " ")))
}

func (w *simWrapper) fails(res *wire.Result, cause error) *fake.Container {
	res.Error = cause.Error()
	if err := w.hold.Failed(cause, false); err != nil {
		w.t.Error(err)
	}
	if w.reaches(failed) {
		w.tell(context.Background(), res)
	}
	return nil
}

// tell brings the result to the agent that gave the order, or to the next one.
func (w *simWrapper) tell(ctx context.Context, res *wire.Result) {
	if wire.Write(w.conn, res) == nil {
		return
	}
	req := w.req
	req.Result = res
	if reply, err := w.ask(ctx, &req); err == nil && reply.Verdict != wire.Noted {
		w.t.Errorf("the agent answered a result with %q", reply.Verdict)
	}
}
