// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"slices"
)

// Names of the methods.
const (
	precopy        = "precopy"
	stopAndCopy    = "stopandcopy"
	floor          = "floor"
	containerFloor = "container-floor"
	reschedule     = "reschedule"
	runcScript     = "runc-script"
	phaulMethod    = "phaul"
	podmanMethod   = "podman"
	costMethod     = "cost"
)

// method moves a process with a cell's memory and load from one node to the other,
// once, and puts what it has measured into r. It begins by making sure that
// everything is quiet. What was measured before an error is kept.
type method interface {
	measure(ctx context.Context, c cell, r *result) error
}

// reach says which cells of the default grid a method is measured in.
type reach int

const (
	everywhere reach = iota
	// alongSizes: in the cells that differ in size only.
	alongSizes
	// upToTheMiddle: in those of them that are no larger than the middle.
	upToTheMiddle
	// inTheMiddle: in the one cell in which the arms of the grid meet.
	inTheMiddle
)

// seenBy says whose view of the downtime is there. By default that of the process:
// the longest time in which it did not run, by itself.
type seenBy int

// byClient: the longest time in which no request of a client was answered.
const byClient seenBy = 1

// methodInfo is what the plan and the report say about a method.
type methodInfo struct {
	name string
	// says is what is done, cannot what it cannot do.
	says, cannot string
	// criuOnly: only CRIU's own figures count. It is measured right after precopy, in as
	// many rounds as that took.
	criuOnly bool
	// peer: it is another way to move a pod, that ours is compared with.
	peer  bool
	seen  seenBy
	reach reach
	// byHand: its programs have to be on the nodes.
	byHand bool
	// bare: it moves a process that is in no container. CRIU has less to do then.
	bare bool
	// apart: it is measured after all that is compared. Nodes learn from each
	// switchover what one costs, and this one is of another program.
	apart bool
	// A measurement takes about fixed + perMiB * size seconds on emulated nodes.
	fixed, perMiB float64
	color         string
}

// methods lists them in the order in which the report has them.
var methods = []methodInfo{
	{
		name: precopy, says: "a Migration with every default, of a pod with memhog in it",
		cannot: "see the limits in the README",
		reach:  everywhere, fixed: 45, perMiB: 0.12, color: "#0969da",
	},
	{
		name: stopAndCopy, says: "the same with `preCopy.maxRounds: 0`: one full dump while the pod is frozen",
		cannot: "copy anything while the pod runs. It is the best that kubelet's checkpoint API could do",
		reach:  alongSizes, fixed: 30, perMiB: 0.08, color: "#cf222e",
	},
	{
		name: floor, says: "`criu pre-dump`, `dump` and `restore` by hand, of the same program outside of Kubernetes, in as many rounds as Godwit took. " +
			"Counted are only CRIU's own figures: the time the last dump held the process, and the restore. " +
			"The rounds are in the page cache of the node that restores, as with Godwit",
		cannot:   "move a container: no namespaces, no file system, no network, no files of a pod, nothing that decides, checks or undoes. Whatever is built on this CRIU and restores all memory at once cannot be faster",
		criuOnly: true, reach: everywhere, byHand: true, fixed: 8, perMiB: 0.045, color: "#8c959f",
	},
	{
		name: containerFloor, says: "`runc checkpoint --pre-dump`, `checkpoint` and `restore` by hand of a container of runc's own, with the same program, and counted as for `floor`: " +
			"what CRIU itself takes when the process is in a container with namespaces, mounts and a cgroup of its own",
		cannot:   "move a pod: the container has fewer mounts than one, and the node's network. It is there to tell what of the overhead is the container's",
		criuOnly: true, reach: upToTheMiddle, byHand: true, fixed: 12, perMiB: 0.06, color: "#afb8c1",
	},
	{
		name: runcScript, says: "a script with `runc checkpoint --pre-dump` three times, `runc checkpoint` and `runc restore` on the other node, with a bundle of `runc spec` and the images on the same volume",
		cannot: "move a pod: it is a container of runc's own, without kubelet, network, logs or probes. It does not know whether three rounds are too many or too few, " +
			"changes of the root file system stay behind, nothing is verified, and when a step fails somebody has to find out what runs where",
		peer: true, reach: inTheMiddle, byHand: true, fixed: 10, perMiB: 0.055, color: "#bf8700",
	},
	{
		name: phaulMethod, says: "go-criu's `phaul`, as its example uses it: pages go to CRIU's page server on the other node over TCP, and the process is restored there while the source is held",
		cannot: "move a container or a pod: it is a library for processes. Its rule compares the first round with nothing, takes that for growth, and so stops after one round",
		peer:   true, bare: true, reach: inTheMiddle, byHand: true, fixed: 8, perMiB: 0.03, color: "#8250df",
	},
	{
		name: podmanMethod, says: "`podman container checkpoint --pre-checkpoint` and `--with-previous`, exported without compression to the same volume, and `podman container restore` " +
			"of both on the other node, with Debian's podman, the nodes' runc and the same image on both nodes",
		cannot: "move a pod of a cluster: it is a container of podman's own. It makes one round, whatever the process does, keeps each dump on the node and packs it into an archive besides, " +
			"which the other node unpacks before it restores; nothing decides, verifies or undoes",
		peer: true, reach: inTheMiddle, byHand: true, fixed: 50, perMiB: 0.12, color: "#1b7c83",
	},
	{
		name: reschedule, says: "the pod is deleted and one like it is created on the other node at the same time, as a drain does today, but without the time of a controller and of the scheduler",
		cannot: "keep the memory: the process is another one, and what it held is lost. memhog makes its memory anew in a moment; a program that has to load its data takes longer",
		peer:   true, seen: byClient, reach: upToTheMiddle, fixed: 9, perMiB: 0.007, color: "#1a7f37",
	},
	{
		name: costMethod, says: "a Migration with every default, of a pod with Redis in it, which its own benchmark tool writes to all the time. It is measured when all the others have been",
		cannot: "be compared with the others: another program is moved, and its downtime is not looked at",
		reach:  inTheMiddle, apart: true, fixed: 75, perMiB: 0.1, color: "#59636e",
	},
}

// info describes the method of that name.
func info(name string) (methodInfo, bool) {
	i := slices.IndexFunc(methods, func(m methodInfo) bool { return m.name == name })
	if i < 0 {
		return methodInfo{}, false
	}
	return methods[i], true
}

// methodNames lists all of them.
func methodNames() []string {
	var names []string
	for _, m := range methods {
		names = append(names, m.name)
	}
	return names
}
