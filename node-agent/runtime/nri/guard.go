// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package nri keeps containers of guarded pods from being created. It is a
// plugin of the container runtime's Node Resource Interface (NRI) that is asked
// before each container is created, and says no for guarded pods only. Which pods
// those are is recorded on the node's disk.
//
// Being asked at that moment, it also switches Multipath TCP off for pods that want it
// so: see runtime.LabelMultipathTCP.
//
// Two programs are that plugin. The runtime starts one itself, before it creates
// anything (Launched, cmd/godwit-guard). The agent is the other (Guard): it can
// connect to a runtime that was started before the first was installed, and
// connects again to one that has closed a connection.
//
// It fails open: for a pod without a record, and while neither is connected,
// containers are created as if it were not there. A runtime that gets no answer
// within its request timeout (2 seconds by default, an agent that is stopped)
// closes the connection and goes on.
package nri

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/containerd/nri/pkg/log"
	"github.com/containerd/nri/pkg/stub"
	"github.com/go-logr/logr"

	"godwit.dev/godwit/node-agent/runtime"
)

const (
	// DefaultSocket is the runtime's socket for plugins, a path of the node. It
	// is /var/run/nri/nri.sock in containerd's configuration; /var/run is an
	// absolute link to /run, which cannot be followed from the agent's container.
	DefaultSocket = "/run/nri/nri.sock"

	// pluginName and pluginIndex are what the runtime calls the plugin. The index
	// orders plugins: a refusal comes before others have done work for nothing.
	pluginName  = "godwit"
	pluginIndex = "00"

	nodesPID = 1

	firstRetry   = 200 * time.Millisecond
	longestRetry = 10 * time.Second
	// dialTimeout and startTimeout bound one try. The library's own limits for a
	// registration and for a request are 5 s and 2 s.
	dialTimeout  = 5 * time.Second
	startTimeout = 15 * time.Second
)

// Options configure a Guard.
type Options struct {
	// Socket is the runtime's socket for plugins.
	Socket string
	// Records is the directory of the records. Default DefaultRecords.
	Records string
	// Log is told when the connection comes and goes. Default none.
	Log logr.Logger
	// FirstRetry is the first wait before connecting again, doubled up to ten
	// seconds. Default 200 ms.
	FirstRetry time.Duration
	// InitPID is a process in the node's own network, in which nothing is switched off.
	// Default 1; the agent's pod has hostPID.
	InitPID int
}

// Guard implements runtime.Guard. It is also a manager.Runnable.
type Guard struct {
	o       Options
	records records
	changed chan struct{}

	mu     sync.RWMutex
	active bool
}

var _ runtime.Guard = (*Guard)(nil)

// New returns a Guard that is not connected; see Start.
func New(o Options) *Guard {
	if o.Socket == "" {
		o.Socket = DefaultSocket
	}
	if o.InitPID == 0 {
		o.InitPID = nodesPID
	}
	if o.FirstRetry == 0 {
		o.FirstRetry = firstRetry
	}
	if o.Records == "" {
		o.Records = DefaultRecords
	}
	return &Guard{o: o, records: records{o.Records}, changed: make(chan struct{}, 1)}
}

// Guard implements runtime.Guard.
func (g *Guard) Guard(pod runtime.Guarded) error { return g.records.put(pod) }

// Release implements runtime.Guard.
func (g *Guard) Release(podUID string) error { return g.records.remove(podUID) }

// Guarded implements runtime.Guard.
func (g *Guard) Guarded() ([]runtime.Guarded, error) { return g.records.all() }

// Active says whether the runtime asks this plugin now.
func (g *Guard) Active() bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.active
}

// Changed tells that Active may say something else than before.
func (g *Guard) Changed() <-chan struct{} { return g.changed }

// Start keeps the plugin connected until ctx ends: a runtime that restarts, or
// that has closed the connection, is connected to again. A runtime without NRI
// is no error; it may get it with its next restart.
func (g *Guard) Start(ctx context.Context) error {
	retry := g.o.FirstRetry
	said := ""
	for ctx.Err() == nil {
		connected, err := g.serve(ctx)
		if connected {
			retry, said = g.o.FirstRetry, ""
		}
		if ctx.Err() != nil {
			return nil //nolint:nilerr // going down is no failure of the manager
		}
		if what := fmt.Sprint(err); what != said {
			// Once for each kind of trouble, not for each try.
			said = what
			g.o.Log.Info("not connected to the runtime's NRI: new containers of a frozen pod are not refused", "socket", g.o.Socket, "error", what)
		}
		t := time.NewTimer(retry)
		select {
		case <-ctx.Done():
			t.Stop()
		case <-t.C:
		}
		retry = min(2*retry, longestRetry)
	}
	return nil
}

// serve is one connection, from registration to its end. connected says whether
// it came about.
func (g *Guard) serve(ctx context.Context) (connected bool, err error) {
	conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "unix", g.o.Socket)
	if err != nil {
		return false, err
	}
	// The library leaves it open when it fails half-way.
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	synced := make(chan struct{}, 1)
	s, err := stub.New(plugin{records: g.records, log: g.o.Log, initPID: g.o.InitPID, synced: synced},
		stub.WithPluginName(pluginName), stub.WithPluginIdx(pluginIndex),
		stub.WithConnection(conn), stub.WithOnClose(cancel), stub.WithLogger(quiet{g.o.Log}))
	if err != nil {
		return false, fmt.Errorf("NRI plugin: %w", err)
	}
	// Start does not return when the runtime goes away between the plugin's
	// registration and its configuration, hence the limit and the goroutine.
	started := make(chan error, 1)
	go func() { started <- s.Start(ctx) }()
	limit := time.NewTimer(startTimeout)
	defer limit.Stop()
	for configured := false; ; {
		select {
		case err := <-started:
			if err != nil {
				return false, err
			}
			configured = true
			defer s.Stop()
		case <-synced:
			// From here the runtime asks. It waits with what it is creating just
			// now until it has taken the plugin in.
			g.o.Log.Info("the runtime asks before it creates containers", "socket", g.o.Socket)
			connected = true
			g.setActive(true)
			defer g.setActive(false)
		case <-ctx.Done():
			return connected, errClosed
		case <-limit.C:
			if !configured || !connected {
				return false, errSilent
			}
		}
	}
}

// Errors of one connection; the next one is tried all the same.
var (
	errClosed = errors.New("the runtime closed the connection")
	errSilent = errors.New("the runtime accepted the connection, and did not configure the plugin")
)

func (g *Guard) setActive(active bool) {
	g.mu.Lock()
	g.active = active
	g.mu.Unlock()
	select {
	case g.changed <- struct{}{}:
	default: // one pending is enough: the reader asks what is true now
	}
}

// quiet lets the library's chatter through at a level for debugging only; this
// package tells what matters.
type quiet struct{ log logr.Logger }

var _ log.Logger = quiet{}

func (q quiet) Debugf(_ context.Context, format string, args ...any) {
	q.log.V(2).Info(fmt.Sprintf(format, args...))
}
func (q quiet) Infof(_ context.Context, format string, args ...any) {
	q.log.V(1).Info(fmt.Sprintf(format, args...))
}
func (q quiet) Warnf(_ context.Context, format string, args ...any) {
	q.log.V(1).Info(fmt.Sprintf(format, args...))
}
func (q quiet) Errorf(_ context.Context, format string, args ...any) {
	q.log.V(1).Info(fmt.Sprintf(format, args...))
}
