// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"godwit.dev/godwit/api/v1alpha1"
)

// nature is everything else that happens: kubelets, the runtime wrapper, the
// clock, and users. Faults stop when the simulation is to come to rest.
func (w *world) nature(faults bool) {
	if w.owner != nil && w.pick(5) == 0 {
		w.ownerActs(faults)
		w.check()
		return
	}
	if w.set != nil && w.pick(5) == 0 {
		w.setActs(faults)
		w.check()
		return
	}
	switch w.pick(8) {
	case 0, 1: // the target's kubelet
		switch {
		case w.set != nil && !w.off && !w.cut && w.set.placeholder.deleting && w.pick(3) == 0:
			w.set.placeholder = w.set.placeholder.removed()
		case w.set != nil && w.set.refuses(w) && !w.target.deleting:
			w.parked = false // what only keeps a place is created no more
		case w.off && w.target.exists && (!w.node.Exists || w.node.OutOfService && w.target.deleting):
			w.target = w.target.removed() // the pod garbage collector
		case w.off || w.cut:
		case w.target.deleting:
			// A tree that runs in the pod goes with it.
			w.target, w.gate, w.gateOpened, w.parked = w.target.removed(), false, false, false
			switch w.tree {
			case restored:
				w.tree = died
			case restoring, standing:
				w.endStanding()
			}
		case w.target.exists && w.gateOpened && !w.parked && w.tree == noRestore:
			// kubelet creates the container, again when the create before failed;
			// the agent fails it at once when the migration was given up.
			w.parked = handover(w.latest()) != v1alpha1.HandoverAborted
		case w.target.exists && !w.gateOpened:
			w.gate = true
		case w.target.exists && w.tree == standing && w.still < w.containers && !w.parked:
			// It creates the next container: the one before has started, for all it knows.
			w.parked = handover(w.latest()) != v1alpha1.HandoverAborted
		case w.target.exists && w.tree == standing && faults && w.pick(10) == 0:
			w.log("kubelet kills what stands still")
			w.endStanding()
		case w.target.exists && (w.tree == restored || w.tree == standing && w.still == w.containers):
			w.target.started = true
		}
	case 2: // the source's kubelet
		switch {
		case w.sourceOff:
		case w.source.deleting:
			w.sourceTasks = dead
			w.check()
			w.source.exists = false
		case w.source.exists && w.sourceTasks == dead && !w.guarded:
			w.sourceTasks = fresh
		}
	case 3: // the runtime wrapper
		if !w.off && w.tree == restoring {
			switch {
			case faults && w.pick(3) == 0:
				w.tree = leftovers
			case w.containers > 1:
				w.tree = standing
				w.still++
			case faults && w.pick(6) == 0:
				// It is killed after it has let the processes go: so are they.
				w.tree, w.executed = died, true
			default:
				w.tree, w.executed = restored, true
			}
		}
	case 4:
		w.now = w.now.Add(time.Second)
		if faults && w.pick(20) == 0 {
			w.now = w.now.Add(40 * time.Second)
		}
	case 6: // the target's machine and those who look after it
		w.machine(faults)
		w.sourceMachine(faults)
	case 7: // a person who chooses
		if m := w.latest(); faults && handover(m) != "" && w.pick(6) == 0 && m.Annotations[v1alpha1.AnnotationResolve] == "" {
			w.choose([]v1alpha1.ResolveRequest{v1alpha1.ResolveSource, v1alpha1.ResolveTarget}[w.pick(2)])
		}
	case 5: // a user, now and then
		if !faults || w.pick(60) > 0 {
			break
		}
		if w.pick(2) == 0 {
			w.log("a user cancels")
			m := w.latest().DeepCopy()
			m.Annotations = map[string]string{v1alpha1.AnnotationCancel: "true"}
			w.versions = append(w.versions, m)
		} else if w.target.exists && !w.targetMayRun() {
			w.log("a user deletes the target pod")
			w.target.deleting, w.targetDeleted = true, w.set == nil
		}
	}
	w.check()
}

// endStanding ends containers of several that have not run. Those that were marked may
// have, for all that anybody knows.
func (w *world) endStanding() {
	w.tree = allCleaned
	if w.marked {
		w.tree = died
	}
	w.still = 0
}

func (w *world) choose(r v1alpha1.ResolveRequest) {
	w.log("a person asks for %s", r)
	w.forced = w.forced || r == v1alpha1.ResolveForceSource
	w.annotate(v1alpha1.AnnotationResolve, string(r))
}

// machine fails, is cut off, is given up by whoever knows that it is off, and
// comes back. Without faults whatever is wrong with it ends in one of the ways.
func (w *world) machine(faults bool) {
	if faults && w.pick(8) > 0 {
		return
	}
	switch {
	case !w.off && !w.cut && faults:
		if w.pick(2) == 0 {
			w.log("the target's machine fails")
			w.machineFails()
		} else {
			w.log("the target's machine is cut off")
			w.cut, w.node.NotReady = true, "NodeStatusUnknown"
		}
	case w.cut && faults && w.pick(4) == 0:
		w.choose(v1alpha1.ResolveForceSource)
	case w.cut:
		w.log("the target's machine is connected again")
		w.machineReturns()
	case w.off && w.node.Exists && !w.node.OutOfService && w.pick(3) > 0:
		w.log("the target's machine is known to be off")
		w.node.OutOfService = w.pick(2) == 0
		w.node.Exists = w.node.OutOfService
	case w.off && w.pick(6) == 0:
		w.log("the target's machine starts")
		w.machineReturns()
	}
}

// sourceMachine fails, and always comes back: the pods of one that does not are
// removed with it.
func (w *world) sourceMachine(faults bool) {
	switch {
	case w.sourceOff && w.pick(4) == 0:
		w.log("the source's machine starts")
		w.sourceOff = false
	case !w.sourceOff && faults && !w.off && !w.cut && w.source.exists && w.pick(20) == 0:
		w.log("the source's machine fails")
		w.sourceOff, w.sourceLost, w.sourceTasks = true, true, dead
		w.guarded = w.guarded && !w.deciders.volatileGuard
	}
}

// simulate lets everything happen in an order that pick chooses, then lets it
// come to rest. It returns the violations, with what led to the first.
func simulate(pick func(n int) int, d deciders, steps int) (violations, trace []string, end v1alpha1.MigrationPhase) {
	w := newWorld(pick, d)
	actors := []*actor{w.controller(), w.sourceAgent(), w.targetAgent()}
	run := func(n int, faults bool) {
		for range n {
			if len(w.broken) > 0 {
				return
			}
			switch i := pick(len(actors) + 3); {
			case i >= len(actors):
				w.nature(faults)
			case faults && pick(15) == 0:
				w.log("%s crashes with %d steps left", actors[i].name, len(actors[i].plan))
				actors[i].crash()
			case actors[i].name == "target" && w.off, actors[i].name == "source" && w.sourceOff:
				actors[i].crash()
			case actors[i].name == "target" && w.cut:
				// It cannot read or write.
			default:
				actors[i].step(w)
			}
		}
	}
	run(steps, true)
	run(3000, false)
	if len(w.broken) == 0 && w.set != nil && w.set.stuck(w) {
		w.log("a person gives the pod up")
		w.set.givenUp = true
		w.choose(v1alpha1.ResolveForceTarget)
		run(3000, false)
	}
	if len(w.broken) == 0 && w.undecidable() {
		w.log("a user deletes the target pod")
		w.target.deleting, w.targetDeleted = w.target.exists, true
		run(3000, false)
		if pick(2) == 0 {
			w.choose(v1alpha1.ResolveSource)
		} else {
			w.log("a user deletes the source pod")
			w.source.deleting, w.sourceDeleted = true, true
		}
		run(3000, false)
	}
	if len(w.broken) == 0 {
		w.checkEnd()
	}
	return w.broken, w.last(40), w.latest().Status.Phase
}

func seeded(seed uint64) func(n int) int {
	r := rand.New(rand.NewPCG(seed, 1))
	return func(n int) int { return r.IntN(n) }
}

func TestProtocolKeepsItsInvariants(t *testing.T) {
	seeds := uint64(1500)
	if testing.Short() {
		seeds = 300
	}
	ends := map[v1alpha1.MigrationPhase]int{}
	for seed := range seeds {
		// Some come to rest early: then what was begun has to end well by itself.
		violations, trace, end := simulate(seeded(seed), realDeciders, int(seed%7)*100)
		if len(violations) > 0 {
			t.Fatalf("seed %d: %v after\n%s", seed, violations, strings.Join(trace, "\n"))
		}
		ends[end]++
	}
	for _, phase := range []v1alpha1.MigrationPhase{v1alpha1.PhaseSucceeded, v1alpha1.PhaseFailed, v1alpha1.PhaseCancelled} {
		if ends[phase] < 10 {
			t.Errorf("only %d of %d runs ended in %s: %v", ends[phase], seeds, phase, ends)
		}
	}
}

// FuzzProtocol lets the fuzzer choose the order of events.
func FuzzProtocol(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("godwit"))
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7})
	f.Fuzz(func(t *testing.T, choices []byte) {
		rest := seeded(uint64(len(choices)))
		used := 0
		pick := func(n int) int {
			if used < len(choices) {
				used++
				return int(choices[used-1]) % n
			}
			return rest(n)
		}
		if violations, trace, _ := simulate(pick, realDeciders, len(choices)); len(violations) > 0 {
			t.Fatalf("%v after\n%s", violations, strings.Join(trace, "\n"))
		}
	})
}

// A simulation that notices nothing proves nothing: with each rule broken, some
// seed must find it.
func TestSimulationNoticesBrokenRules(t *testing.T) {
	for name, broken := range map[string]func(*deciders){
		"source resumes after the commit": func(d *deciders) {
			d.source = func(o SourceObservation) SourceAction {
				if o.Handover == v1alpha1.HandoverCommitted && o.FrozenFor > time.Minute {
					return SourceResume
				}
				return DecideSource(o)
			}
		},
		"source's node forgets what it guards": func(d *deciders) { d.volatileGuard = true },
		"source is killed at the commit": func(d *deciders) {
			d.source = func(o SourceObservation) SourceAction {
				if o.Handover == v1alpha1.HandoverCommitted && o.Frozen {
					return SourceKill
				}
				return DecideSource(o)
			}
		},
		"source is never resumed": func(d *deciders) {
			d.source = func(o SourceObservation) SourceAction {
				if a := DecideSource(o); a != SourceResume {
					return a
				}
				return SourceIdle
			}
		},
		"target restores before the commit": func(d *deciders) {
			d.target = func(o TargetObservation) TargetAction {
				if o.Parked && o.ManifestDigest != "" && o.Handover == "" {
					return TargetRestore
				}
				return DecideTarget(o)
			}
		},
		"target takes back while something is left": func(d *deciders) {
			d.target = func(o TargetObservation) TargetAction {
				if a := DecideTarget(o); a != TargetDiscard {
					return a
				}
				return TargetTakeBack
			}
		},
		"controller removes the source before the target is confirmed": func(d *deciders) {
			d.controller = func(o Observation) Decision {
				if handover(o.Migration) == v1alpha1.HandoverCommitted && o.Source.Exists && !o.Source.Deleting {
					return Decision{Action: DeleteSource}
				}
				return Decide(o)
			}
		},
		"controller takes silence for proof": func(d *deciders) {
			d.controller = func(o Observation) Decision {
				if o.TargetNode.NotReady != "" {
					o.TargetNode.OutOfService = true
				}
				return Decide(o)
			}
		},
		"controller takes back what has run": func(d *deciders) {
			d.controller = func(o Observation) Decision {
				v := Decide(o)
				if v.Lost != nil && v.Lost.NodeGone {
					return Decision{Action: Reclaim, Phase: v1alpha1.PhaseRollingBack, Failure: &v1alpha1.Failure{Reason: v1alpha1.ReasonTargetNodeLost}}
				}
				return v
			}
		},
		"controller ignores that the node is gone": func(d *deciders) {
			d.controller = func(o Observation) Decision {
				if v := Decide(o); v.Action != Reclaim {
					return v
				}
				return Decision{Action: Wait}
			}
		},
		"whoever asks for the source gets it": func(d *deciders) {
			d.controller = func(o Observation) Decision {
				if o.Migration.Annotations[v1alpha1.AnnotationResolve] == string(v1alpha1.ResolveSource) && handover(o.Migration) == v1alpha1.HandoverCommitted {
					o.Migration = o.Migration.DeepCopy()
					o.Migration.Annotations[v1alpha1.AnnotationResolve] = string(v1alpha1.ResolveForceSource)
				}
				return Decide(o)
			}
		},
		"whoever asks for the target gets it": func(d *deciders) {
			d.controller = func(o Observation) Decision {
				if o.Migration.Annotations[v1alpha1.AnnotationResolve] == string(v1alpha1.ResolveTarget) && handover(o.Migration) == v1alpha1.HandoverCommitted {
					o.Migration = o.Migration.DeepCopy()
					o.Migration.Annotations[v1alpha1.AnnotationResolve] = string(v1alpha1.ResolveForceTarget)
				}
				return Decide(o)
			}
		},
		"target cleans up around what runs": func(d *deciders) {
			d.target = func(o TargetObservation) TargetAction {
				if a := DecideTarget(o); a != TargetDiscard || o.Handover != v1alpha1.HandoverAborted {
					return a
				}
				return TargetClean
			}
		},
		"target commits under another Node": func(d *deciders) {
			d.target = func(o TargetObservation) TargetAction {
				o.NodeChanged = false
				return DecideTarget(o)
			}
		},
		"target takes back what has run": func(d *deciders) {
			d.target = func(o TargetObservation) TargetAction {
				if o.Lost {
					o.Lost, o.RestoreFailed = false, true
				}
				return DecideTarget(o)
			}
		},
		"target calls restored what is dead": func(d *deciders) {
			d.target = func(o TargetObservation) TargetAction {
				if o.Lost {
					o.Lost, o.Restored = false, true
				}
				return DecideTarget(o)
			}
		},
		"target calls restored what stands still": func(d *deciders) {
			d.target = func(o TargetObservation) TargetAction {
				o.Restored = o.Restored || o.StandStill
				return DecideTarget(o)
			}
		},
		"target never lets go what stands still": func(d *deciders) {
			d.target = func(o TargetObservation) TargetAction {
				if a := DecideTarget(o); a != TargetLetGo {
					return a
				}
				return TargetIdle
			}
		},
		"target lets go under an aborted register": func(d *deciders) {
			d.target = func(o TargetObservation) TargetAction {
				if o.StandStill {
					return TargetLetGo
				}
				return DecideTarget(o)
			}
			d.letsGoUnasked = true
		},
		"target restores again after a restart of its node": func(d *deciders) {
			d.target = func(o TargetObservation) TargetAction {
				o.Rebooted = false
				return DecideTarget(o)
			}
		},
		"an owner's pods are not held back": func(d *deciders) {
			d.steer = func(o SteerObservation) (SteerVerdict, string) {
				v, why := Steer(o)
				if v == SteerHold {
					return SteerPass, ""
				}
				return v, why
			}
		},
		"controller keeps what it has released": func(d *deciders) {
			d.controller = func(o Observation) Decision {
				if v := Decide(o); v.Action != ReturnSource {
					return v
				}
				return finish(rollbackFailure(o.Migration))
			}
		},
		"controller is done before the owner is": func(d *deciders) {
			d.controller = func(o Observation) Decision {
				if o.Owner.Returned {
					return finish(rollbackFailure(o.Migration))
				}
				return Decide(o)
			}
		},
		"controller forgets the target pod": func(d *deciders) {
			d.controller = func(o Observation) Decision {
				if v := Decide(o); v.Action != DeleteTarget {
					return v
				}
				return Decision{Action: Wait}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := realDeciders
			broken(&d)
			for seed := range uint64(40000) {
				if violations, _, _ := simulate(seeded(seed), d, 300+int(seed%4)*100); len(violations) > 0 {
					return
				}
			}
			t.Error("not noticed in 40000 runs")
		})
	}
}
