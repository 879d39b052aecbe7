// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/wire"
	"godwit.dev/godwit/node-agent/images"
)

// criuConfig is CRIU's configuration for restores. Established connections
// cannot go on under a new address: unless they are kept they are closed, and peers
// connect again. CRIU's lock of the network is not needed: this node holds the addresses
// of a pod whose connections are kept.
func criuConfig(keep bool) string {
	const unlocked = "network-lock skip\n"
	if keep {
		return unlocked
	}
	return "tcp-close\n" + unlocked
}

// prepareTimeout bounds what is read of the volume to prepare a restore, which is worth
// no more than what it saves.
const prepareTimeout = 5 * time.Second

// tellAssembled says what the containers are restored from.
func (t *targetSession) tellAssembled(set *images.Set) {
	for _, name := range t.containers {
		made, err := set.Assembled(name)
		if err != nil {
			restores.WithLabelValues("volume").Inc()
			t.log.Info("restoring from the volume", "container", name, "reason", err.Error())
			continue
		}
		restores.WithLabelValues("merged").Inc()
		t.log.Info("restoring from the merged rounds", "container", name,
			"wholeProcesses", made.Whole, "chainedProcesses", made.Chained, "extraBytes", made.ExtraBytes)
	}
}

// tellRestore lets the parked creates restore, within the limit each.
func (t *targetSession) tellRestore(limit time.Duration) error {
	t.treeGone = false // from here something may run
	return t.tell(limit, (*images.Set).RestoreDir, (*parked).restore)
}

// prepareRestore lets the parked creates start what it takes to restore, up to the
// point at which CRIU would be given the images. They are not complete, and nothing of
// them is trusted: what runc reads of them now is held against what was verified.
func (t *targetSession) prepareRestore(ctx context.Context) error {
	dir := func(set *images.Set, name, local string) (string, error) {
		dir, err := onVolume(ctx, &t.sessionBase, prepareTimeout, "prepare the restore of "+name, func(context.Context) (string, error) { return set.PrepareRestore(name, local) })
		if err != nil {
			// What it cannot begin now it begins with the order.
			t.log.Info("preparing to restore without the descriptors", "container", name, "reason", err.Error())
			return local, nil
		}
		return dir, nil
	}
	return t.tell(t.Timeouts.Restore, dir, func(l *parked, im wire.Images) error {
		l.prepare(im)
		return nil
	})
}

// tell names the images, which are where dir says, to each create that is parked now.
// Not to one that comes while another is told: how that one has ended is looked at first.
func (t *targetSession) tell(limit time.Duration, dir func(set *images.Set, container, local string) (string, error), tell func(*parked, wire.Images) error) error {
	set, err := t.set()
	if err != nil {
		return err
	}
	lots := map[string]*parked{}
	for _, name := range t.containers {
		lots[name] = t.parking.lot(t.podUID, name)
	}
	var errs []error
	for _, name := range t.containers {
		l := lots[name]
		if l == nil {
			continue
		}
		work, err := t.workDir(name, "restore")
		if err != nil {
			return err
		}
		conf := filepath.Join(work, "criu.conf")
		if err := os.WriteFile(conf, []byte(criuConfig(t.keeping())), 0o600); err != nil {
			return fmt.Errorf("write criu.conf: %w", err)
		}
		local, err := t.workDir(name, stageName)
		if err != nil {
			return err
		}
		from, err := dir(set, name, local)
		if err != nil {
			return err
		}
		errs = append(errs, tell(l, wire.Images{
			Dir: from, WorkDir: work, CRIUConfig: conf, Timeout: limit, Frozen: t.several(),
		}))
	}
	return errors.Join(errs...)
}

func (t *targetSession) refuseParked(cause error) {
	for _, name := range t.containers {
		if l := t.parking.lot(t.podUID, name); l != nil {
			l.refuse(v1alpha1.ReasonRestoreFailed, cause.Error())
		}
	}
}
