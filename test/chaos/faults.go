// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/test/harness"
)

// fault is something that goes wrong.
type fault struct {
	// says what it is, for docs/reliability.md.
	says string
	// local faults are a line of shell on a node, so that they happen at once
	// when a program is seen there. It may use $pid, that program's.
	where side
	local func(ctx context.Context, r *run) (string, error)
	// anywhere: the node is the one on which the migration is held.
	anywhere bool
	// inject does what is not local.
	inject func(ctx context.Context, r *run) error
	// heal ends a fault that lasts.
	heal func(ctx context.Context, r *run) error
}

var faults = map[string]fault{
	noFault: {says: "nothing goes wrong"},

	"kill-manager":      {says: "kill -9 of the manager", inject: func(ctx context.Context, r *run) error { return r.killManager(ctx) }},
	"kill-source-agent": {says: "kill -9 of the source's agent", where: source, local: func(ctx context.Context, r *run) (string, error) { return r.killAgent(ctx, r.from) }},
	"kill-target-agent": {says: "kill -9 of the target's agent", where: target, local: func(ctx context.Context, r *run) (string, error) { return r.killAgent(ctx, r.to) }},
	"kill-wrapper": {says: "kill -9 of godwit-runc", where: target, local: func(_ context.Context, r *run) (string, error) {
		if r.held.pid == "" {
			return "", errors.New("no wrapper is held")
		}
		return "kill -9 " + r.held.pid, nil
	}},
	"kill-runc-restore": {says: "kill -9 of runc restore", anywhere: true, local: func(context.Context, *run) (string, error) {
		return "pgrep -x runc | while read -r p; do if grep -qa restore /proc/$p/cmdline; then kill -9 $p; fi; done", nil
	}},
	// It is several processes when it restores.
	"kill-criu": {says: "kill -9 of criu", anywhere: true, local: func(context.Context, *run) (string, error) { return "pkill -9 -x criu", nil }},

	"restart-containerd-source": restart("containerd", source),
	"restart-containerd-target": restart("containerd", target),
	"restart-kubelet-source":    restart("kubelet", source),
	"restart-kubelet-target":    restart("kubelet", target),

	"power-off-source": power(source),
	"power-off-target": power(target),

	"stop-nfs": {says: "the NFS server is killed, and started again after a while",
		inject: func(ctx context.Context, r *run) error { return r.Nodes.StopNFS(ctx) },
		heal:   func(ctx context.Context, r *run) error { return r.Nodes.StartNFS(ctx) }},
	"volume-full": {says: "the shared volume is full, for a while",
		inject: func(ctx context.Context, r *run) error { return r.Nodes.FillVolume(ctx) },
		heal:   func(ctx context.Context, r *run) error { return r.Nodes.FreeVolume(ctx) }},
	"pause-api": {says: "the API server stands still for a while (SIGSTOP)",
		inject: func(ctx context.Context, r *run) error { return r.Nodes.PauseAPI(ctx) },
		heal:   func(ctx context.Context, r *run) error { return r.Nodes.ResumeAPI(ctx) }},
	"restart-api": {says: "the API server is killed and started again",
		inject: func(ctx context.Context, r *run) error { return r.Nodes.RestartAPI(ctx) }},
	"cut-source": cut(source),
	"cut-target": cut(target),

	"delete": {says: "the Migration is deleted", inject: func(ctx context.Context, r *run) error { return r.Delete(ctx, r.migration.DeepCopy()) }},
	"cancel": {says: "the Migration is cancelled", inject: func(ctx context.Context, r *run) error { return r.Cancel(ctx, r.migration) }},
	"lose-leadership": {says: "another holder is written into the manager's lease, which runs out after some seconds",
		inject: func(ctx context.Context, r *run) error { return r.takeLease(ctx) }},
}

func restart(unit string, s side) fault {
	return fault{says: "systemctl restart " + unit + " on the " + s.String() + "'s node", where: s,
		local: func(context.Context, *run) (string, error) { return "systemctl restart " + unit, nil }}
}

func power(s side) fault {
	return fault{says: "the " + s.String() + "'s node loses power, and is started again after a while",
		inject: func(ctx context.Context, r *run) error {
			r.off[r.on(s)] = true
			return r.Nodes.PowerOff(ctx, r.on(s))
		},
		heal: func(ctx context.Context, r *run) error {
			if err := r.Nodes.PowerOn(ctx, r.on(s)); err != nil {
				return err
			}
			delete(r.off, r.on(s))
			n, err := r.Nodes.Node(r.on(s))
			if err != nil {
				return err
			}
			r.watcher.follow(n)
			return r.clearPoints(ctx)
		}}
}

func cut(s side) fault {
	return fault{says: "the " + s.String() + "'s node and its pods do not reach the API server, for a while",
		inject: func(ctx context.Context, r *run) error { return r.Nodes.CutAPI(ctx, r.on(s)) },
		heal:   func(ctx context.Context, r *run) error { return r.Nodes.HealAPI(ctx) }}
}

func (s side) String() string {
	if s == source {
		return "source"
	}
	return "target"
}

func (r *run) on(s side) string {
	if s == source {
		return r.from
	}
	return r.to
}

func (r *run) killManager(ctx context.Context) error {
	pod, err := r.Manager(ctx)
	if err != nil {
		return err
	}
	c, err := r.Look(pod)
	if err != nil {
		return err
	}
	return c.Signal(ctx, "KILL")
}

// killAgent is the shell that kills a node's agent.
func (r *run) killAgent(ctx context.Context, node string) (string, error) {
	pod, err := r.AgentOn(ctx, node)
	if err != nil {
		return "", err
	}
	c, err := r.Look(pod)
	if err != nil {
		return "", err
	}
	pids, err := c.Processes(ctx)
	if err != nil {
		return "", err
	}
	if len(pids) == 0 {
		return "", fmt.Errorf("the agent on %s has no process", node)
	}
	return "kill -9 " + strings.Trim(fmt.Sprint(pids), "[]"), nil
}

// takeLease makes the manager lose its leadership to a holder who is not there:
// the manager must end at once, and whoever starts next waits until that holder
// counts as gone.
func (r *run) takeLease(ctx context.Context) error {
	var leases coordinationv1.LeaseList
	if err := r.List(ctx, &leases, client.InNamespace(harness.Namespace)); err != nil {
		return err
	}
	for i := range leases.Items {
		l := &leases.Items[i]
		l.Spec.HolderIdentity = ptr.To("chaos")
		l.Spec.RenewTime = &metav1.MicroTime{Time: time.Now()}
		return r.Update(ctx, l)
	}
	return errors.New("the manager holds no lease")
}

// strike injects the fault, at the moment at which the step's program is seen
// when there is one. The point has been reached and holds the migration.
func (r *run) strike(ctx context.Context, name, point string, process program, where side) error {
	f := faults[name]
	line := ""
	if f.local != nil {
		var err error
		if line, err = f.local(ctx, r); err != nil {
			return err
		}
	}
	if process == "" {
		return r.strikeNow(ctx, f, line)
	}
	on := where
	if f.local != nil && !f.anywhere && f.where != where {
		return fmt.Errorf("fault %s cannot happen on the node of %q", name, process)
	}
	node, err := r.Nodes.Node(r.on(on))
	if err != nil {
		return err
	}
	then := line
	if then == "" {
		then = ":"
	}
	if err := r.whenSeen(ctx, node, process, then, func() error { return r.release(ctx, point) }); err != nil {
		return err
	}
	if f.inject != nil {
		return f.inject(ctx, r)
	}
	return nil
}

func (r *run) strikeNow(ctx context.Context, f fault, line string) error {
	if line != "" {
		node := r.held.node
		if !f.anywhere {
			var err error
			if node, err = r.Nodes.Node(r.on(f.where)); err != nil {
				return err
			}
		}
		if _, err := node.RunShell(ctx, line); err != nil {
			return err
		}
	}
	if f.inject != nil {
		return f.inject(ctx, r)
	}
	return nil
}
