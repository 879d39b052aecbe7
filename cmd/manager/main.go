// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Command manager runs Godwit's controllers. It needs no rights on its node.
package main

import (
	"flag"
	"fmt"
	"os"

	"go.uber.org/zap/zapcore"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/controllers"
)

// leaderElectionID names the lease that the manager's replicas compete for.
const leaderElectionID = "manager.godwit.dev"

// options are the command line's.
type options struct {
	leaderElect     bool
	leaderNamespace string
	metricsAddress  string
	healthAddress   string
	gateImage       string
	gatePullPolicy  string
	concurrency     int
	logLevel        string
}

func (o *options) bind(flags *flag.FlagSet) {
	flags.BoolVar(&o.leaderElect, "leader-elect", false, "Let one of several replicas work at a time.")
	flags.StringVar(&o.leaderNamespace, "leader-election-namespace", "", "Namespace of the lease; by default the one the manager runs in.")
	flags.StringVar(&o.metricsAddress, "metrics-bind-address", ":8080", "Address of the Prometheus metrics; 0 serves none.")
	flags.StringVar(&o.healthAddress, "health-probe-bind-address", ":8081", "Address of /healthz and /readyz.")
	flags.StringVar(&o.gateImage, "gate-image", "", "Image of the gate of target pods: Godwit's own. Required.")
	flags.StringVar(&o.gatePullPolicy, "gate-image-pull-policy", string(corev1.PullIfNotPresent), "When nodes pull it: Always, IfNotPresent or Never.")
	flags.IntVar(&o.concurrency, "max-concurrent-reconciles", 4, "How many Migrations are looked at side by side.")
	flags.StringVar(&o.logLevel, "log-level", "info", "info or debug")
}

func (o *options) validate() error {
	if o.gateImage == "" {
		return fmt.Errorf("--gate-image is required")
	}
	switch corev1.PullPolicy(o.gatePullPolicy) {
	case corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever:
	default:
		return fmt.Errorf("--gate-image-pull-policy %q is none of Always, IfNotPresent, Never", o.gatePullPolicy)
	}
	if o.concurrency < 1 {
		return fmt.Errorf("--max-concurrent-reconciles must be at least 1")
	}
	return nil
}

// setLogger writes JSON lines, with every key that a reconciler has added: the
// Migration's namespace, name and UID.
func setLogger(level string) error {
	l, err := zapcore.ParseLevel(level)
	if err != nil {
		return fmt.Errorf("--log-level: %w", err)
	}
	ctrl.SetLogger(zap.New(zap.UseDevMode(false), zap.Level(l)))
	return nil
}

func main() {
	var o options
	o.bind(flag.CommandLine)
	flag.Parse()
	if err := setLogger(o.logLevel); err != nil {
		fmt.Fprintln(os.Stderr, "manager:", err)
		os.Exit(1)
	}
	if err := run(&o); err != nil {
		ctrl.Log.Error(err, "the manager ends")
		os.Exit(1)
	}
}

func run(o *options) error {
	if err := o.validate(); err != nil {
		return err
	}
	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		return err
	}
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return err
	}
	config, err := ctrl.GetConfig()
	if err != nil {
		return err
	}
	mgr, err := ctrl.NewManager(config, manager.Options{
		Scheme:                  scheme,
		Cache:                   cache.Options{DefaultTransform: cache.TransformStripManagedFields()},
		Metrics:                 metricsserver.Options{BindAddress: o.metricsAddress},
		HealthProbeBindAddress:  o.healthAddress,
		LeaderElection:          o.leaderElect,
		LeaderElectionID:        leaderElectionID,
		LeaderElectionNamespace: o.leaderNamespace,
		// main does nothing after the manager has stopped, so the next leader
		// need not wait for the lease to run out.
		LeaderElectionReleaseOnCancel: true,
	})
	if err != nil {
		return err
	}
	if err := addControllers(mgr, o); err != nil {
		return err
	}
	if err := mgr.AddHealthzCheck("ping", healthz.Ping); err != nil {
		return err
	}
	if err := mgr.AddReadyzCheck("ping", healthz.Ping); err != nil {
		return err
	}
	return mgr.Start(ctrl.SetupSignalHandler())
}

func addControllers(mgr manager.Manager, o *options) error {
	counted, err := controllers.NewMetrics(metrics.Registry)
	if err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	if err := metrics.Registry.Register(controllers.InFlight{Reader: mgr.GetCache()}); err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	return (&controllers.MigrationReconciler{
		Client:                  mgr.GetClient(),
		APIReader:               mgr.GetAPIReader(),
		Recorder:                mgr.GetEventRecorder(v1alpha1.FieldManagerController),
		Clock:                   clock.RealClock{},
		Metrics:                 counted,
		GateImage:               o.gateImage,
		GatePullPolicy:          corev1.PullPolicy(o.gatePullPolicy),
		MaxConcurrentReconciles: o.concurrency,
	}).SetupWithManager(mgr)
}
