// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package lifecycle starts and stops clusters.
package lifecycle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"godwit.dev/godwit/test/cluster/client"
	"godwit.dev/godwit/test/cluster/internal/cache"
	"godwit.dev/godwit/test/cluster/internal/controlplane"
	"godwit.dev/godwit/test/cluster/internal/host"
	"godwit.dev/godwit/test/cluster/internal/progress"
	"godwit.dev/godwit/test/cluster/internal/topology"
)

// validName keeps socket paths and interface names short.
var validName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?$`)

// ErrNotRunning means that there is no such cluster, or that it is not up.
var ErrNotRunning = errors.New("the cluster is not running")

// Cluster is one cluster, running or not.
type Cluster struct {
	// Name tells clusters apart.
	Name   string
	cache  *cache.Cache
	report *progress.Reporter
}

// New returns the cluster of that name.
func New(name string, c *cache.Cache, report *progress.Reporter) (*Cluster, error) {
	if !validName.MatchString(name) {
		return nil, fmt.Errorf("cluster name %q: want 1 to 20 of a-z, 0-9 and inner dashes", name)
	}
	return &Cluster{Name: name, cache: c, report: report}, nil
}

// Dir is the directory with the cluster's files.
func (c *Cluster) Dir() string { return filepath.Join(c.cache.Root(), "clusters", c.Name) }

// Kubeconfig is the path of the administrator's kubeconfig. Its server is
// reached only from inside the namespace.
func (c *Cluster) Kubeconfig() string { return filepath.Join(c.Dir(), client.KubeconfigFile) }

// Namespace is the cluster's network namespace.
func (c *Cluster) Namespace() host.Namespace { return host.Namespace("gw-" + c.Name) }

// runDir holds sockets and the shared volume's mount point, whose paths must be
// short.
func (c *Cluster) runDir() string { return filepath.Join("/run", "godwit-"+c.Name) }

func (c *Cluster) path(elements ...string) string {
	return filepath.Join(append([]string{c.Dir()}, elements...)...)
}

func (c *Cluster) logFile(part string) string { return c.path("logs", part+".log") }

// lock keeps two commands from changing the cluster at the same time.
func (c *Cluster) lock(ctx context.Context) (*cache.Lock, error) {
	return c.cache.Lock(ctx, "cluster-"+c.Name)
}

// state is what a later command has to know of a running cluster.
type state struct {
	// Ready is set once the cluster was complete.
	Ready bool `json:"ready"`
	// Created is when it was started.
	Created time.Time `json:"created"`
	// KVM tells whether the nodes use the hardware accelerator.
	KVM bool `json:"kvm"`
	// Options and Artifacts are what it was started with.
	Options   Options   `json:"options"`
	Artifacts Artifacts `json:"artifacts"`
	// Processes are the cluster's own, by part.
	Processes map[string]*host.Process `json:"processes"`
}

// loadState returns the recorded state; its error is ErrNotRunning if there is
// none.
func (c *Cluster) loadState() (*state, error) {
	content, err := os.ReadFile(c.path("state.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", ErrNotRunning, c.Name)
	}
	if err != nil {
		return nil, err
	}
	s := &state{}
	if err := json.Unmarshal(content, s); err != nil {
		return nil, fmt.Errorf("state of cluster %s: %w", c.Name, err)
	}
	return s, nil
}

func (c *Cluster) saveState(s *state) error {
	content, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	temporary := c.path("state.json.new")
	if err := os.WriteFile(temporary, content, 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, c.path("state.json"))
}

// start runs args inside the namespace as the cluster's part and records it.
func (c *Cluster) start(s *state, part string, args ...string) (*host.Process, error) {
	return c.startHost(s, part, c.Namespace().Args(args...)...)
}

// startHost runs args as the cluster's part, outside the namespace unless args
// enter it, and records it.
func (c *Cluster) startHost(s *state, part string, args ...string) (*host.Process, error) {
	p, err := host.StartProcess(c.logFile(part), c.Dir(), nil, args...)
	if err != nil {
		return nil, &PartError{Part: part, Log: c.logFile(part), Err: err}
	}
	s.Processes[part] = p
	return p, c.saveState(s)
}

// Running returns an error that says what is missing if the cluster is not up.
func (c *Cluster) Running() error {
	s, err := c.loadState()
	if err != nil {
		return err
	}
	if !s.Ready {
		return fmt.Errorf("%w: the start of %s did not end well", ErrNotRunning, c.Name)
	}
	return c.controlPlaneAlive(s)
}

// controlPlaneAlive returns ErrNotRunning if a part of the control plane has
// ended. Nodes and NFS may be off: that is a fault one may ask for.
func (c *Cluster) controlPlaneAlive(s *state) error {
	for _, part := range controlplane.Parts(controlplane.Paths{}) {
		if p := s.Processes[part.Name]; p == nil || !p.Alive() {
			return fmt.Errorf("%w: %s of %s has ended", ErrNotRunning, part.Name, c.Name)
		}
	}
	return nil
}

// allAlive returns a *PartError if any process has ended.
func (c *Cluster) allAlive(s *state) error {
	for part, p := range s.Processes {
		if !p.Alive() {
			return &PartError{Part: part, Log: p.Log, Err: errors.New("its process has ended")}
		}
	}
	return nil
}

// Client returns a client of the cluster's nodes for this process, which is
// outside the namespace.
func (c *Cluster) Client() (*client.Cluster, error) {
	return client.Open(c.Dir(), client.WithDialer(c.Namespace().DialContext))
}

// PartError says which part of a cluster failed and how its log ends.
type PartError struct {
	// Part is the failed part's name.
	Part string
	// Log is the path of its log.
	Log string
	// Err is what was noticed.
	Err error
}

// Error names the part and shows its log's end.
func (e *PartError) Error() string {
	return fmt.Sprintf("%s: %v\n--- end of %s ---\n%s", e.Part, e.Err, e.Log, host.LogTail(e.Log, 25))
}

// Unwrap returns what was noticed.
func (e *PartError) Unwrap() error { return e.Err }

func machinePart(n topology.Node) string { return "vm-" + n.Name }
