// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/wait"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"godwit.dev/godwit/api/v1alpha1"
)

// patience bounds the wait for anything; it is met in milliseconds unless the
// machine is busy.
const patience = 30 * time.Second

// fixture is a namespace with a controller of its own.
type fixture struct {
	*testing.T
	ctx      context.Context
	ns       string
	clock    *shiftedClock
	registry *prometheus.Registry
	// stop ends the running controller.
	stop func()
	// beforeStatus, when set, is called with each status that the controller is
	// about to write.
	beforeStatus func(*v1alpha1.Migration)
}

// shiftedClock is the real clock, moved forward.
type shiftedClock struct {
	mu    sync.Mutex
	shift time.Duration
}

func (c *shiftedClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.shift)
}

func (c *shiftedClock) Since(t time.Time) time.Duration { return c.Now().Sub(t) }

func (c *shiftedClock) forward(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shift += d
}

// newFixture makes a namespace and starts a controller in it.
func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := newNamespace(t)
	f.start()
	return f
}

// newNamespace makes a namespace without a controller.
func newNamespace(t *testing.T) *fixture {
	t.Helper()
	needServer(t)
	t.Parallel() // a namespace shares nothing with another
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	f := &fixture{T: t, ctx: ctx, ns: "test-" + rand.String(6), clock: &shiftedClock{}}
	f.must(testClient.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: f.ns}}), "create namespace")
	return f
}

// start runs a new controller, as a restart of the manager would.
func (f *fixture) start() {
	f.Helper()
	skip := true
	mgr, err := ctrl.NewManager(managerConfig, ctrl.Options{
		Scheme:     testScheme,
		Cache:      cache.Options{DefaultNamespaces: map[string]cache.Config{f.ns: {}}, DefaultTransform: cache.TransformStripManagedFields()},
		Metrics:    metricsserver.Options{BindAddress: "0"},
		Controller: config.Controller{SkipNameValidation: &skip},
	})
	f.must(err, "new manager")
	f.registry = prometheus.NewRegistry() // a restarted manager counts afresh
	metrics, err := NewMetrics(f.registry)
	f.must(err, "metrics")
	f.must(f.registry.Register(InFlight{Reader: mgr.GetCache()}), "register the gauge")
	f.must((&MigrationReconciler{
		Client:                  guard{Client: mgr.GetClient(), f: f},
		APIReader:               mgr.GetAPIReader(),
		Recorder:                mgr.GetEventRecorder(v1alpha1.FieldManagerController),
		Clock:                   f.clock,
		Metrics:                 metrics,
		GateImage:               "godwit:test",
		GatePullPolicy:          corev1.PullIfNotPresent,
		MaxConcurrentReconciles: 2,
	}).SetupWithManager(mgr), "set up")
	ctx, cancel := context.WithCancel(f.ctx)
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	f.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			f.Errorf("the manager ended with: %v", err)
		}
	})
	f.Cleanup(f.stop)
}

// guard watches over every deletion that the controller asks for: at that very
// moment, some Migration must have committed and confirmed away its source, or
// aborted and so given up its target.
type guard struct {
	client.Client
	f *fixture
}

func (g guard) Status() client.SubResourceWriter {
	return statusGuard{SubResourceWriter: g.Client.Status(), f: g.f}
}

type statusGuard struct {
	client.SubResourceWriter
	f *fixture
}

func (g statusGuard) Patch(ctx context.Context, o client.Object, patch client.Patch, opts ...client.SubResourcePatchOption) error {
	if g.f.beforeStatus != nil {
		g.f.beforeStatus(o.(*v1alpha1.Migration))
	}
	return g.SubResourceWriter.Patch(ctx, o, patch, opts...)
}

func (g guard) Delete(ctx context.Context, o client.Object, opts ...client.DeleteOption) error {
	if pod, ok := o.(*corev1.Pod); ok {
		options := (&client.DeleteOptions{}).ApplyOptions(opts)
		if options.Preconditions == nil || options.Preconditions.UID == nil || *options.Preconditions.UID != pod.UID {
			g.f.Errorf("pod %s is deleted without its UID as precondition", pod.Name)
		}
		var list v1alpha1.MigrationList
		if err := testClient.List(ctx, &list, client.InNamespace(pod.Namespace)); err != nil {
			return err
		}
		if !slices.ContainsFunc(list.Items, func(m v1alpha1.Migration) bool { return mayDeleteSource(&m, pod) || mayDeleteTarget(&m, pod) }) {
			g.f.Errorf("pod %s is deleted, and no Migration's register allows it", pod.Name)
		}
	}
	return g.Client.Delete(ctx, o, opts...)
}

func (f *fixture) must(err error, format string, args ...any) {
	f.Helper()
	if err != nil {
		f.Fatalf("%s: %v", fmt.Sprintf(format, args...), err)
	}
}

// create makes a Migration with that spec.
func (f *fixture) create(name string, spec v1alpha1.MigrationSpec) *v1alpha1.Migration {
	f.Helper()
	m := &v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Namespace: f.ns, Name: name}, Spec: spec}
	f.must(testClient.Create(f.ctx, m), "create Migration %s", name)
	return m
}

func (f *fixture) get(name string) *v1alpha1.Migration {
	f.Helper()
	m := &v1alpha1.Migration{}
	f.must(testClient.Get(f.ctx, client.ObjectKey{Namespace: f.ns, Name: name}, m), "get Migration %s", name)
	return m
}

// await waits until the Migration is as wanted, and returns it.
func (f *fixture) await(name, what string, wanted func(*v1alpha1.Migration) bool) *v1alpha1.Migration {
	f.Helper()
	var m *v1alpha1.Migration
	f.until(what, func() bool {
		m = f.get(name)
		return wanted(m)
	}, func() string { return fmt.Sprintf("%+v", m.Status) })
	return m
}

func (f *fixture) awaitPhase(name string, phase v1alpha1.MigrationPhase) *v1alpha1.Migration {
	f.Helper()
	return f.await(name, "phase "+string(phase), func(m *v1alpha1.Migration) bool { return m.Status.Phase == phase })
}

// until waits for a condition; describe tells what there was instead.
func (f *fixture) until(what string, condition func() bool, describe func() string) {
	f.Helper()
	err := wait.PollUntilContextTimeout(f.ctx, 20*time.Millisecond, patience, true, func(context.Context) (bool, error) {
		return condition(), nil
	})
	if err != nil {
		f.Fatalf("waiting for %s: %v\nlast seen: %s", what, err, describe())
	}
}

// touch makes the controller look at a Migration again.
func (f *fixture) touch(name string) {
	f.Helper()
	m := f.get(name)
	patch := client.MergeFrom(m.DeepCopy())
	if m.Annotations == nil {
		m.Annotations = map[string]string{}
	}
	m.Annotations["test/touched"] = rand.String(8)
	f.must(testClient.Patch(f.ctx, m, patch), "touch %s", name)
}

func (f *fixture) cancel(name string) {
	f.Helper()
	m := f.get(name)
	patch := client.MergeFrom(m.DeepCopy())
	m.Annotations = map[string]string{v1alpha1.AnnotationCancel: "true"}
	f.must(testClient.Patch(f.ctx, m, patch), "cancel %s", name)
}

// gone says whether the object does not exist.
func (f *fixture) gone(o client.Object) bool {
	f.Helper()
	err := testClient.Get(f.ctx, client.ObjectKeyFromObject(o), o)
	if err != nil && !apierrors.IsNotFound(err) {
		f.Fatalf("get %T: %v", o, err)
	}
	return err != nil
}
