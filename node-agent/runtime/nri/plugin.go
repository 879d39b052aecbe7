// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package nri

import (
	"context"
	"fmt"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
	"github.com/go-logr/logr"
)

// Launched is the plugin as the runtime itself starts it, from its directory of
// plugins and before it creates anything: the guard of a node whose agent is not
// there yet, or any more. It only reads the records in dir, and ends with the
// runtime.
func Launched(ctx context.Context, dir string, log logr.Logger) error {
	s, err := stub.New(plugin{records: records{dir}, log: log, initPID: nodesPID}, stub.WithLogger(quiet{log}))
	if err != nil {
		return fmt.Errorf("NRI plugin (is it started by the container runtime?): %w", err)
	}
	return s.Run(ctx)
}

// plugin is what the runtime calls. It subscribes to the creation of containers
// and to nothing else.
type plugin struct {
	records records
	log     logr.Logger
	// initPID is a process in the node's own network.
	initPID int
	// synced is told, if it is there, that the runtime begins to ask.
	synced chan<- struct{}
}

var (
	_ stub.CreateContainerInterface = plugin{}
	_ stub.SynchronizeInterface     = plugin{}
)

// Synchronize implements stub.SynchronizeInterface: the last step before the
// runtime begins to ask.
func (p plugin) Synchronize(context.Context, []*api.PodSandbox, []*api.Container) ([]*api.ContainerUpdate, error) {
	select {
	case p.synced <- struct{}{}:
	default:
	}
	return nil, nil
}

// CreateContainer implements stub.CreateContainerInterface.
func (p plugin) CreateContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	g, err := p.records.get(pod.GetUid())
	var why string
	switch {
	case err != nil:
		why = err.Error() // there is a record, and that is enough
	case g == nil:
		if err := p.withoutMultipathTCP(pod); err != nil {
			// It runs all the same; as long as it has such a socket it is not moved.
			p.log.Error(err, "could not switch Multipath TCP off", "namespace", pod.GetNamespace(), "pod", pod.GetName())
		}
		return nil, nil, nil
	default:
		why = g.Why
	}
	p.log.Info("refused to create a container", "namespace", pod.GetNamespace(), "pod", pod.GetName(), "container", c.GetName(), "why", why)
	return nil, nil, fmt.Errorf("godwit: container %q of pod %q must not be created: %s", c.GetName(), pod.GetName(), why)
}
