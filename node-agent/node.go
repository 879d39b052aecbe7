// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"go.uber.org/zap/zapcore"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/node-agent/agent"
	"godwit.dev/godwit/node-agent/runtime/cgroup"
	"godwit.dev/godwit/node-agent/runtime/containerd"
	"godwit.dev/godwit/node-agent/runtime/criu"
	"godwit.dev/godwit/node-agent/runtime/files"
	"godwit.dev/godwit/node-agent/runtime/host"
	"godwit.dev/godwit/node-agent/runtime/inspect"
	"godwit.dev/godwit/node-agent/runtime/network"
	"godwit.dev/godwit/node-agent/runtime/nri"
	"godwit.dev/godwit/node-agent/runtime/ties"
)

// node is the real node: the adapters the engine works with, and what has to
// be closed and removed.
type node struct {
	agent.Node
	host       *host.Host
	containerd *containerd.Runtime
	guard      *nri.Guard
}

func openNode(ctx context.Context, o options) (*node, error) {
	h, err := host.New(host.Options{})
	if err != nil {
		return nil, err
	}
	cd, err := containerd.New(ctx, containerd.Options{Host: h})
	if err != nil {
		return nil, errors.Join(err, h.Close())
	}
	cg := cgroup.New(cgroup.Options{Host: h})
	cr := criu.New(criu.Options{Host: h, Cgroup: cg})
	guard := nri.New(nri.Options{Socket: h.Path(nri.DefaultSocket), Records: h.Path(nri.DefaultRecords), Log: ctrl.Log.WithName("nri")})
	return &node{
		host: h, containerd: cd, guard: guard,
		Node: agent.Node{
			Finder: cd, Checkpointer: cr, Freezer: cg, Throttler: cg, Dirty: cr, Killer: cr, Guard: guard, Prober: cr,
			Isolator: network.New(network.Options{}), Holder: network.NewHolder(network.Options{}), Separator: ties.New(ties.Options{Freezer: cg, Processes: cg.Processes}),
			Files: files.New(files.Options{Host: h}), Inspector: inspect.New(inspect.Options{Host: h}),
		},
	}, nil
}

func (n *node) close() {
	_ = n.containerd.Close()
	_ = n.host.Close()
}

// fence is what keeps kubelet from starting a frozen source afresh here.
func (n *node) fence() string {
	if n.guard.Active() {
		return v1alpha1.FenceNRI
	}
	return v1alpha1.FenceBudget
}

// handlerState is how the last try to install the runtime handler ended.
type handlerState struct {
	settled chan struct{}

	mu   sync.Mutex
	err  error
	once bool
}

func (s *handlerState) set(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
	if !s.once {
		s.once = true
		close(s.settled)
	}
}

func (s *handlerState) get() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// installer returns a runnable that installs the runtime handler, trying again
// until it works: containerd may be restarting, and a node whose configuration
// needs a person must say so on its Node object rather than crash its agent.
func installer(o options, n *node, state *handlerState) manager.RunnableFunc {
	return func(ctx context.Context) error {
		log := ctrl.Log.WithName("runtime-handler")
		if !o.installRuntime {
			state.set(nil)
			return nil
		}
		const retry = 10 * time.Second
		for {
			failed := n.installHandler(ctx, o)
			state.set(failed)
			if failed == nil {
				return nil
			}
			if ctx.Err() != nil {
				return nil //nolint:nilerr // going down is no failure of the manager
			}
			log.Error(failed, "install the runtime handler")
			t := time.NewTimer(retry)
			select {
			case <-ctx.Done():
				t.Stop()
				return nil
			case <-t.C:
			}
		}
	}
}

func (n *node) installHandler(ctx context.Context, o options) error {
	var b containerd.Binaries
	var err error
	if b.Wrapper, err = os.ReadFile(o.wrapper); err != nil {
		return fmt.Errorf("read the runtime wrapper: %w", err)
	}
	if b.Guard, err = os.ReadFile(o.guard); err != nil {
		return fmt.Errorf("read the guard: %w", err)
	}
	done, err := n.containerd.InstallHandler(ctx, b, containerd.HandlerOptions{})
	if err != nil {
		return err
	}
	ctrl.Log.WithName("runtime-handler").Info("the runtime handler is installed",
		"dropIn", done.DropIn, "wrapperChanged", done.BinaryChanged, "containerdRestarted", done.ConfigChanged)
	return nil
}

// removeHandler takes the handler off the node, unless pods run with it.
func (n *node) removeHandler(ctx context.Context, o options) error {
	done, err := n.containerd.UninstallHandler(ctx, containerd.HandlerOptions{})
	if err != nil {
		return err
	}
	log := ctrl.Log.WithName("runtime-handler")
	if !done.Removed {
		log.Info("pods run with the runtime handler: it stays on the node; run “agent uninstall” when they are gone", "sandboxes", done.InUseBy)
		return nil
	}
	log.Info("the runtime handler is removed")
	return agent.UnshareVolume(o.runDir)
}

func setLogger(o options) error {
	level, err := zapcore.ParseLevel(o.logLevel)
	if err != nil {
		return fmt.Errorf("--log-level: %w", err)
	}
	ctrl.SetLogger(zap.New(zap.UseDevMode(false), zap.Level(level)))
	return nil
}
