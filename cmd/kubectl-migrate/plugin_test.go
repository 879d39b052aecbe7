// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/yaml"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/progress"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// cluster is an API server with a controller that plays recorded statuses.
type cluster struct {
	client.WithWatch
	t *testing.T
	// play is what becomes of a Migration once somebody watches it.
	play    []v1alpha1.MigrationStatus
	played  sync.Once
	deleted []string
	// expire makes the first watch end with an expired resource version.
	expire bool
	// typed is what the user types.
	typed string
	wg    sync.WaitGroup
}

func newCluster(t *testing.T, objs ...client.Object) *cluster {
	t.Helper()
	scheme, err := newScheme()
	must(t, err)
	cl := &cluster{t: t}
	base := fake.NewClientBuilder().WithScheme(scheme).WithObjects(objs...).WithStatusSubresource(&v1alpha1.Migration{})
	cl.WithWatch = base.WithInterceptorFuncs(interceptor.Funcs{
		Watch: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) (watch.Interface, error) {
			if cl.expire {
				cl.expire = false
				w := watch.NewFakeWithChanSize(1, false)
				w.Error(&metav1.Status{Status: metav1.StatusFailure, Code: http.StatusGone, Reason: metav1.StatusReasonExpired})
				return w, nil
			}
			w, err := c.Watch(ctx, list, opts...)
			if err == nil {
				cl.played.Do(func() { cl.wg.Go(func() { cl.perform(c) }) })
			}
			return w, err
		},
		Delete: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.DeleteOption) error {
			cl.deleted = append(cl.deleted, obj.GetName())
			return c.Delete(ctx, obj, opts...)
		},
	}).Build()
	t.Cleanup(cl.wg.Wait)
	return cl
}

// perform writes the statuses of the only Migration one after the other.
func (cl *cluster) perform(c client.Client) {
	for _, s := range cl.play {
		var list v1alpha1.MigrationList
		if err := c.List(context.Background(), &list); err != nil || len(list.Items) == 0 {
			cl.t.Errorf("nothing to perform on: %v", err)
			return
		}
		m := &list.Items[0]
		m.Status = s
		if err := c.Status().Update(context.Background(), m); err != nil {
			cl.t.Error(err)
			return
		}
	}
}

func (cl *cluster) migrations() []v1alpha1.Migration {
	var list v1alpha1.MigrationList
	must(cl.t, cl.List(context.Background(), &list))
	return list.Items
}

// migrate runs the plugin.
func (cl *cluster) migrate(ctx context.Context, args ...string) (stdout string, err error) {
	var out, errOut bytes.Buffer
	o := newOptions(genericiooptions.IOStreams{In: strings.NewReader(cl.typed), Out: &out, ErrOut: &errOut})
	o.connect = func() (client.WithWatch, string, error) { return cl, "default", nil }
	cmd := newCommand(o)
	cmd.SetArgs(args)
	err = cmd.ExecuteContext(ctx)
	if errOut.Len() > 0 {
		cl.t.Errorf("standard error: %s", errOut.String())
	}
	return out.String(), err
}

func span(d time.Duration) *metav1.Duration { return &metav1.Duration{Duration: d} }

// recorded is how a migration went.
func recorded() []v1alpha1.MigrationStatus {
	end := metav1.NewTime(time.Date(2026, 3, 1, 12, 0, 14, 0, time.UTC))
	source := func(s v1alpha1.SourceState, rounds ...v1alpha1.RoundStatus) *v1alpha1.SourceStatus {
		return &v1alpha1.SourceStatus{
			PodRef: v1alpha1.PodRef{NodeName: "n1", PodName: "redis-0"},
			SourceReport: v1alpha1.SourceReport{State: s, ResidentBytes: 140 << 20,
				Containers: []v1alpha1.SourceContainerStatus{{Name: "redis", Rounds: rounds}}},
		}
	}
	target := func(s v1alpha1.TargetState) *v1alpha1.TargetStatus {
		return &v1alpha1.TargetStatus{PodRef: v1alpha1.PodRef{NodeName: "n2", PodName: "redis-0-b2"}, TargetReport: v1alpha1.TargetReport{State: s}}
	}
	round := v1alpha1.RoundStatus{Index: 0, DumpStatus: v1alpha1.DumpStatus{Bytes: 136 << 20, Duration: *span(3 * time.Second)},
		DirtyBytes: 12 << 20, PredictedDowntime: span(time.Second)}
	return []v1alpha1.MigrationStatus{
		{Phase: v1alpha1.PhasePreparing, Source: source(v1alpha1.SourceChecked)},
		{Phase: v1alpha1.PhasePreCopying, Source: source(v1alpha1.SourcePreCopying, round), Target: target(v1alpha1.TargetGated)},
		{Phase: v1alpha1.PhaseSwitchingOver, Source: source(v1alpha1.SourceFrozen, round), Target: target(v1alpha1.TargetParked)},
		{Phase: v1alpha1.PhaseSucceeded, Source: source(v1alpha1.SourceCleaned, round), Target: target(v1alpha1.TargetCleaned),
			Downtime:       &v1alpha1.DowntimeStatus{Total: *span(2 * time.Second), FreezeAndDump: *span(time.Second), Restore: *span(time.Second)},
			CompletionTime: &end, BytesTransferred: 150 << 20},
	}
}

func refused() []v1alpha1.MigrationStatus {
	f := v1alpha1.Failure{Reason: v1alpha1.ReasonMultipathTCP, Container: "app", Message: "set GODEBUG=multipathtcp=0"}
	return []v1alpha1.MigrationStatus{{
		Phase: v1alpha1.PhaseFailed, Failure: &v1alpha1.Failure{Reason: v1alpha1.ReasonPreflightRefused, Message: "one refusal"},
		Source: &v1alpha1.SourceStatus{PodRef: v1alpha1.PodRef{NodeName: "n1", PodName: "redis-0"},
			SourceReport: v1alpha1.SourceReport{State: v1alpha1.SourceRefused, Refusals: []v1alpha1.Failure{f}}},
	}}
}

func existing(status v1alpha1.MigrationStatus) *v1alpha1.Migration {
	return &v1alpha1.Migration{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "redis-0-x7k2p", UID: "uid-1", CreationTimestamp: metav1.NewTime(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))},
		Spec:       v1alpha1.MigrationSpec{PodName: "redis-0"}, Status: status,
	}
}

func TestStartCreatesWhatTheFlagsSay(t *testing.T) {
	cl := newCluster(t)
	out, err := cl.migrate(t.Context(), "start", "pod/redis-0", "--to", "n2", "--target-name", "redis-b", "--max-rounds", "0",
		"--target-downtime", "500ms", "--timeout", "5m", "--on-stall", "Abort", "--volumes", "Handoff", "--connections", "Keep", "--dry-run", "-o", "name")
	must(t, err)
	all := cl.migrations()
	if len(all) != 1 {
		t.Fatalf("%d migrations", len(all))
	}
	m := all[0]
	if out != "migration.godwit.dev/"+m.Name+"\n" || !strings.HasPrefix(m.Name, "redis-0-") || m.Namespace != "default" {
		t.Errorf("printed %q, made %s/%s", out, m.Namespace, m.Name)
	}
	zero := int32(0)
	want := v1alpha1.MigrationSpec{PodName: "redis-0", TargetNode: "n2", TargetPodName: "redis-b", DryRun: true, Timeout: span(5 * time.Minute),
		PreCopy: v1alpha1.PreCopySpec{MaxRounds: &zero, TargetDowntime: span(500 * time.Millisecond), OnStall: v1alpha1.OnStallAbort}, VolumePolicy: v1alpha1.VolumePolicyHandoff, Connections: v1alpha1.ConnectionsKeep}
	if a, b := mustJSON(t, m.Spec), mustJSON(t, want); a != b {
		t.Errorf("got %s, want %s", a, b)
	}
}

// What was not given must be absent, or the API's defaults would not apply.
func TestStartLeavesDefaultsToTheAPI(t *testing.T) {
	cl := newCluster(t)
	_, err := cl.migrate(t.Context(), "start", "redis-0")
	must(t, err)
	if got := mustJSON(t, cl.migrations()[0].Spec); got != `{"podName":"redis-0","preCopy":{}}` {
		t.Errorf("got %s", got)
	}
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	must(t, err)
	return string(b)
}

func TestArgumentsAreRefused(t *testing.T) {
	for _, args := range []string{
		"start", "start a b", "start deployment/web", "start redis-0 --on-stall Maybe", "start redis-0 --volumes Maybe", "start redis-0 --connections Maybe", "start redis-0 -o yaml", "watch", "watch pod/redis-0",
		"cancel a b", "report x -o table", "nodes n1", "check deploy/web", "unknown",
	} {
		cl := newCluster(t)
		if out, err := cl.migrate(t.Context(), strings.Fields(args)...); err == nil {
			t.Errorf("%q: %s", args, out)
		}
		if n := len(cl.migrations()); n != 0 {
			t.Errorf("%q made %d migrations", args, n)
		}
	}
}

func TestWaitShowsTheWholeStory(t *testing.T) {
	cl := newCluster(t)
	cl.play = recorded()
	out, err := cl.migrate(t.Context(), "start", "redis-0", "--wait")
	must(t, err)
	at := 0
	for _, want := range []string{" created\n", "preflight   passed, 140.0 MiB resident\n", "round 0     ", "redis-0-b2 on n2 waits for the images only",
		"switchover  ", "succeeded   redis-0-b2 runs on n2"} {
		i := strings.Index(out[at:], want)
		if i < 0 {
			t.Fatalf("no %q after byte %d of\n%s", want, at, out)
		}
		at += i
	}
}

func TestWatchFailsWhenTheMigrationDoes(t *testing.T) {
	cl := newCluster(t, existing(v1alpha1.MigrationStatus{}))
	cl.play = refused()
	out, err := cl.migrate(t.Context(), "watch", "mig/redis-0-x7k2p")
	if !errors.Is(err, errNotDone) || !strings.Contains(out, "MultipathTCP (app): set GODEBUG=multipathtcp=0") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestWatchOfAFinishedMigrationEndsAtOnce(t *testing.T) {
	all := recorded()
	cl := newCluster(t, existing(all[len(all)-1]))
	out, err := cl.migrate(t.Context(), "watch", "redis-0-x7k2p")
	if err != nil || !strings.Contains(out, "succeeded") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestWatchGoesOnAfterItExpired(t *testing.T) {
	cl := newCluster(t, existing(v1alpha1.MigrationStatus{}))
	cl.play, cl.expire = recorded(), true
	out, err := cl.migrate(t.Context(), "watch", "redis-0-x7k2p")
	if err != nil || !strings.Contains(out, "succeeded") || cl.expire {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestWatchEndsWhenTheMigrationIsDeleted(t *testing.T) {
	cl := newCluster(t, existing(v1alpha1.MigrationStatus{}))
	seen := make(chan struct{}, 1)
	done := make(chan error, 1)
	go func() {
		_, err := follow(t.Context(), cl, client.ObjectKey{Namespace: "default", Name: "redis-0-x7k2p"}, func(*v1alpha1.Migration) error {
			select {
			case seen <- struct{}{}:
			default:
			}
			return nil
		})
		done <- err
	}()
	<-seen
	// A change that arrives by the watch proves that it has begun.
	for begun := false; !begun; {
		m := cl.migrations()[0]
		m.Annotations = map[string]string{"try": time.Now().String()}
		must(t, cl.Update(t.Context(), &m))
		select {
		case <-seen:
			begun = true
		case <-time.After(10 * time.Millisecond):
		}
	}
	must(t, cl.Delete(t.Context(), existing(v1alpha1.MigrationStatus{})))
	select {
	case err := <-done:
		if !errors.Is(err, errDeleted) {
			t.Errorf("got %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it goes on watching")
	}
}

func TestInterruptedWatchSaysThatTheMigrationGoesOn(t *testing.T) {
	cl := newCluster(t, existing(v1alpha1.MigrationStatus{}))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	time.AfterFunc(50*time.Millisecond, cancel)
	_, err := cl.migrate(ctx, "watch", "redis-0-x7k2p")
	if err == nil || !strings.Contains(err.Error(), "goes on") {
		t.Errorf("got %v", err)
	}
}

func TestWatchOfAnUnknownMigrationFails(t *testing.T) {
	if _, err := newCluster(t).migrate(t.Context(), "watch", "nope"); !apierrors.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
}

func TestCancel(t *testing.T) {
	cl := newCluster(t, existing(recorded()[1]))
	out, err := cl.migrate(t.Context(), "cancel", "migration.godwit.dev/redis-0-x7k2p")
	must(t, err)
	if m := cl.migrations()[0]; m.Annotations[v1alpha1.AnnotationCancel] != "true" || m.Status.Phase != v1alpha1.PhasePreCopying {
		t.Errorf("%v %v, printed %q", m.Annotations, m.Status.Phase, out)
	}
	cl = newCluster(t, existing(refused()[0]))
	if _, err := cl.migrate(t.Context(), "cancel", "redis-0-x7k2p"); err == nil || cl.migrations()[0].Annotations != nil {
		t.Errorf("a finished migration: %v", err)
	}
}

func TestCheckPrintsTheVerdictAndLeavesNothing(t *testing.T) {
	for name, tc := range map[string]struct {
		play []v1alpha1.MigrationStatus
		say  string
		want error
	}{
		"passes":  {[]v1alpha1.MigrationStatus{{Phase: v1alpha1.PhaseSucceeded}}, "the pod can be moved", nil},
		"refused": {refused(), "set GODEBUG=multipathtcp=0", errNotDone},
	} {
		t.Run(name, func(t *testing.T) {
			cl := newCluster(t)
			cl.play = tc.play
			out, err := cl.migrate(t.Context(), "check", "redis-0", "--to", "n2")
			if !errors.Is(err, tc.want) || (err == nil) != (tc.want == nil) || !strings.Contains(out, tc.say) {
				t.Errorf("%v\n%s", err, out)
			}
			if len(cl.deleted) != 1 || !strings.HasPrefix(cl.deleted[0], "redis-0-check-") || len(cl.migrations()) != 0 {
				t.Errorf("deleted %v, left %v", cl.deleted, cl.migrations())
			}
		})
	}
}

func TestCheckWithoutAVerdictLeavesNothing(t *testing.T) {
	cl := newCluster(t)
	if _, err := cl.migrate(t.Context(), "check", "redis-0", "--timeout", "50ms"); err == nil || !strings.Contains(err.Error(), "no verdict") {
		t.Errorf("got %v", err)
	}
	if len(cl.migrations()) != 0 {
		t.Error("the migration is still there")
	}
	// Nor when the user interrupts.
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := cl.migrate(ctx, "check", "redis-0"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if len(cl.migrations()) != 0 {
		t.Error("the migration is still there")
	}
}

func TestReportFormats(t *testing.T) {
	all := recorded()
	cl := newCluster(t, existing(all[len(all)-1]))
	out, err := cl.migrate(t.Context(), "report", "redis-0-x7k2p")
	if err != nil || !strings.Contains(out, "freeze and dump  1.00 s") || !strings.Contains(out, "136.0 MiB") {
		t.Errorf("%v\n%s", err, out)
	}
	for format, decode := range map[string]func([]byte, any) error{
		"json": json.Unmarshal, "yaml": func(b []byte, v any) error { return yaml.Unmarshal(b, v) },
	} {
		out, err := cl.migrate(t.Context(), "report", "redis-0-x7k2p", "-o", format)
		must(t, err)
		var s progress.Summary
		must(t, decode([]byte(out), &s))
		if s.Phase != v1alpha1.PhaseSucceeded || len(s.Rounds) != 1 || s.Rounds[0].Bytes != 136<<20 || s.Downtime.Total.Duration != 2*time.Second || s.Took.Duration != 14*time.Second {
			t.Errorf("%s: %+v", format, s)
		}
	}
}

func TestNodes(t *testing.T) {
	node := func(name, ready, facts string, cordoned bool) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{}, Annotations: map[string]string{}}}
		n.Spec.Unschedulable = cordoned
		if ready != "" {
			n.Labels[v1alpha1.LabelNodeReady] = ready
		}
		if facts != "" {
			n.Annotations[v1alpha1.AnnotationNodeFacts] = facts
		}
		return n
	}
	full := `{"criu":"4.1.1","runc":"1.5.2","containerd":"2.4.2","kernel":"6.12.1-cloud","dirtyTracking":true}`
	cl := newCluster(t, node("n3", "", "", false), node("n1", "true", full, false), node("n2", "true", full, true),
		node("n4", "false", `{"dirtyTracking":false,"notReady":"criu is\tmissing\u001b[2J"}`, false), node("n5", "true", "{", false), node("n6", "", full, false))
	out, err := cl.migrate(t.Context(), "nodes")
	must(t, err)
	want := `
NODE   ABLE   DIRTY TRACKING   CRIU    RUNC    CONTAINERD   KERNEL         WHY NOT
n1     yes    yes              4.1.1   1.5.2   2.4.2        6.12.1-cloud   -
n2     yes    yes              4.1.1   1.5.2   2.4.2        6.12.1-cloud   cordoned: pods can leave it, not come
n3     no     no               -       -       -            -              no agent has reported
n4     no     no               -       -       -            -              criu is missing [2J
n5     yes    no               -       -       -            -              its facts cannot be read
n6     no     yes              4.1.1   1.5.2   2.4.2        6.12.1-cloud   its agent is away
`
	if "\n"+out != want {
		t.Errorf("got:\n%s\nwant:%s", out, want)
	}
}
