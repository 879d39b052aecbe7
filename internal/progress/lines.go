// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"fmt"
	"strings"
	"time"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
)

// Line is one thing to say about a migration.
type Line struct {
	// Key tells lines apart while their text changes.
	Key string
	// Text is one line.
	Text string
	// Final lines will not change any more.
	Final bool
}

const barWidth = 24

// line writes "label       text".
func line(key, label string, final bool, format string, args ...any) Line {
	return Line{Key: key, Text: fmt.Sprintf("%-12s", label) + fmt.Sprintf(format, args...), Final: final}
}

// Lines tells the story of a migration so far, oldest first.
func Lines(m *v1alpha1.Migration) []Line {
	s := Summarize(m)
	lines := []Line{headline(m, s)}
	lines = append(lines, preflight(m)...)
	lines = append(lines, rounds(m, s)...)
	lines = append(lines, target(m)...)
	lines = append(lines, switchover(m, s)...)
	return append(lines, outcome(m, s)...)
}

func headline(m *v1alpha1.Migration, s Summary) Line {
	from, to := s.Source.NodeName, s.Target.NodeName
	if from == "" {
		from = "?"
	}
	if to == "" {
		to = "?"
	}
	what := "moves"
	if m.Spec.DryRun {
		return line("pod", "pod", s.Source.NodeName != "", "%s/%s on %s: could it move?", m.Namespace, s.Source.PodName, from)
	}
	return line("pod", "pod", s.Source.NodeName != "" && s.Target.NodeName != "", "%s/%s %s from %s to %s", m.Namespace, s.Source.PodName, what, from, to)
}

func preflight(m *v1alpha1.Migration) []Line {
	src := m.Status.Source
	switch {
	case src == nil || src.State == "":
		return nil
	case len(src.Refusals) > 0:
		lines := make([]Line, 0, len(src.Refusals))
		for i, r := range src.Refusals {
			about := r.Reason
			if r.Container != "" {
				about += " (" + r.Container + ")"
			}
			lines = append(lines, line(fmt.Sprintf("refusal/%d", i), "refused", true, "%s: %s", about, r.Message))
		}
		return lines
	}
	tracking := ""
	if t := src.DirtyTracking; t != nil && !*t {
		tracking = ", no dirty tracking: a single dump"
	}
	return []Line{line("preflight", "preflight", true, "passed, %s resident%s", Bytes(src.ResidentBytes), tracking)}
}

// rounds: the bar shows what a round wrote and, shaded, what was dirty again
// after it, both against the round with most of them.
func rounds(m *v1alpha1.Migration, s Summary) []Line {
	whole := int64(1)
	for _, r := range s.Rounds {
		whole = max(whole, r.Bytes+r.DirtyBytes)
	}
	containers := 1
	if m.Status.Source != nil {
		containers = max(1, len(m.Status.Source.Containers))
	}
	var lines []Line
	for i, r := range s.Rounds {
		predicted := ""
		if r.PredictedDowntime != nil {
			predicted = ", downtime would be " + Duration(r.PredictedDowntime.Duration)
		}
		// The dirty memory is counted just after the round; a later round
		// makes what is known of this one final.
		known := r.Containers == containers && (r.PredictedDowntime != nil || i < len(s.Rounds)-1 || m.Status.Phase != v1alpha1.PhasePreCopying)
		lines = append(lines, line(fmt.Sprintf("round/%d", r.Index), fmt.Sprintf("round %d", r.Index), known,
			"%s %10s in %s, frozen %s, %s dirty again%s", Bar(barWidth, whole, r.Bytes, r.DirtyBytes),
			Bytes(r.Bytes), Duration(r.Duration.Duration), Duration(r.Frozen.Duration), Bytes(r.DirtyBytes), predicted))
	}
	if src := m.Status.Source; m.Status.Phase == v1alpha1.PhasePreCopying && src != nil {
		switch c := src.Convergence; {
		case src.State == v1alpha1.SourcePreCopying && (c == nil || c.Verdict == v1alpha1.VerdictContinue):
			lines = append(lines, line("copying", fmt.Sprintf("round %d", len(s.Rounds)), false, "copying …"))
		case c != nil:
			lines = append(lines, line("convergence/"+string(c.Verdict), "pre-copy", true, "%s", sentence(c.Message, c.Reason)))
		}
	}
	return lines
}

func target(m *v1alpha1.Migration) []Line {
	t := m.Status.Target
	if t == nil || t.PodName == "" || m.Spec.DryRun {
		return nil
	}
	what, final := "", false
	switch t.State {
	case "":
		what = "is being brought up"
	case v1alpha1.TargetGated:
		what = "waits at its gate"
	case v1alpha1.TargetReleased:
		what = "is let through its gate"
	case v1alpha1.TargetParked:
		what, final = "waits for the images only", true
	case v1alpha1.TargetRestoring, v1alpha1.TargetRestored:
		what, final = "took over", true
	case v1alpha1.TargetFailed, v1alpha1.TargetReverted:
		what, final = "failed", true
		if t.Failure != nil {
			what += ", " + t.Failure.Reason + ": " + t.Failure.Message
		}
	case v1alpha1.TargetCleaned:
		return nil
	}
	key := "target"
	if final {
		key += "/" + what
	}
	return []Line{line(key, "target", final, "%s on %s %s, %s verified", t.PodName, nodeOf(t.NodeName), what, count(t.VerifiedRounds, "round"))}
}

// count writes "1 round", "2 rounds".
func count(n int32, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

func nodeOf(name string) string {
	if name == "" {
		return "a node yet to be chosen"
	}
	return name
}

func switchover(m *v1alpha1.Migration, s Summary) []Line {
	if d := s.Downtime; d != nil {
		var shares []int64
		var sum []string
		for _, p := range downtimeParts(d) {
			shares, sum = append(shares, int64(p.took)), append(sum, p.label+" "+Duration(p.took))
		}
		return []Line{line("switchover", "switchover", true, "%s %10s = %s",
			Bar(barWidth, int64(d.Total.Duration), shares...), Duration(d.Total.Duration), strings.Join(sum, " + "))}
	}
	src := m.Status.Source
	if src == nil || m.Status.Phase != v1alpha1.PhaseSwitchingOver && m.Status.Phase != v1alpha1.PhaseReplacing {
		return nil
	}
	what := "arming"
	switch h := m.Status.Handover; {
	case m.Status.Phase == v1alpha1.PhaseReplacing:
		what = "committed, the pod is made again and restored"
	case h != nil && h.State == v1alpha1.HandoverCommitted:
		what = "committed, restoring"
	case src.State == v1alpha1.SourceDumped:
		what = "frozen and dumped, the target verifies"
	case src.State == v1alpha1.SourceFrozen:
		what = "frozen, dumping"
	case src.State == v1alpha1.SourceReady:
		what = "about to be frozen"
	}
	if s.Final != nil {
		what += ", " + Bytes(s.Final.Bytes) + " in the final dump"
	}
	return []Line{line("switchover", "switchover", false, "%s …", what)}
}

func outcome(m *v1alpha1.Migration, s Summary) []Line {
	switch m.Status.Phase {
	case v1alpha1.PhaseRollingBack:
		return []Line{line("rollback", "rolling back", true, "%s", failure(m))}
	case v1alpha1.PhaseFailed, v1alpha1.PhaseCancelled:
		return []Line{line("outcome", strings.ToLower(string(m.Status.Phase)), true, "%s", failure(m))}
	case v1alpha1.PhaseSucceeded:
		if m.Spec.DryRun {
			return []Line{line("outcome", "result", true, "the pod can be moved")}
		}
		downtime := ""
		if s.Downtime != nil {
			downtime = ", down for " + Duration(s.Downtime.Total.Duration)
		}
		return []Line{line("outcome", "succeeded", true, "%s runs on %s after %s, %s moved%s",
			s.Target.PodName, s.Target.NodeName, Duration(s.Took.Round(time.Second)), Bytes(s.BytesTransferred), downtime)}
	case v1alpha1.PhaseCompleting:
		return []Line{line("completing", "completing", false, "the target runs, the source is being removed")}
	}
	if migration.CancelRequested(m) {
		return []Line{line("cancel", "cancelling", true, "asked to stop")}
	}
	return nil
}

func failure(m *v1alpha1.Migration) string {
	if f := m.Status.Failure; f != nil {
		return f.Reason + ": " + f.Message
	}
	return sentence(m.Status.Message, "no reason given")
}

func sentence(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
