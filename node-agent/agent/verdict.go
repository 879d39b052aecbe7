// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
	"godwit.dev/godwit/internal/wire"
)

// verdict decides what a create is. Only the API says what is to be restored:
// a Migration whose target is this very pod on this node.
func (p *parking) verdict(ctx context.Context, req wire.Request) wire.Reply {
	m, err := p.migrationOf(ctx, req.PodUID)
	if req.Result != nil {
		if m != nil {
			p.settle(req)
		}
		return wire.Reply{Version: wire.Version, Verdict: wire.Noted}
	}
	reply := p.verdictOf(ctx, m, err, req)
	if req.Parked && reply.Verdict == wire.Pass {
		// Another agent has seen that it is to be restored. That the Migration has
		// ended since then does not let it start from its image.
		return failReply(v1alpha1.ReasonCancelled, "the migration that this create was parked for has ended")
	}
	return reply
}

func (p *parking) verdictOf(ctx context.Context, m *v1alpha1.Migration, err error, req wire.Request) wire.Reply {
	switch {
	case err != nil:
		return failReply(v1alpha1.ReasonAgentError, "cannot tell whether the container is to be restored: "+err.Error())
	case m == nil && p.agent.confirmed(req.PodUID, req.ContainerName):
		return wire.Reply{Version: wire.Version, Verdict: wire.Pass}
	case m == nil:
		return p.withoutMigration(ctx, req)
	}
	consumed := p.agent.consumed(req.PodUID, req.ContainerName)
	if consumed && !targetOwns(m) {
		// It ran here, but the source is not out of the game: a cache that is
		// behind must not keep it from starting again.
		if err := p.agent.Live.Get(ctx, client.ObjectKeyFromObject(m), m); err != nil {
			return failReply(v1alpha1.ReasonAgentError, "cannot tell which side owns the pod: "+err.Error())
		}
	}
	if h := m.Status.Handover; h != nil && h.State == v1alpha1.HandoverAborted {
		return failReply(v1alpha1.ReasonCancelled, fmt.Sprintf("the source keeps the pod of migration %s/%s; this one is being removed", m.Namespace, m.Name))
	}
	t := m.Status.Target
	switch {
	case targetOwns(m):
		// Restored before; this is a restart like any other.
		if err := wire.Confirm(p.agent.RunDir, req.PodUID); err != nil {
			return failReply(v1alpha1.ReasonAgentError, err.Error())
		}
		return wire.Reply{Version: wire.Version, Verdict: wire.Pass}
	case consumed, t.TreeGoneAt != nil, t.State == v1alpha1.TargetRestored && !migration.Finished(m.Status.Phase):
		// It ran, or may have (the mark may have gone with a restart of the node),
		// and nobody has confirmed it. What is frozen on the source may be all that is
		// left; a fresh start here would cost it that.
		return failReply(v1alpha1.ReasonProcessLost, fmt.Sprintf("what migration %s/%s had restored is not confirmed to run, and its source is kept; see the migration", m.Namespace, m.Name))
	case migration.IsPlaceholder(m) && m.Status.Handover != nil:
		return failReply(v1alpha1.ReasonCancelled, fmt.Sprintf("this pod only kept the place of migration %s/%s; it is being removed", m.Namespace, m.Name))
	case m.Status.Phase == v1alpha1.PhaseReplacing:
		// A restore that has failed is tried again.
	case m.Status.Phase == v1alpha1.PhaseRollingBack, migration.Finished(m.Status.Phase), t.Failure != nil:
		return failReply(v1alpha1.ReasonCancelled, fmt.Sprintf("migration %s/%s was rolled back; this pod is being removed", m.Namespace, m.Name))
	}
	return p.inTurn(ctx, m, req)
}

// inTurn parks a create, unless that of the pod's first container has to come before:
// what the containers share comes with the first one. Kubelet creates them in turn, but
// goes on with the next one when a create has failed, and then it tries again.
func (p *parking) inTurn(ctx context.Context, m *v1alpha1.Migration, req wire.Request) wire.Reply {
	var pod corev1.Pod
	key := client.ObjectKey{Namespace: m.Namespace, Name: m.Status.Target.PodName}
	if err := p.agent.Client.Get(ctx, key, &pod); err == nil && string(pod.UID) == req.PodUID {
		if first := migration.Containers(&pod)[0].Name; first != req.ContainerName &&
			!p.agent.consumed(req.PodUID, first) && !p.agent.stoodStill(req.PodUID, first) {
			return failReply(v1alpha1.ReasonNotInTurn, fmt.Sprintf("container %s is restored before %s", first, req.ContainerName))
		}
	}
	return wire.Reply{Version: wire.Version, Verdict: wire.Park}
}

// targetOwns says whether the target was confirmed: the source is out of the game.
func targetOwns(m *v1alpha1.Migration) bool {
	return m.Status.Phase == v1alpha1.PhaseCompleting || m.Status.Phase == v1alpha1.PhaseSucceeded
}

// withoutMigration decides a create that no Migration claims. A target that has
// never run was to be restored, and its Migration was removed by force: started
// from its image it would be a second, empty copy. One that has run before was
// restored once, whatever has become of the mark on the node.
func (p *parking) withoutMigration(ctx context.Context, req wire.Request) wire.Reply {
	var pods corev1.PodList
	if err := p.agent.Client.List(ctx, &pods); err != nil {
		return failReply(v1alpha1.ReasonAgentError, "cannot tell whether the container is to be restored: "+err.Error())
	}
	for i := range pods.Items {
		if pod := &pods.Items[i]; string(pod.UID) == req.PodUID && isTarget(pod) && (!hasRun(pod, req.ContainerName) || p.agent.stoodStill(req.PodUID, req.ContainerName)) {
			return failReply(v1alpha1.ReasonCancelled, "the migration that this pod was made for is gone and it was never restored; delete the pod")
		}
	}
	return wire.Reply{Version: wire.Version, Verdict: wire.Pass}
}

// isTarget says whether a pod was made as the target of a migration: only those
// have the gate.
func isTarget(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == v1alpha1.GateContainerName })
}

// hasRun says whether kubelet has ever seen a container of a pod run.
func hasRun(pod *corev1.Pod, container string) bool {
	s := migration.ContainerStatus(pod, container)
	return s != nil && migration.HasRun(s, "")
}

// migrationOf finds the Migration whose target is the pod with this UID. The
// cache may be behind, but the gate makes sure that a target's UID has been
// published long before its containers are created; finished ones are the only
// doubt, and for those the mark on the node and the live read decide.
func (p *parking) migrationOf(ctx context.Context, podUID string) (*v1alpha1.Migration, error) {
	var list v1alpha1.MigrationList
	if err := p.agent.Client.List(ctx, &list); err != nil {
		return nil, err
	}
	for i := range list.Items {
		if t := list.Items[i].Status.Target; t != nil && t.NodeName == p.agent.NodeName && string(t.PodUID) == podUID {
			return &list.Items[i], nil
		}
	}
	return nil, nil
}
