// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"godwit.dev/godwit/api/v1alpha1"
)

// stranded is a migration whose target was lost after the commit.
func stranded() *v1alpha1.Migration {
	s := recorded()[2]
	s.Message = "committed, but the target is lost: node n2 is not Ready"
	s.Handover = &v1alpha1.Handover{State: v1alpha1.HandoverCommitted, By: "target/n2", ManifestDigest: "d"}
	s.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionTargetLost, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonTargetNodeNotReady}}
	return existing(s)
}

// answers makes the cluster answer each request as the manager does: the status
// first, then the request is removed. It returns the requests.
func (cl *cluster) answers(outcome v1alpha1.ResolutionOutcome, message string) *[]string {
	var asked []string
	cl.WithWatch = interceptor.NewClient(cl.WithWatch, interceptor.Funcs{
		Patch: func(ctx context.Context, c client.WithWatch, obj client.Object, patch client.Patch, opts ...client.PatchOption) error {
			if err := c.Patch(ctx, obj, patch, opts...); err != nil {
				return err
			}
			m := &v1alpha1.Migration{}
			must(cl.t, c.Get(ctx, client.ObjectKeyFromObject(obj), m))
			request := m.Annotations[v1alpha1.AnnotationResolve]
			asked = append(asked, request)
			m.Status.Resolution = &v1alpha1.Resolution{Request: v1alpha1.ResolveRequest(request), Outcome: outcome, Message: message}
			must(cl.t, c.Status().Update(ctx, m))
			delete(m.Annotations, v1alpha1.AnnotationResolve)
			return c.Update(ctx, m)
		},
	})
	return &asked
}

func TestResolveAsksForWhatTheFlagsSay(t *testing.T) {
	for args, want := range map[string]v1alpha1.ResolveRequest{
		"--source":                 v1alpha1.ResolveSource,
		"--target":                 v1alpha1.ResolveTarget,
		"--source --force --yes":   v1alpha1.ResolveForceSource,
		"--target --force --yes":   v1alpha1.ResolveForceTarget,
		"--target --force":         v1alpha1.ResolveForceTarget, // confirmed
		"--source --yes":           v1alpha1.ResolveSource,
		"--force --source --yes=0": v1alpha1.ResolveForceSource, // confirmed
	} {
		t.Run(args, func(t *testing.T) {
			cl := newCluster(t, stranded())
			cl.typed = "redis-0-x7k2p\n"
			asked := cl.answers(v1alpha1.ResolutionAccepted, "it is done")
			out, err := cl.migrate(t.Context(), append([]string{"resolve", "mig/redis-0-x7k2p"}, strings.Fields(args)...)...)
			must(t, err)
			if len(*asked) != 1 || (*asked)[0] != string(want) {
				t.Errorf("asked for %q, want %s", *asked, want)
			}
			known, done := strings.Index(out, "node n2 is not Ready"), strings.Index(out, "resolved: it is done")
			if known != strings.Index(out, "node n2") || known < 0 || done < known {
				t.Errorf("printed %q", out)
			}
		})
	}
}

func TestForceWantsToBeConfirmed(t *testing.T) {
	for _, typed := range []string{"", "\n", "yes\n", "redis-0\n"} {
		cl := newCluster(t, stranded())
		cl.typed = typed
		asked := cl.answers(v1alpha1.ResolutionAccepted, "")
		out, err := cl.migrate(t.Context(), "resolve", "redis-0-x7k2p", "--source", "--force")
		if err == nil || !strings.Contains(err.Error(), "nothing was done") || len(*asked) != 0 {
			t.Errorf("%q: %v, asked for %q", typed, err, *asked)
		}
		if !strings.Contains(out, "runs twice") {
			t.Errorf("does not say what can happen: %q", out)
		}
	}
}

func TestARefusedResolutionSaysWhatIsMissing(t *testing.T) {
	cl := newCluster(t, stranded())
	cl.answers(v1alpha1.ResolutionRefused, "the target pod is not deleted")
	if _, err := cl.migrate(t.Context(), "resolve", "redis-0-x7k2p", "--source"); err == nil || !strings.Contains(err.Error(), "refused: the target pod is not deleted") {
		t.Errorf("got %v", err)
	}
}

func TestResolveThatNobodyAnswersSaysSo(t *testing.T) {
	cl := newCluster(t, stranded())
	_, err := cl.migrate(t.Context(), "resolve", "redis-0-x7k2p", "--source", "--answer-timeout", "1ms")
	if err == nil || !strings.Contains(err.Error(), "is the manager running?") {
		t.Errorf("got %v", err)
	}
}

func TestOnlyACommittedMigrationIsResolved(t *testing.T) {
	done := stranded()
	done.Status.Phase = v1alpha1.PhaseSucceeded
	pending := stranded()
	pending.Annotations = map[string]string{v1alpha1.AnnotationResolve: "Target"}
	for name, tc := range map[string]struct {
		m    *v1alpha1.Migration
		says string
	}{
		"finished":      {done, "is finished already"},
		"not committed": {existing(recorded()[1]), "cancel it instead"},
		"asked before":  {pending, "already"},
	} {
		t.Run(name, func(t *testing.T) {
			cl := newCluster(t, tc.m)
			asked := cl.answers(v1alpha1.ResolutionAccepted, "")
			_, err := cl.migrate(t.Context(), "resolve", "redis-0-x7k2p", "--source")
			if err == nil || !strings.Contains(err.Error(), tc.says) || len(*asked) != 0 {
				t.Errorf("%v, asked for %q", err, *asked)
			}
		})
	}
	for _, args := range []string{"resolve", "resolve m", "resolve m --force", "resolve m --source --target"} {
		if _, err := newCluster(t, stranded()).migrate(t.Context(), strings.Fields(args)...); err == nil {
			t.Errorf("%q is not refused", args)
		}
	}
}
