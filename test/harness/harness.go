// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"errors"
	"fmt"
	"io"

	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
	clusterclient "godwit.dev/godwit/test/cluster/client"
)

// Namespace is where the chart is installed, and Release the release's name.
const (
	Namespace = "godwit-system"
	Release   = "godwit"
)

// Harness is access to one cluster.
type Harness struct {
	Config
	// Client reads and writes API objects, past any cache.
	client.WithWatch
	// REST is how to reach the API server.
	REST *rest.Config
	// Nodes reaches the cluster's nodes.
	Nodes *clusterclient.Cluster
	// Log receives the output of programs that are run, such as helm.
	Log io.Writer
}

// New opens the cluster that c names. Close ends its connections.
func New(c Config, log io.Writer) (*Harness, error) {
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	// The client's default of 5 requests a second would be felt.
	config.QPS, config.Burst = 50, 100
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	kube, err := client.NewWithWatch(config, client.Options{Scheme: scheme})
	if err != nil {
		return nil, fmt.Errorf("API client: %w", err)
	}
	nodes, err := clusterclient.FromEnvironment()
	if err != nil {
		return nil, err
	}
	return &Harness{Config: c, WithWatch: kube, REST: config, Nodes: nodes, Log: log}, nil
}

// Close ends the connections to the nodes.
func (h *Harness) Close() error { return h.Nodes.Close() }
