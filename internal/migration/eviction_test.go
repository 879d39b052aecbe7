// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
)

const required, best = v1alpha1.EvacuationRequired, v1alpha1.EvacuationBestEffort

func (f *EvictionFacts) evacuate(e v1alpha1.Evacuation) { f.Policy.Effective.Evacuation = e }

// failed adds so many attempts that have failed, the last one so long ago.
func (f *EvictionFacts) failed(n int, ago time.Duration) {
	for i := range n {
		m := NewEvacuation(f.Pod, f.Policy, i, f.NodeDrains)
		at := metav1.NewTime(f.Now.Add(-ago - time.Duration(n-1-i)*time.Minute))
		m.Status = v1alpha1.MigrationStatus{Phase: v1alpha1.PhaseFailed, Message: "broken", CompletionTime: &at}
		f.Migrations = append(f.Migrations, *m)
	}
}

func (f *EvictionFacts) refusedLast() {
	f.Migrations[len(f.Migrations)-1].Status.Source = &v1alpha1.SourceStatus{SourceReport: v1alpha1.SourceReport{
		Refusals: []v1alpha1.Failure{{Reason: v1alpha1.ReasonIOUring, Message: "it uses io_uring"}}}}
}

func (f *EvictionFacts) relabel(uid string) {
	for i := range f.Migrations {
		f.Migrations[i].Labels[v1alpha1.LabelEvacuationOf] = uid
	}
}

func (f *EvictionFacts) cancelAll() {
	for i := range f.Migrations {
		f.Migrations[i].Status.Phase = v1alpha1.PhaseCancelled
	}
}

// moved is a Migration that has moved the pod here.
func moved(f *EvictionFacts, from string, ago time.Duration) []v1alpha1.Migration {
	m := v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Name: "m"}, Spec: v1alpha1.MigrationSpec{PodName: from}}
	at := metav1.NewTime(f.Now.Add(-ago))
	m.Status = v1alpha1.MigrationStatus{Phase: v1alpha1.PhaseSucceeded, CompletionTime: &at,
		Source: &v1alpha1.SourceStatus{PodRef: v1alpha1.PodRef{NodeName: "n1", PodUID: "u0"}},
		Target: &v1alpha1.TargetStatus{PodRef: v1alpha1.PodRef{NodeName: "n2", PodUID: "u1"}}}
	return []v1alpha1.Migration{m}
}

func TestJudgeEviction(t *testing.T) {
	now := metav1.Now()
	moving := func(change func(*v1alpha1.Migration)) []v1alpha1.Migration {
		m := v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "m", UID: "um"}, Spec: v1alpha1.MigrationSpec{PodName: "web"}}
		m.Status.Phase = v1alpha1.PhasePreCopying
		m.Status.Source = &v1alpha1.SourceStatus{PodRef: v1alpha1.PodRef{PodName: "web", PodUID: "u1"}}
		m.Status.Source.Round, m.Status.Source.Dirty = ptr(int32(3)), "412Mi"
		if change != nil {
			change(&m)
		}
		return []v1alpha1.Migration{m}
	}
	for name, tc := range map[string]struct {
		facts  func(*EvictionFacts)
		answer EvictionAnswer
		says   string
	}{
		"nobody moves it":   {nil, EvictionAllowed, ""},
		"there is no pod":   {func(f *EvictionFacts) { f.Pod, f.Migrations = nil, moving(nil) }, EvictionAllowed, ""},
		"it is being moved": {func(f *EvictionFacts) { f.Migrations = moving(nil) }, EvictionRetry, `pod "ns/web" is being moved away by migration m, round 3, 412Mi dirty`},
		"it is being evacuated": {func(f *EvictionFacts) {
			f.Migrations = moving(func(m *v1alpha1.Migration) {
				m.Labels = map[string]string{v1alpha1.LabelEvacuationOf: "u1"}
				m.Status.Source.Convergence = &v1alpha1.ConvergenceStatus{BandwidthBytesPerSecond: 10 << 20, PredictedDowntime: &metav1.Duration{Duration: 1500 * time.Millisecond}}
				m.Status.Source.Containers = []v1alpha1.SourceContainerStatus{{Rounds: []v1alpha1.RoundStatus{{DirtyBytes: 1 << 40}, {DirtyBytes: 412 << 20}}}}
			})
		}, EvictionRetry, `Eviction triggered evacuation of pod "ns/web": migration m, round 3, 412Mi dirty, about 43s`},
		"for this very pod":  {func(f *EvictionFacts) { f.UID, f.Migrations = "u1", moving(nil) }, EvictionRetry, "migration m"},
		"for an earlier pod": {func(f *EvictionFacts) { f.UID, f.Migrations = "u0", moving(nil) }, EvictionAllowed, ""},
		"it is being deleted": {func(f *EvictionFacts) {
			f.Pod.DeletionTimestamp, f.Migrations = &now, moving(nil)
		}, EvictionAllowed, ""},
		"it has ended": {func(f *EvictionFacts) { f.Pod.Status.Phase, f.Migrations = corev1.PodFailed, moving(nil) }, EvictionAllowed, ""},
		"not looked at yet": {func(f *EvictionFacts) {
			f.Migrations = moving(func(m *v1alpha1.Migration) { m.Status = v1alpha1.MigrationStatus{} })
		}, EvictionRetry, "migration m, not begun"},
		"an earlier pod of the name was moved": {func(f *EvictionFacts) {
			f.Migrations = moving(func(m *v1alpha1.Migration) { m.Status.Source.PodUID = "u0" })
		}, EvictionAllowed, ""},
		"only a dry run of a migration": {func(f *EvictionFacts) {
			f.Migrations = moving(func(m *v1alpha1.Migration) { m.Spec.DryRun = true })
		}, EvictionAllowed, ""},
		"the migration is over": {func(f *EvictionFacts) {
			f.Migrations = moving(func(m *v1alpha1.Migration) { m.Status.Phase = v1alpha1.PhaseFailed })
		}, EvictionAllowed, ""},
		"it is a target": {func(f *EvictionFacts) {
			f.Migrations = moving(func(m *v1alpha1.Migration) {
				m.Status.Source.PodUID, m.Status.Target = "u0", &v1alpha1.TargetStatus{PodRef: v1alpha1.PodRef{PodUID: "u1"}}
			})
		}, EvictionRetry, `pod "ns/web" is what migration m moves another pod to`},
		"it is a target that was not recorded yet": {func(f *EvictionFacts) {
			f.Pod.Labels = map[string]string{v1alpha1.LabelMigration: "um"}
			f.Migrations = moving(func(m *v1alpha1.Migration) { m.Status.Source.PodUID = "u0" })
		}, EvictionRetry, "moves another pod to"},
		"moved here under its name": {func(f *EvictionFacts) { f.Migrations = moved(f, "web", time.Minute) }, EvictionGone, `pod "ns/web" has left node n1: migration m has moved it to n2`},
		"moved here a while ago":    {func(f *EvictionFacts) { f.Migrations = moved(f, "web", 3*time.Minute) }, EvictionAllowed, ""},
		"moved here, whose node drains": {func(f *EvictionFacts) {
			f.NodeDrains, f.Migrations = true, moved(f, "web", time.Minute)
		}, EvictionAllowed, ""},
		"moved here, and meant by its UID": {func(f *EvictionFacts) { f.UID, f.Migrations = "u1", moved(f, "web", time.Minute) }, EvictionAllowed, ""},
		"moved here under another name":    {func(f *EvictionFacts) { f.Migrations = moved(f, "web-0", time.Minute) }, EvictionAllowed, ""},
		"policy None":                      {func(f *EvictionFacts) { f.evacuate(v1alpha1.EvacuationNone) }, EvictionAllowed, ""},
		"a mark that is not understood":    {func(f *EvictionFacts) { f.Policy.Effective.Ignored = []string{"x=y: no"} }, EvictionAllowed, "not understood on pod ns/web: x=y: no"},
		"not running yet":                  {func(f *EvictionFacts) { f.evacuate(required); f.Pod.Status.Phase = corev1.PodPending }, EvictionAllowed, ""},
		"Required, cannot be moved":        {func(f *EvictionFacts) { f.evacuate(required); f.Pod.Spec.HostNetwork = true }, EvictionRetry, "has to be moved (evacuation Required), and cannot be (HostNetwork)"},
		"BestEffort, cannot be moved":      {func(f *EvictionFacts) { f.evacuate(best); f.Pod.Spec.HostNetwork = true }, EvictionAllowed, "cannot be moved (HostNetwork)"},
		"Required, refused on its node":    {func(f *EvictionFacts) { f.evacuate(required); f.failed(1, time.Second); f.refusedLast() }, EvictionRetry, "IOUring"},
		"Required, refused some time ago":  {func(f *EvictionFacts) { f.evacuate(required); f.failed(1, 6*time.Minute); f.refusedLast() }, EvictionRetry, "triggered evacuation"},
		"BestEffort, refused on its node":  {func(f *EvictionFacts) { f.evacuate(best); f.failed(1, time.Second); f.refusedLast() }, EvictionAllowed, "IOUring"},
		"Required, opted in":               {func(f *EvictionFacts) { f.evacuate(required) }, EvictionRetry, `Eviction triggered evacuation of pod "ns/web": migration evacuate-u1`},
		"BestEffort, opted in":             {func(f *EvictionFacts) { f.evacuate(best) }, EvictionRetry, "migration evacuate-u1"},
		"opted in, and a dry run":          {func(f *EvictionFacts) { f.evacuate(best); f.DryRun = true }, EvictionAllowed, "dry run; the eviction would be answered: Eviction triggered"},
		"failed a moment ago":              {func(f *EvictionFacts) { f.evacuate(best); f.failed(1, 4*time.Second) }, EvictionRetry, "the last of 1 attempts to move pod \"ns/web\" has ended: broken; the next one begins in about 6s"},
		"failed, and the backoff is over":  {func(f *EvictionFacts) { f.evacuate(best); f.failed(1, 11*time.Second) }, EvictionRetry, "migration evacuate-u1-2"},
		"failed twice, backoff doubled":    {func(f *EvictionFacts) { f.evacuate(best); f.failed(2, 11*time.Second) }, EvictionRetry, "begins in about 9s"},
		"BestEffort, budget spent":         {func(f *EvictionFacts) { f.evacuate(best); f.failed(3, time.Second) }, EvictionAllowed, "could not be moved in 3 attempts, lastly since broken"},
		"Required, budget spent":           {func(f *EvictionFacts) { f.evacuate(required); f.failed(3, time.Second) }, EvictionRetry, "broken"},
		"Required goes on trying":          {func(f *EvictionFacts) { f.evacuate(required); f.failed(9, 6*time.Minute) }, EvictionRetry, "migration evacuate-u1-10"},
		"failures of an earlier pod":       {func(f *EvictionFacts) { f.evacuate(best); f.failed(3, time.Second); f.relabel("u0") }, EvictionRetry, "migration evacuate-u1"},
		"cancelled ones are not failures":  {func(f *EvictionFacts) { f.evacuate(best); f.failed(3, time.Minute); f.cancelAll() }, EvictionRetry, "migration evacuate-u1-4"},
		"dry run of an eviction":           {func(f *EvictionFacts) { f.DryRun, f.Migrations = true, moving(nil) }, EvictionAllowed, "dry run; the eviction would be answered: pod"},
	} {
		t.Run(name, func(t *testing.T) {
			f := EvictionFacts{Now: now.Time, Pod: bare(), Retries: DefaultRetries}
			f.Pod.Namespace, f.Pod.Name, f.Pod.UID, f.Pod.Spec.NodeName = "ns", "web", "u1", "n2"
			if tc.facts != nil {
				tc.facts(&f)
			}
			v := JudgeEviction(f)
			if v.Answer != tc.answer || !strings.Contains(v.Message, tc.says) || tc.says == "" && v.Message != "" {
				t.Errorf("%+v, want %s saying %q", v, tc.answer, tc.says)
			}
			if (v.Create != nil) != strings.HasPrefix(v.Message, "Eviction triggered evacuation of pod \"ns/web\": migration evacuate-u1") {
				t.Errorf("creates %v, and says %q", v.Create, v.Message)
			}
		})
	}
}

func TestTheManagerLeavesLast(t *testing.T) {
	facts := func(name string, e v1alpha1.Evacuation) EvictionFacts {
		f := EvictionFacts{Pod: bare(), Retries: DefaultRetries}
		f.Pod.Name = name
		f.evacuate(e)
		return f
	}
	plain, opted := facts("plain", v1alpha1.EvacuationNone), facts("opted", best)
	for name, tc := range map[string]struct {
		dryRun, elsewhere bool
		others            []EvictionFacts
		says              string
	}{
		"alone":                    {false, false, nil, ""},
		"beside pods that may go":  {false, false, []EvictionFacts{plain}, ""},
		"beside one that is moved": {false, false, []EvictionFacts{plain, opted}, `leaves the node when pod "ns/opted" has left it`},
		"another replica is there": {false, true, []EvictionFacts{opted}, ""},
		"dry run":                  {true, false, []EvictionFacts{opted}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			v := JudgeManager(tc.dryRun, tc.elsewhere, tc.others)
			if (v.Answer == EvictionAllowed) != (tc.says == "") || !strings.Contains(v.Message, tc.says) {
				t.Errorf("%+v", v)
			}
			if v.Create != nil {
				t.Error("it creates a Migration")
			}
		})
	}
}
