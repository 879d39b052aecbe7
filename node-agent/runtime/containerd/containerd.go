// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package containerd finds the containers of pods by containerd's own API and
// installs the runtime handler of the wrapper in containerd's configuration.
package containerd

import (
	"context"
	"errors"
	"fmt"
	"path"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"

	"godwit.dev/godwit/node-agent/runtime"
	"godwit.dev/godwit/node-agent/runtime/host"
)

const (
	// DefaultSocket is containerd's socket on the node.
	DefaultSocket = "/run/containerd/containerd.sock"
	// DefaultState is containerd's state directory on the node.
	DefaultState = "/run/containerd"
	// Namespace is containerd's namespace for what kubelet runs.
	Namespace = "k8s.io"
)

// Options configure a Runtime. Only Host is required.
type Options struct {
	// Host is the node.
	Host *host.Host
	// Socket and State are paths of the node.
	Socket, State string
	// Namespace is containerd's namespace. Default "k8s.io".
	Namespace string
}

// Runtime implements runtime.Finder.
type Runtime struct {
	o      Options
	client *client.Client
}

var _ runtime.Finder = (*Runtime)(nil)

// New connects to the node's containerd. The connection outlasts restarts of
// containerd. ctx bounds only the first contact.
func New(ctx context.Context, o Options) (*Runtime, error) {
	if o.Socket == "" {
		o.Socket = DefaultSocket
	}
	if o.State == "" {
		o.State = DefaultState
	}
	if o.Namespace == "" {
		o.Namespace = Namespace
	}
	// The path is looked up again for each connection, so that a socket that a
	// new containerd has made is found.
	c, err := client.New(o.Host.Path(o.Socket), client.WithDefaultNamespace(o.Namespace))
	if err != nil {
		return nil, fmt.Errorf("connect to containerd: %w", err)
	}
	r := &Runtime{o: o, client: c}
	if _, err := c.Version(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("ask containerd for its version: %w", err), c.Close())
	}
	return r, nil
}

// Close ends the connection.
func (r *Runtime) Close() error { return r.client.Close() }

// Version is containerd's version.
func (r *Runtime) Version(ctx context.Context) (string, error) {
	v, err := r.client.Version(ctx)
	return v.Version, err
}

// bundle is the OCI bundle directory of a container.
func (r *Runtime) bundle(id string) string {
	return path.Join(r.o.State, "io.containerd.runtime.v2.task", r.o.Namespace, id)
}

// notFound turns containerd's "not found" into the contract's.
func notFound(what string, err error) error {
	if errdefs.IsNotFound(err) {
		return fmt.Errorf("%w: %s: %w", runtime.ErrNotFound, what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}
