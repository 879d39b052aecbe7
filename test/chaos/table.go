// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import "slices"

// side says on which node something is.
type side int

const (
	source side = iota
	target
)

// step is a moment of a migration at which a fault is injected.
type step struct {
	// name as the table shows it.
	name string
	// point is the mark (see internal/failpoint) that holds the migration
	// there.
	point string
	// process, if set, makes the moment that at which this program is seen to
	// run on the side where, once the point has been released.
	process program
	where   side
	// lead brings about what the step needs before.
	lead *lead
}

// lead is a fault that comes first, at a point of its own.
type lead struct {
	point string
	// process and where are as in step.
	process program
	where   side
	fault   string
}

// program tells processes apart.
type program string

const (
	criu        program = "criu"
	runcRestore program = "runc restore"
)

// A rollback needs somebody who wants it, and taking a commit back a restore
// that fails.
var (
	cancelled     = &lead{point: "source-frozen", fault: "cancel"}
	restoreFailed = &lead{point: "wrapper-restore", process: runcRestore, where: target, fault: "kill-runc-restore"}
)

// The steps, in the order in which a migration comes to them.
var (
	targetCreating = step{name: "target pod about to be created", point: "manager-target-creating"}
	targetCreated  = step{name: "target pod created, not recorded", point: "manager-target-created"}
	firstRound     = step{name: "before the first round", point: "source-round"}
	roundRunning   = step{name: "criu dumps a round", point: "source-round", process: criu, where: source}
	roundDone      = step{name: "first round done, not reported", point: "source-round-done"}
	roundVerified  = step{name: "round verified, not reported", point: "target-verified-round"}
	gateOpened     = step{name: "gate opened, not reported", point: "target-gate-opened"}
	wrapperParked  = step{name: "create parked, wrapper waits", point: "wrapper-parked"}
	parked         = step{name: "create parked, not reported", point: "target-parked"}
	arming         = step{name: "about to arm", point: "manager-entering-SwitchingOver"}
	armed          = step{name: "armed, nothing done", point: "source-armed"}
	armedManager   = step{name: "armed", point: "manager-entered-SwitchingOver"}
	isolated       = step{name: "network cut", point: "source-isolated"}
	frozen         = step{name: "frozen", point: "source-frozen"}
	dumping        = step{name: "criu writes the final dump", point: "source-frozen", process: criu, where: source}
	dumped         = step{name: "dumped, not sealed", point: "source-dumped"}
	sealed         = step{name: "sealed, not published", point: "source-sealed"}
	published      = step{name: "digest published", point: "source-published"}
	verified       = step{name: "verified, not committed", point: "target-verified"}
	committed      = step{name: "committed, restore not told", point: "target-committed"}
	told           = step{name: "restore told", point: "target-told"}
	restoring      = step{name: "wrapper about to restore", point: "wrapper-restore"}
	runcRunning    = step{name: "runc restores", point: "wrapper-restore", process: runcRestore, where: target}
	criuRestoring  = step{name: "criu restores", point: "wrapper-restore", process: criu, where: target}
	complete       = step{name: "complete, not marked", point: "wrapper-resuming"}
	marked         = step{name: "restored, marked, about to run", point: "wrapper-resumable"}
	runcDone       = step{name: "running, wrapper not done", point: "wrapper-restored"}
	wrapperDone    = step{name: "running, agent not told", point: "wrapper-marked"}
	restored       = step{name: "restored, not reported", point: "target-restored"}
	completing     = step{name: "about to complete", point: "manager-entering-Completing"}
	deletingSource = step{name: "source about to be deleted", point: "manager-deleting-Completing"}
	deletedSource  = step{name: "source deleted, not recorded", point: "manager-deleted-Completing"}
	killed         = step{name: "source killed, not reported", point: "source-killed"}
	cleaned        = step{name: "images removed, not reported", point: "source-cleaned"}
	succeeding     = step{name: "about to succeed", point: "manager-entering-Succeeded"}

	aborted       = step{name: "rollback decided", point: "manager-entered-RollingBack", lead: cancelled}
	thawed        = step{name: "source thawed, not reported", point: "source-thawed", lead: cancelled}
	deletedTarget = step{name: "target deleted in a rollback", point: "manager-deleted-RollingBack", lead: cancelled}
	discarded     = step{name: "failed restore discarded", point: "target-discarded", lead: restoreFailed}
	takenBack     = step{name: "commit taken back", point: "target-taken-back", lead: restoreFailed}
)

// The steps of pods of workload controllers.
var (
	announced = step{name: "release announced", point: "manager-owner-Releasing"}
	releasing = step{name: "about to release the source", point: "manager-releasing"}
	unowned   = step{name: "source released, not recorded", point: "manager-released"}
	steering  = step{name: "webhook asked about the pod that is made", point: "manager-steering"}
	replaced  = step{name: "replacement made, not recorded", point: "manager-naming-PreCopying"}
	returning = step{name: "about to give the source back", point: "manager-returning", lead: cancelled}
	returned  = step{name: "source given back, not recorded", point: "manager-returned", lead: cancelled}

	givingUp  = step{name: "committed, source about to be given up", point: "manager-entering-Replacing"}
	givenUp   = step{name: "source given up", point: "manager-entered-Replacing"}
	removed   = step{name: "source deleted, its name is free", point: "manager-deleted-Replacing"}
	madeAgain = step{name: "pod made again, not recorded", point: "manager-naming-Replacing"}
	unplaced  = step{name: "placeholder deleted", point: "manager-placeholder-deleted"}
	begins    = step{name: "restore published, not told", point: "target-replacing"}
	retrying  = step{name: "failed restore about to be forgotten", point: "target-retrying", lead: restoreFailed}
)

// workload is what the pod belongs to.
type workload string

const (
	bare        workload = ""
	deployment  workload = "Deployment"
	statefulSet workload = "StatefulSet"
)

// row is one fault with the steps it is injected at.
type row struct {
	fault string
	// of says what the pod belongs to.
	of    workload
	steps []step
	// quick are those of steps that the short table has as well.
	quick []step
	// only are those of steps at which the fault ends the only copy that runs, or
	// that may run by then, how says in which way: nothing can save what that copy
	// has done.
	only []step
	how  string
}

// nobodyKnows: the mark says that the processes may run, and they are gone.
const nobodyKnows = "nobody can tell whether it ran before its restore was killed"

// codeLeftBehind: the agent ends a dump at a harmless point only (node-agent/runtime/criu,
// giveup.go). Who kills CRIU otherwise may meet the moments in which its code is being
// put into a process or taken out again, which nobody else can finish.
const codeLeftBehind = "CRIU was killed while its own code was in the process"

// noFault is the migration to which nothing happens.
const noFault = "none"

// table is the whole of it.
var table = slices.Concat(barePods, owners)

// barePods are nobody's.
var barePods = []row{
	{fault: noFault, steps: []step{{name: "-"}}, quick: []step{{name: "-"}}},

	{fault: "kill-manager",
		steps: []step{targetCreating, targetCreated, arming, armedManager, frozen, committed, completing, deletedSource, aborted, deletedTarget}},
	{fault: "kill-source-agent",
		steps: []step{firstRound, roundRunning, roundDone, armed, isolated, frozen, dumping, dumped, sealed, published, committed, killed, cleaned, thawed},
		quick: []step{dumping}},
	{fault: "kill-target-agent",
		steps: []step{roundVerified, gateOpened, parked, verified, committed, told, restoring, complete, marked, runcDone, restored, discarded, takenBack},
		quick: []step{committed}},
	{fault: "kill-wrapper", steps: []step{wrapperParked, restoring, runcRunning, complete, runcDone, wrapperDone},
		only: []step{runcDone, wrapperDone}, how: "containerd ends a container whose runtime is killed"},
	{fault: "kill-runc-restore", steps: []step{runcRunning, complete, marked}, quick: []step{complete},
		only: []step{marked}, how: nobodyKnows},
	{fault: "kill-criu", steps: []step{roundRunning, dumping}, quick: []step{dumping},
		only: []step{roundRunning, dumping}, how: codeLeftBehind},
	{fault: "kill-criu", steps: []step{criuRestoring, complete, marked},
		only: []step{marked}, how: nobodyKnows},

	{fault: "restart-containerd-source", steps: []step{firstRound, frozen, dumping, published, committed, completing}},
	{fault: "restart-containerd-target", steps: []step{gateOpened, parked, verified, restoring, complete, restored}},
	{fault: "restart-kubelet-source", steps: []step{roundDone, frozen, published, committed, completing}, quick: []step{frozen}},
	{fault: "restart-kubelet-target", steps: []step{gateOpened, wrapperParked, restoring, restored}},

	{fault: "power-off-source", steps: []step{roundDone, frozen, committed, restored, killed}, only: []step{roundDone, frozen}, how: "its node lost power"},
	{fault: "power-off-target", steps: []step{targetCreated, parked, verified, committed, told, complete, marked, restored},
		only: []step{committed, told, complete, marked, restored}, how: "its node lost power, and with it the knowledge whether it ran"},

	{fault: "stop-nfs", steps: []step{firstRound, frozen, dumped, sealed, verified, told, killed}},
	{fault: "volume-full", steps: []step{firstRound, roundDone, frozen}, quick: []step{frozen}},
	{fault: "pause-api", steps: []step{roundDone, armed, frozen, sealed, verified, committed, restored, completing}},
	{fault: "restart-api", steps: []step{firstRound, arming, frozen, sealed, verified, committed, told, deletingSource}, quick: []step{verified}},
	{fault: "cut-source", steps: []step{roundDone, frozen, sealed, published, committed, killed}},
	{fault: "cut-target", steps: []step{gateOpened, parked, verified, committed, told, restored}, quick: []step{committed}},

	{fault: "delete", steps: []step{targetCreating, firstRound, parked, frozen, published, committed, completing, succeeding}},
	{fault: "cancel", steps: []step{targetCreated, roundDone, parked, frozen, published, verified, committed}},
	{fault: "lose-leadership", steps: []step{targetCreated, arming, frozen, committed, completing, aborted}},
}

// owners are the runs with pods of workload controllers. Only what is different with
// them is tried: how the one pod takes the place of the other.
var owners = []row{
	{fault: noFault, of: deployment, steps: []step{{name: "-"}}},
	{fault: "kill-manager", of: deployment,
		// Not at steering: nothing keeps an ordinary pod from being made then, and removed again.
		steps: []step{announced, releasing, unowned, replaced, deletedSource, returning, returned}},
	{fault: "restart-api", of: deployment, steps: []step{replaced, returning}},
	{fault: "kill-source-agent", of: deployment, steps: []step{thawed}},
	{fault: "kill-target-agent", of: deployment, steps: []step{restored}},
	{fault: "cancel", of: deployment, steps: []step{unowned}},

	{fault: noFault, of: statefulSet, steps: []step{{name: "-"}}},
	{fault: "kill-manager", of: statefulSet,
		steps: []step{givingUp, givenUp, removed, steering, madeAgain, unplaced, completing}, quick: []step{removed}},
	{fault: "restart-api", of: statefulSet, steps: []step{removed, begins}},
	{fault: "kill-source-agent", of: statefulSet, steps: []step{givenUp, killed}},
	{fault: "kill-target-agent", of: statefulSet, steps: []step{committed, madeAgain, begins, told, retrying, restored}},
	{fault: "kill-runc-restore", of: statefulSet, steps: []step{runcRunning, complete, marked},
		only: []step{marked}, how: nobodyKnows},
	{fault: "kill-criu", of: statefulSet, steps: []step{criuRestoring}},
	{fault: "restart-kubelet-source", of: statefulSet, steps: []step{removed}},
	{fault: "restart-kubelet-target", of: statefulSet, steps: []step{begins, restoring}},
	{fault: "power-off-target", of: statefulSet, steps: []step{removed, begins},
		only: []step{begins}, how: "its node lost power, and with it the knowledge whether it ran"},
	{fault: "cancel", of: statefulSet, steps: []step{givenUp}},
}
