// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package runtime names what the node agent needs from the node: finding
// containers, copying and freezing them, and looking at them. It holds only
// interfaces, value types and sentinel errors; the adapters are in the folders
// below, and all of them, the fake included, pass the suite in runtimetest.
//
// Paths in this package are paths of the node (its own mount namespace), not of
// the agent's container.
package runtime

import (
	"context"
	"errors"
	"net/netip"
	"time"
)

// Sentinel errors. Each says what its caller should do.
var (
	// ErrNotFound: there is no such pod sandbox or container on this node (any
	// more). Look at the API again; do not retry.
	ErrNotFound = errors.New("container not found")
	// ErrUnsupported: the node lacks the ability (no criu, no dirty tracking).
	// Fall back or refuse; do not retry.
	ErrUnsupported = errors.New("not supported by this node")
	// ErrFreezeTimeout: some task did not freeze (typically in state D). The
	// container was thawed again; a later try may succeed.
	ErrFreezeTimeout = errors.New("freezing timed out")
	// ErrChainBroken: the pre-dump or dump failed after it may have cleared the
	// soft-dirty bits. The chain must start again with a full round.
	ErrChainBroken = errors.New("dump failed, the chain of images cannot be continued")
	// ErrNoSpace: the volume or the node's disk is full, or a quota is used up.
	// Nothing was lost.
	ErrNoSpace = errors.New("no space left")
	// ErrTied: containers of a pod are connected with one another, and stay so. Thaw
	// them; a later try may succeed.
	ErrTied = errors.New("containers are connected over a Unix socket")
	// ErrGivenUp: the final dump had not ended by its deadline and was killed.
	// Thaw the container; its images are worthless.
	ErrGivenUp = errors.New("the dump was given up at its deadline")
)

// Container is a container that runs on this node.
type Container struct {
	// ID is the container's id in the runtime.
	ID string
	// Name is the name in the pod spec.
	Name string
	// PodUID is the UID of the pod.
	PodUID string
	// SandboxID is the id of the pod sandbox.
	SandboxID string
	// PID of the container's init process in the node's pid namespace.
	PID int
	// Bundle is the OCI bundle directory.
	Bundle string
	// CgroupDir is the container's cgroup v2 directory.
	CgroupDir string
	// UpperDir is the overlay upper directory of the root file system: what the
	// container has written over its image.
	UpperDir string
	// ShmDir is the directory mounted at /dev/shm, empty when there is none.
	ShmDir string
	// Image is the image reference and ImageDigest its manifest digest.
	Image       string
	ImageDigest string
	// RuntimeHandler is the CRI runtime handler of the pod, "" for the default.
	RuntimeHandler string
}

// Finder finds the containers of a pod.
type Finder interface {
	// Containers returns the running application containers of the pod, ordered
	// by name. ErrNotFound when the pod has no sandbox or no running container here.
	Containers(ctx context.Context, podUID string) ([]Container, error)
	// Container returns the container with this id, whether it is an init or an
	// application container. ErrNotFound when it does not run here.
	Container(ctx context.Context, id string) (Container, error)
	// HasImage says whether the image reference is present on the node.
	HasImage(ctx context.Context, ref string) (bool, error)
}

// DumpOptions say where a dump goes.
type DumpOptions struct {
	// ImageDir is the directory for the images; created with mode 0700 when
	// missing. It must be empty: a retry takes a new one.
	ImageDir string
	// PagesDir is a directory that takes a final dump's files with memory, in place of
	// ImageDir, which has links to them and only small files of its own then: it can be on
	// the node, where a file is made at once, while what is large goes to the volume. It
	// must be there. Empty: ImageDir takes all of it.
	PagesDir string
	// Parent is the relative path from ImageDir to the images this dump builds
	// on, a sibling ("../round-002"); empty for a full dump. It must hold a
	// finished dump.
	Parent string
	// WorkDir is a directory on the node (not on the volume) for logs and statistics.
	WorkDir string
	// Track asks for dirty tracking to be on after the dump, so that another
	// dump can build on this one.
	Track bool
	// Deadline is when a final dump is given up if it has not ended, so that a
	// volume that does not answer cannot hold the container; zero means never.
	// A pre-dump has its context for this.
	Deadline time.Time
	// Freeze, if it is set, is called by a final dump once all is done that can be
	// done while the container runs, programs started included. It freezes the
	// container and returns the Deadline. After an error nothing was touched: the
	// dump has ended with that error, and the chain is as good as before. Until it
	// is called, the end of the call's context ends the dump likewise. While it is
	// under way, pre-dumps of the container may be made.
	Freeze func(ctx context.Context, d Standing) (deadline time.Time, err error)
}

// Standing is a final dump that waits for the freeze.
type Standing interface {
	// Rebase makes a dump with a parent build on another one, which is named like
	// DumpOptions.Parent and holds a finished dump: a pre-dump that was made while it
	// waited. To be called before Freeze returns; it works on the volume.
	Rebase(parent string) error
}

// DumpStats are the measurements of a dump.
type DumpStats struct {
	// Start by the node's clock; Duration of the whole call.
	Start    time.Time
	Duration time.Duration
	// Frozen is how long CRIU held the tasks stopped (0 for a final dump of a
	// container that was paused before).
	Frozen time.Duration
	// PagesScanned, PagesSkipped (unchanged since the parent), PagesWritten count pages.
	PagesScanned, PagesSkipped, PagesWritten int64
	// MemoryBytes is the memory written, Bytes all files written.
	MemoryBytes, Bytes int64
}

// Checkpointer copies the state of containers. A second implementation over
// the CRI's own checkpoint calls can stand beside the one for CRIU and runc.
type Checkpointer interface {
	// PreDump copies memory while the container runs. The container runs when it
	// returns, also on error. A failed pre-dump breaks the chain (ErrChainBroken).
	PreDump(ctx context.Context, c Container, o DumpOptions) (DumpStats, error)
	// Dump writes everything else and the memory that changed since the parent.
	// The container must be frozen before, or by o.Freeze, and is still frozen
	// afterwards, also on error. Cancelling ctx does not end a dump that has begun,
	// for the agent going down is no reason to give a dump up; o.Deadline does: the
	// dump is killed, and the call returns ErrGivenUp once nothing of it is left or
	// a bounded wait for that is over. The container may run then: Thaw it.
	Dump(ctx context.Context, c Container, o DumpOptions) (DumpStats, error)
	// Settle returns when no dump or pre-dump of the container runs any more,
	// one that an earlier agent has started included. What still runs at the
	// deadline is killed, and then the error is ErrGivenUp. To be called before
	// a container is thawed by an agent that did not freeze it itself.
	Settle(ctx context.Context, c Container, deadline time.Time) error
}

// Freezer stops all tasks of a container without their noticing.
type Freezer interface {
	// Freeze freezes the container; freezing a frozen one is not an error.
	// ErrFreezeTimeout when it could not, and then it is thawed again.
	Freeze(ctx context.Context, c Container) error
	// FreezePod keeps a frozen container standing when its own cgroup is thawed: runc does
	// that to kill it, and its processes would go on until the first of them has ended.
	// It goes for the whole pod: nothing can be created in it meanwhile. Repeating is not
	// an error.
	FreezePod(ctx context.Context, c Container) error
	// Thaw lets a frozen container go on, and ends the hold of its pod, that of a
	// container that is gone, too; thawing a running one is not an error.
	Thaw(ctx context.Context, c Container) error
	// Frozen says what the kernel says now.
	Frozen(ctx context.Context, c Container) (bool, error)
}

// Throttler limits the CPU time of a container, so that it dirties memory more slowly.
type Throttler interface {
	// CPU is what the container may use and has used.
	CPU(ctx context.Context, c Container) (CPU, error)
	// Limit sets the container's limit, and only that: another in the cgroups above
	// it goes on to hold. Repeating is not an error.
	Limit(ctx context.Context, c Container, l CPULimit) error
}

// CPULimit is a limit of CPU time: Quota in every Period. A Quota of 0 is no limit.
type CPULimit struct {
	Quota  time.Duration `json:"quota,omitempty"`
	Period time.Duration `json:"period"`
}

// CPU is a container's use of CPU time.
type CPU struct {
	Limit CPULimit
	// Used since the container was created, by all its tasks together.
	Used time.Duration
}

// Isolator cuts a pod off the network, so that its kernel does not acknowledge
// data that the processes will never see.
type Isolator interface {
	// Isolate drops all of the pod's traffic but loopback. Repeating is not an error.
	Isolate(ctx context.Context, c Container) error
	// Connect takes the drop away again. Repeating is not an error.
	Connect(ctx context.Context, c Container) error
	// Reject ends the pod's connections with a reset, in place of the drop, and
	// answers what peers send from then on with another one. It cannot be taken back
	// for the connections: the pod must have gone on elsewhere. Repeating is not an
	// error.
	Reject(ctx context.Context, c Container) error
	// Disown ends with a reset the connections that no process of the pod has: those
	// that nobody has accepted yet, and those that were closed and have not ended. All
	// others stay as they are, and everything else is dropped as before. To be called
	// for a frozen pod that was cut off. Repeating is not an error.
	Disown(ctx context.Context, c Container) error
}

// Holder keeps the node from answering the peers of a pod that is about to arrive.
type Holder interface {
	// Hold drops all TCP from and to the addresses that would pass the node, for a
	// migration, in place of what was held for it before. It lasts until Lift, and
	// longer than the agent. Repeating is not an error.
	Hold(ctx context.Context, migrationUID string, addresses []netip.Addr) error
	// Lift lets it pass again. What is not held is not an error.
	Lift(ctx context.Context, migrationUID string) error
	// Held are the UIDs of the migrations for which addresses are held.
	Held(ctx context.Context) ([]string, error)
}

// Separator ends what the containers of a pod have connected with one another.
type Separator interface {
	// Separate ends every connection over a Unix socket between two of the containers,
	// all of which are frozen, and those that wait to be accepted; their processes
	// see that the other side has closed it. To close their ends, containers are let run
	// for a moment, one at a time; afterwards all are frozen, as far as they can be. It
	// returns how many connections were ended, also with an error; ErrTied when a process
	// does not close its end.
	Separate(ctx context.Context, cs []Container) (int, error)
}

// DirtyCounter counts memory without touching the tracking.
type DirtyCounter interface {
	// DirtyBytes is the memory that the next dump of the container would have to
	// write, dirtied since the last dump. ErrUnsupported without dirty tracking.
	// Meaningful only after a first pre-dump.
	DirtyBytes(ctx context.Context, c Container) (int64, error)
}

// Killer ends containers.
type Killer interface {
	// Signal sends a signal to the container's init process.
	Signal(ctx context.Context, c Container, sig int) error
	// Kill ends all tasks of the container at once, frozen or not. Repeating is
	// not an error; a container that is gone is not an error.
	Kill(ctx context.Context, c Container) error
	// Discard removes what a failed or killed restore left of the container id
	// with this bundle: its tasks, its cgroup, its runtime state. It returns nil
	// only after it has seen that no process is left in the container's cgroup.
	Discard(ctx context.Context, id, bundle string) error
}

// Guard keeps the node from starting a pod's containers afresh: also while the
// agent is away, and from the moment on at which the node can create containers
// after it has lost its power. A node whose runtime does not ask before it creates
// a container has no such thing; there the records are all that it does.
type Guard interface {
	// Guard makes the node refuse every new container of the pod until Release.
	// Containers that exist are not touched. When it returns nil, the record is on
	// the node's disk. Repeating is not an error, and costs a look.
	Guard(g Guarded) error
	// Release lets new containers of the pod be created again. Repeating is not
	// an error, nor is a pod that was never guarded.
	Release(podUID string) error
	// Guarded are the pods whose containers are refused. Those whose records cannot
	// be read are in the error, and are refused all the same.
	Guarded() ([]Guarded, error)
}

// Guarded is a pod whose new containers the node refuses.
type Guarded struct {
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	PodUID    string `json:"podUID"`
	// Migration and MigrationUID: for whose sake.
	Migration    string `json:"migration"`
	MigrationUID string `json:"migrationUID"`
	// BootID of the node when it was guarded. In another boot nothing is left of the
	// processes that the pod had then.
	BootID string `json:"bootID"`
	// Why, for people: kubelet shows it in the pod's events.
	Why string `json:"why"`
}

// Inspector looks at a container for the preflight.
type Inspector interface {
	// Inspect gathers facts about the container's processes.
	Inspect(ctx context.Context, c Container) (Inspection, error)
}

// Inspection holds facts about the processes of a container that decide
// whether it can be dumped.
type Inspection struct {
	// Processes is their number, ResidentBytes their resident memory.
	Processes     int
	ResidentBytes int64
	// Terminal: a process has a controlling terminal.
	Terminal bool
	// ExecSessions is the number of processes that entered the container from
	// outside (kubectl exec, exec probes running just now).
	ExecSessions int
	// IOUring, MessageQueues, Traced, HugePages: found in a process.
	IOUring, MessageQueues, Traced, HugePages bool
	// MultipathTCP: addresses of MPTCP sockets ("0.0.0.0:8080").
	MultipathTCP []string
	// UnsupportedSockets: sockets of kinds that cannot be dumped ("AF_ALG", "SCTP").
	UnsupportedSockets []string
	// BoundAddresses: local addresses of inet sockets that listen, or wait for
	// datagrams, on one address other than a loopback ("10.1.2.3:80").
	BoundAddresses []string
	// EstablishedTCP is the number of connections beyond loopback, established or
	// being made.
	EstablishedTCP int
	// Devices: open or mapped device nodes other than the usual harmless ones.
	Devices []string
	// VolumeFiles: open or mapped files, and working directories, in a version of a volume
	// that kubelet fills ("/conf/..2026_01_02_03_04_05.678/key"). Another node has another
	// version, under another name.
	VolumeFiles []string
	// ForeignUnixPeers: Unix sockets that are connected to a socket which no process of
	// the container has.
	ForeignUnixPeers []UnixPeer
	// Nameless: pipes, and shared memory that no path leads to. In two containers the
	// same text is the same object.
	Nameless []string
	// SysVIPC: there are objects of System V IPC in the pod.
	SysVIPC bool
	// Descriptors of kinds that cannot be dumped ("[userfaultfd]"), and files of
	// namespaces that are not the container's ("net:[4026531840]").
	Descriptors []string
	// Namespaces of kinds that a process has made for itself ("pid", "user").
	Namespaces []string
	// DeletedFiles: open or mapped files whose names are gone and that cannot be put
	// into the images, with the cause.
	DeletedFiles []string
	// ForeignFiles: open files of file systems that are not mounted in the container.
	ForeignFiles []string
	// LostWatches: what is watched with inotify or fanotify and has no path in the
	// container.
	LostWatches []string
	// SharedBytes is memory only the final dump can take (memfd, SysV, shared anonymous).
	SharedBytes int64
}

// UnixPeer is a Unix socket whose other end is elsewhere.
type UnixPeer struct {
	// Name of the socket, or of the other end ("/run/app.sock", "@app", "unnamed").
	Name string
	// InPod: another container of the pod has the other end, not a process of the node.
	InPod bool
	// Stream: it is a connection that can be ended, not one that only sends datagrams.
	Stream bool
}

// NodeProber finds out what the node can do.
type NodeProber interface {
	// Probe looks again each time; it does a real soft-dirty round trip.
	Probe(ctx context.Context) (Probe, error)
}

// Probe is what the node can do. Empty strings mean "not there".
type Probe struct {
	CRIU, Runc, Containerd, Kernel string
	DirtyTracking                  bool
	CPUFeatures                    []string
	XSaveSize                      uint32
	// CRIUCheck is the error of `criu check`, empty when it passed.
	CRIUCheck string
}
