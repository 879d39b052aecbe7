// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"godwit.dev/godwit/test/cluster/internal/controlplane"
	"godwit.dev/godwit/test/cluster/internal/host"
	"godwit.dev/godwit/test/cluster/internal/topology"
)

// Options size a cluster.
type Options struct {
	// MemoryMiB and CPUs are those of each node.
	MemoryMiB int `json:"memoryMiB"`
	CPUs      int `json:"cpus"`
	// VolumeGiB is the size of the shared volume.
	VolumeGiB int `json:"volumeGiB"`
}

// readyLimit bounds the wait for the nodes.
const readyLimit = 6 * time.Minute

// Up starts the cluster and returns when its nodes are Ready and its services
// answer. A cluster that runs is left as it is; the remains of one that does
// not are removed first.
func (c *Cluster) Up(ctx context.Context, options Options) error {
	lock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	switch err := c.Running(); {
	case err == nil:
		c.report.Printf("cluster %s is already running", c.Name)
		return nil
	case !errors.Is(err, ErrNotRunning):
		return err
	}
	if c.remains() {
		if err := c.report.Step("remove what is left of an earlier start", func() error { return c.remove(ctx, false) }); err != nil {
			return err
		}
	}
	artifacts, err := BuildArtifacts(ctx, c.cache, c.report)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.Dir(), 0o700); err != nil {
		return err
	}
	s := &state{Created: time.Now(), Options: options, Artifacts: artifacts, Processes: map[string]*host.Process{}}
	if err := c.saveState(s); err != nil {
		return err
	}
	return c.bringUp(ctx, s)
}

func (c *Cluster) bringUp(ctx context.Context, s *state) error {
	started := time.Now()
	step := c.report.Step
	if err := step("make the network, credentials and disks", func() error {
		s.KVM = c.probeKVM(ctx, s.Artifacts.Image)
		if err := c.createNetwork(ctx); err != nil {
			return err
		}
		if err := c.writeFiles(ctx, s); err != nil {
			return err
		}
		return c.createVolume(ctx, s)
	}); err != nil {
		return err
	}
	accelerator := "software emulation"
	if s.KVM {
		accelerator = "KVM"
	}
	if err := step("start the nodes ("+accelerator+"), the API server, NFS and the time server", func() error { return c.startFirst(s) }); err != nil {
		return err
	}
	if err := step("wait for the API server", func() error { return c.waitAPI(ctx, s.Processes["kube-apiserver"]) }); err != nil {
		return err
	}
	if err := step("start the rest of the control plane", func() error { return c.startParts(s, true) }); err != nil {
		return err
	}
	if err := step("apply the cluster's own objects", func() error { return c.applyBootstrap(ctx, s) }); err != nil {
		return err
	}
	if err := step("wait for cluster DNS and NFS", func() error {
		if err := c.waitDNS(ctx, s.Processes["coredns"]); err != nil {
			return err
		}
		return c.waitNFS(ctx, s.Processes[nfsPart])
	}); err != nil {
		return err
	}
	if err := step("wait for the nodes to be Ready", func() error { return c.waitNodes(ctx, s) }); err != nil {
		return err
	}
	if err := step("wait for cluster IPs", func() error { return c.waitClusterIPs(ctx, s.Processes["kube-proxy"]) }); err != nil {
		return err
	}
	if err := c.allAlive(s); err != nil {
		return err
	}
	s.Ready = true
	if err := c.saveState(s); err != nil {
		return err
	}
	c.report.Printf("cluster %s is up after %.0fs", c.Name, time.Since(started).Seconds())
	return nil
}

// startFirst starts what needs nothing else, or tries again until it is there.
func (c *Cluster) startFirst(s *state) error {
	// The nodes have the longest way to go.
	for _, n := range topology.Nodes() {
		if _, err := c.startMachine(s, n); err != nil {
			return err
		}
	}
	if err := c.startParts(s, false); err != nil {
		return err
	}
	if err := c.startTime(s); err != nil {
		return err
	}
	_, err := c.startNFS(s)
	return err
}

// ServeTimeVerb is the verb with which the tool serves the nodes' time.
const ServeTimeVerb = "serve-time"

// startTime starts the server of the nodes' time: this very program.
func (c *Cluster) startTime(s *state) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	_, err = c.start(s, "time", self, ServeTimeVerb, topology.ControlPlaneIP+":123")
	return err
}

// startParts starts the parts of the control plane that are, or are not,
// clients of the API server.
func (c *Cluster) startParts(s *state, clients bool) error {
	for _, part := range c.parts(s) {
		if part.Client != clients {
			continue
		}
		if _, err := c.start(s, part.Name, part.Args...); err != nil {
			return err
		}
	}
	return nil
}

// waitAPI waits until the API server says that it is ready, its own first
// objects included.
func (c *Cluster) waitAPI(ctx context.Context, p *host.Process) error {
	ca, err := os.ReadFile(c.path("pki", "ca.crt"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	get := c.getter(&tls.Config{RootCAs: roots})
	return c.await(ctx, "kube-apiserver", p, 2*time.Minute, func(ctx context.Context) error {
		return get(ctx, topology.APIServerURL+"/readyz")
	})
}

func (c *Cluster) waitDNS(ctx context.Context, p *host.Process) error {
	get := c.getter(nil)
	return c.await(ctx, "coredns", p, time.Minute, func(ctx context.Context) error {
		return get(ctx, "http://"+controlplane.DNSReadyAddress+"/ready")
	})
}

// waitClusterIPs waits until cluster IPs are reached from inside the namespace.
// The kube-proxy there first looks half a minute for a Node of its own, in vain.
func (c *Cluster) waitClusterIPs(ctx context.Context, p *host.Process) error {
	return c.await(ctx, "kube-proxy", p, 2*time.Minute, func(ctx context.Context) error {
		conn, err := c.Namespace().DialContext(ctx, "tcp", topology.APIServiceIP+":443")
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// getter returns a function that wants status 200 from a URL inside the
// namespace.
func (c *Cluster) getter(config *tls.Config) func(context.Context, string) error {
	web := &http.Client{Transport: &http.Transport{
		DialContext: c.Namespace().DialContext, TLSClientConfig: config, DisableKeepAlives: true,
	}}
	return func(ctx context.Context, url string) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		response, err := web.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(io.LimitReader(response.Body, 4096))
		if err == nil && response.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s: %s: %s", url, response.Status, strings.TrimSpace(string(body)))
		}
		return err
	}
}

// kubectl returns the command that runs kubectl as the administrator.
func (c *Cluster) kubectl(s *state, args ...string) []string {
	program := filepath.Join(s.Artifacts.Kubernetes, "kubectl")
	return c.Namespace().Args(append([]string{program, "--kubeconfig=" + c.Kubeconfig()}, args...)...)
}

// applyBootstrap creates the objects that every cluster begins with. It tries
// again for a while: the API server is ready a moment before the namespace
// kube-system is there.
func (c *Cluster) applyBootstrap(ctx context.Context, s *state) error {
	manifests, err := controlplane.Bootstrap(s.Options.VolumeGiB)
	if err != nil {
		return err
	}
	limit, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return c.await(ctx, "kube-apiserver", s.Processes["kube-apiserver"], time.Minute, func(context.Context) error {
		return host.Command{Args: c.kubectl(s, "apply", "--server-side", "-f", "-"), Stdin: bytes.NewReader(manifests)}.Run(limit)
	})
}

// waitNodes waits until all nodes are Ready, or a machine has ended.
func (c *Cluster) waitNodes(ctx context.Context, s *state) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	names := []string{}
	for _, n := range topology.Nodes() {
		names = append(names, "node/"+n.Name)
		p := s.Processes[machinePart(n)]
		go func() {
			select {
			case <-p.Exited():
				cancel(&PartError{Part: machinePart(n), Log: p.Log, Err: errors.New("the virtual machine has ended")})
			case <-ctx.Done():
			}
		}()
	}
	args := append([]string{"wait", "--for=condition=Ready", fmt.Sprintf("--timeout=%ds", int(readyLimit.Seconds()))}, names...)
	err := host.Command{Args: c.kubectl(s, args...)}.Run(ctx)
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return c.explainNodes(ctx, s, err)
}

// explainNodes adds what the nodes that are not Ready say, on the console or
// over SSH.
func (c *Cluster) explainNodes(ctx context.Context, s *state, err error) error {
	errs := []error{err}
	cl, openErr := c.Client()
	if openErr != nil {
		return errors.Join(err, openErr)
	}
	defer cl.Close()
	for _, n := range cl.Nodes() {
		short, cancel := context.WithTimeout(ctx, 20*time.Second)
		out, runErr := n.Output(short, "systemctl --failed --no-legend; journalctl --no-pager -n 30 -u kubelet -u containerd")
		cancel()
		if runErr != nil {
			errs = append(errs, &PartError{Part: n.Name, Log: c.logFile("console-" + n.Name), Err: runErr})
			continue
		}
		errs = append(errs, fmt.Errorf("%s:\n%s", n.Name, out))
	}
	return errors.Join(errs...)
}
