// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"godwit.dev/godwit/api/v1alpha1"
)

// The simulation runs the three deciders against a small model of a cluster:
// an API object with versions, two pods, the processes on two nodes. Every
// actor reads, decides and acts in separate steps that interleave at random,
// reads may be old, actors crash between any two steps, and users and nodes
// interfere. After each step the protocol's invariants are checked.

type tasks string

const (
	running tasks = "running"
	frozen  tasks = "frozen"
	dead    tasks = "dead"
	fresh   tasks = "fresh" // started from the image
)

type restore string

const (
	noRestore  restore = ""
	restoring  restore = "restoring" // the wrapper is at it; processes may run
	restored   restore = "restored"
	standing   restore = "standing"   // some or all of several containers are restored, and none has run
	leftovers  restore = "leftovers"  // it failed and something is still there
	allCleaned restore = "allCleaned" // it failed and nothing is left
	died       restore = "died"       // it ran, and was ended; the mark is there
)

// simPod is a pod object in the API.
type simPod struct {
	uid                       types.UID
	exists, deleting, started bool
	// held: it has a finalizer, and goes when the manager lets it go.
	held bool
}

// removed is what becomes of a pod that has a deletion timestamp when its node is done with it.
func (p simPod) removed() simPod {
	if p.held {
		return simPod{uid: p.uid, exists: true, deleting: true, held: true}
	}
	return simPod{uid: p.uid}
}

// world is what is true, as opposed to what anyone knows.
type world struct {
	pick func(n int) int
	now  time.Time

	// The API: the current Migration, and each version of it so far.
	versions []*v1alpha1.Migration
	source   simPod
	target   simPod
	// created counts the target pods so far.
	created int

	// The source's node.
	sourceTasks tasks
	dumped      bool // the image set on the volume is complete
	guarded     bool // the node creates no container of the source; on its disk
	sourceOff   bool
	sourceLost  bool // its power was lost once, and with it what ran there
	// The target's node.
	gate, gateOpened, parked bool
	tree                     restore
	// containers of the pod, and how many of them stand still; marked: they are about to
	// be let go.
	containers, still int
	marked            bool
	// A person deleted the target, or in the end the source.
	targetDeleted, sourceDeleted bool
	// The target's machine: on, cut off from everybody else, and its Node object.
	// Nobody says of a machine that is on that it is off: that is the contract of
	// the taint, and of deleting a Node.
	off, cut bool
	node     TargetNode
	boot     int  // how often the machine has started
	executed bool // processes that were restored have run
	nodes    int
	ran      bool // the target's copy ran, and said so under its commit
	forced   bool // a person let the source go on whatever the target does
	// imagesGone: the source agent removed the image set.
	imagesGone bool

	// owner of the pod; nil when it is nobody's.
	owner *simOwner
	// set is of a pod that keeps its name; nil when it does not.
	set *simSet

	deciders deciders
	trace    []string
	broken   []string
}

// deciders are the functions under test, so that a test can break them.
type deciders struct {
	controller func(Observation) Decision
	source     func(SourceObservation) SourceAction
	target     func(TargetObservation) TargetAction
	steer      func(SteerObservation) (SteerVerdict, string)
	// volatileGuard: the source's node forgets with its power what it guards.
	volatileGuard bool
	// noPolicy: the API server does not keep the name of a pod that keeps it.
	noPolicy bool
	// followsBlindly: another pod becomes the target whatever was restored into the one before.
	followsBlindly bool
	// unheld: placeholders have no finalizer.
	unheld bool
	// letsGoUnasked: the target does not look at the register before it lets go.
	letsGoUnasked bool
}

var realDeciders = deciders{controller: Decide, source: DecideSource, target: DecideTarget, steer: Steer}

var simStart = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

func newWorld(pick func(n int) int, d deciders) *world {
	m := &v1alpha1.Migration{}
	m.Name, m.Namespace, m.UID = "m", "ns", "migration"
	m.CreationTimestamp = metav1.NewTime(simStart)
	rounds := int32(3)
	m.Spec = v1alpha1.MigrationSpec{PodName: "pod", Timeout: &metav1.Duration{Duration: time.Hour}}
	m.Spec.PreCopy.MaxRounds = &rounds
	w := &world{
		containers: 1 + pick(3),
		pick:       pick, now: simStart, versions: []*v1alpha1.Migration{m}, deciders: d,
		node:   TargetNode{Known: true, Exists: true, UID: "node-0"},
		source: simPod{uid: "source", exists: true, started: true}, sourceTasks: running,
	}
	switch pick(3) {
	case 0:
		w.owner = &simOwner{sees: 1}
	case 1:
		w.set = &simSet{bare: pick(2) == 0}
	}
	return w
}

func (w *world) newTarget() {
	w.created++
	w.target = simPod{uid: types.UID(fmt.Sprint("target-", w.created)), exists: true}
	w.target.held = w.set != nil && w.latest().Status.Handover == nil && !w.deciders.unheld
}

func (w *world) latest() *v1alpha1.Migration { return w.versions[len(w.versions)-1] }

// write stores a changed Migration, with the version that was read as the
// precondition; -1 for none.
func (w *world) write(precondition int, change func(*v1alpha1.MigrationStatus)) bool {
	if precondition >= 0 && precondition != len(w.versions)-1 {
		return false
	}
	m := w.latest().DeepCopy()
	change(&m.Status)
	if equality.Semantic.DeepEqual(m.Status, w.latest().Status) {
		return true // the API server makes no new version of it
	}
	if err := legalRegister(w.latest().Status.Handover, m.Status.Handover); err != "" {
		return false // the API's validation refuses it
	}
	if handover(w.latest()) == v1alpha1.HandoverCommitted && handover(m) == v1alpha1.HandoverAborted {
		switch w.latest().Status.Phase {
		case v1alpha1.PhaseReplacing, v1alpha1.PhaseCompleting, v1alpha1.PhaseSucceeded:
			return false
		}
		if r := m.Status.Handover.Reason; w.set == nil && (r == v1alpha1.ReasonOwnerChanged || r == v1alpha1.ReasonRolloutInProgress || r == v1alpha1.ReasonTargetPodGone) {
			return false
		}
	}
	w.versions = append(w.versions, m)
	return true
}

// legalRegister are the CRD's rules.
func legalRegister(from, to *v1alpha1.Handover) string {
	switch {
	case from == nil:
		return ""
	case to == nil:
		return "cleared"
	case *from == *to:
		return ""
	case from.State == v1alpha1.HandoverAborted:
		return "final"
	case to.State != v1alpha1.HandoverAborted:
		return "only taken back"
	case to.By == "controller" && to.Reason != v1alpha1.ReasonTargetNodeLost && to.Reason != v1alpha1.ReasonResolvedToSource &&
		to.Reason != v1alpha1.ReasonOwnerChanged && to.Reason != v1alpha1.ReasonRolloutInProgress && to.Reason != v1alpha1.ReasonTargetPodGone:
		return "not by the controller"
	}
	return ""
}

func (w *world) log(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf(format, args...))
}

func (w *world) violated(format string, args ...any) {
	w.broken = append(w.broken, fmt.Sprintf(format, args...))
}

func (w *world) sourceRuns() bool { return w.sourceTasks == running || w.sourceTasks == fresh }

func (w *world) targetMayRun() bool {
	return w.tree == restoring || w.tree == restored || w.tree == leftovers || w.tree == standing
}

// check looks at the invariants.
func (w *world) check() {
	if w.sourceRuns() && w.targetMayRun() && !w.forced {
		w.violated("both sides run")
	}
	if w.sourceRuns() && w.ran && !choseSource(w.latest()) {
		w.violated("the source goes on, and what the target did since is undone")
	}
	// The image set keeps the pod alive from its completion to the restore.
	beingRestored := w.dumped && !w.imagesGone && handover(w.latest()) == v1alpha1.HandoverCommitted && w.tree != allCleaned && w.tree != died
	if w.set != nil {
		w.checkSet()
		// Nobody has to be restoring it: the images are the pod until it runs again.
		beingRestored = w.dumped && !w.imagesGone && handover(w.latest()) == v1alpha1.HandoverCommitted || w.set.givenUp
	}
	if w.sourceTasks == dead && w.tree != restored && !beingRestored && !w.targetDeleted && !w.sourceLost {
		w.violated("nothing is left of the pod")
	}
	if w.sourceTasks == dead && w.source.exists && !w.source.deleting && !w.sourceLost {
		w.violated("kubelet starts the source afresh")
	}
}

// undecidable says that a person has to choose: the target has run, and it or
// its node is lost. The source stays frozen until then.
func (w *world) undecidable() bool {
	m := w.latest()
	return handover(m) == v1alpha1.HandoverCommitted && (w.sourceTasks == frozen || w.sourceTasks == dead && w.sourceLost) && m.Status.Phase == v1alpha1.PhaseSwitchingOver && !w.targetMayRun()
}

func choseSource(m *v1alpha1.Migration) bool {
	r := m.Status.Resolution
	return r != nil && r.Outcome == v1alpha1.ResolutionAccepted && (r.Request == v1alpha1.ResolveSource || r.Request == v1alpha1.ResolveForceSource)
}

// annotate is a person's or the controller's write of an annotation.
func (w *world) annotate(key, value string) {
	m := w.latest().DeepCopy()
	if m.Annotations == nil {
		m.Annotations = map[string]string{}
	}
	m.Annotations[key] = value
	if value == "" {
		delete(m.Annotations, key)
	}
	w.versions = append(w.versions, m)
}

// machineFails takes everything with it that is not on a disk.
func (w *world) machineFails() {
	w.off, w.gate, w.parked = true, false, false
	w.boot++
	w.node.NotReady = "NodeStatusUnknown"
	// What kubelet has seen to run may be confirmed by now: then it was the only
	// copy, and nobody can help that.
	w.targetDeleted = w.targetDeleted || w.target.started && w.executed
	w.still, w.marked = 0, false
	switch {
	case w.tree == restored && w.ran:
		w.tree = allCleaned
	case w.targetMayRun(), w.tree == died:
		w.tree = noRestore // and no mark
	}
}

// machineReturns, under a new Node object when the old one was deleted.
func (w *world) machineReturns() {
	if !w.node.Exists {
		w.nodes++
	}
	w.off, w.cut = false, false
	w.node = TargetNode{Known: true, Exists: true, UID: types.UID(fmt.Sprint("node-", w.nodes))}
}

// checkEnd looks at what is left when all is quiet.
func (w *world) checkEnd() {
	phase := w.latest().Status.Phase
	w.checkOwner(phase)
	if w.set != nil && w.set.placeholder.exists && !w.off {
		w.violated("%s, and the placeholder is still there", phase)
	}
	switch {
	case !Finished(phase):
		w.violated("it does not end: phase %s, handover %v, source %s, target %q, report %+v", phase, w.latest().Status.Handover, w.sourceTasks, w.tree, w.latest().Status.Target)
	case phase == v1alpha1.PhaseSucceeded && w.set != nil && w.set.givenUp:
		if w.sourceTasks != dead || w.source.exists {
			w.violated("given up with source %s", w.sourceTasks)
		}
	case phase == v1alpha1.PhaseSucceeded:
		if w.tree != restored && !w.targetDeleted || w.sourceTasks != dead || w.source.exists || !w.target.exists && !w.targetDeleted {
			w.violated("succeeded with source %s, target %q", w.sourceTasks, w.tree)
		}
	case w.sourceDeleted:
		if w.source.exists || w.target.exists || w.sourceRuns() {
			w.violated("%s after both pods were deleted, with source %s", phase, w.sourceTasks)
		}
	case w.sourceTasks != running && (!w.sourceLost || w.sourceTasks != fresh) || !w.source.exists:
		w.violated("%s, and the source is %s", phase, w.sourceTasks)
	case w.targetMayRun() || w.target.exists:
		w.violated("%s, and the target is still there", phase)
	}
}

func (w *world) last(n int) []string {
	return slices.Clone(w.trace[max(0, len(w.trace)-n):])
}

// facts are about the pod that was recorded, or whichever there is before.
func (p simPod) facts(recorded types.UID, node string) PodFacts {
	if !p.exists || recorded != "" && recorded != p.uid {
		return PodFacts{}
	}
	return PodFacts{Exists: true, UID: p.uid, NodeName: node, Deleting: p.deleting, Held: p.held, Phase: corev1.PodRunning, Started: p.started}
}
