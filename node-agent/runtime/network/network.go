// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package network cuts pods off the network with nftables rules of its own in
// the pod's network namespace.
//
// A frozen pod's kernel goes on acknowledging what peers send. Data that is
// acknowledged after the dump is lost for the restored processes, and CRIU's own
// lock ends with the dump. With these rules nothing comes in and nothing goes
// out, so peers repeat what they sent until the target (or, after a rollback,
// the source) answers.
package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"godwit.dev/godwit/node-agent/runtime"
)

// tableName is the name of our table; nothing else uses it.
const tableName = "godwit"

// priority is before connection tracking (-200) and everything that could
// accept a packet or answer it.
const priority nftables.ChainPriority = -400

// Options configure an Isolator.
type Options struct {
	// InitPID is a process in the node's own network namespace, which is never
	// cut off. Default 1; the agent's pod has hostPID.
	InitPID int
}

// Isolator implements runtime.Isolator.
type Isolator struct{ o Options }

var _ runtime.Isolator = Isolator{}

// New returns an Isolator.
func New(o Options) Isolator {
	if o.InitPID == 0 {
		o.InitPID = 1
	}
	return Isolator{o}
}

// Isolate drops everything that enters or leaves the pod other than by its
// loopback interface. The rules are replaced in one transaction.
func (i Isolator) Isolate(_ context.Context, c runtime.Container) error {
	return i.inNamespace(c, func(conn *nftables.Conn, _ *os.File) error {
		replaceTable(conn)
		return conn.Flush()
	})
}

// Connect removes the rules.
func (i Isolator) Connect(_ context.Context, c runtime.Container) error {
	return i.inNamespace(c, func(conn *nftables.Conn, _ *os.File) error {
		// Adding first makes the deletion of a table that is not there succeed.
		conn.DelTable(conn.AddTable(table()))
		return conn.Flush()
	})
}

// inNamespace talks to the nftables of the pod's network namespace. A container
// whose process is gone has its namespace held by the pod's sandbox only, which
// is about to go too.
func (i Isolator) inNamespace(c runtime.Container, fn func(*nftables.Conn, *os.File) error) error {
	if c.PID <= 1 {
		return fmt.Errorf("%w: %s has no process", runtime.ErrNotFound, c.ID)
	}
	ns, err := os.Open("/proc/" + strconv.Itoa(c.PID) + "/ns/net")
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("%w: process %d of %s", runtime.ErrNotFound, c.PID, c.ID)
	}
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := i.refuseHostNetwork(ns); err != nil {
		return fmt.Errorf("isolate %s: %w", c.ID, err)
	}
	conn, err := nftables.New(nftables.WithNetNSFd(int(ns.Fd())))
	if err != nil {
		return fmt.Errorf("open netlink in the pod's network: %w", err)
	}
	if err := fn(conn, ns); err != nil {
		return fmt.Errorf("change the packet filter of %s: %w", c.ID, err)
	}
	return nil
}

// errHostNetwork: cutting off the node is never right.
var errHostNetwork = errors.New("the pod uses the node's network")

func (i Isolator) refuseHostNetwork(ns *os.File) error {
	var pod, node unix.Stat_t
	if err := unix.Fstat(int(ns.Fd()), &pod); err != nil {
		return err
	}
	if err := unix.Stat("/proc/"+strconv.Itoa(i.o.InitPID)+"/ns/net", &node); err != nil {
		return err
	}
	if pod.Ino == node.Ino && pod.Dev == node.Dev {
		return errHostNetwork
	}
	return nil
}

func table() *nftables.Table {
	return &nftables.Table{Name: tableName, Family: nftables.TableFamilyINet}
}

// replaceTable queues: add (so that the delete finds it), delete, add anew.
func replaceTable(conn *nftables.Conn) {
	conn.DelTable(conn.AddTable(table()))
	t := conn.AddTable(table())
	accept := nftables.ChainPolicyAccept
	prio := priority
	for _, hook := range []struct {
		name string
		hook *nftables.ChainHook
		meta expr.MetaKey
	}{
		// Before routing: also what would be forwarded or answered by the kernel.
		{"prerouting", nftables.ChainHookPrerouting, expr.MetaKeyIIFNAME},
		{"output", nftables.ChainHookOutput, expr.MetaKeyOIFNAME},
		{"postrouting", nftables.ChainHookPostrouting, expr.MetaKeyOIFNAME},
	} {
		chain := conn.AddChain(&nftables.Chain{
			Name: hook.name, Table: t, Type: nftables.ChainTypeFilter,
			Hooknum: hook.hook, Priority: &prio, Policy: &accept,
		})
		conn.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: dropUnlessLoopback(hook.meta)})
	}
}

// dropUnlessLoopback is `{iif,oif}name != "lo" drop`.
func dropUnlessLoopback(key expr.MetaKey) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: interfaceName("lo")},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}
}

// interfaceName is a name as the kernel compares it: padded to its full length.
func interfaceName(name string) []byte {
	return append(binaryutil.PutString(name), make([]byte, unix.IFNAMSIZ-len(name)-1)...)[:unix.IFNAMSIZ]
}
