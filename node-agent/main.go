// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// The node agent of Godwit: see package agent for what it does. This package
// only wires the engine to the node.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/node-agent/agent"
	"godwit.dev/godwit/node-agent/images"
)

// version is set when the binary is linked.
var version = "dev"

// options are the command's flags and its pod's identity.
type options struct {
	nodeName, imagesDir, runDir, restoreDir, wrapper, guard string
	metricsAddr, probeAddr, pprofAddr                       string
	installRuntime, cleanupOnUninstall                      bool
	podName, podNamespace                                   string
	logLevel                                                string
}

func main() {
	if err := run(ctrl.SetupSignalHandler(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
		os.Exit(1)
	}
}

func parse(args []string) (options, error) {
	o := options{podName: os.Getenv("POD_NAME"), podNamespace: os.Getenv("POD_NAMESPACE")}
	fs := flag.NewFlagSet("agent", flag.ContinueOnError)
	fs.StringVar(&o.nodeName, "node-name", os.Getenv("NODE_NAME"), "name of the Node object this agent serves")
	fs.StringVar(&o.imagesDir, "images-dir", "/var/lib/godwit/images", "where the shared volume is mounted in the agent's container")
	fs.StringVar(&o.runDir, "run-dir", "/run/godwit", "directory of the node for the wrapper's socket, marks and work files")
	fs.StringVar(&o.restoreDir, "restore-dir", "/dev/shm/godwit", "directory of the node, in memory, where what arrives of a pod is made one dump; empty: pods are restored from the shared volume")
	fs.StringVar(&o.wrapper, "wrapper", "/usr/local/bin/godwit-runc", "the OCI runtime wrapper in the agent's image, copied to the node")
	fs.StringVar(&o.guard, "guard", "/usr/local/bin/godwit-guard", "the guard in the agent's image, a plugin of containerd, copied to the node")
	fs.StringVar(&o.metricsAddr, "metrics-bind-address", ":8080", "address of the metrics endpoint, 0 switches it off")
	fs.StringVar(&o.probeAddr, "health-probe-bind-address", ":8081", "address of the health probes")
	fs.StringVar(&o.pprofAddr, "pprof-bind-address", "", "address of the profiles of net/http/pprof; empty serves none")
	fs.BoolVar(&o.installRuntime, "install-runtime", true, "add the runtime handler to containerd when the agent starts")
	fs.BoolVar(&o.cleanupOnUninstall, "cleanup-on-uninstall", true, "remove the runtime handler when the agent's DaemonSet is deleted")
	fs.StringVar(&o.logLevel, "log-level", "info", "info or debug")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if o.nodeName == "" {
		return o, errors.New("--node-name (or NODE_NAME) is required")
	}
	return o, nil
}

func run(ctx context.Context, args []string) error {
	uninstall := len(args) > 0 && args[0] == "uninstall"
	if uninstall {
		args = args[1:]
	}
	o, err := parse(args)
	if err != nil {
		return err
	}
	if err := setLogger(o); err != nil {
		return err
	}
	node, err := openNode(ctx, o)
	if err != nil {
		return err
	}
	defer node.close()
	if uninstall {
		return node.removeHandler(ctx, o)
	}
	return serve(ctx, o, node)
}

// serve runs the agent until ctx ends.
func serve(ctx context.Context, o options, node *node) error {
	log := ctrl.Log.WithName("setup")
	log.Info("starting", "version", version, "node", o.nodeName)
	volume := &agent.Volume{Source: o.imagesDir, RunDir: o.runDir}
	local := o.restoreDir
	if local != "" {
		if err := images.CheckLocalDir(local, node.host.Path(local)); err != nil {
			log.Error(err, "pods that arrive are restored from the shared volume")
			local = ""
		}
	}
	store, err := images.Open(volume.Path(), images.Options{StateDir: filepath.Join(o.runDir, "state"), LocalDir: local, Available: volume.Available})
	if err != nil {
		return err
	}
	mgr, err := newManager(o)
	if err != nil {
		return err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return fmt.Errorf("which boot of the node this is: %w", err)
	}
	a := agent.New(agent.Config{
		NodeName: o.nodeName, RunDir: o.runDir, BootID: strings.TrimSpace(string(boot)),
		Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Recorder: mgr.GetEventRecorder("godwit-agent"),
		Node: node.Node, Store: store,
	})
	if err := a.SetupWithManager(mgr); err != nil {
		return err
	}

	// The socket has to answer before containerd knows the handler, and the
	// handler to be known before the node calls itself ready.
	handler := &handlerState{settled: make(chan struct{})}
	if err := mgr.Add(volume); err != nil {
		return err
	}
	if err := mgr.Add(installer(o, node, handler)); err != nil {
		return err
	}
	if err := mgr.Add(node.guard); err != nil {
		return err
	}
	if err := mgr.Add(&agent.NodeReporter{
		NodeName: o.nodeName, Client: mgr.GetClient(), Prober: node.Prober,
		Ready: func() error { return errors.Join(handler.get(), volume.Available()) }, Settled: handler.settled,
		Fence: node.fence, FenceChanged: node.guard.Changed(),
	}); err != nil {
		return err
	}
	removal, err := agent.FindRemoval(ctx, mgr.GetAPIReader(), o.podNamespace, o.podName)
	if err != nil {
		log.Error(err, "uninstalling will leave the runtime handler on this node")
	}
	if err := mgr.Start(ctx); err != nil {
		return err
	}
	return afterStop(o, node, removal)
}

// afterStop removes what the agent put on the node if Godwit is being removed.
func afterStop(o options, node *node, removal *agent.Removal) error {
	if !o.cleanupOnUninstall {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 45*time.Second)
	defer cancel()
	if !removal.Removed(ctx) {
		return nil
	}
	return node.removeHandler(ctx, o)
}

func newManager(o options) (ctrl.Manager, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	cfg, err := ctrl.GetConfig()
	if err != nil {
		return nil, err
	}
	// The client's default limits of 20 requests a second would show up in
	// the freeze when several pods move at once.
	cfg.QPS, cfg.Burst = 100, 200
	mgr, err := ctrl.NewManager(cfg, ctrl.Options{
		Scheme:                 scheme,
		Metrics:                metricsserver.Options{BindAddress: o.metricsAddr},
		HealthProbeBindAddress: o.probeAddr,
		PprofBindAddress:       o.pprofAddr,
		Cache: cache.Options{ByObject: map[client.Object]cache.ByObject{
			// Only this node's pods: an agent has no business with others.
			&corev1.Pod{}: {Field: fields.OneTermEqualSelector("spec.nodeName", o.nodeName)},
		}},
	})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(mgr.AddHealthzCheck("ping", healthz.Ping), mgr.AddReadyzCheck("ping", healthz.Ping)); err != nil {
		return nil, err
	}
	return mgr, nil
}
