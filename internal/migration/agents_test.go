// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
)

func TestDecideSource(t *testing.T) {
	report := func(s v1alpha1.SourceState, n int32) v1alpha1.SourceReport {
		return v1alpha1.SourceReport{State: s, Round: &n}
	}
	failedDump := report(v1alpha1.SourceFrozen, 2)
	failedDump.Failure = &v1alpha1.Failure{Reason: v1alpha1.ReasonFinalDumpFailed}
	// An armed source after so many rounds, then changed.
	armed := func(n int32, moment MomentVerdict, changes ...func(*SourceObservation)) SourceObservation {
		o := SourceObservation{Phase: switching, Report: report(v1alpha1.SourceConverged, n), MaxRounds: 8, DirtyTracking: true, Moment: moment}
		for _, c := range changes {
			c(&o)
		}
		return o
	}
	broken := func(o *SourceObservation) { o.ChainBroken = true }
	standing := func(o *SourceObservation) { o.Standing = true }
	ready := func(o *SourceObservation) { o.Standing, o.Ready = true, true }
	verdict := func(v v1alpha1.ConvergenceVerdict) func(*SourceObservation) {
		return func(o *SourceObservation) { o.Verdict = v }
	}
	for name, tc := range map[string]struct {
		o    SourceObservation
		want SourceAction
	}{
		"nothing to do yet":           {SourceObservation{Phase: pending}, SourceIdle},
		"preflight":                   {SourceObservation{Phase: preparing}, SourcePreflight},
		"preflight is done":           {SourceObservation{Phase: preparing, Report: report(v1alpha1.SourceChecked, 0)}, SourceIdle},
		"first round":                 {SourceObservation{Phase: preCopying, Report: report(v1alpha1.SourceChecked, 0), MaxRounds: 8, DirtyTracking: true}, SourceRound},
		"next round":                  {SourceObservation{Phase: preCopying, Report: report(v1alpha1.SourcePreCopying, 3), MaxRounds: 8, DirtyTracking: true}, SourceRound},
		"single dump wanted":          {SourceObservation{Phase: preCopying, Report: report(v1alpha1.SourceChecked, 0), DirtyTracking: true}, SourceConverge},
		"no dirty tracking":           {SourceObservation{Phase: preCopying, Report: report(v1alpha1.SourceChecked, 0), MaxRounds: 8}, SourceConverge},
		"converged":                   {SourceObservation{Phase: preCopying, Report: report(v1alpha1.SourceConverged, 3), MaxRounds: 8, DirtyTracking: true, Verdict: v1alpha1.VerdictSwitch}, SourceAwaitArm},
		"dirty again":                 {SourceObservation{Phase: preCopying, Report: report(v1alpha1.SourceConverged, 3), MaxRounds: 8, DirtyTracking: true, Verdict: v1alpha1.VerdictContinue}, SourceRound},
		"refresh":                     {SourceObservation{Phase: preCopying, Report: report(v1alpha1.SourceConverged, 3), MaxRounds: 8, DirtyTracking: true, Moment: MomentRound}, SourceRound},
		"dirty again, out of rounds":  {SourceObservation{Phase: preCopying, Report: report(v1alpha1.SourceConverged, 8), MaxRounds: 8, DirtyTracking: true, Verdict: v1alpha1.VerdictContinue}, SourceAwaitArm},
		"stalled":                     {SourceObservation{Phase: preCopying, Report: report(v1alpha1.SourceStalled, 8), MaxRounds: 8, DirtyTracking: true}, SourceIdle},
		"armed":                       {armed(3, ""), SourceStandBy},
		"armed, broken chain":         {armed(3, "", broken), SourceRound},
		"broken chain, no more":       {armed(9, "", broken), SourceStandBy},
		"nothing copied":              {armed(0, "", broken), SourceStandBy},
		"being made ready":            {armed(3, MomentRound, standing), SourceAwaitReady},
		"ready":                       {armed(3, MomentFreeze, ready), SourceSwitchover},
		"ready, within the target":    {armed(3, MomentFreeze, ready, verdict(v1alpha1.VerdictSwitch)), SourceSwitchover},
		"ready, one round pays":       {armed(8, MomentRound, ready), SourceRound},
		"ready, no more rounds":       {armed(9, MomentRound, ready), SourceSwitchover},
		"ready, in a burst":           {armed(8, MomentWait, ready), SourceAwaitMoment},
		"in a burst, no more rounds":  {armed(9, MomentWait, ready), SourceSwitchover},
		"above the target":            {armed(3, MomentFreeze, ready, verdict(v1alpha1.VerdictContinue)), SourceRound},
		"above it since it waits":     {armed(8, MomentFreeze, ready, verdict(v1alpha1.VerdictStalled)), SourceRound},
		"above it, no more rounds":    {armed(9, MomentFreeze, ready, verdict(v1alpha1.VerdictStalled)), SourceStall},
		"throttled a step further":    {armed(10, MomentFreeze, ready, verdict(v1alpha1.VerdictThrottle)), SourceRound},
		"stalled after it was armed":  {SourceObservation{Phase: switching, Report: report(v1alpha1.SourceStalled, 9), MaxRounds: 8, DirtyTracking: true, Verdict: v1alpha1.VerdictStalled}, SourceIdle},
		"agent restarted when ready":  {SourceObservation{Phase: switching, Report: report(v1alpha1.SourceReady, 3), MaxRounds: 8, DirtyTracking: true}, SourceStandBy},
		"in a burst, cancelled":       {SourceObservation{Phase: rolling, Handover: aborted, Report: report(v1alpha1.SourceConverged, 8), MaxRounds: 8, DirtyTracking: true, Moment: MomentWait}, SourceResume},
		"in a burst, not armed":       {SourceObservation{Phase: preCopying, Report: report(v1alpha1.SourceConverged, 3), MaxRounds: 8, DirtyTracking: true, Moment: MomentWait}, SourceAwaitArm},
		"restarted while frozen":      {SourceObservation{Phase: switching, Report: report(v1alpha1.SourceConverged, 3), Frozen: true}, SourceAbort},
		"restarted in the final dump": {SourceObservation{Phase: switching, Report: report(v1alpha1.SourceFrozen, 3), Frozen: true}, SourceAbort},
		"final dump failed":           {SourceObservation{Phase: switching, Report: failedDump, Frozen: true}, SourceIdle},
		"dumped":                      {SourceObservation{Phase: switching, Report: report(v1alpha1.SourceDumped, 3), Frozen: true, FrozenFor: time.Minute, SwitchoverTimeout: time.Minute}, SourceAwaitCommit},
		"frozen too long":             {SourceObservation{Phase: switching, Report: report(v1alpha1.SourceDumped, 3), Frozen: true, FrozenFor: time.Minute + 1, SwitchoverTimeout: time.Minute}, SourceAbort},
		"committed":                   {SourceObservation{Phase: switching, Handover: committed, Report: report(v1alpha1.SourceDumped, 3), Frozen: true, FrozenFor: time.Hour, SwitchoverTimeout: time.Minute}, SourceIdle},
		"completing, pod is there":    {SourceObservation{Phase: completing, Handover: committed, Report: report(v1alpha1.SourceDumped, 3), Frozen: true}, SourceTellPeers},
		"completing, peers are told":  {SourceObservation{Phase: completing, Handover: committed, Report: report(v1alpha1.SourceDumped, 3), Frozen: true, PeersTold: true}, SourceIdle},
		"completing, pod is gone":     {SourceObservation{Phase: completing, Handover: committed, Report: report(v1alpha1.SourceDumped, 3), PodGone: true}, SourceKill},
		"pods deleted by users":       {SourceObservation{Phase: failed, Handover: committed, Report: report(v1alpha1.SourceDumped, 3), PodGone: true}, SourceKill},
		"killed":                      {SourceObservation{Phase: completing, Handover: committed, Report: report(v1alpha1.SourceKilled, 3), PodGone: true}, SourceClean},
		"cleaned":                     {SourceObservation{Phase: completing, Handover: committed, Report: report(v1alpha1.SourceCleaned, 3), PodGone: true}, SourceIdle},
		"aborted while frozen":        {SourceObservation{Phase: rolling, Handover: aborted, Report: report(v1alpha1.SourceDumped, 3), Frozen: true}, SourceResume},
		"aborted before the freeze":   {SourceObservation{Phase: rolling, Handover: aborted, Report: report(v1alpha1.SourceConverged, 3)}, SourceResume},
		"aborted, phase not yet":      {SourceObservation{Phase: switching, Handover: aborted, Report: report(v1alpha1.SourceDumped, 3), Frozen: true}, SourceResume},
		"resumed":                     {SourceObservation{Phase: rolling, Handover: aborted, Report: report(v1alpha1.SourceResumed, 3)}, SourceClean},
		"resumed, frozen again":       {SourceObservation{Phase: rolling, Handover: aborted, Report: report(v1alpha1.SourceCleaned, 3), Frozen: true}, SourceResume},
		"aborted, pod gone":           {SourceObservation{Phase: rolling, Handover: aborted, Report: report(v1alpha1.SourceDumped, 3), PodGone: true}, SourceClean},
		"rolled back":                 {SourceObservation{Phase: failed, Handover: aborted, Report: report(v1alpha1.SourceCleaned, 3)}, SourceIdle},
	} {
		t.Run(name, func(t *testing.T) {
			if got := DecideSource(tc.o); got != tc.want {
				t.Errorf("DecideSource = %s, want %s", got, tc.want)
			}
		})
	}
}

func TestDecideTarget(t *testing.T) {
	// A target in that phase with two rounds read, then changed.
	at := func(phase v1alpha1.MigrationPhase, state v1alpha1.TargetState, changes ...func(*TargetObservation)) TargetObservation {
		o := TargetObservation{Phase: phase, SourceState: v1alpha1.SourcePreCopying, SourceRounds: 2, VerifiedRounds: 2, Report: v1alpha1.TargetReport{State: state}, TreeGone: true}
		for _, c := range changes {
			c(&o)
		}
		return o
	}
	source := func(s v1alpha1.SourceState) func(*TargetObservation) {
		return func(o *TargetObservation) { o.SourceState = s }
	}
	gate := func(o *TargetObservation) { o.GateRunning = true }
	parked := func(o *TargetObservation) { o.Parked = true }
	prepared := func(o *TargetObservation) { o.Prepared = true }
	settled := func(o *TargetObservation) { o.Prepared, o.Settled = true, true }
	saidSo := func(o *TargetObservation) { o.Report.PreparedAt = &metav1.MicroTime{} }
	expired := func(o *TargetObservation) { o.ParkExpired = true }
	behind := func(o *TargetObservation) { o.VerifiedRounds = 1 }
	dumped := func(o *TargetObservation) { o.SourceState, o.ManifestDigest = v1alpha1.SourceDumped, "d" }
	commit := func(o *TargetObservation) { o.Handover = committed }
	abort := func(o *TargetObservation) { o.Handover = aborted }
	runs := func(o *TargetObservation) { o.Restored, o.TreeGone = true, false }
	broken := func(o *TargetObservation) { o.RestoreFailed, o.TreeGone = true, false }
	alive := func(o *TargetObservation) { o.Restoring = true }
	nothing := func(o *TargetObservation) { o.RestoreFailed, o.TreeGone = true, true }
	begun := func(o *TargetObservation) { o.RestoreBegun = true }
	there := func(o *TargetObservation) { o.TreeGone = false }
	podGone := func(o *TargetObservation) { o.PodGone = true }
	lost := func(o *TargetObservation) { o.Lost = true }
	rebooted := func(o *TargetObservation) { o.Rebooted = true }
	reportedGone := func(o *TargetObservation) { o.Report.TreeGoneAt = &metav1.MicroTime{} }
	gaveUp := func(o *TargetObservation) { o.Report.Failure = &v1alpha1.Failure{Reason: v1alpha1.ReasonGateFailed} }
	for name, tc := range map[string]struct {
		o    TargetObservation
		want TargetAction
	}{
		"too early":                      {at(preparing, "", gate), TargetIdle},
		"gate runs":                      {at(preCopying, "", gate), TargetReport},
		"a round to read":                {at(preCopying, v1alpha1.TargetGated, gate, behind), TargetVerifyRound},
		"all read, not converged":        {at(preCopying, v1alpha1.TargetGated, gate), TargetIdle},
		"converged, behind":              {at(preCopying, v1alpha1.TargetGated, gate, behind, source(v1alpha1.SourceConverged)), TargetVerifyRound},
		"converged":                      {at(preCopying, v1alpha1.TargetGated, gate, source(v1alpha1.SourceConverged)), TargetOpenGate},
		"gate is open":                   {at(preCopying, v1alpha1.TargetReleased, source(v1alpha1.SourceConverged)), TargetIdle},
		"parked":                         {at(preCopying, v1alpha1.TargetReleased, parked, source(v1alpha1.SourceConverged)), TargetReport},
		"parked and reported":            {at(preCopying, v1alpha1.TargetParked, parked, source(v1alpha1.SourceConverged)), TargetIdle},
		"parked, another round":          {at(preCopying, v1alpha1.TargetParked, parked, behind), TargetVerifyRound},
		"no longer parked":               {at(preCopying, v1alpha1.TargetParked, source(v1alpha1.SourceConverged)), TargetReport},
		"parked too long":                {at(preCopying, v1alpha1.TargetParked, parked, expired), TargetGiveBack},
		"gave up":                        {at(preCopying, v1alpha1.TargetFailed, gaveUp, parked), TargetIdle},
		"armed":                          {at(switching, v1alpha1.TargetParked, parked, source(v1alpha1.SourceConverged)), TargetIdle},
		"the freeze is near":             {at(switching, v1alpha1.TargetParked, parked, source(v1alpha1.SourceReady)), TargetPrepare},
		"frozen":                         {at(switching, v1alpha1.TargetParked, parked, source(v1alpha1.SourceFrozen)), TargetPrepare},
		"prepared":                       {at(switching, v1alpha1.TargetParked, parked, prepared, source(v1alpha1.SourceFrozen)), TargetIdle},
		"prepared, another round":        {at(switching, v1alpha1.TargetParked, parked, prepared, behind, source(v1alpha1.SourceReady)), TargetVerifyRound},
		"has prepared":                   {at(switching, v1alpha1.TargetParked, parked, settled, source(v1alpha1.SourceReady)), TargetReportPrepared},
		"has prepared and said so":       {at(switching, v1alpha1.TargetParked, parked, settled, saidSo, source(v1alpha1.SourceReady)), TargetIdle},
		"has prepared, dumped meanwhile": {at(switching, v1alpha1.TargetParked, parked, settled, dumped), TargetCommit},
		"dumped, not prepared":           {at(switching, v1alpha1.TargetParked, parked, dumped), TargetCommit},
		"near, and the park expires":     {at(switching, v1alpha1.TargetParked, parked, expired, source(v1alpha1.SourceReady)), TargetGiveBack},
		"dumped, not armed":              {at(preCopying, v1alpha1.TargetParked, parked, dumped), TargetIdle},
		"dumped, not parked":             {at(switching, v1alpha1.TargetReleased, dumped), TargetIdle},
		"dumped":                         {at(switching, v1alpha1.TargetParked, parked, dumped), TargetCommit},
		"dumped, parked too long":        {at(switching, v1alpha1.TargetParked, parked, dumped, expired), TargetGiveBack},
		"dumped, Node was made anew":     {at(switching, v1alpha1.TargetParked, parked, dumped, func(o *TargetObservation) { o.NodeChanged = true }), TargetGiveBack},
		"committed":                      {at(switching, v1alpha1.TargetParked, parked, dumped, commit), TargetRestore},
		"restoring":                      {at(switching, v1alpha1.TargetRestoring, dumped, commit), TargetRestore},
		"restored":                       {at(switching, v1alpha1.TargetRestoring, dumped, commit, runs), TargetReport},
		"restored and reported":          {at(switching, v1alpha1.TargetRestored, dumped, commit, runs), TargetIdle},
		"it ran and is gone":             {at(switching, v1alpha1.TargetRestored, dumped, commit, nothing), TargetReportGone},
		"its node restarted":             {at(switching, v1alpha1.TargetRestored, dumped, commit, there), TargetReportGone},
		"restore failed":                 {at(switching, v1alpha1.TargetRestoring, dumped, commit, broken), TargetDiscard},
		"restore failed, nothing left":   {at(switching, v1alpha1.TargetRestoring, dumped, commit, nothing), TargetTakeBack},
		"committed, torn phase":          {at(rolling, v1alpha1.TargetRestoring, dumped, commit), TargetRestore},
		"succeeded":                      {at(succeeded, v1alpha1.TargetRestored, dumped, commit, runs), TargetIdle},
		"aborted":                        {at(rolling, v1alpha1.TargetParked, parked, dumped, abort), TargetClean},
		"aborted, phase not yet":         {at(switching, v1alpha1.TargetParked, parked, dumped, abort), TargetClean},
		"taken back":                     {at(switching, v1alpha1.TargetReverted, dumped, abort, nothing), TargetClean},
		"aborted, it runs":               {at(rolling, v1alpha1.TargetRestored, dumped, abort, runs, begun), TargetDiscard},
		"aborted, it is being restored":  {at(rolling, v1alpha1.TargetRestoring, dumped, abort, begun, there), TargetDiscard},
		"aborted, it was killed":         {at(rolling, v1alpha1.TargetRestored, dumped, abort, runs, begun, func(o *TargetObservation) { o.TreeGone = true }), TargetClean},
		"ran, the pod is gone":           {at(switching, v1alpha1.TargetRestored, dumped, commit, runs, begun, podGone), TargetDiscard},
		"ran, nothing is left":           {at(switching, v1alpha1.TargetRestored, dumped, commit, podGone), TargetReportGone},
		"ran, reported":                  {at(switching, v1alpha1.TargetRestored, dumped, commit, podGone, reportedGone), TargetIdle},
		"ran, source is being removed":   {at(completing, v1alpha1.TargetRestored, dumped, commit, runs, begun, podGone), TargetIdle},
		"cleaned":                        {at(rolling, v1alpha1.TargetCleaned, abort), TargetIdle},
		"ended before anything decided":  {at(failed, v1alpha1.TargetGated, gate), TargetClean},
		"a wrapper lives":                {at(switching, v1alpha1.TargetRestoring, dumped, commit, alive), TargetIdle},
		"another create comes meanwhile": {at(switching, v1alpha1.TargetRestoring, parked, dumped, commit, alive), TargetIdle},
		"one failed, another restores":   {at(switching, v1alpha1.TargetRestoring, dumped, commit, broken, alive), TargetIdle},
		"failed before, one restores":    {at(switching, v1alpha1.TargetRestoring, dumped, commit, nothing, alive), TargetIdle},
		"ran, and is lost":               {at(switching, v1alpha1.TargetRestoring, dumped, commit, lost, begun, there), TargetDiscard},
		"failed, and may have run":       {at(switching, v1alpha1.TargetRestoring, dumped, commit, lost, begun, broken), TargetDiscard},
		"may have run, nothing is left":  {at(switching, v1alpha1.TargetRestoring, dumped, commit, lost, begun, nothing), TargetReportGone},
		"may have run, pod asks again":   {at(switching, v1alpha1.TargetRestoring, parked, dumped, commit, lost, begun), TargetReportGone},
		"may have run, another restores": {at(switching, v1alpha1.TargetRestoring, dumped, commit, lost, begun, alive), TargetIdle},
		"may have run, reported":         {at(switching, v1alpha1.TargetRestoring, parked, dumped, commit, lost, begun, reportedGone), TargetIdle},
		"may have run, decided":          {at(completing, v1alpha1.TargetRestoring, dumped, commit, lost, begun, there), TargetIdle},
		"rebooted after the commit":      {at(switching, v1alpha1.TargetParked, parked, dumped, commit, rebooted), TargetReportGone},
		"rebooted before the commit":     {at(switching, v1alpha1.TargetParked, parked, dumped, rebooted), TargetReport},
		"rebooted after it was restored": {at(switching, v1alpha1.TargetRestored, dumped, commit, rebooted), TargetReportGone},
		"rebooted, confirmed":            {at(completing, v1alpha1.TargetRestored, dumped, commit, rebooted), TargetIdle},
		"ended, kubelet has yet to say":  {at(switching, v1alpha1.TargetRestored, dumped, commit, begun, there, alive), TargetIdle},
		"aborted, a wrapper lives":       {at(rolling, v1alpha1.TargetRestoring, dumped, abort, begun, alive), TargetIdle},
	} {
		t.Run(name, func(t *testing.T) {
			if got := DecideTarget(tc.o); got != tc.want {
				t.Errorf("DecideTarget = %s, want %s", got, tc.want)
			}
		})
	}
}
