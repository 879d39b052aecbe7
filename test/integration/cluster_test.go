// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2/textlogger"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	ctrlwebhook "sigs.k8s.io/controller-runtime/pkg/webhook"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/controllers"
	"godwit.dev/godwit/controllers/webhook"
	"godwit.dev/godwit/node-agent/agent"
	"godwit.dev/godwit/node-agent/images"
	"godwit.dev/godwit/node-agent/runtime/fake"
)

var (
	restConfig *rest.Config
	scheme     = kruntime.NewScheme()
)

// patience multiplies every limit of time, for a machine that has other things to do:
// GODWIT_TEST_PATIENCE.
var patience = func() int {
	n, _ := strconv.Atoi(os.Getenv("GODWIT_TEST_PATIENCE"))
	return max(n, 1)
}()

func patiently(limit time.Duration) time.Duration { return limit * time.Duration(patience) }

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(runMain(m))
}

func runMain(m *testing.M) int {
	if testing.Short() {
		fmt.Println("integration tests need an API server: skipped by -short")
		return 0
	}
	ctrl.SetLogger(textlogger.NewLogger(textlogger.NewConfig(textlogger.Output(logFile()))))
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		panic(err)
	}
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		panic(err)
	}
	env := &envtest.Environment{
		CRDDirectoryPaths: []string{filepath.Join("..", "..", "config", "crd", "bases")}, ErrorIfCRDPathMissing: true,
		WebhookInstallOptions: envtest.WebhookInstallOptions{Paths: []string{filepath.Join("..", "..", "config", "webhook", "pods.yaml")}},
	}
	cfg, err := env.Start()
	if err != nil {
		fmt.Fprintf(os.Stderr, "start kube-apiserver and etcd (make unit builds them and sets KUBEBUILDER_ASSETS): %v\n", err)
		return 1
	}
	defer func() {
		if err := env.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}()
	cfg.QPS, cfg.Burst = 500, 1000
	cfg.DisableCompression = true // it is all on one machine
	restConfig = cfg
	c, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		panic(err)
	}
	rc := &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.RuntimeClassName}, Handler: v1alpha1.RuntimeClassName}
	if err := c.Create(context.Background(), rc); err != nil {
		panic(err)
	}
	stop, err := serveWebhooks(env)
	if err != nil {
		panic(err)
	}
	defer stop()
	return m.Run()
}

// serveWebhooks serves those that make pods of controllers targets, for all clusters, and
// installs the policy that keeps the names of pods.
func serveWebhooks(env *envtest.Environment) (stop func(), err error) {
	raw, err := os.ReadFile(filepath.Join("..", "..", "config", "admission", "same-name.yaml"))
	if err != nil {
		return nil, err
	}
	for _, document := range strings.Split(string(raw), "\n---\n") {
		o, _, err := clientgoscheme.Codecs.UniversalDeserializer().Decode([]byte(document), nil, nil)
		if err != nil {
			return nil, err
		}
		c, err := client.New(restConfig, client.Options{Scheme: scheme})
		if err != nil {
			return nil, err
		}
		if err := c.Create(context.Background(), o.(client.Object)); err != nil {
			return nil, err
		}
	}
	hooks := env.WebhookInstallOptions
	mgr, err := ctrl.NewManager(restConfig, ctrl.Options{Scheme: scheme, Metrics: metricsserver.Options{BindAddress: "0"}, HealthProbeBindAddress: "0",
		WebhookServer: ctrlwebhook.NewServer(ctrlwebhook.Options{Host: hooks.LocalServingHost, Port: hooks.LocalServingPort, CertDir: hooks.LocalServingCertDir})})
	if err != nil {
		return nil, err
	}
	if err := controllers.AddIndexes(mgr.GetFieldIndexer()); err != nil {
		return nil, err
	}
	webhook.Setup(mgr, webhook.Options{GateImage: "godwit:test"})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}, nil
}

// logFile is where the components log: GODWIT_TEST_LOG, else nowhere.
func logFile() *os.File {
	name := os.Getenv("GODWIT_TEST_LOG")
	if name == "" {
		name = os.DevNull
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	return f
}

// cluster is two nodes, a scheduler and a controller.
type cluster struct {
	t      *testing.T
	ctx    context.Context
	ns     string
	client client.WithWatch
	volume string
	nodes  map[string]*simNode
	ledger *ledger
	wg     sync.WaitGroup

	controller *component
	agents     map[string]*component
}

// component is a part that a test can stop and start again.
type component struct {
	cancel context.CancelFunc
	done   chan struct{}
}

func (c *component) stop() {
	c.cancel()
	<-c.done
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	t.Parallel() // a cluster shares nothing with another but the API server
	ctx, cancel := context.WithTimeout(context.Background(), patiently(60*time.Second))
	cl, err := client.NewWithWatch(restConfig, client.Options{Scheme: scheme})
	must(t, err)
	c := &cluster{t: t, ctx: ctx, client: cl, volume: t.TempDir(), nodes: map[string]*simNode{}, ledger: &ledger{t: t}, agents: map[string]*component{}}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "it-"}}
	must(t, cl.Create(ctx, ns))
	c.ns = ns.Name
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: c.ns, Name: "default"}}
	must(t, cl.Create(ctx, sa))
	for _, short := range []string{"n1", "n2"} {
		c.addNode(short)
	}
	c.controller = c.startController()
	c.wg.Go(func() { c.schedule(ctx) })
	t.Cleanup(func() {
		cancel()
		c.controller.stop()
		for _, a := range c.agents {
			a.stop()
		}
		c.wg.Wait()
		bg, done := context.WithTimeout(context.Background(), 10*time.Second)
		defer done()
		for _, n := range c.nodes {
			must(t, cl.Delete(bg, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.name}}))
		}
		c.removeMigrations(bg)
		c.ledger.check()
	})
	return c
}

// removeMigrations leaves no Migration to the sweeps of the clusters to come,
// which list those of all namespaces.
func (c *cluster) removeMigrations(ctx context.Context) {
	var left v1alpha1.MigrationList
	must(c.t, c.client.List(ctx, &left, client.InNamespace(c.ns)))
	for i := range left.Items {
		m := &left.Items[i]
		must(c.t, c.client.Patch(ctx, m, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))))
		must(c.t, client.IgnoreNotFound(c.client.Delete(ctx, m)))
	}
}

// node names are unique in the shared API server.
func (c *cluster) node(short string) *simNode { return c.nodes[c.ns+"-"+short] }

func (c *cluster) addNode(short string) {
	name := c.ns + "-" + short
	// A unix socket's path is short; a test's own directory may not be.
	runDir, err := os.MkdirTemp("", "gw")
	must(c.t, err)
	c.t.Cleanup(func() { _ = os.RemoveAll(runDir) })
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}}}
	must(c.t, c.client.Create(c.ctx, node))
	// Nodes are created tainted until kubelet reports them ready.
	node.Spec.Taints = nil
	must(c.t, c.client.Update(c.ctx, node))
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady"}}
	must(c.t, c.client.Status().Update(c.ctx, node))
	n := &simNode{cluster: c, name: name, runDir: runDir, fake: fake.New(), pods: map[types.UID]context.CancelFunc{}}
	c.nodes[name] = n
	c.agents[name] = c.startAgent(n)
	c.wg.Go(func() { n.work(c.ctx) })
}

// manager returns a manager for one component, looking at this test's namespace.
func (c *cluster) manager(pods cache.ByObject) ctrl.Manager {
	pods.Namespaces = map[string]cache.Config{c.ns: {FieldSelector: pods.Field}}
	pods.Field = nil
	mgr, err := ctrl.NewManager(restConfig, ctrl.Options{
		Scheme: scheme, Metrics: metricsserver.Options{BindAddress: "0"}, HealthProbeBindAddress: "0",
		Controller: config.Controller{SkipNameValidation: ptr.To(true)},
		Cache: cache.Options{
			DefaultNamespaces: map[string]cache.Config{c.ns: {}},
			ByObject:          map[client.Object]cache.ByObject{&corev1.Pod{}: pods},
		},
	})
	must(c.t, err)
	return mgr
}

func (c *cluster) run(mgr ctrl.Manager) *component {
	ctx, cancel := context.WithCancel(c.ctx)
	p := &component{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		if err := mgr.Start(ctx); err != nil {
			c.t.Errorf("manager: %v", err)
		}
	}()
	return p
}

func (c *cluster) startController() *component {
	mgr := c.manager(cache.ByObject{})
	metrics, err := controllers.NewMetrics(prometheus.NewRegistry())
	must(c.t, err)
	r := &controllers.MigrationReconciler{
		Client: mgr.GetClient(), APIReader: mgr.GetAPIReader(), Recorder: mgr.GetEventRecorder("godwit"),
		Clock: clock.RealClock{}, Metrics: metrics, GateImage: "godwit:test", MaxConcurrentReconciles: 1,
	}
	must(c.t, r.SetupWithManager(mgr))
	return c.run(mgr)
}

func (c *cluster) startAgent(n *simNode) *component {
	mgr := c.manager(cache.ByObject{Field: fields.OneTermEqualSelector("spec.nodeName", n.name)})
	store, err := images.Open(c.volume, images.Options{StateDir: filepath.Join(n.dir(), "state"), LocalDir: filepath.Join(n.dir(), "restore"), Settle: time.Second})
	must(c.t, err)
	a := agent.New(agent.Config{
		NodeName: n.name, RunDir: n.dir(), BootID: n.bootID(), BundleDir: filepath.Join(n.dir(), "bundles"), Client: mgr.GetClient(), Live: mgr.GetAPIReader(),
		Recorder: mgr.GetEventRecorder("godwit-agent"), Store: store,
		Node: agent.Node{Finder: n.fake, Checkpointer: n.fake, Freezer: n.fake, Throttler: n.fake, Isolator: n.fake, Holder: n.fake, Separator: n.fake, Dirty: n.fake,
			Killer: n.fake, Guard: n.fake, Files: n.fake, Inspector: n.fake, Prober: n.fake},
		Timeouts: agent.Timeouts{Park: patiently(cmp.Or(n.park, 10*time.Second)), Restore: patiently(5 * time.Second)}, Now: n.now,
	})
	must(c.t, a.SetupWithManager(mgr))
	must(c.t, mgr.Add(&agent.NodeReporter{NodeName: n.name, Client: mgr.GetClient(), Prober: n.fake}))
	return c.run(mgr)
}

func (c *cluster) restartAgent(short string) {
	n := c.node(short)
	c.agents[n.name].stop()
	c.agents[n.name] = c.startAgent(n)
}

// reboot starts a node whose agent has stopped anew: nothing runs there, and
// nothing of what was in memory is left.
func (c *cluster) reboot(short string) {
	c.t.Helper()
	n := c.node(short)
	dir, err := os.MkdirTemp(n.dir(), "b")
	must(c.t, err)
	n.mu.Lock()
	n.runDir = dir
	n.hook = nil
	n.mu.Unlock()
	c.agents[n.name] = c.startAgent(n)
}

// bootID is the node's boot: its run directory goes with it.
func (n *simNode) bootID() string { return filepath.Base(n.dir()) }

func (c *cluster) restartController() {
	c.controller.stop()
	c.controller = c.startController()
}

// startPod runs the pod that is to be moved on n1.
func (c *cluster) startPod(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	c.t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: c.ns, Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			NodeName: c.node("n1").name, TerminationGracePeriodSeconds: ptr.To(int64(5)),
			Containers: []corev1.Container{{Name: "main", Image: "counter:1"}},
		},
	}
	for _, f := range change {
		f(pod)
	}
	must(c.t, c.client.Create(c.ctx, pod))
	c.eventually("the pod runs", func() bool {
		return c.get(pod) && pod.Status.Phase == corev1.PodRunning
	})
	c.nodesReady()
	return pod
}

func (c *cluster) nodesReady() {
	c.t.Helper()
	c.eventually("both nodes report themselves able", func() bool {
		for _, n := range c.nodes {
			node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.name}}
			if err := c.client.Get(c.ctx, client.ObjectKeyFromObject(node), node); err != nil || node.Labels[v1alpha1.LabelNodeReady] != "true" {
				return false
			}
		}
		return true
	})
}

// migrate creates a Migration of the pod to n2.
func (c *cluster) migrate(pod string, change ...func(*v1alpha1.Migration)) *v1alpha1.Migration {
	c.t.Helper()
	m := &v1alpha1.Migration{
		ObjectMeta: metav1.ObjectMeta{Namespace: c.ns, GenerateName: "m-"},
		Spec:       v1alpha1.MigrationSpec{PodName: pod},
	}
	for _, f := range change {
		f(m)
	}
	must(c.t, c.client.Create(c.ctx, m))
	return m
}

// get reads an object again; false when it does not exist.
func (c *cluster) get(o client.Object) bool {
	err := c.client.Get(c.ctx, client.ObjectKeyFromObject(o), o)
	if err != nil && !apierrors.IsNotFound(err) && c.ctx.Err() == nil {
		c.t.Fatalf("get: %v", err)
	}
	return err == nil
}

// awaitPhase waits for one of the phases.
func (c *cluster) awaitPhase(m *v1alpha1.Migration, phases ...v1alpha1.MigrationPhase) {
	c.t.Helper()
	c.eventually(fmt.Sprintf("phase %v", phases), func() bool {
		if !c.get(m) {
			return false
		}
		for _, p := range phases {
			if m.Status.Phase == p {
				return true
			}
		}
		return false
	}, m)
}

// pollInterval is short beside what anything here takes, and long enough to
// leave the API server to those who are waited for.
const pollInterval = 20 * time.Millisecond

// eventually waits for a condition, and shows the Migrations when it does not come.
func (c *cluster) eventually(what string, cond func() bool, shown ...*v1alpha1.Migration) {
	c.t.Helper()
	limit := patiently(20 * time.Second)
	for end := time.Now().Add(limit); !cond(); time.Sleep(pollInterval) {
		if time.Now().After(end) {
			for _, m := range shown {
				c.get(m)
				c.t.Logf("migration %s: %s", m.Name, describe(m))
			}
			c.t.Fatalf("waited %s for: %s", limit, what)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
