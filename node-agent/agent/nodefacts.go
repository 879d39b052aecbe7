// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"fmt"
	goruntime "runtime"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/node-agent/runtime"
)

// factsInterval is how often a node's abilities are looked at again: packages
// are upgraded under a running agent.
const factsInterval = 5 * time.Minute

// notReadyInterval is how often while the node cannot take part.
const notReadyInterval = 3 * time.Second

// NodeReporter keeps the abilities of a node on its Node object, as labels for
// the scheduler and an annotation for the controller.
type NodeReporter struct {
	NodeName string
	Client   client.Client
	Prober   runtime.NodeProber
	// Ready returns why the node cannot take part for another reason than its
	// abilities (the runtime handler is not installed, say); nil when it can.
	Ready func() error
	// Fence returns what LabelNodeFence says; nil for FenceBudget. FenceChanged
	// tells that it returns something else now.
	Fence        func() string
	FenceChanged <-chan struct{}
	// Settled is closed when Ready has a first answer; until then an agent that
	// restarts leaves its node's facts as they are. nil: at once.
	Settled <-chan struct{}
}

// Start reports until ctx ends. It implements manager.Runnable.
func (r *NodeReporter) Start(ctx context.Context) error {
	log := ctrl.Log.WithName("node-facts")
	if r.Settled != nil {
		select {
		case <-ctx.Done():
			return nil
		case <-r.Settled:
		}
	}
	for {
		next := factsInterval
		ready, err := r.report(ctx)
		if err != nil && ctx.Err() == nil {
			log.Error(err, "report node facts")
		}
		if !ready {
			next = notReadyInterval
		}
		t := time.NewTimer(next)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-r.FenceChanged:
			t.Stop()
		case <-t.C:
		}
	}
}

// report publishes the facts and returns whether the node can take part.
func (r *NodeReporter) report(ctx context.Context) (bool, error) {
	probe, err := r.Prober.Probe(ctx)
	if err != nil {
		return false, fmt.Errorf("probe: %w", err)
	}
	f := factsOf(probe)
	if f.NotReady == "" && r.Ready != nil {
		if err := r.Ready(); err != nil {
			f.NotReady = err.Error()
		}
	}
	fence := v1alpha1.FenceBudget
	if r.Fence != nil {
		fence = r.Fence()
	}
	raw, err := json.Marshal(f)
	if err != nil {
		return false, err
	}
	u := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Node",
		"metadata": map[string]any{
			"name": r.NodeName,
			"labels": map[string]any{
				v1alpha1.LabelNodeReady:         strconv.FormatBool(f.NotReady == ""),
				v1alpha1.LabelNodeFence:         fence,
				v1alpha1.LabelNodeDirtyTracking: strconv.FormatBool(f.DirtyTracking),
			},
			"annotations": map[string]any{v1alpha1.AnnotationNodeFacts: string(raw)},
		},
	}}
	if err := r.Client.Apply(ctx, client.ApplyConfigurationFromUnstructured(u),
		client.FieldOwner(v1alpha1.FieldManagerNode), client.ForceOwnership); err != nil {
		return false, fmt.Errorf("label the node: %w", notAllowed("node", err))
	}
	return f.NotReady == "", nil
}

// factsOf turns a probe into the facts that are published. Pure.
func factsOf(p runtime.Probe) v1alpha1.NodeFacts {
	f := v1alpha1.NodeFacts{
		CRIU: p.CRIU, Runc: p.Runc, Containerd: p.Containerd, Kernel: p.Kernel, Architecture: goruntime.GOARCH,
		DirtyTracking: p.DirtyTracking, CPUFeatures: p.CPUFeatures, XSaveSize: p.XSaveSize,
	}
	switch {
	case p.CRIU == "":
		f.NotReady = "criu is not installed"
	case p.Runc == "":
		f.NotReady = "runc is not on the node's PATH"
	case p.CRIUCheck != "":
		f.NotReady = "criu check: " + p.CRIUCheck
	}
	return f
}
