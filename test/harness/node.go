// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	clusterclient "godwit.dev/godwit/test/cluster/client"
)

// ImagesDir is where the nodes see the shared volume.
const ImagesDir = "/run/godwit/images"

// ErrNoCgroup says that the container has no cgroup on the node: nothing of it
// runs there.
var ErrNoCgroup = errors.New("the container has no cgroup on the node")

// OnNode is one container as its node sees it.
type OnNode struct {
	*clusterclient.Node
	// ID of the container, without scheme.
	ID string
}

// Look finds a pod's first container on its node.
func (h *Harness) Look(pod *corev1.Pod) (OnNode, error) {
	node, err := h.Nodes.Node(pod.Spec.NodeName)
	if err != nil {
		return OnNode{}, err
	}
	id := ContainerID(pod)
	if id == "" {
		return OnNode{}, fmt.Errorf("pod %s has no container yet", pod.Name)
	}
	return OnNode{Node: node, ID: id}, nil
}

// Cgroup is the directory of the container's cgroup; ErrNoCgroup when there is
// none.
func (c OnNode) Cgroup(ctx context.Context) (string, error) {
	out, err := c.Output(ctx, "find /sys/fs/cgroup -type d -name 'cri-containerd-"+c.ID+".scope' -print -quit")
	if err != nil {
		return "", err
	}
	if out == "" {
		return "", fmt.Errorf("%s: %w", c.Name, ErrNoCgroup)
	}
	return out, nil
}

// Processes are the pids of the container's processes on the node, none when
// nothing of it runs there.
func (c OnNode) Processes(ctx context.Context) ([]int, error) {
	dir, err := c.Cgroup(ctx)
	if errors.Is(err, ErrNoCgroup) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	// The cgroup may disappear in between.
	out, err := c.Output(ctx, "cat "+path.Join(dir, "cgroup.procs")+" 2>/dev/null || true")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, field := range strings.Fields(out) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return nil, fmt.Errorf("%s: cgroup.procs: %w", c.Name, err)
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// Read returns a file of the container's cgroup, such as "cpu.max".
func (c OnNode) Read(ctx context.Context, file string) (string, error) {
	dir, err := c.Cgroup(ctx)
	if err != nil {
		return "", err
	}
	return c.Output(ctx, "cat "+path.Join(dir, file))
}

// Signal sends a signal ("KILL", "STOP", "CONT") to all of the container's
// processes.
func (c OnNode) Signal(ctx context.Context, signal string) error {
	pids, err := c.Processes(ctx)
	if err != nil {
		return err
	}
	if len(pids) == 0 {
		return fmt.Errorf("%s: container %s has no process", c.Name, c.ID)
	}
	args := []string{"kill", "-" + signal}
	for _, pid := range pids {
		args = append(args, strconv.Itoa(pid))
	}
	_, err = c.Run(ctx, args...)
	return err
}

// AgentOn returns the pod of the agent on a node.
func (h *Harness) AgentOn(ctx context.Context, node string) (*corev1.Pod, error) {
	return h.component(ctx, "agent", func(p *corev1.Pod) bool { return p.Spec.NodeName == node })
}

// Manager returns the manager's pod.
func (h *Harness) Manager(ctx context.Context) (*corev1.Pod, error) {
	return h.component(ctx, "manager", func(*corev1.Pod) bool { return true })
}

func (h *Harness) component(ctx context.Context, name string, match func(*corev1.Pod) bool) (*corev1.Pod, error) {
	var pods corev1.PodList
	err := h.List(ctx, &pods, client.InNamespace(Namespace), client.MatchingLabels{"app.kubernetes.io/component": name})
	if err != nil {
		return nil, err
	}
	for i := range pods.Items {
		if p := &pods.Items[i]; p.DeletionTimestamp == nil && match(p) {
			return p, nil
		}
	}
	return nil, fmt.Errorf("no pod of the %s", name)
}
