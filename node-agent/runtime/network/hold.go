// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"godwit.dev/godwit/node-agent/runtime"
)

// holdPrefix, and the migration's UID, is the name of a table that holds addresses. The
// tables are their own record: they outlive the agent, and are gone with what they are
// for when the node restarts.
const holdPrefix = "godwit-hold-"

// holdPriority is where filters are by convention: a packet has its address of the pod
// by then, also one that was sent to a Service, whose address is replaced at -100.
const holdPriority = nftables.ChainPriority(0)

// Holder holds addresses in the node's own network.
type Holder struct{ o Options }

var _ runtime.Holder = Holder{}

// NewHolder returns a Holder.
func NewHolder(o Options) Holder {
	if o.InitPID == 0 {
		o.InitPID = 1
	}
	return Holder{o}
}

// Hold makes one table for what the node routes, forwards and answers itself, and one for
// what a bridge passes on between its ports without asking the first, which it does
// without br_netfilter.
func (h Holder) Hold(_ context.Context, migrationUID string, addresses []netip.Addr) error {
	return h.inNode(func(conn *nftables.Conn) error {
		for _, family := range holdFamilies {
			holdTable(conn, family, holdPrefix+migrationUID, addresses)
			if err := conn.Flush(); err != nil && (family != nftables.TableFamilyBridge || !withoutFamily(err)) {
				return fmt.Errorf("hold %v: %w", addresses, err)
			}
		}
		return nil
	})
}

// Lift removes both.
func (h Holder) Lift(_ context.Context, migrationUID string) error {
	return h.inNode(func(conn *nftables.Conn) error {
		var errs []error
		for _, family := range holdFamilies {
			t := &nftables.Table{Name: holdPrefix + migrationUID, Family: family}
			// Adding first makes the deletion of a table that is not there succeed.
			conn.DelTable(conn.AddTable(t))
			if err := conn.Flush(); err != nil && !withoutFamily(err) {
				errs = append(errs, fmt.Errorf("lift the hold of addresses: %w", err))
			}
		}
		return errors.Join(errs...)
	})
}

// Held lists the tables.
func (h Holder) Held(context.Context) (uids []string, err error) {
	err = h.inNode(func(conn *nftables.Conn) error {
		seen := map[string]bool{}
		for _, family := range holdFamilies {
			tables, err := conn.ListTablesOfFamily(family)
			if err != nil && !withoutFamily(err) {
				return fmt.Errorf("list what is held: %w", err)
			}
			for _, t := range tables {
				if uid, ours := strings.CutPrefix(t.Name, holdPrefix); ours && !seen[uid] {
					seen[uid] = true
					uids = append(uids, uid)
				}
			}
		}
		return nil
	})
	return uids, err
}

var holdFamilies = []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyBridge}

// withoutFamily: the kernel has no packet filter for bridges, or none at all.
func withoutFamily(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EPROTONOSUPPORT)
}

func (h Holder) inNode(fn func(*nftables.Conn) error) error {
	ns, err := os.Open("/proc/" + strconv.Itoa(h.o.InitPID) + "/ns/net")
	if err != nil {
		return fmt.Errorf("open the node's network: %w", err)
	}
	defer ns.Close()
	conn, err := nftables.New(nftables.WithNetNSFd(int(ns.Fd())))
	if err != nil {
		return fmt.Errorf("open netlink in the node's network: %w", err)
	}
	return fn(conn)
}

// holdTable replaces a table by one that drops TCP from and to the addresses, in one
// transaction.
func holdTable(conn *nftables.Conn, family nftables.TableFamily, name string, addresses []netip.Addr) {
	table := &nftables.Table{Name: name, Family: family}
	conn.DelTable(conn.AddTable(table))
	t := conn.AddTable(table)
	accept := nftables.ChainPolicyAccept
	prio := holdPriority
	// Their numbers are those of bridges as well (linux/netfilter_bridge.h).
	hooks := []struct {
		name string
		hook *nftables.ChainHook
	}{
		{"forward", nftables.ChainHookForward}, {"input", nftables.ChainHookInput}, {"output", nftables.ChainHookOutput},
	}
	if family == nftables.TableFamilyBridge {
		hooks = hooks[:1] // the rest comes to the other table
	}
	for _, h := range hooks {
		chain := conn.AddChain(&nftables.Chain{
			Name: h.name, Table: t, Type: nftables.ChainTypeFilter, Hooknum: h.hook, Priority: &prio, Policy: &accept,
		})
		for _, a := range addresses {
			for _, source := range []bool{true, false} {
				conn.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: dropTCPOf(a.Unmap(), source)})
			}
		}
	}
}

// dropTCPOf drops TCP that has the address as its source, or as its destination.
func dropTCPOf(a netip.Addr, source bool) []expr.Any {
	// Where the addresses are in the headers (RFC 791, RFC 8200).
	offset, length, protocol := uint32(16), uint32(4), uint16(unix.ETH_P_IP)
	if a.Is6() {
		offset, length, protocol = 24, 16, unix.ETH_P_IPV6
	}
	if source {
		offset -= length
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(protocol)},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: a.AsSlice()},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}
}
